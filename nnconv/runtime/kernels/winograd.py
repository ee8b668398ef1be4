"""Winograd convolution F(2x2,3x3) and F(4x4,3x3): stride 1, no dilation, no groups.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015). A tile of m x m outputs
is A^T [ (G g G^T) * (B^T d B) ] A with t = m + 2 points a side: t*t matrix products over the
channels replace nine, 2.25 (m = 2) and 4 (m = 4) times fewer multiplications. Rounding errors grow
with m: about 4e-6 and 2e-5 of the largest output (tests/kernels/test_winograd.py holds them to
that); `winograd=off` avoids it.

Three kernels a strip: input transform into scratch, the products (`Conv` with one image a point),
output transform with bias, residual and activation. A strip is as many rows of tiles as keep the
scratch in the second cache level; equal strips share kernels and differ in their base addresses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nnconv.runtime.kernels.arrays import Array, Border, aligned
from nnconv.runtime.kernels.conv import Conv, Window, conv_arguments, every_conv
from nnconv.runtime.kernels.functions import NONE, Activation
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer, Value, tiles
from nnconv.runtime.kernels.schedule import candidates, cover_cycles
from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import InternalError

_SCRATCH_BYTES = 3 << 19  # of a strip's transformed input: its products fit beside it in L2 and L3
_BYTES_PER_CYCLE = 8  # of weights, read once from memory by one of several cores
_TRANSFORM_CYCLES = 5  # for each vector moved by a transform
_PLANE_GRAIN = 1024  # elements: planes 4096 n bytes plus one line apart fall in different sets

Row = Sequence[Value]


def _input_2(k: Printer, d: Row) -> list[Value]:
    """B^T d for F(2,3), points 0, 1, -1, infinity."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _output_2(k: Printer, m: Row) -> list[Value]:
    """A^T m for F(2,3)."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _input_4(k: Printer, d: Row) -> list[Value]:
    """B^T d for F(4,3), points 0, 1, -1, 2, -2, infinity; even and odd parts are shared."""
    even, odd = k.fma(-4.0, d[2], d[4]), k.fma(-4.0, d[1], d[3])
    near, far = d[4] - d[2], d[3] - d[1]
    return [
        k.fma(4.0, d[0], k.fma(-5.0, d[2], d[4])),
        even + odd,
        even - odd,
        k.fma(2.0, far, near),
        k.fma(-2.0, far, near),
        k.fma(4.0, d[1], k.fma(-5.0, d[3], d[5])),
    ]


def _output_4(k: Printer, m: Row) -> list[Value]:
    """A^T m for F(4,3)."""
    sum1, difference1 = m[1] + m[2], m[1] - m[2]
    sum2, difference2 = m[3] + m[4], m[3] - m[4]
    return [
        m[0] + sum1 + sum2,
        k.fma(2.0, difference2, difference1),
        k.fma(4.0, sum2, sum1),
        k.fma(8.0, difference2, difference1) + m[5],
    ]


@dataclass(frozen=True)
class _Form:
    """One F(m, 3): transforms of a row of t = m + 2 numbers, and G for the weights."""

    outputs: int
    enter: Callable[[Printer, Row], list[Value]]
    leave: Callable[[Printer, Row], list[Value]]
    weights: tuple[tuple[float, float, float], ...]

    @property
    def points(self) -> int:
        return self.outputs + 2


_FORMS = {
    2: _Form(2, _input_2, _output_2, ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))),
    4: _Form(
        4,
        _input_4,
        _output_4,
        (
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
    ),
}


def _square(
    k: Printer, rows: Sequence[Row], transform: Callable[[Printer, Row], list[Value]]
) -> list[list[Value]]:
    """The one-dimensional transform down the columns, then along the rows."""
    columns = [transform(k, column) for column in zip(*rows, strict=True)]
    return [transform(k, row) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class _Transform(Kernel):
    """What both transforms share: one item a row of tiles of one block of one image."""

    image: Array  # x or y
    scratch: Array  # one image a point, its columns are the tiles
    outputs: int  # m

    @property
    def form(self) -> _Form:
        return _FORMS[self.outputs]

    @property
    def output_extent(self) -> tuple[int, int]:
        raise NotImplementedError

    @property
    def tile_rows(self) -> int:
        return -(-self.output_extent[0] // self.outputs)

    @property
    def tile_columns(self) -> int:
        return -(-self.output_extent[1] // self.outputs)

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.image.batch, self.image.blocks, self.tile_rows)

    @property
    def lanes(self) -> int:
        return self.image.lanes

    @property
    def bytes(self) -> int:
        tiles = self.image.batch * self.tile_rows * self.tile_columns
        return 4 * self.image.blocks * self.lanes * tiles * 2 * self.form.points**2

    def describe(self, k: Printer) -> None:
        """Full rows of tiles and the last, lower one are two bodies; so are full and last
        columns.
        """
        image, block, row = k.ids
        height, width = self.output_extent
        full, left = divmod(height, self.outputs)
        for rows, some in ((self.outputs, full), (left, left)):
            if not some:
                continue
            with ExitStack() as stack:
                if full and left:
                    word = "lt" if rows == self.outputs else "eq"
                    stack.enter_context(k.when(k.index_compare(word, row, full)))
                for column, columns in tiles(k, width, self.outputs, "column"):
                    number = (image * self.tile_rows + row) * self.tile_columns + column
                    slots = self.scratch.at(0, block, 0, number)
                    place = (image, block, row * self.outputs, column * self.outputs)
                    self._tile(k, _Spot(place, slots, rows, columns))

    def _tile(self, k: Printer, spot: _Spot) -> None:
        raise NotImplementedError

    def _slot(self, spot: _Spot, i: int, j: int) -> Index:
        return spot.slots + (i * self.form.points + j) * self.scratch.image


@dataclass(frozen=True)
class _Spot:
    """A tile: (image, block, row, column) of its first output, the address of its point 0, its
    extent.
    """

    place: tuple[Index, Index, Index, Index]
    slots: Index
    rows: int
    columns: int


@dataclass(frozen=True)
class WinogradInput(_Transform):
    """B^T d B of every tile of x, to scratch; what lies past the last output's reach counts as
    0.
    """

    family: ClassVar[str] = "winograd_input"

    extent: tuple[int, int]  # of the convolution's output
    pad: tuple[int, int]

    @property
    def output_extent(self) -> tuple[int, int]:
        return self.extent

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("v", written=True))

    def _tile(self, k: Printer, spot: _Spot) -> None:
        x, points, zero = self.image, range(self.form.points), k.constant(0)
        corner = x.at(*spot.place) - self.pad[0] * x.row - self.pad[1] * x.column

        def pixel(i: int, j: int) -> Value:
            reached = i < spot.rows + 2 and j < spot.columns + 2
            return k.load("x", corner + i * x.row + j * x.column) if reached else zero

        patch = [[pixel(i, j) for j in points] for i in points]
        for i, row in enumerate(_square(k, patch, self.form.enter)):
            for j, value in enumerate(row):
                k.store("v", self._slot(spot, i, j), value)


@dataclass(frozen=True)
class WinogradOutput(_Transform):
    """activation(A^T m A + bias + residual) of every tile of products, to y."""

    family: ClassVar[str] = "winograd_output"

    bias: bool = True
    residual: Array | None = None
    activation: Activation = NONE

    @property
    def output_extent(self) -> tuple[int, int]:
        return (self.image.height, self.image.width)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return conv_arguments("m", self.bias, self.residual)

    def _tile(self, k: Printer, spot: _Spot) -> None:
        points, (image, block, top, left) = range(self.form.points), spot.place
        products = [[k.load("m", self._slot(spot, i, j)) for j in points] for i in points]
        bias = k.load("bias", block * self.lanes) if self.bias else None
        for i, row in enumerate(_square(k, products, self.form.leave)[: spot.rows]):
            for j, value in enumerate(row[: spot.columns]):
                place = (image, block, top + i, left + j)
                total = value + bias if bias else value
                if self.residual:
                    total = total + k.load("residual", self.residual.at(*place))
                k.store("y", self.image.at(*place), self.activation(k, total))


# -- putting the three together


@dataclass(frozen=True)
class Strip:
    """Three kernels to run in turn, and what to add to the base addresses (in elements) before.

    Arguments: input (x, v), product (v, w, m), output (m, [bias], [residual], y).
    """

    enter: WinogradInput
    product: Conv
    leave: WinogradOutput
    x_offset: int
    y_offset: int
    residual_offset: int


@dataclass(frozen=True)
class Winograd:
    """A whole convolution as strips; `v_size` and `m_size` are the elements of its two scratch
    buffers.
    """

    outputs: int
    strips: tuple[Strip, ...]

    @property
    def product(self) -> Conv:
        return self.strips[0].product

    @property
    def v_size(self) -> int:
        return max(strip.product.x.size for strip in self.strips)

    @property
    def m_size(self) -> int:
        return max(strip.product.y.size for strip in self.strips)


def fits(x: Array, window: Window, groups: int = 1) -> bool:
    """Winograd can compute it: 3x3, stride 1, no dilation, one group, a blocked input."""
    plain = window.size == (3, 3) and window.stride == (1, 1) and window.dilation == (1, 1)
    return plain and groups == 1 and x.lanes > 1


def best_outputs(target: Target, x: Array, y: Array, window: Window, most: int = 4) -> int:
    """The F(m) that should be fastest, m at most `most`; 0 where direct convolution is.

    Counts multiply-add cycles, the transforms, and reading weights: small maps under many channels
    are ruled by the latter, so there 2 beats 4.
    """
    if not fits(x, window):
        return 0

    def cycles(points: int, pixels: int, taps: int) -> float:
        blocks = y.blocks
        steps = x.blocks * x.lanes * taps
        tile = candidates(target, 1, pixels, blocks, steps)[0]
        reading = 4.0 * points * steps * blocks * y.lanes / _BYTES_PER_CYCLE
        work = points * cover_cycles(1, pixels, blocks, tile, steps)
        moved = points * pixels * (x.blocks + blocks) * _TRANSFORM_CYCLES if points > 1 else 0
        return work + reading + moved

    costs = {0: cycles(1, y.batch * y.pixels, 9)}
    for outputs in (m for m in _FORMS if m <= most):
        count = y.batch * -(-y.height // outputs) * -(-y.width // outputs)
        costs[outputs] = cycles((outputs + 2) ** 2, count, 1)
    return min(costs, key=lambda m: costs[m])


def winograd(
    target: Target,
    x: Array,
    y: Array,
    window: Window,
    outputs: int,
    *,
    bias: bool = True,
    residual: Array | None = None,
    activation: Activation = NONE,
    strip_bytes: int = 0,
) -> Winograd:
    """The convolution by F(outputs x outputs, 3x3), outputs 2 or 4.

    x needs the border `window.reach`; `strip_bytes` 0 means by rule.
    """
    if not fits(x, window) or not x.border.covers(window.reach(x, y)):
        raise InternalError(f"no Winograd form for {window} over {x}")
    form = _FORMS[outputs]
    tile_rows, tile_columns = -(-y.height // outputs), -(-y.width // outputs)
    # A strip reads all weights once more: with heavy weights fewer, larger strips pay.
    weight_bytes = 4 * form.points**2 * x.channels * y.channels
    strip_bytes = strip_bytes or max(_SCRATCH_BYTES, weight_bytes // 8)
    row_bytes = 4 * form.points**2 * x.batch * tile_columns * x.blocks * x.lanes
    count = min(tile_rows, max(1, round(row_bytes * tile_rows / strip_bytes)))
    rows = -(-tile_rows // count)
    strips: list[Strip] = []
    for start in range(0, tile_rows, rows):
        top = start * outputs
        height = min(rows * outputs, y.height - top)
        vectors = strips[0].product.tile.vectors if strips else 0
        part, part_offset = _part(y, top, height)
        skip, skip_offset = _part(residual, top, height) if residual else (None, 0)
        scratch = _Scratch(form.points**2, x.batch * -(-height // outputs) * tile_columns, x.lanes)
        v, m = scratch.array(x.channels), scratch.array(y.channels)
        # x's part has the height of its outputs; the rows above and below are reached as border.
        entering, x_offset = _part(x, top, height)
        strips.append(
            Strip(
                WinogradInput(entering, v, outputs, (height, y.width), window.pad),
                _product(target, v, m, vectors),
                WinogradOutput(part, m, outputs, bias, skip, activation),
                x_offset,
                part_offset,
                skip_offset,
            )
        )
    return Winograd(outputs, tuple(strips))


def _part(array: Array, top: int, height: int) -> tuple[Array, int]:
    """Rows of an array described from their own start, and where that is: equal strips are
    equal.
    """
    offset = array.offset + top * array.row
    return replace(array, height=height, offset=0, border=Border()), offset


@dataclass(frozen=True)
class _Scratch:
    points: int
    tiles: int
    lanes: int

    def array(self, channels: int) -> Array:
        """One image a point, one pixel a tile; planes lie so that the points use different cache
        sets.
        """
        blocks, block = -(-channels // self.lanes), self.tiles * self.lanes
        plane = -(-blocks * block // _PLANE_GRAIN) * _PLANE_GRAIN + 16
        return Array(
            self.points, channels, 1, self.tiles, self.lanes, 0, plane, block, block, self.lanes
        )


def _product(target: Target, v: Array, m: Array, vectors: int) -> Conv:
    """t*t products in one kernel: `vectors` keeps the weight layout of the first strip."""
    found = every_conv(target, v, m, Window(), bias=False)
    chosen = next(c for c in found if vectors in (0, c.tile.vectors))
    return replace(chosen, weight_image=chosen.steps * chosen.panels * chosen.panel_width)


def pack_winograd(plan: Winograd, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights [outputs, inputs, 3, 3] as G g G^T in double precision, packed for the products: as
    `pack_weights` has them, once for every point. A panel at a time, so doubles stay in the cache.
    """
    product = plan.product
    g = np.array(_FORMS[plan.outputs].weights)
    square = np.einsum("pi,qj->pqij", g, g).reshape(-1, 9)
    outputs, inputs = weights.shape[:2]
    shape = (len(square), product.panels, product.steps, product.panel_width)
    whole = (outputs, inputs) == (shape[1] * shape[3], shape[2])
    packed = aligned(math.prod(shape), fill=None if whole else 0.0)
    for panel in range(product.panels):
        part = weights[panel * shape[3] : (panel + 1) * shape[3]]
        taps = np.ascontiguousarray(part.reshape(-1, 9).T, np.float64)
        points = (square @ taps).reshape(len(square), len(part), inputs)
        packed.reshape(shape)[:, panel, :inputs, : len(part)] = points.transpose(0, 2, 1)
    return packed
