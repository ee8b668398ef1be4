"""Convolution and its gradients over any number of axes, on arrays whose lanes are samples.

Nothing here needs a border: which taps of a window, or which windows of a tap, lie inside is told
by run-time bounds, so any stride, dilation and padding goes. Weights are read
where the model has them, [outputs][inputs of a group][kernel]. conv.py is faster where
there are two axes and a border can be had.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.axis import Axis, Bounds
from nnconv.runtime.kernels.functions import NONE, Activation
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer
from nnconv.runtime.kernels.samples.lanes import Cut, cut_tile, even_piece, masked, sample_groups
from nnconv.runtime.kernels.target import Target

_MOST_SUMS = 5  # inputs of a tile of weight gradients


@dataclass(frozen=True, slots=True)
class Volume:
    """Samples in lanes over any number of axes: `batch` groups of them; strides in elements."""

    batch: int
    channels: int
    extents: tuple[int, ...]
    lanes: int
    image: int
    channel: int
    steps: tuple[int, ...]

    @staticmethod
    def over(array: Array, extents: Sequence[int]) -> Volume:
        """An array as one over `extents`; those of more than two axes lie without gaps."""
        steps = [array.column]
        if len(extents) == 2:
            steps.insert(0, array.row)
        for extent in reversed(extents[1:] if len(extents) > 2 else ()):
            steps.insert(0, steps[0] * extent)
        return Volume(
            array.batch, array.blocks, tuple(extents), array.lanes, array.image, array.block,
            tuple(steps[-len(extents) :] if extents else ()),
        )  # fmt: skip

    @property
    def cells(self) -> int:
        return math.prod(self.extents)

    def at(self, image: Index | int, channel: Index | int, place: Sequence[Index | int]) -> Index:
        where = Index.of(image) * self.image + Index.of(channel) * self.channel
        for position, step in zip(place, self.steps, strict=True):
            where = where + Index.of(position) * step
        return where


def _unravel(k: Printer, number: Index, extents: Sequence[int]) -> tuple[Index, ...]:
    """A place by its number in row-major order."""
    found: list[Index] = []
    for extent in reversed(extents[1:]):
        found.append(k.remainder(number, extent))
        number = k.quotient(number, extent)
    return (*([number] if extents else []), *reversed(found))


def _inside(k: Printer, stack: ExitStack, bounds: Sequence[Bounds], name: str) -> tuple[Index, ...]:
    """Loops within one another."""
    return tuple(
        stack.enter_context(k.loop(stop, start=start, name=name)) for start, stop in bounds
    )


def _strides(sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))


def _dot(indices: Sequence[Index], steps: Sequence[int]) -> Index:
    total = Index()
    for index, step in zip(indices, steps, strict=True):
        total = total + index * step
    return total


@dataclass(frozen=True)
class _Tiled(Kernel):
    """What the forward product and the data gradient share: an item is some channels and groups of
    samples at one cell of the result, or along its last axis."""

    source: Volume
    made: Volume
    axes: tuple[Axis, ...]
    channels: int  # of the result in a tile
    images: int  # groups of samples in a tile
    groups: int = 1
    bias: bool = False
    activation: Activation = NONE

    @property
    def lanes(self) -> int:
        return self.made.lanes

    @property
    def outs(self) -> Cut:
        return Cut(self.made.channels // self.groups, self.channels)

    @property
    def depth(self) -> int:
        """Channels of a group that are added up."""
        return self.source.channels // self.groups

    @property
    def batches(self) -> Cut:
        return Cut(self.made.batch, self.images)

    @property
    def grid(self) -> tuple[int, ...]:
        lines = math.prod(self.made.extents[:-1])
        return (self.batches.count, self.groups, self.outs.count, lines)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        named = [Argument("x"), Argument("w"), *([Argument("bias")] if self.bias else [])]
        return (*named, Argument("y", written=True))

    @property
    def area(self) -> int:
        return math.prod(axis.size for axis in self.axes)

    def describe(self, k: Printer) -> None:
        batch, group, out, line = k.ids
        outer = _unravel(k, line, self.made.extents[:-1])
        leading = [self._bounds(k, axis, at) for axis, at in enumerate(outer)]
        for images in self.batches.bodies(k, batch):
            for channels in self.outs.bodies(k, out):
                with ExitStack() as stack:
                    place, bounds = outer, leading
                    if self.axes:
                        last = stack.enter_context(k.loop(self.made.extents[-1], name="column"))
                        place = (*outer, last)
                        bounds = [*leading, self._bounds(k, len(outer), last)]
                    where = (batch * self.images, group, out * self.channels)
                    self._tile(k, where, place, bounds, images, channels)

    def _bounds(self, k: Printer, axis: int, at: Index) -> tuple[Index, Index, Bounds]:
        """(first tap, its place in the source, turns) along an axis."""
        raise NotImplementedError

    def _steps(self) -> tuple[Sequence[int], Sequence[int]]:
        """Taps, and cells of the source, from turn to turn along each axis."""
        raise NotImplementedError

    def _weight(self, group: Index, out: Index, depth: Index) -> tuple[Index, int]:
        """The first tap of a channel of the result and one that is added up; and how far the next
        channel of the result is."""
        raise NotImplementedError

    def _tile(
        self, k: Printer, where: tuple[Index, Index, Index], place: tuple[Index, ...],
        bounds: Sequence[tuple[Index, Index, Bounds]], images: int, channels: int,
    ) -> None:  # fmt: skip
        image, group, out = where
        each, strides = self.outs.length, _strides([axis.size for axis in self.axes])
        taps, cells = self._steps()
        sums = [[k.register(k.constant(0.0)) for _ in range(images)] for _ in range(channels)]
        with k.loop(self.depth, name="depth") as depth, ExitStack() as stack:
            start = self.source.at(image, group * self.depth + depth, [b[1] for b in bounds])
            weight, step = self._weight(group, out, depth)
            weight = weight + _dot([b[0] for b in bounds], strides)
            turns = _inside(k, stack, [b[2] for b in bounds], "turn")
            weight = weight + _dot(turns, [a * b for a, b in zip(taps, strides, strict=True)])
            moved = [a * b for a, b in zip(cells, self.source.steps, strict=True)]
            at = start + _dot(turns, moved)
            xs = [k.load("x", at + i * self.source.image) for i in range(images)]
            for c in range(channels):
                factor = k.broadcast("w", weight + c * step)
                for i, value in enumerate(xs):
                    sums[c][i].value = k.fma(factor, value, sums[c][i].value)
        first = group * each + out
        for c in range(channels):
            bias = k.broadcast("bias", first + c) if self.bias else None
            for i in range(images):
                value = sums[c][i].value if bias is None else sums[c][i].value + bias
                at = self.made.at(image + i, first + c, place)
                k.store("y", at, self.activation(k, value))


@dataclass(frozen=True)
class WindowsConv(_Tiled):
    """y[o, p] = activation(bias[o] + sum over i and taps k of w[o, i, k] * x[i, p * stride +
    k * dilation - pad]). Arguments: x, w, [bias], y.
    """

    family: ClassVar[str] = "samples_windows"

    @property
    def flops(self) -> int:
        made = self.made.batch * self.made.channels * self.made.cells * self.lanes
        return 2 * made * self.depth * self.area

    def _bounds(self, k: Printer, axis: int, at: Index) -> tuple[Index, Index, Bounds]:
        window = self.axes[axis]
        first = window.first(at)
        extents = self.source.extents[axis], self.made.extents[axis]
        return Index(), first, window.taps(k, first, *extents)

    def _steps(self) -> tuple[Sequence[int], Sequence[int]]:
        return (1,) * len(self.axes), [axis.dilation for axis in self.axes]

    def _weight(self, group: Index, out: Index, depth: Index) -> tuple[Index, int]:
        row = self.depth * self.area
        return (group * self.outs.length + out) * row + depth * self.area, row


@dataclass(frozen=True)
class WindowsConvData(_Tiled):
    """y[i, p] = activation(bias[i] + sum over o and taps k of w[o, i, k] * x[o, (p + pad -
    k * dilation) / stride]): the data gradient, and the transposed convolution. Arguments: x, w,
    [bias], y.
    """

    family: ClassVar[str] = "samples_windows_data"

    @property
    def flops(self) -> int:
        met = self.source.batch * self.source.channels * self.source.cells * self.lanes
        return 2 * met * self.outs.length * self.area

    def _bounds(self, k: Printer, axis: int, at: Index) -> tuple[Index, Index, Bounds]:
        return self.axes[axis].windows(k, at, self.source.extents[axis])

    def _steps(self) -> tuple[Sequence[int], Sequence[int]]:
        return [axis.tap_step for axis in self.axes], [-axis.line_step for axis in self.axes]

    def _weight(self, group: Index, out: Index, depth: Index) -> tuple[Index, int]:
        row = self.outs.length * self.area
        return (group * self.depth + depth) * row + out * self.area, self.area


def windows_tile(
    target: Target, source: Volume, made: Volume, axes: Sequence[Axis], groups: int
) -> tuple[int, int]:
    """(channels, groups of samples) of a tile, by the rule."""
    steps = source.channels // groups * math.prod(axis.size for axis in axes)
    return cut_tile(target, made.channels // groups, made.batch, steps)


@dataclass(frozen=True)
class WindowsConvWeights(Kernel):
    """dw[o, i, k] = sum over samples and positions p of dy[o, p] * x[i, p * stride + k * dilation -
    pad]. Arguments: x, dy, dw.
    """

    family: ClassVar[str] = "samples_windows_weights"

    x: Volume
    dy: Volume
    axes: tuple[Axis, ...]
    samples: int
    channels: int  # outputs in a tile
    depth: int  # inputs in a tile
    groups: int = 1

    @property
    def lanes(self) -> int:
        return self.x.lanes

    @property
    def outs(self) -> Cut:
        return Cut(self.dy.channels // self.groups, self.channels)

    @property
    def ins(self) -> Cut:
        return Cut(self.x.channels // self.groups, self.depth)

    @property
    def area(self) -> int:
        return math.prod(axis.size for axis in self.axes)

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.groups, self.outs.count, self.ins.count, self.area)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("dy"), Argument("dw", written=True))

    @property
    def flops(self) -> int:
        met = self.dy.batch * self.dy.channels * self.dy.cells * self.lanes
        return 2 * met * self.ins.length * self.area

    def describe(self, k: Printer) -> None:
        group, out, into, number = k.ids
        taps = _unravel(k, number, [axis.size for axis in self.axes])
        for channels in self.outs.bodies(k, out):
            for depth in self.ins.bodies(k, into):
                first = group * self.outs.length + out * self.channels
                self._tile(k, (group, first, into * self.depth), taps, number, channels, depth)

    def _tile(
        self, k: Printer, where: tuple[Index, Index, Index], taps: tuple[Index, ...],
        number: Index, channels: int, depth: int,
    ) -> None:  # fmt: skip
        group, out, into = where
        sums = [[k.register(k.constant(0.0)) for _ in range(depth)] for _ in range(channels)]
        cells = zip(self.axes, taps, self.x.extents, self.dy.extents, strict=True)
        bounds = [axis.positions(k, tap, *extents) for axis, tap, *extents in cells]
        corner = [tap * a.dilation - a.pad for tap, a in zip(taps, self.axes, strict=True)]
        moved = [a.stride * s for a, s in zip(self.axes, self.x.steps, strict=True)]
        for image, mask in sample_groups(k, self.samples):
            source = self.x.at(image, group * self.ins.length + into, corner)
            slope = self.dy.at(image, out, [0] * len(self.axes))
            with ExitStack() as stack:
                place = _inside(k, stack, bounds, "p")
                at, line = source + _dot(place, moved), slope + _dot(place, self.dy.steps)
                xs = [masked(k, mask, k.load("x", at + i * self.x.channel)) for i in range(depth)]
                for o in range(channels):
                    value = masked(k, mask, k.load("dy", line + o * self.dy.channel))
                    for i, near in enumerate(xs):
                        sums[o][i].value = k.fma(value, near, sums[o][i].value)
        row = self.ins.length * self.area
        goal = out * row + into * self.area + number
        for o, i in self._cells(channels, depth):
            k.store("dw", goal + (o * row + i * self.area), k.reduce("add", sums[o][i].value))

    def _cells(self, channels: int, depth: int) -> Iterator[tuple[int, int]]:
        return ((o, i) for o in range(channels) for i in range(depth))


def windows_conv_weights(
    target: Target, x: Volume, dy: Volume, axes: tuple[Axis, ...], samples: int, groups: int
) -> WindowsConvWeights:
    """The weight gradient with a tile that fits the registers."""
    depth = even_piece(x.channels // groups, _MOST_SUMS if target.registers > 16 else 3)
    most = max(1, (target.registers - 1 - depth) // depth)
    channels = even_piece(dy.channels // groups, most)
    return WindowsConvWeights(x, dy, axes, samples, channels, depth, groups)
