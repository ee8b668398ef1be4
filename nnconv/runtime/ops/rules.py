"""Where gradient rules register, and the words they are written in.

A rule takes a node and the gradients of its results (None where a result has none) and emits the
gradients of its inputs: a Value for the first, or a tuple for all, None where there is none. What
nobody asked for is taken out afterwards, so a rule simply says everything. An operator may instead
be differentiated `through` simpler ones: a body is emitted beside it, and gradients run back
through that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.dims import Dim
    from nnconv.schemas.graph import Node, Value

Rule = Callable[..., "Value | tuple[Value | None, ...] | None"]
Body = Callable[["Node"], "Sequence[Value]"]

GRADIENTS: dict[str, Rule] = {}
THROUGH: dict[str, Body] = {}


def gradient(*ops: str) -> Callable[[Rule], Rule]:
    """Register the gradient rule of one or more operators."""

    def register(rule: Rule) -> Rule:
        GRADIENTS.update(dict.fromkeys(ops, rule))
        return rule

    return register


def through(*ops: str) -> Callable[[Body], Body]:
    """Register a body in differentiable operators: it emits what the node computes, as values."""

    def register(body: Body) -> Body:
        THROUGH.update(dict.fromkeys(ops, body))
        return body

    return register


def flat(*ops: str) -> None:
    """These operators' results do not change with small changes of their inputs."""
    GRADIENTS.update(dict.fromkeys(ops, lambda node, *dys: None))


def emit(op: str, *inputs: Value | None, **attributes: Any) -> Value:
    """A node of one result in the graph of its inputs."""
    (result,) = emit_several(op, *inputs, outputs=1, **attributes)
    return result


def emit_several(
    op: str, *inputs: Value | None, outputs: int, **attributes: Any
) -> tuple[Value, ...]:
    """A node of several results in the graph of its inputs."""
    graph = next(value.graph for value in inputs if value is not None)
    made = graph.emit(op, *inputs, outputs=outputs, **attributes)
    return made if isinstance(made, tuple) else (made,)


def number(like: Value, value: float) -> Value:
    """A constant scalar of the type of `like`."""
    return like.graph.constant(value, like.dtype)


def integers(like: Value, values: Sequence[int] | int) -> Value:
    """A constant of indices or sizes."""
    return like.graph.constant(values, DType.INT64)


def where(condition: Value, a: Value | float, b: Value | float) -> Value:
    """Element by element `a` where the condition holds, else `b`."""
    like = next(side for side in (a, b) if not isinstance(side, int | float))
    sides = (number(like, side) if isinstance(side, int | float) else side for side in (a, b))
    return emit("Where", condition, *sides)


def above(x: Value, bound: Value | float = 0.0) -> Value:
    """Whether x > bound, by element."""
    return emit("Greater", x, number(x, bound) if isinstance(bound, int | float) else bound)


def fixed(dims: Sequence[Dim] | None) -> tuple[int, ...] | None:
    """A shape all of whose sizes are numbers, else None."""
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    return tuple(dim for dim in dims if isinstance(dim, int))


def shape_of(x: Value, start: int = 0, end: int | None = None) -> Value:
    """The sizes of x's axes from `start` to before `end`, as a constant where they are known."""
    if (known := fixed(x.shape)) is not None:
        return integers(x, known[start:end])
    return emit("Shape", x, start=start, end=end)


def size_of(x: Value, axes: Sequence[int] | None = None) -> Value:
    """How many elements x has (along `axes`), as a scalar of x's type."""
    if (known := fixed(x.shape)) is not None:
        total = 1
        for axis in range(len(known)) if axes is None else axes:
            total *= known[axis]
        return number(x, total)
    sizes = emit("Shape", x)
    if axes is not None:
        sizes = emit("Gather", sizes, integers(x, list(axes)))
    return emit("Cast", emit("ReduceProd", sizes, keepdims=0), to=int(x.dtype))


def zeros_like(x: Value) -> Value:
    """Zeros of x's type and shape."""
    import numpy as np

    return emit("ConstantOfShape", shape_of(x), value=np.zeros(1, x.dtype.numpy))


def reshaped(dy: Value, like: Value) -> Value:
    """The elements of dy in the shape of `like`."""
    return emit("Reshape", dy, shape_of(like), allowzero=1)


def spread(dy: Value, like: Value) -> Value:
    """dy repeated to the shape of `like`, to which it broadcasts."""
    if dy.shape is not None and dy.shape == like.shape:
        return dy
    return emit("Expand", dy, shape_of(like))


def sum_to(dy: Value, x: Value) -> Value:
    """The gradient of an operand that was broadcast: dy summed over the axes that x was repeated
    along.

    Which these are is known from sizes of 1; where a size is still open, it is seen when bound.
    """
    if x.shape is not None and x.shape == dy.shape:
        return dy
    if x.shape is None or dy.shape is None:
        return emit("nnconv.SumTo", dy, shape_of(x))
    lead = len(dy.shape) - len(x.shape)
    pairs = list(enumerate(zip(x.shape, dy.shape[lead:], strict=True)))
    if any(mine != 1 and mine != other for _, (mine, other) in pairs):
        return emit("nnconv.SumTo", dy, shape_of(x))
    if lead:
        dy = emit("ReduceSum", dy, integers(x, list(range(lead))), keepdims=0)
    repeated = [axis for axis, (mine, other) in pairs if mine == 1 and other != 1]
    return emit("ReduceSum", dy, integers(x, repeated), keepdims=1) if repeated else dy


def last_axes(x: Value, first: int) -> Value:
    """The axes of x from `first` to the end, as a constant."""
    return integers(x, list(range(first % max(x.rank, 1), x.rank)))
