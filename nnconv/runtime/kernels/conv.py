"""Convolution on blocked arrays; matrix products are its one-pixel-kernel case (gemm.py).

One item of the grid is a panel of output channels over a band of output pixels. Inside it run
chunks of input channels, so that the chunk's weights stay in the first cache levels; the output
holds the partial sums between chunks. Bias and residual are added in the first chunk only, the
activation is applied in the last only. Edge tiles are second bodies, not masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nnconv.runtime.kernels.arrays import Array, Border, aligned
from nnconv.runtime.kernels.axis import Axis
from nnconv.runtime.kernels.functions import NONE, Activation
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer, Register, Value
from nnconv.runtime.kernels.schedule import Tile, candidates
from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import InternalError

Pair = tuple[int, int]
Sums = list[list[Register]]
_WEIGHT_BYTES = 96 << 10  # of one panel's chunk: it stays in the second cache level with room for x
_BAND_FLOPS = 4_000_000  # work of an item, where the shape allows: few takes
_ITEMS = 16  # at least, where there are so many rows of tiles: threads finish together
_AHEAD_BYTES = 8 << 10  # how far ahead weights are asked for: memory answers in the time of 4 kB
_RESIDENT_BYTES = 128 << 10  # weights that stay in the second cache level from run to run
_LINE = 16  # elements of a cache line


@dataclass(frozen=True)
class Window:
    """Where a kernel of `size` looks: input row = output row * stride + tap * dilation - pad."""

    size: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    pad: Pair = (0, 0)  # top, left; bottom and right follow from the output's extent

    def reach(self, x: Array, y: Array) -> Border:
        """The border of x that an output of y's extent reads."""
        down, across = self.axes
        bottom, right = down.last(y.height) - x.height + 1, across.last(y.width) - x.width + 1
        return Border(*self.pad, max(bottom, 0), max(right, 0))

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Along rows and along columns."""
        down, across = zip(self.size, self.stride, self.dilation, self.pad, strict=True)
        return Axis(*down), Axis(*across)

    @property
    def pointwise(self) -> bool:
        return self.size == (1, 1) and self.stride == (1, 1) and self.pad == (0, 0)


def conv_arguments(read: str, bias: bool, residual: Array | None) -> tuple[Argument, ...]:
    """What is `read`, [bias], [residual], y; y may lie where the residual does."""
    named = [Argument(name) for name in (*read.split(), *(["bias"] if bias else []))]
    named += [Argument("residual", aliased=True)] if residual else []
    return (*named, Argument("y", written=True, aliased=residual is not None))


@dataclass(frozen=True)
class Conv(Kernel):
    """y = activation(conv(x, w) + bias + residual), direct: w packed by `pack_weights`.

    x is blocked or plain (lanes 1), y and residual are blocked. x must have the border that the
    window reaches (`window.reach`). With `clip`, lanes of y past its last channel are not touched.
    `weight_image` is the step between the weights of successive images, 0 when all share them.
    With `weight_row` weights are not packed: a row of them, one input, holds all outputs, and the
    next one starts so many elements further.
    """

    family: ClassVar[str] = "conv"

    x: Array
    y: Array
    window: Window
    tile: Tile
    depth: int  # input blocks in a chunk
    band: int  # rows of tiles (or tiles of a flat array) in an item
    groups: int = 1
    bias: bool = True
    residual: Array | None = None
    activation: Activation = NONE
    clip: bool = False
    weight_image: int = 0
    weight_row: int = 0

    def __post_init__(self) -> None:
        if not self.x.border.covers(self.window.reach(self.x, self.y)):
            raise InternalError(
                f"x has border {self.x.border}, needs {self.window.reach(self.x, self.y)}"
            )
        if self.groups > 1 and (
            self.x.channels // self.groups % self.x.lanes
            or self.y.channels // self.groups % self.y.lanes
        ):
            raise InternalError(
                f"groups of {self.x.channels // self.groups} channels do not fill blocks"
            )

    # -- sizes

    @property
    def lanes(self) -> int:
        return self.y.lanes

    @property
    def in_blocks(self) -> int:
        """Input blocks of a group."""
        return -(-self.x.channels // self.groups // self.x.lanes)

    @property
    def out_blocks(self) -> int:
        """Output blocks of a group."""
        return -(-self.y.channels // self.groups // self.lanes)

    @property
    def panels(self) -> int:
        """Panels of a group; the last one may have fewer vectors."""
        return -(-self.out_blocks // self.tile.vectors)

    @property
    def panel_width(self) -> int:
        return self.tile.vectors * self.lanes

    @property
    def taps(self) -> int:
        return self.window.size[0] * self.window.size[1]

    @property
    def steps(self) -> int:
        """Rows of a weight panel: every input lane of a group, the tail's missing ones included."""
        return self.in_blocks * self.x.lanes * self.taps

    @property
    def flat(self) -> bool:
        """Pixels can be taken as one row."""
        flat = self.window.pointwise and self.x.flat and self.y.flat
        return flat and (self.residual is None or self.residual.flat)

    @property
    def tile_rows(self) -> int:
        """Full rows of tiles, or full tiles of a flat array."""
        if self.flat:
            return self.y.pixels // self.tile.pixels
        return self.y.height // self.tile.rows

    @property
    def bands(self) -> int:
        return max(1, -(-self.tile_rows // self.band))

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.y.batch, self.groups * self.panels, self.bands)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return conv_arguments("x w", self.bias, self.residual)

    @property
    def flops(self) -> int:
        inputs = self.x.channels // self.groups
        return 2 * self.y.batch * self.y.channels * self.y.pixels * inputs * self.taps

    @property
    def weights(self) -> int:
        """Elements of the weights."""
        images = self.y.batch if self.weight_image else 1
        if self.weight_row:
            return images * self.steps * self.y.channels
        return images * self.steps * self.groups * self.panels * self.panel_width

    @property
    def ahead(self) -> int:
        """How many rows before they are needed weights are asked for, 0 where they stay cached."""
        resident = 4 * self.weights <= _RESIDENT_BYTES
        return 0 if resident else -(-_AHEAD_BYTES // (4 * self.panel_width))

    @property
    def bytes(self) -> int:
        pixels = self.y.batch * (self.y.channels * self.y.pixels + self.x.channels * self.x.pixels)
        return 4 * (self.weights + pixels)

    # -- description

    def describe(self, k: Printer) -> None:
        image, panel, band = k.ids
        rest = self.out_blocks - (self.panels - 1) * self.tile.vectors
        if rest == self.tile.vectors and not self.clip:
            self._panel(k, image, panel, band, self.tile.vectors, 0)
            return
        # The last panel of a group is narrower, or ends inside a vector.
        tail = self.y.tail if self.clip and self.y.tail < self.lanes else 0
        within = k.remainder(panel, self.panels) if self.groups > 1 else panel
        if self.panels > 1:
            with k.when(k.index_compare("lt", within, self.panels - 1)):
                self._panel(k, image, panel, band, self.tile.vectors, 0)
        with k.when(k.index_compare("eq", within, self.panels - 1)):
            self._panel(k, image, panel, band, rest, tail)

    def _panel(
        self, k: Printer, image: Index, panel: Index, band: Index, vectors: int, tail: int
    ) -> None:
        group = k.quotient(panel, self.panels) if self.groups > 1 else Index()
        block = k.remainder(panel, self.panels) if self.groups > 1 else panel
        first_block = group * self.out_blocks + block * self.tile.vectors
        item = _Item(self, k, image, group, panel, first_block, band, vectors, tail)
        for chunk in self._chunks(k):
            for place in item.places():
                item.tile(place, chunk)

    def _chunks(self, k: Printer) -> Iterator[_Chunk]:
        """Full chunks in one rolled loop, then what is left, which holds the block with missing
        lanes.
        """
        tail = self.x.channels // self.groups - (self.in_blocks - 1) * self.x.lanes
        whole = self.in_blocks if tail == self.x.lanes else self.in_blocks - 1
        count = whole // self.depth
        rest, partial = whole - count * self.depth, tail if whole < self.in_blocks else 0
        alone = not rest and not partial
        if count == 1:
            yield _Chunk(Index(), self.depth, 0, True, alone)
        elif count:
            with k.loop(count, name="chunk") as c:
                yield _Chunk(c * self.depth, self.depth, 0, c, (c, count - 1) if alone else False)
        if not alone:
            yield _Chunk(Index((), count * self.depth), rest, partial, not count, True)


@dataclass(frozen=True)
class _Chunk:
    """Input blocks [start, start + blocks), then `partial` lanes of the next one.

    `first` and `last` are known when printing, or depend on the rolled chunk number.
    """

    start: Index
    blocks: int
    partial: int
    first: bool | Index
    last: bool | tuple[Index, int]


@dataclass(frozen=True)
class _Place:
    """A tile's first output pixel and extent; `flat` tiles count pixels along all rows."""

    row: Index
    column: Index
    rows: int
    columns: int


@dataclass(frozen=True)
class _Item:
    """What all tiles of an item share."""

    conv: Conv
    k: Printer
    image: Index
    group: Index
    panel: Index
    block: Index
    band: Index
    vectors: int
    tail: int

    def places(self) -> Iterator[_Place]:
        """The tiles of this item's band; edge tiles are bodies of their own."""
        conv, k = self.conv, self.k
        start, full = self.band * conv.band, conv.tile_rows
        even = full % conv.band == 0
        if full:
            first = Index() if even else start
            stop = conv.band if even else k.smaller(start + conv.band, full)
            with k.loop(stop, start=first, name="tile") as t:
                yield from self._row(t + start if even else t, conv.tile.rows)
        left = self._left()
        if left:
            with ExitStack() as stack:
                if conv.bands > 1:
                    last = k.index_compare("eq", self.band, conv.bands - 1)
                    stack.enter_context(k.when(last))
                yield from self._last(left)

    def _left(self) -> int:
        """Output rows (or pixels of a flat array) after the last full row of tiles."""
        conv = self.conv
        if conv.flat:
            return conv.y.pixels % conv.tile.pixels
        return conv.y.height % conv.tile.rows

    def _row(self, t: Index, rows: int) -> Iterator[_Place]:
        conv = self.conv
        if conv.flat:
            yield _Place(Index(), t * conv.tile.pixels, 1, conv.tile.pixels)
        else:
            yield from self._columns(t * conv.tile.rows, rows)

    def _last(self, left: int) -> Iterator[_Place]:
        conv = self.conv
        if conv.flat:
            yield _Place(Index(), Index((), conv.y.pixels - left), 1, left)
        else:
            yield from self._columns(Index((), conv.y.height - left), left)

    def _columns(self, row: Index, rows: int) -> Iterator[_Place]:
        wide = self.conv.tile.columns
        full, rest = divmod(self.conv.y.width, wide)
        if full:
            with self.k.loop(full, name="column") as c:
                yield _Place(row, c * wide, rows, wide)
        if rest:
            yield _Place(row, Index((), full * wide), rows, rest)

    # -- one tile

    def tile(self, place: _Place, chunk: _Chunk) -> None:
        pixels = [(i, j) for i in range(place.rows) for j in range(place.columns)]
        sums = self._start(place, pixels, chunk)
        if chunk.blocks:
            with self.k.loop(chunk.blocks, name="block") as block:
                self._taps(place, pixels, sums, chunk.start + block, self.conv.x.lanes)
        if chunk.partial:
            self._taps(place, pixels, sums, chunk.start + chunk.blocks, chunk.partial)
        self._finish(place, pixels, sums, chunk)

    def _start(self, place: _Place, pixels: list[Pair], chunk: _Chunk) -> Sums:
        """Accumulators: bias and residual in the first chunk, the sums so far in later ones."""
        k, first = self.k, chunk.first
        sums = [[k.register(b, "sum") for b in self._bias()] for _ in pixels]
        if first is True:
            self._add_residual(place, pixels, sums)
        elif first is False:
            self._resume(place, pixels, sums)
        else:
            start = k.index_compare("eq", first, 0)
            with k.when(k.negate(start)):
                self._resume(place, pixels, sums)
            if self.conv.residual:
                with k.when(start):
                    self._add_residual(place, pixels, sums)
        return sums

    def _bias(self) -> list[Value]:
        """Loaded again by every tile: kept in registers over an item, it would crowd out a sum."""
        if not self.conv.bias:
            return [self.k.constant(0)] * self.vectors
        at = self.panel * self.conv.panel_width
        return [self.k.load("bias", at + v * self.conv.lanes) for v in range(self.vectors)]

    def _resume(self, place: _Place, pixels: list[Pair], sums: Sums) -> None:
        for pixel, row in zip(pixels, sums, strict=True):
            for v, total in enumerate(row):
                at = self._output(self.conv.y, place, pixel, v)
                total.value = self.k.load("y", at, count=self._count(v))

    def _add_residual(self, place: _Place, pixels: list[Pair], sums: Sums) -> None:
        if self.conv.residual is None:
            return
        for pixel, row in zip(pixels, sums, strict=True):
            for v, total in enumerate(row):
                at = self._output(self.conv.residual, place, pixel, v)
                total.value = total.value + self.k.load("residual", at, count=self._count(v))

    def _finish(self, place: _Place, pixels: list[Pair], sums: Sums, chunk: _Chunk) -> None:
        k, last = self.k, chunk.last
        if isinstance(last, bool):
            self._store(place, pixels, sums, self.conv.activation if last else NONE)
        elif self.conv.activation == NONE:
            self._store(place, pixels, sums, NONE)
        else:
            end = k.index_compare("eq", *last)
            with k.when(end):
                self._store(place, pixels, sums, self.conv.activation)
            with k.when(k.negate(end)):
                self._store(place, pixels, sums, NONE)

    def _store(self, place: _Place, pixels: list[Pair], sums: Sums, activation: Activation) -> None:
        for v in range(self.vectors):
            for pixel, row in zip(pixels, sums, strict=True):
                at = self._output(self.conv.y, place, pixel, v)
                self.k.store("y", at, activation(self.k, row[v].value), count=self._count(v))

    def _taps(
        self, place: _Place, pixels: list[Pair], sums: Sums, block: Index, lanes: int
    ) -> None:
        """Add the products of `lanes` channels of one input block, over all taps."""
        conv, k = self.conv, self.k
        size, dilation = conv.window.size, conv.window.dilation
        together = 4 if k.target.indexed and lanes % 4 == 0 else 1
        with (
            k.loop(size[0], name="kh") as kh,
            k.loop(size[1], name="kw") as kw,
            k.loop(lanes // together, name="lane") as turn,
        ):
            lane = turn * together
            row = ((block * size[0] + kh) * size[1] + kw) * conv.x.lanes + lane
            step = conv.weight_row or conv.panel_width
            weights = row * step + self._panel_start()
            starts = [
                self._input(place, pixel, block) + kh * (dilation[0] * conv.x.row)
                + kw * (dilation[1] * conv.x.column) + lane
                for pixel in pixels
            ]  # fmt: skip
            factors = [k.broadcasts("x", at, together) for at in starts] if together > 1 else []
            for i in range(together):
                at = weights + i * step
                rows = [
                    k.load("w", at + v * conv.lanes, count=self._count(v) if conv.weight_row else 0)
                    for v in range(self.vectors)
                ]
                if conv.ahead:
                    for line in range(0, self.vectors * conv.lanes, _LINE):
                        k.prefetch("w", at + conv.ahead * step + line)
                for p, start in enumerate(starts):
                    factor = factors[p][i] if factors else k.broadcast("x", start)
                    for v, weight in enumerate(rows):
                        sums[p][v].value = k.fma(factor, weight, sums[p][v].value)

    # -- addresses

    def _panel_start(self) -> Index:
        step = 1 if self.conv.weight_row else self.conv.steps
        return self.panel * (step * self.conv.panel_width) + self.image * self.conv.weight_image

    def _count(self, vector: int) -> int:
        """Lanes to touch in the last vector of a clipped output; 0 means all."""
        return self.tail if vector == self.vectors - 1 else 0

    def _output(self, array: Array, place: _Place, pixel: Pair, vector: int) -> Index:
        start = array.at(self.image, self.block + vector)
        if self.conv.flat:
            return start + (place.column + pixel[1]) * array.column
        return start + (place.row + pixel[0]) * array.row + (place.column + pixel[1]) * array.column

    def _input(self, place: _Place, pixel: Pair, block: Index) -> Index:
        conv, x = self.conv, self.conv.x
        start = x.at(self.image, self.group * conv.in_blocks + block)
        if conv.flat:
            return start + (place.column + pixel[1]) * x.column
        (top, left), (down, across) = conv.window.pad, conv.window.stride
        row = place.row * down + (pixel[0] * down - top)
        column = place.column * across + (pixel[1] * across - left)
        return start + row * x.row + column * x.column


# -- choosing


def merged_groups(groups: int, inputs: int, outputs: int, x_lanes: int, lanes: int) -> int:
    """The most groups whose channels fill whole blocks: neighbours are merged, zeros fill the
    rest.
    """
    for merged in range(1, groups + 1):
        if groups % merged == 0 and not merged * inputs % x_lanes and not merged * outputs % lanes:
            return groups // merged
    return 1


def every_conv(
    target: Target,
    x: Array,
    y: Array,
    window: Window,
    *,
    groups: int = 1,
    bias: bool = True,
    residual: Array | None = None,
    activation: Activation = NONE,
    clip: bool = False,
    weight_image: int = 0,
) -> Iterator[Conv]:
    """Direct convolutions with every tile that fits the registers, the rule's own choice first;
    each is made when it is asked for.

    `groups` are the operator's; the kernel may merge some (`merged_groups`).
    """
    if groups > 1:
        groups = merged_groups(groups, x.channels // groups, y.channels // groups, x.lanes, y.lanes)
    draft = Conv(
        x, y, window, Tile(1, 1, 1), 1, 1, groups, bias, residual, activation, clip, weight_image
    )
    height, width = (1, y.pixels) if draft.flat else (y.height, y.width)
    for tile in candidates(target, height, width, draft.out_blocks, draft.steps):
        yield _scheduled(replace(draft, tile=tile))


def conv(target: Target, x: Array, y: Array, window: Window, **options: Any) -> Conv:
    """The direct convolution that the rule chooses; options as in `every_conv`."""
    return next(every_conv(target, x, y, window, **options))


def _scheduled(draft: Conv) -> Conv:
    """With the chunk and the band that suit the tile."""
    block_bytes = 4 * draft.x.lanes * draft.taps * draft.panel_width
    most = max(1, _WEIGHT_BYTES // block_bytes)
    chunks = -(-draft.in_blocks // most)
    depth = -(-draft.in_blocks // chunks)
    rows = max(draft.tile_rows, 1)
    panels = draft.y.batch * draft.groups * draft.panels
    work = draft.flops / panels
    bands = min(rows, max(1, round(work / _BAND_FLOPS), -(-_ITEMS // panels)))
    return replace(draft, depth=depth, band=-(-rows // bands))


# -- weights


def pack_weights(conv: Conv, weights: NDArray[np.float32], groups: int = 1) -> NDArray[np.float32]:
    """Weights [outputs, inputs / groups, kh, kw] in the kernel's order: panel, block, kh, kw,
    lane, vector; on a cache line, made without copies in between.

    `groups` are the operator's; those that the kernel merged become zeros off the diagonal.
    """
    outputs = conv.y.channels // conv.groups
    source = _merged(conv, weights, groups)
    width, lanes = conv.panel_width, conv.x.lanes
    shape = (conv.groups, conv.panels, conv.in_blocks, *conv.window.size, lanes, width)
    whole = outputs == conv.panels * width and source.shape[2] == conv.in_blocks * lanes
    packed = aligned(math.prod(shape), fill=None if whole else 0.0)
    full, tail = divmod(source.shape[2], lanes)
    for group, panel in np.ndindex(shape[:2]):
        rows = source[group, panel * width : min((panel + 1) * width, outputs)]
        home = packed.reshape(shape)[group, panel, ..., : len(rows)]
        blocks = rows[:, : full * lanes].reshape(len(rows), full, lanes, *conv.window.size)
        home[:full] = blocks.transpose(1, 3, 4, 2, 0)
        if tail:
            home[full, :, :, :tail] = rows[:, full * lanes :].transpose(2, 3, 1, 0)
    return packed


def _merged(conv: Conv, weights: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """Weights as [kernel's groups, outputs, inputs, kh, kw]; a view where no groups were merged."""
    merged = groups // conv.groups
    outputs, inputs = conv.y.channels // conv.groups, conv.x.channels // conv.groups
    source = weights.reshape(conv.groups, outputs, inputs // merged, *conv.window.size)
    if merged == 1:
        return source
    full = np.zeros((conv.groups, outputs, inputs, *conv.window.size), np.float32)
    o, i = outputs // merged, inputs // merged
    for m in range(merged):
        full[:, m * o : (m + 1) * o, m * i : (m + 1) * i] = source[:, m * o : (m + 1) * o]
    return full


def pack_bias(conv: Conv, bias: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bias [outputs] with every group padded to whole panels."""
    full = np.zeros((conv.groups, conv.panels * conv.panel_width), np.float32)
    full[:, : conv.y.channels // conv.groups] = bias.reshape(conv.groups, -1)
    return full.reshape(-1)
