"""Where the families of shape rules register, and how a rule is applied to a node.

A rule takes a node and returns one (dtype, shape) per output; a shape may hold symbolic dimensions,
and is None where it depends on data. Rules use ordinary arithmetic, so they serve integers and
symbols alike. A rule that needs a shape which is not known yet raises `Unknown`; the outputs then
have types only.

Some integer tensors are sizes: Shape, Gather, Concat and their like. A second table of rules
carries what is known of their elements along as `Value.content`, so that a Reshape behind them has
a shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nnconv.schemas.dims import Content, Shape
from nnconv.schemas.errors import NnconvError, SourceSpan
from nnconv.schemas.operators import Formal, operator
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Node

Result = list[tuple[DType, Shape | None]]
Rule = Callable[["Node"], Result]
ContentRule = Callable[["Node"], "Content | None"]

RULES: dict[str, Rule] = {}
CONTENTS: dict[str, ContentRule] = {}


class Unknown(Exception):
    """A rule needs a shape, or contents, that nobody knows before the graph runs."""


def infers(*operators: str) -> Callable[[Rule], Rule]:
    """Register the shape rule of one or more operators."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, rule))
        return rule

    return register


def knows(*operators: str) -> Callable[[ContentRule], ContentRule]:
    """Register what is known of the elements of the first output of one or more operators."""

    def register(rule: ContentRule) -> ContentRule:
        CONTENTS.update(dict.fromkeys(operators, rule))
        return rule

    return register


def infer_node(node: Node) -> None:
    """Set the types and shapes of a node's outputs; unknown shapes where no rule knows better.

    Raises InputError, saying the layer or node, when the inputs do not fit together.
    """
    rule = RULES.get(node.op, _types_only)
    try:
        results = rule(node)
    except Unknown:
        results = _types_only(node)
    except NnconvError as error:
        raise _located(error, node) from None
    for value, (dtype, shape) in zip(node.outputs, results, strict=False):
        value.dtype, value.shape = dtype, shape
    if (content := CONTENTS.get(node.op)) is not None:
        try:
            node.outputs[0].content = content(node)
        except Unknown:
            node.outputs[0].content = None


def infer_graph(graph: Graph) -> None:
    """Infer all nodes again, in order, after the shapes of inputs were changed (bound to
    numbers)."""
    for node in graph.nodes:
        infer_node(node)


def _types_only(node: Node) -> Result:
    """The outputs' types as the operator's signature gives them, their shapes unknown."""
    schema = operator(node.op)
    bound = {
        formal.types: value.dtype
        for formal, value in zip(schema.inputs, node.inputs, strict=False)
        if value is not None
    }
    outputs = schema.outputs + schema.outputs[-1:] * (len(node.outputs) - len(schema.outputs))
    return [(_type_of(formal, bound), None) for formal in outputs[: len(node.outputs)]]


def _type_of(formal: Formal, bound: dict[str, DType]) -> DType:
    return bound.get(formal.types) or _NAMED_TYPES.get(formal.types, DType.UNDEFINED)


_NAMED_TYPES = {f"tensor({dtype})": dtype for dtype in DType} | {
    "tensor(float)": DType.FLOAT32,
    "tensor(double)": DType.FLOAT64,
}


def _located(error: NnconvError, node: Node) -> NnconvError:
    """The same error, naming the source layer (or else the node's output) if it does not say
    where."""
    problem = error.problems[0]
    if problem.span is not None:
        return error
    layer = node.layer
    subject = (
        f"layer '{layer.name}' ({layer.type})" if layer else f"{node.op} '{node.outputs[0].name}'"
    )
    span = layer.span if layer else SourceSpan()
    return type(error)(f"{subject}: {problem.message}", span=span, hint=problem.hint)
