"""Gradients of operators that read each element of a result from few places of the operand.

Which places these are the operator itself tells: it is applied to the numbers 0, 1, 2 ... of one
axis after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nnconv.runtime.ops.rules import (
    emit,
    gradient,
    integers,
    number,
    reshaped,
    shape_of,
    through,
    where,
)
from nnconv.schemas.errors import UnsupportedError
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value


def _axis_numbers(x: Value, axis: int, dtype: DType) -> Value:
    """0, 1, 2 ... along an axis of x."""
    count = emit("Squeeze", shape_of(x, axis, axis + 1), integers(x, [0]))
    counting = emit("Range", integers(x, 0), count, integers(x, 1))
    return emit("Cast", counting, to=int(dtype))


# --- padding --------------------------------------------------------------------------------------


@gradient("Pad")
def d_pad(node: Node, dy: Value) -> Value:
    """Negative pads cut off again what was added; what repeats elements is added up to them."""
    x, pads = node.required(0), node.required(1)
    if node.mode == "constant":
        dx = emit("Pad", dy, emit("Neg", pads), number(dy, 0), node.input(3))
        return reshaped(dx, x)
    axes = _padded_axes(node, x.rank)
    for place, axis in enumerate(axes):
        ends = emit("Gather", pads, integers(x, [place, place + len(axes)]))
        line = emit("Pad", _axis_numbers(x, axis, DType.INT64), ends, mode=node.mode)
        rest = (shape_of(dy, 0, axis), shape_of(dy, axis + 1))
        sizes = emit("Concat", rest[0], shape_of(x, axis, axis + 1), rest[1], axis=0)
        dy = emit("nnconv.GatherGrad", dy, line, sizes, axis=axis)
    return reshaped(dy, x)


def _padded_axes(node: Node, rank: int) -> list[int]:
    chosen = node.input(3)
    if chosen is None:
        return list(range(rank))
    if chosen.data is None:
        raise UnsupportedError(f"no gradient for Pad with mode '{node.mode}' over unknown axes")
    return [int(axis) % rank for axis in chosen.data.reshape(-1)]


# --- resizing -------------------------------------------------------------------------------------


@through("Resize")
def resized_by_places(node: Node) -> list[Value]:
    """Axis by axis, the nearest element or a mean of two neighbours."""
    if node.mode not in _PLACES or node.antialias or node.keep_aspect_ratio_policy != "stretch":
        raise UnsupportedError(
            f"no gradient for Resize with mode '{node.mode}', antialias {node.antialias}, "
            f"keep_aspect_ratio_policy '{node.keep_aspect_ratio_policy}'"
        )
    x = y = node.required(0)
    axes = range(x.rank) if node.axes is None else [axis % x.rank for axis in node.axes]
    for place, axis in enumerate(axes):
        if not _stays(node, place, x, axis):
            y = _PLACES[node.mode](node, y, place, axis)
    return [y]


def _stays(node: Node, place: int, x: Value, axis: int) -> bool:
    """Whether an axis is known to keep its size."""
    scales, sizes = node.input(2), node.input(3)
    if sizes is not None and sizes.shape != (0,):
        return sizes.data is not None and sizes.data[place] == x.known_shape[axis]
    return scales is not None and scales.data is not None and scales.data[place] == 1


def _along(node: Node, line: Value, place: int) -> Value:
    """The operator applied to one axis alone; the line is a row, since ONNX Runtime interpolates
    nothing of one axis."""
    scales, sizes = (_entry(given, place) for given in (node.input(2), node.input(3)))
    kept = ("coordinate_transformation_mode", "mode", "nearest_mode")
    settings = {name: value for name, value in node.arguments().items() if name in kept}
    row = emit("Unsqueeze", line, integers(line, [0]))
    row = emit("Resize", row, None, None if sizes is not None else scales, sizes, **settings)
    return emit("Reshape", row, integers(line, [-1]))


def _entry(given: Value | None, place: int) -> Value | None:
    """What a row is resized by, or to: [1, the entry of an axis]."""
    if given is None or given.shape == (0,):
        return None
    if given.data is not None:
        return given.graph.constant([1, given.data[place].item()], given.dtype)
    entry = emit("Gather", given, integers(given, [place]))
    return emit("Concat", given.graph.constant([1], given.dtype), entry, axis=0)


def _nearest(node: Node, x: Value, place: int, axis: int) -> Value:
    line = _along(node, _axis_numbers(x, axis, DType.FLOAT32), place)
    return emit("Gather", x, emit("Cast", line, to=int(DType.INT64)), axis=axis)


def _linear(node: Node, x: Value, place: int, axis: int) -> Value:
    """Numbers interpolated between 0, 1, 2 ... are the positions themselves."""
    position = _along(node, _axis_numbers(x, axis, x.dtype), place)
    below = emit("Floor", position)
    share = position - below
    low = emit("Cast", below, to=int(DType.INT64))
    high = emit("Cast", emit("Ceil", position), to=int(DType.INT64))
    tall = integers(x, [-1, *(1 for _ in range(axis + 1, node.required(0).rank))])
    share = emit("Reshape", share, tall)
    sides = (emit("Gather", x, index, axis=axis) for index in (low, high))
    return next(sides) * (1 - share) + next(sides) * share


_PLACES: dict[str, Callable[[Node, Value, int, int], Value]] = {
    "nearest": _nearest,
    "linear": _linear,
}


# --- orders ---------------------------------------------------------------------------------------


@gradient("ReverseSequence")
def d_reverse_sequence(node: Node, dy: Value) -> Value:
    """The order is its own inverse."""
    return emit("ReverseSequence", dy, node.required(1), **node.arguments())


@gradient("CumProd")
def d_cum_prod(node: Node, dy: Value) -> Value:
    """dx[j] = sum of dy[i] y[i] / x[j] over the products y[i] that x[j] is in.

    Products are taken with 1 in place of every 0, and count where they have no 0; for an x[j] that
    is 0 where they have that one alone.
    """
    x, axis = node.required(0), node.required(1)
    settings = node.arguments()
    turned = settings | {"reverse": int(not node.reverse)}
    is_zero = emit("Equal", x, number(x, 0))
    filled = where(is_zero, 1.0, x)
    zeros = emit("CumSum", emit("Cast", is_zero, to=int(x.dtype)), axis, **settings)
    terms = dy * emit("CumProd", filled, axis, **settings)
    without, with_one = (
        emit("CumSum", where(emit("Equal", zeros, number(x, n)), terms, 0.0), axis, **turned)
        for n in (0, 1)
    )
    return where(is_zero, with_one, without / filled)
