"""Reductions, running sums and choices along axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.runtime.ops.registry import add_kernel, each_input, kernel
from nnconv.runtime.ops.rules import (
    GRADIENTS,
    Rule,
    emit,
    flat,
    gradient,
    integers,
    reshaped,
    size_of,
    spread,
    zeros_like,
)
from nnconv.schemas.errors import InputError

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array

Axes = tuple[int, ...] | None


def _log_sum_exp(x: Array, **options: Any) -> Array:
    """log(sum(e^x)), shifted by the largest element so that nothing overflows."""
    top = x.max(axis=options["axis"], keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0).astype(x.dtype)
    total = np.log(np.exp(x - top).sum(**options))
    return np.asarray(total + top.reshape(np.shape(total)))


def _smallest(x: Array) -> Any:
    return -np.inf if x.dtype.kind == "f" else (False if x.dtype == bool else np.iinfo(x.dtype).min)


def _largest(x: Array) -> Any:
    return np.inf if x.dtype.kind == "f" else (True if x.dtype == bool else np.iinfo(x.dtype).max)


REDUCTIONS: dict[str, Callable[..., Array]] = {
    "ReduceL1": lambda x, **options: np.abs(x).sum(**options),
    "ReduceL2": lambda x, **options: np.sqrt((x * x).sum(**options)),
    "ReduceLogSum": lambda x, **options: np.log(x.sum(**options)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": lambda x, **options: x.max(initial=_smallest(x), **options),
    "ReduceMean": lambda x, **options: x.mean(**options),
    "ReduceMin": lambda x, **options: x.min(initial=_largest(x), **options),
    "ReduceProd": lambda x, **options: x.prod(**options),
    "ReduceSum": lambda x, **options: x.sum(**options),
    "ReduceSumSquare": lambda x, **options: (x * x).sum(**options),
}


def _reduction(formula: Callable[..., Array]) -> Callable[..., Array]:
    def reduction(
        x: Array, axes: Array | None = None, *, keepdims: int, noop_with_empty_axes: int
    ) -> Array:
        if axes is None or not axes.size:
            if noop_with_empty_axes:
                return np.asarray(formula(x[None], axis=0, keepdims=False), x.dtype)
            axis: Axes = None
        else:
            axis = tuple(int(a) for a in axes.reshape(-1))
        return np.asarray(formula(x, axis=axis, keepdims=bool(keepdims))).astype(
            x.dtype, copy=False
        )

    return reduction


for _op, _formula in REDUCTIONS.items():
    add_kernel(_op, _reduction(_formula), each_input)


def _arg(choose: Callable[..., Any]) -> Callable[..., Array]:
    def choice(x: Array, *, axis: int, keepdims: int, select_last_index: int) -> Array:
        if select_last_index:
            found = x.shape[axis] - 1 - choose(np.flip(x, axis), axis=axis)
        else:
            found = choose(x, axis=axis)
        found = np.asarray(found, np.int64)
        return np.expand_dims(found, axis) if keepdims else found

    return choice


add_kernel("ArgMax", _arg(np.argmax), each_input)
add_kernel("ArgMin", _arg(np.argmin), each_input)


@kernel("TopK", macs=each_input)
def top_k(x: Array, k: Array, *, axis: int, largest: int, sorted: int) -> tuple[Array, Array]:
    """The k largest (or smallest) along an axis, in order, and their indices; ties: lower first."""
    wanted = int(k.reshape(-1)[0])
    if not 0 <= wanted <= x.shape[axis]:
        raise InputError(f"cannot take {wanted} of {x.shape[axis]} elements")
    # descending and stable: the flipped ascending order of the flipped array
    if largest:
        order = (
            x.shape[axis]
            - 1
            - np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
        )
    else:
        order = np.argsort(x, axis=axis, kind="stable")
    order = np.take(order, range(wanted), axis=axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


def _running(scan: Callable[..., Array], start: int) -> Callable[..., Array]:
    def running(x: Array, axis: Array, *, exclusive: int, reverse: int) -> Array:
        along = int(axis.reshape(-1)[0])
        x = np.flip(x, along) if reverse else x
        y = scan(x, axis=along, dtype=x.dtype)
        if exclusive:
            y = np.roll(y, 1, along)
            index = [slice(None)] * x.ndim
            index[along] = slice(0, 1)
            y[tuple(index)] = start
        return np.flip(y, along) if reverse else y

    return running


add_kernel("CumSum", _running(np.cumsum, 0), each_input)
add_kernel("CumProd", _running(np.cumprod, 1), each_input)


# --- gradients ------------------------------------------------------------------------------------


def _kept(node: Node, reduced: Value) -> Value:
    """The result (or its gradient) with the reduced axes as axes of size 1."""
    x, axes = node.required(0), node.input(1)
    if node.keepdims or reduced.shape is None:
        return reduced
    if axes is not None and axes.shape != (0,):
        return emit("Unsqueeze", reduced, axes)
    return emit("Reshape", reduced, integers(x, [1] * x.rank))


def _d_mean(node: Node, x: Value, y: Value, dy: Value) -> Value:
    return spread(dy * (size_of(y) / size_of(x)), x)


def _d_extreme(node: Node, x: Value, y: Value, dy: Value) -> Value:
    """Equal extremes share the gradient."""
    chosen = emit("Cast", emit("Equal", x, y), to=int(x.dtype))
    whole = node.noop_with_empty_axes
    count = emit("ReduceSum", chosen, node.input(1), keepdims=1, noop_with_empty_axes=whole)
    return chosen * (dy / count)


SLOPES: dict[str, Callable[[Node, Value, Value, Value], Value]] = {
    "ReduceL1": lambda node, x, y, dy: emit("Sign", x) * dy,
    "ReduceL2": lambda node, x, y, dy: x * (dy / y),
    "ReduceLogSum": lambda node, x, y, dy: spread(dy / emit("Exp", y), x),
    "ReduceLogSumExp": lambda node, x, y, dy: emit("Exp", x - y) * dy,
    "ReduceMax": _d_extreme,
    "ReduceMean": _d_mean,
    "ReduceMin": _d_extreme,
    "ReduceProd": lambda node, x, y, dy: dy * y / x,
    "ReduceSum": lambda node, x, y, dy: spread(dy, x),
    "ReduceSumSquare": lambda node, x, y, dy: 2 * x * dy,
}
"""(node, x, y, dy) -> dx, with the reduced axes of y and dy kept as 1."""


def _reduction_rule(slope: Callable[[Node, Value, Value, Value], Value]) -> Rule:
    def rule(node: Node, dy: Value) -> Value:
        x = node.required(0)
        axes = node.input(1)
        if node.noop_with_empty_axes and (axes is None or axes.shape == (0,)):
            return slope(node, x, node.output, dy)
        return slope(node, x, _kept(node, node.output), _kept(node, dy))

    return rule


GRADIENTS.update({op: _reduction_rule(slope) for op, slope in SLOPES.items()})
flat("ArgMax", "ArgMin")


@gradient("CumSum")
def d_cum_sum(node: Node, dy: Value) -> Value:
    """Each element counts for all sums behind it: the sum runs the other way."""
    turned = {"exclusive": node.exclusive, "reverse": int(not node.reverse)}
    return emit("CumSum", dy, node.required(1), **turned)


@gradient("TopK")
def d_top_k(node: Node, dy: Value | None, unused: Value | None = None) -> Value | None:
    if dy is None:
        return None
    x = node.required(0)
    places = _places(node)
    dx = emit("ScatterElements", zeros_like(x), places, dy, axis=node.axis, reduction="add")
    return reshaped(dx, x)


def _places(node: Node) -> Value:
    """The second output of TopK."""
    return node.outputs[1]
