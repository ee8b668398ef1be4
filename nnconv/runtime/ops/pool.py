"""Pooling: the largest or mean cell of sliding windows, with ONNX's and Caffe's rules for the
edges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nnconv.runtime.ops.registry import count, each_input, kernel
from nnconv.runtime.ops.rules import (
    emit,
    gradient,
    shape_of,
    size_of,
    spread,
    through,
)
from nnconv.runtime.ops.windows import Geometry, Windows, padded, shifted, unpadded
from nnconv.schemas.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array


def _window_cells(node: Node) -> int:
    return count(node.output) * math.prod(map(int, node.kernel_shape))


@kernel("MaxPool", macs=_window_cells, windows=Windows)
def max_pool(
    x: Array,
    *,
    windows: Windows,
    ceil_mode: int,
    storage_order: int,
    outputs: int,
) -> Array | tuple[Array, Array]:
    """The largest cell of each window; padding, NaN and -inf never win.

    x [N,C,*in] -> [N,C,*out], and where asked for the flat index into x of each (int64); ties go
    to the first cell in row-major order. A window where nothing wins gives the least finite number
    and the index -1, as in Caffe's pooling_layer.cpp. So does ONNX Runtime over one axis; elsewhere
    its answer depends on strides and channels (NaN or -inf too), and it has no index -1.
    """
    where = windows.over(x.shape[2:], ceil_mode=ceil_mode)
    y = _maximum(x, where)
    return (y, _flat_index(x, y, where, storage_order)) if outputs > 1 else y


_LOWEST = float(np.finfo(np.float32).min)  # Caffe's -FLT_MAX


def _maximum(x: Array, where: Geometry, lowest: float | None = None) -> Array:
    """The largest cell of each window, never below `lowest` (the least number of the dtype)."""
    if lowest is None:
        lowest = np.finfo(x.dtype).min if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    wide = padded(x, where, lowest)
    y = np.full((*x.shape[:2], *where.out), lowest, x.dtype)
    for position in np.ndindex(*where.kernel):
        np.fmax(y, shifted(wide, where, position), out=y)
    return y


def _flat_index(x: Array, y: Array, where: Geometry, storage_order: int) -> Array:
    """For each window the index in x of the first cell that equals its maximum; -1 where no number
    is above the least finite one, from which kernels start too."""
    sizes = x.shape[2:]
    order = "F" if storage_order else "C"
    numbers = np.arange(math.prod(sizes), dtype=np.int64).reshape(sizes, order=order)  # type: ignore[call-overload]
    numbers = padded(numbers[None, None], where, -1)
    cells = padded(x, where, np.nan if x.dtype.kind == "f" else 0)
    wins = y > np.finfo(y.dtype).min if y.dtype.kind == "f" else np.True_
    found = np.full(y.shape, -1, np.int64)
    for position in np.ndindex(*where.kernel):
        number = shifted(numbers, where, position)
        first = wins & (found < 0) & (number >= 0) & (shifted(cells, where, position) == y)
        np.copyto(found, number, where=first)
    planes = np.arange(math.prod(x.shape[:2]), dtype=np.int64).reshape(
        *x.shape[:2], *(1,) * len(sizes)
    )
    return np.where(found < 0, found, found + planes * math.prod(sizes))


@kernel("AveragePool", macs=_window_cells, windows=Windows)
def average_pool(
    x: Array,
    *,
    windows: Windows,
    ceil_mode: int,
    count_include_pad: int,
) -> Array:
    """The mean of each window's cells (AveragePool-22), x [N,C,*in] -> [N,C,*out].

    `count_include_pad` counts cells of the padding too, but never what overhangs it (ceil_mode).
    """
    where = windows.over(x.shape[2:], ceil_mode=ceil_mode)
    return _sum(x, where) / _counts(x, where, bool(count_include_pad))


def _sum(x: Array, where: Geometry) -> Array:
    wide = padded(x, where, 0)
    y = np.zeros((*x.shape[:2], *where.out), x.dtype)
    for position in np.ndindex(*where.kernel):
        y += shifted(wide, where, position)
    return y


def _counts(x: Array, where: Geometry, with_padding: bool) -> Array:
    """How many cells each window divides by: the product of a count along each axis."""
    total = np.ones((), x.dtype)
    for axis, size in enumerate(x.shape[2:]):
        begin, end = where.begins[axis], where.ends[axis]
        first, last = (-begin, size + end) if with_padding else (0, size)
        starts = np.arange(where.out[axis]) * where.strides[axis] - begin
        cells = starts[:, None] + np.arange(where.kernel[axis]) * where.dilations[axis]
        along = ((cells >= first) & (cells < last)).sum(1).astype(x.dtype)
        total = total[..., None] * along
    return total


@kernel("LpPool", macs=_window_cells, windows=Windows)
def lp_pool(
    x: Array,
    *,
    windows: Windows,
    ceil_mode: int,
    p: int,
) -> Array:
    """(sum of |x|^p over the window)^(1/p)."""
    where = windows.over(x.shape[2:], ceil_mode=ceil_mode)
    return _sum(np.abs(x) ** p, where) ** (1 / p)


@kernel("GlobalMaxPool", macs=each_input)
def global_max_pool(x: Array) -> Array:
    return np.asarray(x.max(axis=tuple(range(2, x.ndim)), keepdims=True))


@kernel("GlobalAveragePool", macs=each_input)
def global_average_pool(x: Array) -> Array:
    return np.asarray(x.mean(axis=tuple(range(2, x.ndim)), keepdims=True))


@kernel("GlobalLpPool", macs=each_input)
def global_lp_pool(x: Array, *, p: int) -> Array:
    return np.asarray((np.abs(x) ** p).sum(axis=tuple(range(2, x.ndim)), keepdims=True) ** (1 / p))


class CaffeWindows(NamedTuple):
    """The attributes by which Caffe's Pooling says where windows lie."""

    kernel_shape: Sequence[int]
    pads: Sequence[int] | None
    round_mode: str
    strides: Sequence[int] | None

    def over(self, sizes: Sequence[int]) -> Geometry:
        """Where they lie on axes of these `sizes`."""
        rank = len(sizes)
        kernel = tuple(self.kernel_shape)
        steps = tuple(self.strides or (1,) * rank)
        edges = tuple(self.pads or (0,) * (2 * rank))
        begins, ends = edges[:rank], edges[rank:]
        if min((*kernel, *steps), default=1) < 1:
            raise InputError(f"a window of {list(kernel)} cannot move by {list(steps)}")
        out = []
        for n, k, s, begin, end in zip(sizes, kernel, steps, begins, ends, strict=True):
            room = n + begin + end - k
            windows = (-(-room // s) if self.round_mode == "CEIL" else room // s) + 1
            if any(edges) and (windows - 1) * s >= n + begin:
                windows -= 1
            out.append(max(windows, 0))
        return Geometry(kernel, steps, (1,) * rank, begins, ends, tuple(out))


@kernel("nnconv.Pool", macs=_window_cells, windows=CaffeWindows)
def caffe_pool(
    x: Array,
    *,
    windows: CaffeWindows,
    mode: str,
) -> Array:
    """Caffe's Pooling (pooling_layer.cpp), whose windows may lie wholly outside the data.

    Sizes are round((in + 2 pad - kernel) / stride) + 1; only with some padding is a last window
    dropped that starts in it. An empty window gives -FLT_MAX for MAX, 0/0 = NaN (or -0) for AVE.
    """
    where = windows.over(x.shape[2:])
    if mode == "MAX":
        return _maximum(x, where, _LOWEST)
    return _sum(x, where) / _caffe_cells(x, where)


def _caffe_cells(x: Array, where: Geometry) -> Array:
    """Cells of each window up to the end of the padding behind. A window that starts behind that
    has a negative side, as in pooling_layer.cpp: its average is -0, not NaN."""
    cells = np.ones((), x.dtype)
    for n, k, s, begin, end, out in zip(
        x.shape[2:], where.kernel, where.strides, where.begins, where.ends, where.out, strict=True
    ):
        starts = np.arange(out) * s - begin
        cells = cells[..., None] * (np.minimum(starts + k, n + end) - starts).astype(x.dtype)
    return cells


# --- gradients ------------------------------------------------------------------------------------


@kernel("nnconv.MaxPoolGrad", macs=_window_cells, windows=Windows)
def max_pool_grad(
    x: Array,
    dy: Array,
    *,
    windows: Windows,
    ceil_mode: int,
    storage_order: int,
) -> Array:
    """dx: each window's dy goes to the first of its largest cells in row-major order."""
    where = windows.over(x.shape[2:], ceil_mode=ceil_mode)
    return _scattered(x, dy, _flat_index(x, _maximum(x, where), where, 0))


def _scattered(x: Array, dy: Array, index: Array) -> Array:
    """dy added up at flat places of an array like x; those below 0 (empty windows) are dropped."""
    kept = index >= 0
    dx = np.bincount(index[kept], weights=dy[kept], minlength=x.size)
    return dx.reshape(x.shape).astype(dy.dtype)


@gradient("MaxPool")
def d_max_pool(node: Node, dy: Value | None, unused: Value | None = None) -> Value | None:
    if dy is None:
        return None
    return emit("nnconv.MaxPoolGrad", node.required(0), dy, **node.arguments())


@kernel("nnconv.AveragePoolGrad", macs=_window_cells, windows=Windows)
def average_pool_grad(
    dy: Array,
    shape: Array,
    *,
    windows: Windows,
    ceil_mode: int,
    count_include_pad: int,
) -> Array:
    """dx: every cell of a window receives dy over the number of cells that the mean divided by."""
    sizes = tuple(int(size) for size in shape)
    where = windows.over(sizes[2:], ceil_mode=ceil_mode)
    like = np.broadcast_to(dy.dtype.type(0), sizes)
    return _returned(dy / _counts(like, where, bool(count_include_pad)), where, sizes)


def _returned(dy: Array, where: Geometry, sizes: tuple[int, ...]) -> Array:
    """dx[cell] = sum of dy over the windows that the cell lies in."""
    wide = np.zeros((*sizes[:2], *where.reach), dy.dtype)
    for position in np.ndindex(*where.kernel):
        cells = shifted(wide, where, position)
        cells += dy
    return unpadded(wide, where, sizes[2:])


_AVERAGE = (*Windows._fields, "ceil_mode", "count_include_pad")


@gradient("AveragePool")
def d_average_pool(node: Node, dy: Value) -> Value:
    settings = node.arguments()
    kept = {name: settings[name] for name in _AVERAGE}
    return emit("nnconv.AveragePoolGrad", dy, shape_of(node.required(0)), **kept)


@gradient("nnconv.AveragePoolGrad")
def d_average_pool_grad(node: Node, dy: Value) -> Value:
    return emit("AveragePool", dy, **node.arguments())


@kernel("nnconv.PoolGrad", macs=_window_cells, windows=CaffeWindows)
def caffe_pool_grad(
    x: Array,
    dy: Array,
    *,
    windows: CaffeWindows,
    mode: str,
) -> Array:
    """dx of Caffe's Pooling; windows without a cell give nothing back."""
    where = windows.over(x.shape[2:])
    if mode == "MAX":
        return _scattered(x, dy, _flat_index(x, _maximum(x, where, _LOWEST), where, 0))
    return _returned(dy / _caffe_cells(x, where), where, x.shape)


@gradient("nnconv.Pool")
def d_caffe_pool(node: Node, dy: Value) -> Value:
    return emit("nnconv.PoolGrad", node.required(0), dy, **node.arguments())


@gradient("nnconv.PyramidPool")
def d_pyramid_pool(node: Node, dy: Value) -> Value:
    return emit("nnconv.PyramidPoolGrad", node.required(0), dy, **node.arguments())


@gradient("GlobalAveragePool")
def d_global_average_pool(node: Node, dy: Value) -> Value:
    x = node.required(0)
    return spread(dy / size_of(x, range(2, x.rank)), x)


@gradient("GlobalMaxPool")
def d_global_max_pool(node: Node, dy: Value) -> Value:
    return emit("nnconv.GlobalMaxPoolGrad", node.required(0), dy)


@kernel("nnconv.GlobalMaxPoolGrad", macs=each_input)
def global_max_pool_grad(x: Array, dy: Array) -> Array:
    """dx: dy goes to the first of the largest cells of each plane, as Caffe's mask says."""
    planes = x.reshape(*x.shape[:2], -1)
    dx = np.zeros(planes.shape, dy.dtype)
    place = planes.argmax(axis=2)[..., None]
    np.put_along_axis(dx, place, dy.reshape(*x.shape[:2], 1), axis=2)
    return dx.reshape(x.shape)


@through("LpPool")
def lp_pool_body(node: Node) -> list[Value]:
    """(cells * mean of |x|^p)^(1/p) with every cell of the kernel counted."""
    settings = {name: value for name, value in node.arguments().items() if name in _AVERAGE}
    if node.ceil_mode:
        raise UnsupportedError("no gradient for LpPool with ceil_mode")
    powers = emit("Abs", node.required(0)) ** float(node.p)
    cells = math.prod(node.kernel_shape)
    mean = emit("AveragePool", powers, count_include_pad=1, **settings)
    return [(mean * float(cells)) ** (1 / node.p)]
