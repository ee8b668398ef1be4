"""Windows over any number of spatial axes, as kernels take them: over the last two.

A sequence is an image of one row, a value without spatial axes an image of one pixel; both lie in
memory as such an image does, so only numbers change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.lowering.claims import any_empty, sizes
from nnconv.runtime.lowering.layout import Place, is_float
from nnconv.runtime.ops.windows import Geometry, geometry

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

Image = tuple[int, int, int, int]
_MOST_CELLS = (1 << 31) - 1  # of a pooling window: kernels count them in 32 bits
_NEUTRAL = {"kernel": 1, "strides": 1, "dilations": 1, "begins": 0, "ends": 0}


def plane(value: Value | None) -> Image | None:
    """Batch, channels, height and width of a float value with at most two spatial axes."""
    if value is None or not is_float(value) or not 2 <= len(sizes(value)) <= 4:
        return None
    batch, channels, *spatial = sizes(value)
    height, width = (*_lead(spatial, 1), *spatial)
    return batch, channels, height, width


def _lead(axes: Sequence[int], neutral: int) -> tuple[int, ...]:
    """What stands before the axes that are there, so that two of them are."""
    return (neutral,) * (2 - len(axes))


@dataclass(frozen=True, slots=True)
class Planar:
    """A window over two axes, and the padding at their ends (the window has that before them)."""

    window: Window
    ends: tuple[int, int]


def planar(where: Geometry) -> Planar | None:
    """A geometry over at most two axes; None where kernels do not follow: a negative pad, taps on
    one cell."""
    if len(where.kernel) > 2 or min((*where.begins, *where.ends), default=0) < 0:
        return None
    if min(where.dilations, default=1) < 1:
        return None
    found = []
    for name, neutral in _NEUTRAL.items():
        axes = tuple(int(n) for n in getattr(where, name))
        height, width = (*_lead(axes, neutral), *axes)
        found.append((height, width))
    return Planar(Window(*found[:4]), found[4])


def conv_geometry(node: Node, x: tuple[int, ...], weights: tuple[int, ...]) -> Geometry | None:
    """Where the windows of a convolution or of its gradients lie, by the sizes of the data and of
    the weights; None where these do not belong together."""
    if len(x) != len(weights) or len(x) < 2:
        return None
    return geometry(x[2:], weights[2:], node.strides, node.pads, node.dilations, node.auto_pad)


def pool_geometry(node: Node, x: tuple[int, ...]) -> Geometry:
    """Where the windows of a pool or of its gradient lie; Caffe's has neither dilations nor
    automatic padding."""
    known = node.arguments()
    dilations, auto_pad = known.get("dilations"), known.get("auto_pad", "NOTSET")
    return geometry(x[2:], node.kernel_shape, node.strides, node.pads, dilations, auto_pad)


@dataclass(frozen=True, slots=True)
class Pass:
    """Pooling along one axis or the last two: a plane of `x` cells becomes one of `y`; `outer`
    planes lie in a channel."""

    outer: int
    x: tuple[int, int]
    y: tuple[int, int]
    window: Window
    ends: tuple[int, int]

    def before(self, array: Array) -> Array:
        """An array of x as this pass sees it."""
        return _seen(array, self.outer, self.x)

    def after(self, array: Array) -> Array:
        """An array of the pass's result."""
        return _seen(array, self.outer, self.y)

    @property
    def made(self) -> int:
        """Cells of a channel behind it."""
        return self.outer * math.prod(self.y)


def _seen(array: Array, outer: int, extents: tuple[int, int]) -> Array:
    """The planes of each channel as channels; what has one plane lies where it lies."""
    if outer == 1 and (array.height, array.width) == extents:
        return array
    height, width = extents
    row = width * array.lanes
    return Array(
        array.batch, array.blocks * outer * array.lanes, height, width, array.lanes, 0,
        array.image, height * row, row, array.lanes,
    )  # fmt: skip


def pool_passes(node: Node, x: Value, y: Value) -> list[Pass] | None:
    """A pool over any number of axes as passes over planes: first the last two axes, then each one
    before them, so that the first of equals in row-major order wins. None where kernels do not
    follow: a negative pad, a window wholly outside (but Caffe's over a plane may lie there).
    """
    if not is_float(x) or not is_float(y) or not 2 <= len(sizes(x)) == len(sizes(y)):
        return None
    where = pool_geometry(node, sizes(x))
    before, after = list(sizes(x)[2:]), sizes(y)[2:]
    rank, found = len(before), []
    for axes in ((rank - 2, rank), *((axis, axis + 1) for axis in reversed(range(rank - 2)))):
        part = slice(max(axes[0], 0), axes[1])
        flat = planar(Geometry(*(tuple(field[part]) for field in where)))
        if flat is None:
            return None
        window, ends, inner = flat.window, flat.ends, math.prod(before[axes[1] :])
        planes = [_plane(extents[part], inner, axes[1] < rank) for extents in (before, after)]
        if axes[1] < rank:
            window, ends = _upright(window), (ends[1], 0)
        step = Pass(math.prod(before[: part.start]), planes[0], planes[1], window, ends)
        caffe = node.op in ("nnconv.Pool", "nnconv.PoolGrad") and rank <= 2
        if not caffe and any_empty(window, (0, 0, *step.x), (0, 0, *step.y)):
            return None
        if math.prod(window.size) > _MOST_CELLS:
            return None
        found.append(step)
        before[part] = after[part]
    return found


def _plane(extents: Sequence[int], inner: int, upright: bool) -> tuple[int, int]:
    """Height and width of a plane; `upright` ones have one axis, and the inner cells as width."""
    if upright:
        return extents[0], inner
    height, width = (*_lead(extents, 1), *extents)
    return height, width


def _upright(window: Window) -> Window:
    """A window along rows, along columns instead."""
    pairs = (window.size, window.stride, window.dilation)
    size, stride, dilation = ((pair[1], 1) for pair in pairs)
    return Window(size, stride, dilation, (window.pad[1], 0))


@dataclass(frozen=True, slots=True)
class Stage:
    """A pass and where it reads and writes: arrays as kernels see them, and the places."""

    step: Pass
    x: Array
    y: Array
    source: Place
    goal: Place


def stages(builder: Builder, passes: Sequence[Pass], source: Place, goal: Place) -> list[Stage]:
    """The passes from a place to another, with memory for what lies between."""
    found = []
    for number, step in enumerate(passes, 1):
        made = goal
        if number < len(passes):
            like = goal.array
            array = Array.dense(like.batch, like.blocks * like.lanes, 1, step.made, like.lanes)
            made = Place(builder.buffer(array.size), array, goal.samples)
        found.append(Stage(step, step.before(source.view), step.after(made.view), source, made))
        source = made
    return found
