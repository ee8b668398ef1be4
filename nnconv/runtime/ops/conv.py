"""Convolutions over any number of spatial axes: windows laid out as columns, then one matrix
product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnconv.runtime.ops.registry import count, kernel
from nnconv.runtime.ops.rules import emit, gradient, integers, shape_of
from nnconv.runtime.ops.windows import (
    Geometry,
    Windows,
    padded,
    shifted,
    unpadded,
    window_view,
)
from nnconv.schemas.dims import evaluate
from nnconv.schemas.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array

# Columns are made for a slab of output rows at a time: what fits a cache is multiplied faster, and
# VGG's second layer would otherwise need 115 MB for one picture.
_COLUMN_BYTES = 8 << 20


def _macs(cells: Value, weights: Value) -> int:
    """Each of the cells, x's or y's, meets the weights of one channel (their first axis)."""
    if not count(weights):
        return 0
    return count(cells) * count(weights) // evaluate(weights.known_shape[0], {})


def _conv_macs(node: Node) -> int:
    return _macs(node.output, node.required(1))


def _deconv_macs(node: Node) -> int:
    return _macs(node.required(0), node.required(1))


@kernel("Conv", macs=_conv_macs, windows=Windows)
def conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    windows: Windows,
    group: int,
) -> Array:
    """y[n,m,p] = b[m] + sum over c,k of x[n, c, p*stride + k*dilation - pad] * w[m,c,k] (ONNX
    Conv-22).

    x [N,C,*in], w [M,C/group,*kernel], b [M] -> [N,M,*out]; a cross-correlation.
    """
    if x.ndim != w.ndim or x.shape[1] != w.shape[1] * group or w.shape[0] % group:
        raise InputError(f"weights {_text(w)} do not fit an input of {_text(x)} in {group} groups")
    if (said := windows.kernel_shape) and tuple(said) != w.shape[2:]:
        raise InputError(f"kernel_shape {list(said)} does not fit weights {_text(w)}")
    where = windows.over(x.shape[2:], w.shape[2:])
    y = np.empty((x.shape[0], w.shape[0], *where.out), np.result_type(x, w))
    grouped = padded(x, where, 0).reshape(x.shape[0], group, x.shape[1] // group, *where.reach)
    weights = w.reshape(group, w.shape[0] // group, math.prod(w.shape[1:]))
    result = y.reshape(x.shape[0], group, w.shape[0] // group, *where.out)
    _multiply(grouped, weights, where, result)
    return y if b is None else np.add(y, _per_channel(b, y), out=y)


def _multiply(x: Array, weights: Array, where: Geometry, y: Array) -> None:
    """y[n,g,m,*out] = weights[g,m,c*k] @ windows of x[n,g,c,*padded], slab by slab of rows."""
    if not where.kernel:
        y[...] = (weights @ x[..., None])[..., 0]
        return
    if not y.size:
        return
    windows = window_view(x, where)
    depth = weights.shape[2]
    row_bytes = depth * math.prod(where.out[1:]) * x.shape[1] * x.itemsize
    rows = max(1, _COLUMN_BYTES // max(row_bytes, 1))
    for image, start in itertools.product(range(x.shape[0]), range(0, where.out[0], rows)):
        slab = (image, ...) + (slice(start, start + rows),) + (slice(None),) * (len(where.out) - 1)
        columns = windows[slab].reshape(x.shape[1], depth, -1)
        y[slab] = (weights @ columns).reshape(y[slab].shape)


@kernel("ConvTranspose", macs=_deconv_macs, windows=Windows)
def conv_transpose(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    windows: Windows,
    group: int,
    output_padding: Sequence[int] | None,
    output_shape: Sequence[int] | None,
) -> Array:
    """The transpose of Conv: every input cell adds x * w to the window it belongs to
    (ConvTranspose-22).

    x [N,C,*in], w [C,M/group,*kernel], b [M] -> [N,M,*out]; unless `output_shape` is given, an
    axis becomes stride*(in - 1) + output_padding + dilation*(kernel - 1) + 1 - pads.
    """
    if x.ndim != w.ndim or x.shape[1] != w.shape[0] or w.shape[0] % group:
        raise InputError(f"weights {_text(w)} do not fit an input of {_text(x)} in {group} groups")
    kept = transposed_geometry(
        x.shape[2:],
        w.shape[2:],
        windows.strides,
        windows.pads,
        windows.dilations,
        windows.auto_pad,
        output_padding,
        output_shape,
    )
    begins, out, full = kept.begins, kept.out, kept.full(x.shape[2:])
    n, c = x.shape[:2]
    weights = w.reshape(group, c // group, -1).swapaxes(1, 2)
    columns = weights @ x.reshape(n, group, c // group, math.prod(x.shape[2:]))
    columns = columns.reshape(n, group * w.shape[1], *w.shape[2:], *x.shape[2:])
    room = tuple(max(f, begin + o) for f, begin, o in zip(full, begins, out, strict=True))
    y = np.zeros((n, columns.shape[1], *room), columns.dtype)
    free = (0,) * len(out)
    where = Geometry(w.shape[2:], kept.strides, kept.dilations, free, free, x.shape[2:])
    for position in np.ndindex(*w.shape[2:]):
        cell = shifted(y, where, position)
        cell += columns[(slice(None), slice(None), *position)]
    inside: tuple[Any, ...] = (..., *map(_span, begins, out))
    y = y[inside]
    return y if b is None else np.asarray(y + _per_channel(b, y))


class Transposed(NamedTuple):
    """Which part of the full result of a transposed convolution is kept: its first cells and its
    sizes, one entry a spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    out: tuple[int, ...]

    def full(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The sizes of everything that an input of `sizes` reaches."""
        cells = zip(sizes, self.kernel, self.strides, self.dilations, strict=True)
        return tuple(s * (n - 1) + d * (k - 1) + 1 for n, k, s, d in cells)


def transposed_geometry(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    pads: Sequence[int] | None,
    dilations: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
) -> Transposed:
    """What ConvTranspose keeps, as ONNX defines it (opset 22)."""
    rank = len(sizes)
    one, none = (1,) * rank, (0,) * rank
    given = Transposed(tuple(kernel), tuple(strides or one), tuple(dilations or one), none, none)
    full, extra = given.full(sizes), tuple(output_padding or none)
    if not output_shape and not auto_pad.startswith("SAME"):
        pads = tuple(pads or ()) if auto_pad == "NOTSET" else ()
        pads = pads or (0,) * (2 * rank)
        cells = zip(full, extra, pads[:rank], pads[rank:], strict=True)
        kept = tuple(max(f + e - b - a, 0) for f, e, b, a in cells)
        return given._replace(begins=tuple(pads[:rank]), out=kept)
    if output_shape:
        out = tuple(output_shape)[-rank:]
    else:  # less than size times stride where the kernel is too small to fill that
        cells = zip(sizes, given.strides, full, extra, strict=True)
        out = tuple(min(n * s, f + e) for n, s, f, e in cells)
    totals = [max(f + e - o, 0) for f, e, o in zip(full, extra, out, strict=True)]
    upper = auto_pad == "SAME_UPPER"
    return given._replace(begins=tuple(t // 2 if upper else t - t // 2 for t in totals), out=out)


def _span(begin: int, length: int) -> slice:
    return slice(begin, begin + length)


def _per_channel(b: Array, y: Array) -> Array:
    return b.reshape(1, -1, *(1,) * (y.ndim - 2))


def _text(x: Array) -> str:
    return "x".join(map(str, x.shape))


# --- gradients ------------------------------------------------------------------------------------
# Conv, its two gradients and ConvTranspose are closed under differentiation: each is linear in two
# of (x, w, dy), and the gradients of one are the others.


def _grad_data_macs(node: Node) -> int:
    return _macs(node.required(0), node.required(1))


def _grad_weights_macs(node: Node) -> int:
    return _macs(node.required(1), node.output)


@kernel("nnconv.ConvGradData", macs=_grad_data_macs, windows=Windows)
def conv_grad_data(
    dy: Array,
    w: Array,
    shape: Array,
    *,
    windows: Windows,
    group: int,
) -> Array:
    """dx[n, c, p*stride + k*dilation - pad] += sum over m of w[m,c,k] * dy[n,m,p]; `shape` is
    x's."""
    n, c, *sizes = (int(size) for size in shape)
    where = windows.over(sizes, w.shape[2:])
    weights = w.reshape(group, w.shape[0] // group, math.prod(w.shape[1:])).swapaxes(1, 2)
    wide = np.zeros((n, c, *where.reach), np.result_type(dy, w))
    for image in range(n):
        grouped = dy[image].reshape(group, dy.shape[1] // group, math.prod(where.out))
        columns = (weights @ grouped).reshape(c, *where.kernel, *where.out)
        for position in np.ndindex(*where.kernel):
            cells = shifted(wide[image], where, position) if where.kernel else wide[image]
            cells += columns[(slice(None), *position)]
    return unpadded(wide, where, sizes)


@kernel("nnconv.ConvGradWeights", macs=_grad_weights_macs, windows=Windows)
def conv_grad_weights(
    x: Array,
    dy: Array,
    shape: Array,
    *,
    windows: Windows,
    group: int,
) -> Array:
    """dw[m,c,k] = sum over n,p of dy[n,m,p] * x[n, c, p*stride + k*dilation - pad]; `shape` is
    w's."""
    m, c, *kernel_sizes = (int(size) for size in shape)
    where = windows.over(x.shape[2:], kernel_sizes)
    grouped = padded(x, where, 0).reshape(x.shape[0], group, c, *where.reach)
    cells = window_view(grouped, where) if where.kernel else grouped
    dw = np.zeros((group, m // group, c * math.prod(kernel_sizes)), np.result_type(x, dy))
    for image in range(x.shape[0]):
        columns = cells[image].reshape(group, dw.shape[2], math.prod(where.out))
        dw += dy[image].reshape(group, m // group, math.prod(where.out)) @ columns.swapaxes(1, 2)
    return dw.reshape(m, c, *kernel_sizes)


def _over_positions(dy: Value) -> Value:
    """The gradient of a bias: the sum over all but the channels."""
    axes = [0, *range(2, dy.rank)]
    return emit("ReduceSum", dy, integers(dy, axes), keepdims=0)


def _settings(node: Node) -> dict[str, Any]:
    """The attributes that Conv and its gradients share."""
    known = node.arguments()
    return {name: known[name] for name in (*Windows._fields, "group")}


@gradient("Conv")
def d_conv(node: Node, dy: Value) -> tuple[Value, ...]:
    x, w = node.required(0), node.required(1)
    dx = emit("nnconv.ConvGradData", dy, w, shape_of(x), **_settings(node))
    dw = emit("nnconv.ConvGradWeights", x, dy, shape_of(w), **_settings(node))
    return dx, dw, _over_positions(dy)


@gradient("nnconv.ConvGradData")
def d_conv_grad_data(node: Node, ddx: Value) -> tuple[Value, ...]:
    dy, w = node.required(0), node.required(1)
    dw = emit("nnconv.ConvGradWeights", ddx, dy, shape_of(w), **_settings(node))
    return emit("Conv", ddx, w, **_settings(node)), dw


@gradient("nnconv.ConvGradWeights")
def d_conv_grad_weights(node: Node, ddw: Value) -> tuple[Value, ...]:
    x, dy = node.required(0), node.required(1)
    dx = emit("nnconv.ConvGradData", dy, ddw, shape_of(x), **_settings(node))
    return dx, emit("Conv", x, ddw, **_settings(node))


@gradient("ConvTranspose")
def d_conv_transpose(node: Node, dy: Value) -> tuple[Value, ...]:
    """Forward is ConvGradData with x as its dy, so its gradients are that one's."""
    if node.output_shape or node.auto_pad.startswith("SAME"):
        raise UnsupportedError("no gradient for ConvTranspose with output_shape or SAME padding")
    x, w = node.required(0), node.required(1)
    near, settings = _within_reach(node, dy)
    dw = emit("nnconv.ConvGradWeights", near, x, shape_of(w), **settings)
    return emit("Conv", near, w, **settings), dw, _over_positions(dy)


def _within_reach(node: Node, dy: Value) -> tuple[Value, dict[str, Any]]:
    """dy without what x does not reach, and the settings of the Conv that reads it: an output
    padding of a whole stride would be one more window of it.
    """
    settings, rank = _settings(node), dy.rank - 2
    extra, strides = node.output_padding or (0,) * rank, node.strides or (1,) * rank
    if all(e < s for e, s in zip(extra, strides, strict=True)):
        return dy, settings
    pads = (node.auto_pad == "NOTSET" and node.pads) or (0,) * (2 * rank)
    ends = [after - e for after, e in zip(pads[rank:], extra, strict=True)]
    settings |= {"auto_pad": "NOTSET", "pads": (*pads[:rank], *(max(end, 0) for end in ends))}
    cut = {axis: end for axis, end in enumerate(ends, 2) if end < 0}
    if not cut:
        return dy, settings
    stops, axes = integers(dy, list(cut.values())), integers(dy, list(cut))
    return emit("Slice", dy, integers(dy, [0] * len(cut)), stops, axes), settings
