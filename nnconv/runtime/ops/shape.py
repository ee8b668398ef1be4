"""What only moves elements or sees them differently: views wherever numpy can."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.ops.registry import kernel, no_macs
from nnconv.runtime.ops.rules import (
    emit,
    emit_several,
    flat,
    gradient,
    integers,
    reshaped,
    shape_of,
    sum_to,
    zeros_like,
)
from nnconv.schemas.errors import InputError
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array


def _ints(values: Array) -> list[int]:
    return [int(value) for value in values.reshape(-1)]


@kernel("Constant", macs=no_macs)
def constant(
    *,
    value: Array | None,
    value_float: float | None,
    value_floats: Sequence[float] | None,
    value_int: int | None,
    value_ints: Sequence[int] | None,
) -> Array:
    """The attribute that is set, floats as float32, ints as int64."""
    if value is not None:
        return np.asarray(value)
    floats = value_float if value_float is not None else value_floats
    if floats is not None:
        return np.asarray(floats, np.float32)
    return np.asarray(value_int if value_int is not None else value_ints, np.int64)


@kernel("ConstantOfShape", macs=no_macs)
def constant_of_shape(shape: Array, *, value: Array | None) -> Array:
    """An array of `shape` full of `value` (float32 0 unless given)."""
    fill = np.zeros(1, np.float32) if value is None else np.asarray(value)
    return np.full(_ints(shape), fill.reshape(-1)[0], fill.dtype)


@kernel("Shape", macs=no_macs)
def shape(x: Array, *, start: int, end: int | None) -> Array:
    return np.asarray(x.shape[start:end], np.int64)


@kernel("Size", macs=no_macs)
def size(x: Array) -> Array:
    return np.asarray(x.size, np.int64)


@kernel("Reshape", macs=no_macs)
def reshape(x: Array, shape: Array, *, allowzero: int) -> Array:
    """0 keeps the input's size (unless `allowzero`), one -1 takes what is left."""
    wanted = _ints(shape)
    if not allowzero:
        wanted = [x.shape[i] if size == 0 and i < x.ndim else size for i, size in enumerate(wanted)]
    return x.reshape(wanted)


@kernel("nnconv.Reshape", macs=no_macs)
def caffe_reshape(x: Array, *, dims: Sequence[int], axis: int, num_axes: int) -> Array:
    """Caffe's Reshape: `dims` replace `num_axes` axes from `axis` on (reshape_layer.cpp).

    0 copies the size at that place, one -1 takes what is left; a negative `axis` counts from
    behind the end.
    """
    start = axis if axis >= 0 else x.ndim + axis + 1
    end = x.ndim if num_axes == -1 else start + num_axes
    if not 0 <= start <= end <= x.ndim:
        raise InputError(f"axes {start} to {end} lie outside an input of {x.ndim} axes")
    replaced = [x.shape[start + i] if size == 0 else size for i, size in enumerate(dims)]
    return x.reshape((*x.shape[:start], *replaced, *x.shape[end:]))


@kernel("Flatten", macs=no_macs)
def flatten(x: Array, *, axis: int) -> Array:
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1 if x.size else math.prod(x.shape[axis:]))


@kernel("nnconv.Flatten", macs=no_macs)
def caffe_flatten(x: Array, *, axis: int, end_axis: int) -> Array:
    """The axes from `axis` to `end_axis`, both included, become one (flatten_layer.cpp)."""
    first, last = axis % x.ndim, end_axis % x.ndim
    merged = math.prod(x.shape[first : last + 1])
    return x.reshape((*x.shape[:first], merged, *x.shape[last + 1 :]))


@kernel("Squeeze", macs=no_macs)
def squeeze(x: Array, axes: Array | None = None) -> Array:
    return x.squeeze() if axes is None else x.squeeze(tuple(_ints(axes)))


@kernel("Unsqueeze", macs=no_macs)
def unsqueeze(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(_ints(axes)))


@kernel("Transpose", macs=no_macs)
def transpose(x: Array, *, perm: Sequence[int] | None) -> Array:
    return x.transpose(perm)


@kernel("Concat", macs=no_macs)
def concat(*arrays: Array, axis: int) -> Array:
    return np.concatenate(arrays, axis)


@kernel("Split", macs=no_macs)
def split(
    x: Array, sizes: Array | None = None, *, axis: int, num_outputs: int | None, outputs: int
) -> tuple[Array, ...]:
    """Consecutive parts of the given sizes, or equal ones of which the last may be smaller."""
    length = x.shape[axis]
    part = -(-length // outputs)
    parts = (
        [part] * (outputs - 1) + [length - part * (outputs - 1)] if sizes is None else _ints(sizes)
    )
    if sum(parts) != length or min(parts) < 0 or len(parts) != outputs:
        raise InputError(f"parts {parts} do not make up {length} elements along axis {axis}")
    return tuple(np.split(x, np.cumsum(parts)[:-1], axis))


@kernel("Expand", macs=no_macs)
def expand(x: Array, shape: Array) -> Array:
    """Broadcast both ways: a size of 1 in `shape` keeps the input's."""
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(_ints(shape))))


@kernel("Tile", macs=no_macs)
def tile(x: Array, repeats: Array) -> Array:
    return np.tile(x, _ints(repeats))


_PAD_MODES = {"constant": "constant", "edge": "edge", "reflect": "reflect", "wrap": "wrap"}


@kernel("Pad", macs=no_macs)
def pad(
    x: Array, pads: Array, value: Array | None = None, axes: Array | None = None, *, mode: str
) -> Array:
    """`pads` holds all begins, then all ends, for `axes` (all unless given); negative ones crop."""
    where = range(x.ndim) if axes is None else _ints(axes)
    given = _ints(pads)
    if len(given) != 2 * len(where):
        raise InputError(f"{len(given)} pads for {len(where)} axes")
    widths = [(0, 0)] * x.ndim
    for axis, begin, end in zip(where, given[: len(where)], given[len(where) :], strict=True):
        widths[axis] = (begin, end)
    crop = tuple(
        slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(widths, x.shape, strict=True)
    )
    grown = [(max(a, 0), max(b, 0)) for a, b in widths]
    if mode not in _PAD_MODES:
        raise InputError(f"Pad mode must be one of {', '.join(_PAD_MODES)}, got '{mode}'")
    if mode == "constant":
        fill = x.dtype.type(0) if value is None else value.reshape(-1)[0]
        return np.pad(x[crop], grown, constant_values=fill)
    return np.pad(x[crop], grown, mode=mode)  # type: ignore[call-overload,no-any-return]


@kernel("DepthToSpace", macs=no_macs)
def depth_to_space(x: Array, *, blocksize: int, mode: str) -> Array:
    """Channels become blocks of pixels: [N, C, H, W] -> [N, C/b^2, H b, W b]."""
    n, c, h, w = x.shape
    b = blocksize
    if mode == "CRD":
        cells = x.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    else:
        cells = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    return cells.reshape(n, c // (b * b), h * b, w * b)


@kernel("SpaceToDepth", macs=no_macs)
def space_to_depth(x: Array, *, blocksize: int, mode: str = "DCR") -> Array:
    """The inverse of DepthToSpace."""
    n, c, h, w = x.shape
    b = blocksize
    cells = x.reshape(n, c, h // b, b, w // b, b)
    order = (0, 1, 3, 5, 2, 4) if mode == "CRD" else (0, 3, 5, 1, 2, 4)
    return cells.transpose(order).reshape(n, c * b * b, h // b, w // b)


@kernel("EyeLike", macs=no_macs)
def eye_like(x: Array, *, dtype: int | None, k: int) -> Array:
    rows, columns = x.shape
    return np.eye(rows, columns, k, x.dtype if dtype is None else DType(dtype).numpy)


@kernel("Range", macs=no_macs)
def arange(start: Array, limit: Array, delta: Array, *, stash_type: int = 1) -> Array:
    """start, start + delta, ... up to but without limit."""
    if not delta:
        raise InputError("the step of a Range must not be 0")
    return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@kernel("Trilu", macs=no_macs)
def trilu(x: Array, k: Array | None = None, *, upper: int) -> Array:
    diagonal = 0 if k is None else int(k.reshape(-1)[0])
    return np.triu(x, diagonal) if upper else np.tril(x, diagonal)


# --- gradients ------------------------------------------------------------------------------------


@kernel("nnconv.SumTo")
def sum_to_shape(x: Array, shape: Array) -> Array:
    """The sum over the axes along which an array of `shape` is repeated to become like x."""
    wanted = tuple(_ints(shape))
    lead = x.ndim - len(wanted)
    total = x.sum(axis=tuple(range(lead)))
    repeated = [i for i, size in enumerate(wanted) if size == 1 and total.shape[i] != 1]
    return np.asarray(total.sum(axis=tuple(repeated), keepdims=True), x.dtype)


@gradient("nnconv.SumTo")
def d_sum_to(node: Node, dy: Value) -> Value:
    return emit("Expand", dy, shape_of(node.required(0)))


@gradient("Reshape", "Flatten", "Squeeze", "Unsqueeze", "nnconv.Flatten", "nnconv.Reshape")
def d_reshape(node: Node, dy: Value) -> Value:
    return reshaped(dy, node.required(0))


@gradient("Transpose")
def d_transpose(node: Node, dy: Value) -> Value:
    perm = node.perm
    back = None if perm is None else [perm.index(place) for place in range(len(perm))]
    return emit("Transpose", dy, perm=back)


@gradient("Concat")
def d_concat(node: Node, dy: Value) -> tuple[Value, ...]:
    parts = [x for x in node.inputs if x is not None]
    if len(parts) == 1:
        return (dy,)
    axis = node.axis % parts[0].rank
    known = [x.known_shape[axis] for x in parts]
    if all(isinstance(size, int) for size in known):
        sizes = integers(dy, known)
    else:
        sizes = emit("Concat", *(shape_of(x, axis, axis + 1) for x in parts), axis=0)
    return emit_several("Split", dy, sizes, axis=axis, outputs=len(parts))


@gradient("Split")
def d_split(node: Node, *dys: Value | None) -> Value:
    pairs = zip(node.outputs, dys, strict=False)
    parts = [zeros_like(y) if dy is None else dy for y, dy in pairs]
    return emit("Concat", *parts, axis=node.axis)


@gradient("Expand")
def d_expand(node: Node, dy: Value) -> Value:
    return sum_to(dy, node.required(0))


@gradient("Tile")
def d_tile(node: Node, dy: Value) -> Value:
    """The repeats of each axis become an axis of their own, and are summed."""
    x, repeats = node.required(0), node.required(1)
    second = integers(x, [1])
    pairs = [emit("Unsqueeze", sizes, second) for sizes in (repeats, shape_of(x))]
    sizes = emit("Reshape", emit("Concat", *pairs, axis=1), integers(x, [-1]))
    copies = emit("Reshape", dy, sizes, allowzero=1)
    total = emit("ReduceSum", copies, integers(x, list(range(0, 2 * x.rank, 2))), keepdims=0)
    return reshaped(total, x)


@gradient("DepthToSpace")
def d_depth_to_space(node: Node, dy: Value) -> Value:
    return emit("SpaceToDepth", dy, blocksize=node.blocksize, mode=node.mode)


@gradient("SpaceToDepth")
def d_space_to_depth(node: Node, dy: Value) -> Value:
    return emit("DepthToSpace", dy, blocksize=node.blocksize, mode=node.mode)


@gradient("Trilu")
def d_trilu(node: Node, dy: Value) -> Value:
    return emit("Trilu", dy, node.input(1), upper=node.upper)


flat("ConstantOfShape", "EyeLike", "Range", "Shape", "Size")
