"""Moving data between forms: plain to blocked and back through register transposes, and borders.

What keeps its form is moved by copying.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.copying import copy, transpose
from nnconv.runtime.kernels.elementwise import Strided
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer, tiles
from nnconv.schemas.errors import InternalError

__all__ = ["FillBorder", "Reorder", "blocked", "copy", "plain"]

_SPAN_TILES = 32  # squares in an item of a flat array


@dataclass(frozen=True)
class Reorder(Kernel):
    """y = x, one of them plain (lanes 1), the other blocked; lanes past the last channel become
    0.
    """

    family: ClassVar[str] = "reorder"

    x: Array
    y: Array

    def __post_init__(self) -> None:
        if (self.x.lanes == 1) == (self.y.lanes == 1):
            raise InternalError("reorder: one array must be plain, the other blocked")

    @property
    def lanes(self) -> int:
        return max(self.x.lanes, self.y.lanes)

    @property
    def grid(self) -> tuple[int, ...]:
        blocked = self.y if self.y.lanes > 1 else self.x
        return (self.y.batch, blocked.blocks, self._rows)

    @property
    def _flat(self) -> bool:
        return self.x.flat and self.y.flat

    @property
    def _rows(self) -> int:
        """Items a block: rows, or spans of a flat array."""
        return -(-self.y.pixels // self._span) if self._flat else self.y.height

    @property
    def _span(self) -> int:
        return _SPAN_TILES * self.lanes

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("y", written=True))

    @property
    def bytes(self) -> int:
        return 8 * self.y.batch * self.y.channels * self.y.pixels

    def describe(self, k: Printer) -> None:
        image, block, row = k.ids
        blocks, tail = self.grid[1], self.y.channels % self.lanes
        if not tail or blocks > 1:
            whole = k.loop(1) if not tail else k.when(k.index_compare("lt", block, blocks - 1))
            with whole:
                self._line(k, image, block, row, self.lanes)
        if tail:
            with k.when(k.index_compare("eq", block, blocks - 1)):
                self._line(k, image, block, row, tail)

    def _line(self, k: Printer, image: Index, block: Index, row: Index, channels: int) -> None:
        """One item: squares of lanes x lanes, the last one narrower."""
        enter = self._to_blocked if self.y.lanes > 1 else self._to_plain
        if not self._flat:
            for tile, pixels in tiles(k, self.y.width, self.lanes, "tile"):
                enter(k, (image, block, row, tile * self.lanes), pixels, channels)
            return
        full, rest = divmod(self.y.pixels, self.lanes)
        if full:
            first = row * _SPAN_TILES
            stop = k.smaller(first + _SPAN_TILES, full) if self._rows > 1 else Index((), full)
            with k.loop(stop, start=first if self._rows > 1 else 0, name="tile") as tile:
                enter(k, (image, block, Index(), tile * self.lanes), self.lanes, channels)
        if rest:
            with k.when(k.index_compare("eq", row, self._rows - 1)):
                last = Index((), full * self.lanes)
                enter(k, (image, block, Index(), last), rest, channels)

    def _to_blocked(self, k: Printer, place: tuple[Index, ...], pixels: int, channels: int) -> None:
        image, block, row, column = place
        zero, first = k.constant(0), block * self.lanes
        lines = [
            k.load("x", self.x.at(image, first + c, row, column), count=pixels)
            if c < channels
            else zero
            for c in range(self.lanes)
        ]
        for p, value in enumerate(transpose(k, lines)[:pixels]):
            k.store("y", self.y.at(image, block, row, column + p), value)

    def _to_plain(self, k: Printer, place: tuple[Index, ...], pixels: int, channels: int) -> None:
        image, block, row, column = place
        zero, first = k.constant(0), block * self.lanes
        lines = [
            k.load("x", self.x.at(image, block, row, column + p)) if p < pixels else zero
            for p in range(self.lanes)
        ]
        for c, value in enumerate(transpose(k, lines)[:channels]):
            k.store("y", self.y.at(image, first + c, row, column), value, count=pixels)


@dataclass(frozen=True)
class FillBorder(Kernel):
    """The border of x := value (0 for convolutions, -inf where a maximum is taken)."""

    family: ClassVar[str] = "border"

    x: Array
    width: int  # lanes of a vector; of a blocked array its own
    value: float = 0.0

    @property
    def lanes(self) -> int:
        return self.width

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.x.batch, self.x.blocks)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x", written=True),)

    @property
    def bytes(self) -> int:
        edge = self.x.border
        rows = (edge.top + edge.bottom) * (self.x.width + edge.left + edge.right)
        pixels = rows + (edge.left + edge.right) * self.x.height
        return 4 * self.x.batch * self.x.blocks * self.x.lanes * pixels

    def describe(self, k: Printer) -> None:
        image, block = k.ids
        edge, x = self.x.border, self.x
        start = x.at(image, block)
        whole = (x.width + edge.left + edge.right) * x.lanes
        for first, rows in ((-edge.top, edge.top), (x.height, edge.bottom)):
            if rows:
                with k.loop(rows, name="row") as row:
                    self._run(k, start + (row + first) * x.row - edge.left * x.lanes, whole)
        if edge.left or edge.right:
            with k.loop(x.height, name="row") as row:
                self._run(k, start + row * x.row - edge.left * x.lanes, edge.left * x.lanes)
                self._run(k, start + row * x.row + x.width * x.lanes, edge.right * x.lanes)

    def _run(self, k: Printer, at: Index, elements: int) -> None:
        full, rest = divmod(elements, self.width)
        value = k.constant(self.value)
        if full:
            with k.loop(full, name="vector") as v:
                k.store("x", at + v * self.width, value)
        if rest:
            k.store("x", at + full * self.width, value, count=rest)


def plain(array: Array) -> Strided:
    """A plain array as an operand over (batch, channels, height, width)."""
    return Strided((array.image, array.block, array.row, array.column), array.offset)


def blocked(array: Array) -> Strided:
    """A blocked array as an operand over (batch, blocks, height, width, lanes)."""
    return Strided((array.image, array.block, array.row, array.column, 1), array.offset)
