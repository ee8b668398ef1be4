"""Types and shapes of element-wise operators, as tables: one input, several that broadcast,
comparisons."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING

from nnconv.schemas.dims import Content, Dim, Shape, maximum, minimum, truncate_div
from nnconv.schemas.errors import InputError
from nnconv.schemas.infer.registry import Result, infers, knows
from nnconv.schemas.infer.support import agree, axis, broadcast, content, same, shape, show
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node

UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Ceil",
    "Celu",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "nnconv.Dropout",
    "nnconv.MVN",
    "nnconv.StopGradient",
    "CumSum",
    "CumProd",
    "Trilu",
]
PREDICATES = ["IsNaN", "IsInf"]
BROADCASTING = [
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "Pow",
    "Sub",
    "Sum",
    "Xor",
]
COMPARISONS = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]

infers(*UNARY)(same)


@infers(*PREDICATES)
def predicate(node: Node) -> Result:
    return [(DType.BOOL, node.required(0).shape)]


@infers(*BROADCASTING)
def broadcasting(node: Node) -> Result:
    """The inputs' shapes broadcast; the type is the first one's."""
    return [(node.required(0).dtype, broadcast(*_shapes(node)))]


@infers(*COMPARISONS)
def comparison(node: Node) -> Result:
    return [(DType.BOOL, broadcast(*_shapes(node)))]


@infers("Where")
def where(node: Node) -> Result:
    return [(node.required(1).dtype, broadcast(*_shapes(node)))]


@infers("PRelu")
def prelu(node: Node) -> Result:
    """The slope broadcasts to X, never the other way."""
    x, slope = _shapes(node)
    if len(slope) > len(x) or len(broadcast(x, slope)) != len(x):
        raise InputError(f"the slope ({show(slope)}) does not broadcast to the data ({show(x)})")
    for size, wanted in zip(slope[::-1], x[::-1], strict=False):
        if size != 1:
            agree(size, wanted, f"the slope ({show(slope)}) does not fit the data ({show(x)})")
    return same(node)


@infers("Clip")
def clip(node: Node) -> Result:
    for bound in node.inputs[1:]:
        if bound is not None and bound.shape is not None and bound.shape not in ((), (1,)):
            raise InputError(
                f"the bound '{bound.name}' should be a scalar, got {show(bound.shape)}"
            )
    return same(node)


@infers("Cast")
def cast(node: Node) -> Result:
    return [(DType(node.to), node.required(0).shape)]


@infers("CastLike")
def cast_like(node: Node) -> Result:
    return [(node.required(1).dtype, node.required(0).shape)]


@infers("Dropout")
def dropout(node: Node) -> Result:
    return [*same(node), (DType.BOOL, node.required(0).shape)]


@infers("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: Node) -> Result:
    if (dims := node.required(0).shape) is not None:
        axis(node.axis, max(len(dims), 1))
    return same(node)


@knows("Identity")
def identity_content(node: Node) -> Content | None:
    return content(node.required(0))


@knows("Cast")
def cast_content(node: Node) -> Content | None:
    """Sizes stay sizes between integer types; a float tensor is not followed."""
    return content(node.required(0)) if DType(node.to).is_integer else None


@knows("Add", "Sub", "Mul", "Div", "Neg", "Min", "Max")
def arithmetic_content(node: Node) -> Content | None:
    """Arithmetic on sizes, one by one, or a single one against all."""
    if not node.outputs[0].dtype.is_integer:
        return None
    operands = [content(value) or () for value in node.inputs]
    length = max(map(len, operands), default=0)
    if any(len(operand) not in (1, length) for operand in operands):
        return None
    rows = zip(
        *(operand * (length // len(operand)) for operand in operands if operand), strict=True
    )
    return tuple(_combine(node.op, row) for row in rows)


def _combine(op: str, row: tuple[Dim | None, ...]) -> Dim | None:
    known = [dim for dim in row if dim is not None]
    return _ARITHMETIC[op](*known) if len(known) == len(row) else None


def _quotient(a: Dim, b: Dim) -> Dim | None:
    """Integer division of tensors truncates; it is followed where the divisor is a positive
    number."""
    return truncate_div(a, b) if isinstance(b, int) and b > 0 else None


_ARITHMETIC: dict[str, Callable[..., Dim | None]] = {
    "Add": lambda *row: sum(row),
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _quotient,
    "Neg": lambda a: -a,
    "Min": lambda *row: reduce(minimum, row),
    "Max": lambda *row: reduce(maximum, row),
}


def _shapes(node: Node) -> list[Shape]:
    return [shape(value) for value in node.inputs if value is not None]
