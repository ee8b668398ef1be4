"""Where the families of shape rules register, and how a rule is applied to a node.

A rule takes a node and returns one (dtype, shape) per output; a shape may hold symbolic dimensions, and
is None where it depends on data. Rules use ordinary arithmetic, so they serve integers and symbols alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nnconv.schemas.dims import Shape
from nnconv.schemas.errors import NnconvError, SourceSpan
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node

Result = list[tuple[DType, Shape | None]]
Rule = Callable[["Node"], Result]

RULES: dict[str, Rule] = {}


def infers(*operators: str) -> Callable[[Rule], Rule]:
    """Register the shape rule of one or more operators."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, rule))
        return rule

    return register


def infer_node(node: Node) -> None:
    """Set the types and shapes of a node's outputs; unknown shapes where no rule knows better.

    Raises InputError, saying the layer or node, when the inputs do not fit together.
    """
    rule = RULES.get(node.op)
    if rule is None:
        first = node.input(0)
        results: Result = [(first.dtype if first else DType.UNDEFINED, None)] * len(node.outputs)
    else:
        try:
            results = rule(node)
        except NnconvError as error:
            raise _located(error, node) from None
    for value, (dtype, shape) in zip(node.outputs, results, strict=False):
        value.dtype, value.shape = dtype, shape


def _located(error: NnconvError, node: Node) -> NnconvError:
    """The same error, naming the source layer (or else the node's output) if it does not say where."""
    problem = error.problems[0]
    if problem.span is not None:
        return error
    layer = node.layer
    subject = f"layer '{layer.name}' ({layer.type})" if layer else f"{node.op} '{node.outputs[0].name}'"
    span = layer.span if layer else SourceSpan()
    return type(error)(f"{subject}: {problem.message}", span=span, hint=problem.hint)
