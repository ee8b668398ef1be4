"""Sliding windows, shared by convolution and pooling: sizes, padding and views, for any number of
axes.

A window of `kernel` cells, `dilations` apart, moves by `strides` over spatial axes that are padded
by (begin, end) cells; views cost nothing, padding is the only copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnconv.schemas.errors import InputError

if TYPE_CHECKING:
    from nnconv.schemas.types import Array


SAME = ("SAME_UPPER", "SAME_LOWER")


class Geometry(NamedTuple):
    """Where windows lie, one entry a spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """Cells from the start of the first window to the end of the last one."""
        cells = zip(self.out, self.strides, self.kernel, self.dilations, strict=True)
        return tuple(max((o - 1) * s + (k - 1) * d + 1, 0) for o, s, k, d in cells)


class Windows(NamedTuple):
    """The attributes by which ONNX's convolutions and pools say where windows lie."""

    auto_pad: str
    dilations: Sequence[int] | None
    kernel_shape: Sequence[int] | None
    pads: Sequence[int] | None
    strides: Sequence[int] | None

    def over(
        self, sizes: Sequence[int], kernel: Sequence[int] | None = None, ceil_mode: int = 0
    ) -> Geometry:
        """Where they lie on axes of these `sizes`; `kernel` is that of the weights, if any."""
        cells = kernel if kernel is not None else self.kernel_shape or ()
        return geometry(
            sizes, cells, self.strides, self.pads, self.dilations, self.auto_pad, ceil_mode
        )


def geometry(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    pads: Sequence[int] | None,
    dilations: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
) -> Geometry:
    """Window geometry as ONNX defines it for Conv and the pools (opset 22).

    Divisions are C's, towards zero, as in onnx's shape inference (convPoolShapeInference), ONNX
    Runtime's pools and Caffe's conv_layer.cpp: a window larger than the padded axis by less than
    the stride has one place, and hangs over the end (a convolution reads zeros there). A larger one
    raises InputError. With `ceil_mode` the last window is dropped when it would start in the
    padding at the end.
    """
    rank = len(sizes)
    kernel = tuple(kernel)
    strides = tuple(strides or (1,) * rank)
    dilations = tuple(dilations or (1,) * rank)
    for name, given in (("kernel", kernel), ("strides", strides), ("dilations", dilations)):
        if len(given) != rank:
            raise InputError(f"{name} {list(given)} does not fit {rank} spatial axes")
    if min((*kernel, *strides), default=1) < 1 or min(dilations, default=1) < 0:
        raise InputError(f"a window of {list(kernel)} cannot move by {list(strides)}")
    begins, ends = _padding(sizes, kernel, strides, pads, dilations, auto_pad)
    out = []
    for n, k, s, d, begin, end in zip(sizes, kernel, strides, dilations, begins, ends, strict=True):
        extent = (k - 1) * d + 1
        room = n + begin + end - extent
        steps = -(-room // s) if ceil_mode or room < 0 else room // s
        if ceil_mode and steps * s >= n + begin:
            steps -= 1
        if steps < 0 and auto_pad not in SAME:
            raise InputError(
                f"a window of {extent} does not fit into {n} with padding {begin} + {end}",
                hint="is the input too small for this net?",
            )
        out.append(-(-n // s) if auto_pad in SAME else steps + 1)
    return Geometry(kernel, strides, dilations, begins, ends, tuple(out))


def _padding(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int] | None,
    dilations: Sequence[int],
    auto_pad: str,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rank = len(sizes)
    if auto_pad in SAME:
        cells = zip(sizes, kernel, strides, dilations, strict=True)
        totals = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in cells]
        small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
        return (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    pads = tuple(pads or ()) if auto_pad == "NOTSET" else ()
    pads = pads or (0,) * (2 * rank)
    if len(pads) != 2 * rank:
        raise InputError(f"pads {list(pads)} must have two entries for each of {rank} spatial axes")
    return pads[:rank], pads[rank:]


def padded(x: Array, where: Geometry, fill: float) -> Array:
    """`x` with its spatial axes extended (or cut) to exactly what the windows reach."""
    rank = len(where.kernel)
    lead = x.ndim - rank
    index: list[slice] = [slice(None)] * lead
    widths: list[tuple[int, int]] = [(0, 0)] * lead
    for axis, (begin, reach) in enumerate(zip(where.begins, where.reach, strict=True), lead):
        end = reach - begin - x.shape[axis]
        index.append(slice(max(-begin, 0), max(x.shape[axis] + min(end, 0), 0)))
        widths.append((max(min(begin, reach), 0), max(end, 0)))
    x = x[tuple(index)]
    if not any(map(any, widths)):
        return x
    return np.pad(x, widths, constant_values=x.dtype.type(fill))


def unpadded(x: Array, where: Geometry, sizes: Sequence[int]) -> Array:
    """What `padded` made of an array of these spatial sizes, back in place: gradients of padding
    are dropped, cells that no window reached have none."""
    lead = x.ndim - len(where.kernel)
    result = np.zeros((*x.shape[:lead], *sizes), x.dtype)
    inner: list[slice] = [slice(None)] * lead
    outer: list[slice] = [slice(None)] * lead
    for begin, reach, size in zip(where.begins, where.reach, sizes, strict=True):
        inside = max(min(size, reach - begin), 0)
        inner.append(slice(max(begin, 0), begin + inside))
        outer.append(slice(max(-begin, 0), inside))
    result[tuple(outer)] = x[tuple(inner)]
    return result


def shifted(x: Array, where: Geometry, position: Sequence[int]) -> Array:
    """The cell at `position` of every window, as a view of padded `x`: shape [..., *out]."""
    cells = zip(position, where.dilations, where.strides, where.out, strict=True)
    places = (slice(p * d, p * d + (o - 1) * s + 1 if o else 0, s) for p, d, s, o in cells)
    index: tuple[Any, ...] = (..., *places)
    return np.asarray(x[index])


def window_view(x: Array, where: Geometry) -> Array:
    """All windows of padded `x` as a view: shape [lead..., *kernel, *out]."""
    rank = len(where.kernel)
    lead, steps = x.shape[:-rank], x.strides[-rank:]
    inner = tuple(step * d for step, d in zip(steps, where.dilations, strict=True))
    outer = tuple(step * s for step, s in zip(steps, where.strides, strict=True))
    shape = (*lead, *where.kernel, *where.out)
    strides = (*x.strides[:-rank], *inner, *outer)
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)
