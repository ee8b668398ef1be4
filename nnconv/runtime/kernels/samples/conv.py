"""Convolution and its gradients on arrays whose lanes are samples (lanes.py).

Weights are read where the model has them, [outputs][inputs of a group][rows][columns], one scalar
at a time to all lanes. A tile is some channels times some vectors, all in registers; loops over
channels and taps are rolled. What lies outside an image is its border of zeros. The gradient of the
data is windows.py's, where taps outside are left out: most of a narrow map would meet
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.functions import NONE, Activation
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer, Register, Value
from nnconv.runtime.kernels.samples.lanes import (
    Cut,
    cut_tile,
    dense_like,
    even_piece,
    masked,
    sample_groups,
)
from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import InternalError

Pair = tuple[int, int]
_ROW_TAPS = 6  # of a kernel's row that a tile of weight gradients takes at once


@dataclass(frozen=True)
class SampleConv(Kernel):
    """y = pool(activation(conv(x, w) + bias)), every lane a sample.

    x has the border that the window reaches. With `pool` above (1, 1) y is the largest of each pool
    window and `index` which one that was, row by row, the first of equals; windows do not overlap
    and cover the convolution's result exactly. With `turned` the weights are those of the
    convolution whose data gradient this is: [inputs][outputs of a group], taps from last to first.
    Arguments: x, w, [bias], y, [index] (without gaps).
    """

    family: ClassVar[str] = "samples_conv"

    x: Array
    y: Array
    window: Window
    channels: int  # output channels of a tile
    columns: int  # columns of y in a tile
    images: int  # groups of samples in a tile
    groups: int = 1
    bias: bool = True
    activation: Activation = NONE
    pool: Pair = (1, 1)
    turned: bool = False

    def __post_init__(self) -> None:
        if self.outputs % self.groups or self.inputs % self.groups:
            raise InternalError(f"{self.outputs} outputs in {self.groups} groups")

    @property
    def lanes(self) -> int:
        return self.y.lanes

    @property
    def outputs(self) -> int:
        return self.y.blocks

    @property
    def inputs(self) -> int:
        return self.x.blocks

    @property
    def depth(self) -> int:
        """Input channels of a group."""
        return self.inputs // self.groups

    @property
    def outs(self) -> Cut:
        return Cut(self.outputs // self.groups, self.channels)

    @property
    def batches(self) -> Cut:
        return Cut(self.y.batch, self.images)

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.batches.count, self.groups, self.outs.count, self.y.height)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        named = [Argument("x"), Argument("w")]
        named += [Argument("bias")] if self.bias else []
        named += [Argument("y", written=True)]
        return (*named, *([Argument("index", written=True)] if self.pooled else []))

    @property
    def pooled(self) -> bool:
        return self.pool != (1, 1)

    @property
    def flops(self) -> int:
        taps = self.window.size[0] * self.window.size[1] * self.depth
        pixels = self.y.pixels * self.pool[0] * self.pool[1]
        return 2 * taps * pixels * self.outputs * self.y.batch * self.lanes

    def describe(self, k: Printer) -> None:
        batch, group, out, row = k.ids
        for images in self.batches.bodies(k, batch):
            for channels in self.outs.bodies(k, out):
                first = group * self.outs.length + out * self.channels
                columns = Cut(self.y.width, self.columns)
                with k.loop(columns.count, name="tile") as tile:
                    for width in columns.bodies(k, tile):
                        place = (batch * self.images, k.index(first), row, tile * self.columns)
                        self._tile(k, place, group, (images, channels, width))

    def _tile(
        self, k: Printer, place: tuple[Index, ...], group: Index, extent: tuple[int, int, int]
    ) -> None:
        image, first, row, column = place
        images, channels, columns = extent
        cells = [(r, c) for r in range(self.pool[0]) for c in range(self.pool[1])]
        spots = [
            (i, r, c * self.pool[1] + d)
            for i in range(images)
            for c in range(columns)
            for r, d in cells
        ]
        sums = self._sums(k, first, group, (image, row, column), spots, channels)
        for o in range(channels):
            values = [self.activation(k, s.value) for s in sums[o]]
            for at in range(0, len(spots), len(cells)):
                i, _, c = spots[at]
                spot = (image + i, first + o, row, column + c // self.pool[1])
                self._store(k, spot, values[at : at + len(cells)])

    def _sums(
        self,
        k: Printer,
        first: Index,
        group: Index,
        origin: tuple[Index, ...],
        spots: list[tuple[int, int, int]],
        channels: int,
    ) -> list[list[Register]]:
        image, row, column = origin
        size, stride, dilation, pad = (
            self.window.size, self.window.stride, self.window.dilation, self.window.pad,
        )  # fmt: skip
        starts = [
            k.broadcast("bias", first + o) if self.bias else k.constant(0.0)
            for o in range(channels)
        ]
        sums = [[k.register(start) for _ in spots] for start in starts]
        corner = self.x.at(
            image,
            group * self.depth,
            row * (self.pool[0] * stride[0]) - pad[0],
            column * (self.pool[1] * stride[1]) - pad[1],
        )
        with (
            k.loop(self.depth, name="c") as c,
            k.loop(size[0], name="kh") as kh,
            k.loop(size[1], name="kw") as kw,
        ):
            line = corner + c * self.x.block + kh * (dilation[0] * self.x.row)
            base = line + kw * (dilation[1] * self.x.column)
            xs = [
                k.load(
                    "x",
                    base
                    + i * self.x.image
                    + r * stride[0] * self.x.row
                    + d * stride[1] * self.x.column,
                )
                for i, r, d in spots
            ]
            for o in range(channels):
                factor = k.broadcast("w", self._weight(first + o, group, c, kh * size[1] + kw))
                for v, x in enumerate(xs):
                    sums[o][v].value = k.fma(factor, x, sums[o][v].value)
        return sums

    def _weight(self, out: Index, group: Index, depth: Index, tap: Index) -> Index:
        area, each = self.window.size[0] * self.window.size[1], self.outs.length
        if not self.turned:
            return out * (self.depth * area) + depth * area + tap
        row = (group * self.depth + depth) * (each * area)
        return row + (out - group * each) * area + (area - 1) - tap

    def _store(self, k: Printer, spot: tuple[Index, ...], values: list[Value]) -> None:
        best, place = values[0], k.constant(0.0)
        for number, value in enumerate(values[1:], 1):
            wins = value > best
            best, place = k.select(wins, value, best), k.select(wins, float(number), place)
        k.store("y", self.y.at(*spot), best)
        if self.pooled:
            k.store("index", dense_like(self.y).at(*spot), place)


def sample_conv(
    target: Target,
    x: Array,
    y: Array,
    window: Window,
    *,
    groups: int = 1,
    bias: bool = True,
    activation: Activation = NONE,
    pool: Pair = (1, 1),
    turned: bool = False,
) -> SampleConv:
    """The convolution with the tile that the rule chooses."""
    cells, each = pool[0] * pool[1], y.blocks // groups
    steps = x.blocks // groups * window.size[0] * window.size[1]
    if cells > 1 or y.width >= 4:
        channels, columns = cut_tile(target, each, y.width * cells, steps)
        if cells > 1:
            most = max(1, (target.registers - cells - 1) // cells)
            channels, columns = even_piece(each, most), cells
        tile = (channels, max(1, columns // cells), 1)
    else:
        channels, images = cut_tile(target, each, y.batch, steps)
        tile = (channels, 1, images)
    return SampleConv(x, y, window, *tile, groups, bias, activation, pool, turned)


@dataclass(frozen=True)
class SampleConvWeights(Kernel):
    """dw[o, i, k] = sum over samples and positions p of dy[o, p] * x[i, p * stride + k - pad].

    `samples` are added up, lanes past them left out. x has the border that the window reaches. A
    tile is `channels` outputs times `taps` of a kernel's row, times `depth` inputs where rows are
    short. Arguments: x, dy, dw.
    """

    family: ClassVar[str] = "samples_conv_weights"

    x: Array
    dy: Array
    window: Window
    samples: int
    channels: int
    taps: int
    depth: int = 1
    groups: int = 1

    @property
    def lanes(self) -> int:
        return self.x.lanes

    @property
    def outs(self) -> Cut:
        return Cut(self.dy.blocks // self.groups, self.channels)

    @property
    def ins(self) -> Cut:
        return Cut(self.x.blocks // self.groups, self.depth)

    @property
    def row(self) -> Cut:
        return Cut(self.window.size[1], self.taps)

    @property
    def grid(self) -> tuple[int, ...]:
        pieces = self.row.count * self.window.size[0]
        return (self.groups, self.outs.count, self.ins.count, pieces)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("dy"), Argument("dw", written=True))

    @property
    def flops(self) -> int:
        taps = self.window.size[0] * self.window.size[1] * self.x.blocks // self.groups
        return 2 * taps * self.dy.pixels * self.dy.blocks * self.dy.batch * self.lanes

    def describe(self, k: Printer) -> None:
        group, out, into, piece = k.ids
        kh, part = k.quotient(piece, self.row.count), k.remainder(piece, self.row.count)
        for channels in self.outs.bodies(k, out):
            for depth in self.ins.bodies(k, into):
                for taps in self.row.bodies(k, part):
                    cells = [(d, t) for d in range(depth) for t in range(taps)]
                    place = (group, out * self.channels, into * self.depth, kh, part * self.taps)
                    self._tile(k, place, channels, cells)

    def _tile(
        self, k: Printer, place: tuple[Index, ...], channels: int, cells: list[tuple[int, int]]
    ) -> None:
        group, out, into, kh, kw = place
        size, stride, dilation = self.window.size, self.window.stride, self.window.dilation
        sums = [[k.register(k.constant(0.0)) for _ in cells] for _ in range(channels)]
        rows = kh * dilation[0] - self.window.pad[0], kw * dilation[1] - self.window.pad[1]
        tap = dilation[1] * self.x.column
        for image, mask in sample_groups(k, self.samples):
            source = self.x.at(image, group * self.ins.length + into, *rows)
            slope = self.dy.at(image, group * self.outs.length + out)
            with k.loop(self.dy.height, name="y") as y, k.loop(self.dy.width, name="x") as x:
                base = source + y * (stride[0] * self.x.row) + x * (stride[1] * self.x.column)
                xs = [
                    masked(k, mask, k.load("x", base + d * self.x.block + t * tap))
                    for d, t in cells
                ]
                line = slope + y * self.dy.row + x * self.dy.column
                for o in range(channels):
                    value = masked(k, mask, k.load("dy", line + o * self.dy.block))
                    for cell, near in enumerate(xs):
                        sums[o][cell].value = k.fma(value, near, sums[o][cell].value)
        area = size[0] * size[1]
        first = (group * self.outs.length + out) * (self.ins.length * area)
        goal = first + into * area + kh * size[1] + kw
        for o in range(channels):
            for cell, (d, t) in enumerate(cells):
                at = goal + (o * self.ins.length + d) * area + t
                k.store("dw", at, k.reduce("add", sums[o][cell].value))


def sample_conv_weights(
    target: Target, x: Array, dy: Array, window: Window, samples: int, groups: int = 1
) -> SampleConvWeights:
    """The weight gradient with the tile that the rule chooses."""
    width, ins = window.size[1], x.blocks // groups
    taps = even_piece(width, _ROW_TAPS)
    depth = even_piece(ins, max(1, _ROW_TAPS // width))
    most = max(1, (target.registers - 1 - taps * depth) // (taps * depth))
    while most * taps * depth + taps * depth + 1 > target.registers and depth > 1:
        depth -= 1
    channels = even_piece(dy.blocks // groups, most)
    return SampleConvWeights(x, dy, window, samples, channels, taps, depth, groups)


@dataclass(frozen=True)
class SampleSum(Kernel):
    """y[c] = sum of x[c] over samples and pixels, times `scale`. Arguments: x, y."""

    family: ClassVar[str] = "samples_sum"

    x: Array
    samples: int
    scale: float = 1.0

    @property
    def lanes(self) -> int:
        return self.x.lanes

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.x.blocks,)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("y", written=True))

    @property
    def bytes(self) -> int:
        return 4 * self.x.batch * self.x.blocks * self.x.pixels * self.lanes

    @property
    def chunk(self) -> int:
        """Whole vectors of y, so that threads do not write to one line of the cache, where a
        channel is little work.
        """
        chunk = super().chunk
        return chunk if chunk == 1 else -(-chunk // self.lanes) * self.lanes

    def describe(self, k: Printer) -> None:
        (channel,) = k.ids
        total = k.register(k.constant(0.0))
        for value in self._partials(k, channel):
            total.value = total.value + value
        k.store("y", channel, k.reduce("add", total.value) * self.scale)

    def _partials(self, k: Printer, channel: Index) -> Iterator[Value]:
        """The sums of the image groups: rows first, so that partial sums stay short."""
        for image, mask in sample_groups(k, self.samples):
            part = k.register(k.constant(0.0))
            with k.loop(self.x.height, name="y") as y:
                row = k.register(k.constant(0.0))
                with k.loop(self.x.width, name="x") as x:
                    row.value = row.value + k.load("x", self.x.at(image, channel, y, x))
                part.value = part.value + row.value
            yield masked(k, mask, part.value)
