"""Reading and writing elements by index, and resizing, which reads by computed positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.ops.registry import kernel, no_macs
from nnconv.runtime.ops.rules import emit, flat, gradient, reshaped, shape_of, zeros_like
from nnconv.schemas.errors import InputError, UnsupportedError
from nnconv.schemas.functions.layers import selected

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array


def _wrapped(indices: Array, size: int) -> Array:
    """Indices with negative ones counted from the end; raises InputError when one lies outside."""
    if indices.size and (indices.min() < -size or indices.max() >= size):
        raise InputError(f"an index lies outside {-size} to {size - 1}")
    return np.where(indices < 0, indices + size, indices)


@kernel("Gather", macs=no_macs)
def gather(x: Array, indices: Array, *, axis: int) -> Array:
    return np.take(x, _wrapped(indices, x.shape[axis]), axis)


@kernel("GatherElements", macs=no_macs)
def gather_elements(x: Array, indices: Array, *, axis: int) -> Array:
    """y[i, j, ...] = x[i, indices[i, j, ...], ...], the index along `axis`; y is as large as
    indices.
    """
    where: list[Array] = list(np.indices(indices.shape, sparse=True))
    where[axis] = _wrapped(indices, x.shape[axis])
    return np.asarray(x[tuple(where)])


@kernel("GatherND", macs=no_macs)
def gather_nd(x: Array, indices: Array, *, batch_dims: int) -> Array:
    """y[b..., i...] = x[b..., indices[b..., i...]], the last axis of `indices` being one index."""
    depth = indices.shape[-1]
    batch = np.indices(indices.shape[:-1], sparse=True)[:batch_dims]
    sizes = x.shape[batch_dims : batch_dims + depth]
    where = tuple(_wrapped(indices[..., i], size) for i, size in enumerate(sizes))
    return np.asarray(x[(*batch, *where)])


_SCATTER: dict[str, Callable[[Array, tuple[Array, ...], Array], None]] = {
    "none": lambda y, where, updates: y.__setitem__(where, updates),
    "add": np.add.at,
    "mul": np.multiply.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}


@kernel("ScatterElements", macs=no_macs)
def scatter_elements(
    x: Array, indices: Array, updates: Array, *, axis: int, reduction: str
) -> Array:
    """A copy of x with updates[i, j, ...] written (or added ...) at indices[i, j, ...] along
    `axis`.
    """
    y = x.copy()
    where: list[Array] = list(np.indices(indices.shape, sparse=True))
    where[axis] = _wrapped(indices, x.shape[axis])
    _SCATTER[reduction](y, tuple(where), updates)
    return y


@kernel("ScatterND", macs=no_macs)
def scatter_nd(x: Array, indices: Array, updates: Array, *, reduction: str) -> Array:
    """A copy of x with slices `updates` written (or added ...) at the given index tuples."""
    y = x.copy()
    sizes = x.shape[: indices.shape[-1]]
    where = tuple(_wrapped(indices[..., i], size) for i, size in enumerate(sizes))
    _SCATTER[reduction](y, where, updates)
    return y


@kernel("Slice", macs=no_macs)
def slice_(
    x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None
) -> Array:
    """x[start:end:step] on the given axes (all first ones unless given); bounds are clipped
    (Slice-13).
    """
    where = range(len(starts)) if axes is None else [int(axis) for axis in axes]
    strides = [1] * len(starts) if steps is None else [int(step) for step in steps]
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(where, starts.tolist(), ends.tolist(), strides, strict=True):
        # ONNX writes "beyond the first element, going down" as a very negative end; Python as None.
        stop = None if step < 0 and end < -x.shape[axis] else end
        index[axis] = slice(start, stop, step)
    return x[tuple(index)]


@kernel("OneHot", macs=no_macs)
def one_hot(indices: Array, depth: Array, values: Array, *, axis: int) -> Array:
    """values[1] where the new axis equals the (wrapped) index, values[0] elsewhere."""
    size = int(depth.reshape(-1)[0])
    wide = np.where(indices < 0, indices + size, indices).astype(np.int64)
    place = axis % (indices.ndim + 1)
    numbers = np.arange(size).reshape(size, *(1,) * (indices.ndim - place))
    chosen = np.where(np.expand_dims(wide, place) == numbers, values[1], values[0])
    return np.asarray(chosen, values.dtype)


@kernel("NonZero", macs=no_macs)
def non_zero(x: Array) -> Array:
    return np.stack(np.nonzero(np.atleast_1d(x))).astype(np.int64)


@kernel("nnconv.Select", macs=no_macs)
def select(x: Array, selector: Array, *, size: str) -> Array:
    """The items of x whose selector is not 0 (filter_layer.cpp); `size` only names their number."""
    return np.asarray(x[selector.reshape(-1) != 0])


@kernel("Compress", macs=no_macs)
def compress(x: Array, condition: Array, *, axis: int | None) -> Array:
    return np.compress(condition.reshape(-1), x, axis)


@kernel("ReverseSequence", macs=no_macs)
def reverse_sequence(x: Array, lengths: Array, *, batch_axis: int, time_axis: int) -> Array:
    """The first lengths[b] steps of item b in reverse order, the rest as they are."""
    moved = np.moveaxis(x, (batch_axis, time_axis), (0, 1))
    steps = np.arange(moved.shape[1])
    order = np.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    result = moved[np.arange(moved.shape[0])[:, None], order]
    return np.moveaxis(result, (0, 1), (batch_axis, time_axis))


# --- resizing -------------------------------------------------------------------------------------

Place = Callable[["Array", float, int, int], "Array"]
"""(output index, scale, input size, output size) -> position in the input."""

COORDINATES: dict[str, Place] = {
    "half_pixel": lambda i, scale, n, m: (i + 0.5) / scale - 0.5,
    "half_pixel_symmetric": lambda i, scale, n, m: (
        n / 2 * (1 - m / (scale * n)) + (i + 0.5) / scale - 0.5
    ),
    "pytorch_half_pixel": lambda i, scale, n, m: (i + 0.5) / scale - 0.5 if m > 1 else i * 0.0,
    "align_corners": lambda i, scale, n, m: i * ((n - 1) / (m - 1)) if m > 1 else i * 0.0,
    "asymmetric": lambda i, scale, n, m: i / scale,
}

NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@kernel("Resize")
def resize(
    x: Array,
    roi: Array | None = None,
    scales: Array | None = None,
    sizes: Array | None = None,
    *,
    axes: Sequence[int] | None,
    coordinate_transformation_mode: str,
    keep_aspect_ratio_policy: str,
    mode: str,
    nearest_mode: str,
) -> Array:
    """Axis by axis, the nearest element or the mean of its two neighbours weighted by distance
    (Resize-19).

    Modes nearest and linear; what lies outside repeats the edge.
    """
    if mode not in ("nearest", "linear"):
        raise UnsupportedError(f"Resize mode '{mode}' is not supported yet")
    if coordinate_transformation_mode not in COORDINATES:
        raise UnsupportedError(f"Resize by '{coordinate_transformation_mode}' is not supported yet")
    place = COORDINATES[coordinate_transformation_mode]
    where = range(x.ndim) if axes is None else [axis % x.ndim for axis in axes]
    for axis, scale, size in _targets(x, where, scales, sizes, keep_aspect_ratio_policy):
        n = x.shape[axis]
        if scale == 1 and size == n:
            continue
        # Scales are stored as float32, so ties between two neighbours come out as ties only in
        # float32.
        steps = np.arange(size, dtype=np.float32 if mode == "nearest" else np.float64)
        position = place(steps, scale, n, size)
        if mode == "nearest":
            index = np.clip(NEAREST[nearest_mode](position), 0, n - 1).astype(np.int64)
            x = np.take(x, index, axis)
        else:
            x = _between(x, position, axis)
    return x


def _targets(
    x: Array, axes: Sequence[int], scales: Array | None, sizes: Array | None, policy: str
) -> list[tuple[int, float, int]]:
    """(axis, scale, new size) for each resized axis."""
    if sizes is None or not sizes.size:
        if scales is None or len(scales) != len(axes):
            raise InputError(f"Resize needs one scale or size for each of {len(axes)} axes")
        return [
            (axis, float(s), math.floor(x.shape[axis] * float(s)))
            for axis, s in zip(axes, scales, strict=True)
        ]
    wanted = [int(size) for size in sizes]
    if policy == "stretch":
        return [(axis, m / x.shape[axis], m) for axis, m in zip(axes, wanted, strict=True)]
    choose = min if policy == "not_larger" else max
    scale = choose(m / x.shape[axis] for axis, m in zip(axes, wanted, strict=True))
    return [(axis, scale, math.floor(x.shape[axis] * scale + 0.5)) for axis in axes]


def _between(x: Array, position: Array, axis: int) -> Array:
    """Linear interpolation along one axis."""
    n = x.shape[axis]
    position = np.clip(position, 0, n - 1)
    below = np.minimum(np.floor(position).astype(np.int64), max(n - 2, 0))
    share = (position - below).astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1 - axis))
    above = np.minimum(below + 1, n - 1)
    low, high = np.take(x, below, axis), np.take(x, above, axis)
    return np.asarray(low * (1 - share) + high * share).astype(x.dtype, copy=False)


# --- gradients ------------------------------------------------------------------------------------


@kernel("nnconv.GatherGrad", macs=no_macs)
def gather_grad(dy: Array, indices: Array, shape: Array, *, axis: int) -> Array:
    """dy added up where Gather read it: dx[..., indices[i...], ...] += dy[..., i..., ...]."""
    dx = np.zeros(tuple(int(size) for size in shape), dy.dtype)
    axis %= dx.ndim
    where: tuple[object, ...] = (*(slice(None),) * axis, _wrapped(indices, dx.shape[axis]))
    np.add.at(dx, where, dy)  # type: ignore[arg-type]
    return dx


@gradient("nnconv.GatherGrad")
def d_gather_grad(node: Node, dy: Value) -> Value:
    return emit("Gather", dy, node.required(1), axis=node.axis)


@gradient("Gather")
def d_gather(node: Node, dy: Value) -> Value:
    x, indices = node.required(0), node.required(1)
    return emit("nnconv.GatherGrad", dy, indices, shape_of(x), axis=node.axis)


@gradient("nnconv.Select")
def d_select(node: Node, dy: Value) -> Value:
    """The items that were picked get theirs, the others zeros."""
    return emit("nnconv.GatherGrad", dy, selected(node), shape_of(node.required(0)), axis=0)


@gradient("GatherElements")
def d_gather_elements(node: Node, dy: Value) -> Value:
    where = {"axis": node.axis, "reduction": "add"}
    return emit("ScatterElements", zeros_like(node.required(0)), node.required(1), dy, **where)


@gradient("GatherND")
def d_gather_nd(node: Node, dy: Value) -> Value:
    if node.batch_dims:
        raise UnsupportedError("no gradient for GatherND with batch_dims")
    return emit("ScatterND", zeros_like(node.required(0)), node.required(1), dy, reduction="add")


@gradient("ScatterElements")
def d_scatter_elements(node: Node, dy: Value) -> tuple[Value | None, ...]:
    indices, updates = node.required(1), node.required(2)
    taken = emit("GatherElements", dy, indices, axis=node.axis)
    if node.reduction == "add":
        return dy, None, taken
    if node.reduction != "none":
        raise UnsupportedError(f"no gradient for ScatterElements with '{node.reduction}'")
    kept = emit("ScatterElements", dy, indices, zeros_like(updates), axis=node.axis)
    return kept, None, taken


@gradient("ScatterND")
def d_scatter_nd(node: Node, dy: Value) -> tuple[Value | None, ...]:
    indices, updates = node.required(1), node.required(2)
    taken = emit("GatherND", dy, indices)
    if node.reduction == "add":
        return dy, None, taken
    if node.reduction != "none":
        raise UnsupportedError(f"no gradient for ScatterND with '{node.reduction}'")
    return emit("ScatterND", dy, indices, zeros_like(updates)), None, taken


@kernel("nnconv.SliceGrad", macs=no_macs)
def slice_grad(
    dy: Array,
    shape: Array,
    starts: Array,
    ends: Array,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Array:
    """dy where Slice read it, zeros elsewhere."""
    dx = np.zeros(tuple(int(size) for size in shape), dy.dtype)
    slice_(dx, starts, ends, axes, steps)[...] = dy
    return dx


@gradient("nnconv.SliceGrad")
def d_slice_grad(node: Node, dy: Value) -> Value:
    cut = emit("Slice", dy, *node.inputs[2:])
    return reshaped(cut, node.required(0))


@gradient("Slice")
def d_slice(node: Node, dy: Value) -> Value:
    return emit("nnconv.SliceGrad", dy, shape_of(node.required(0)), *node.inputs[1:])


flat("NonZero", "OneHot")
