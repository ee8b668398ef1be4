"""The sum of the squares of many arrays at once: how long a gradient is, and whether all is finite.

All arrays are cut into pieces of one size; each piece gives a vector of sums, and those are added
up by a `Total`. The order of additions depends on sizes alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.fold import PARTIALS, positions
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer
from nnconv.runtime.kernels.samples.lanes import some_lanes

PIECE = 16384  # elements of a grid item, some microseconds of work; whole turns of vectors


@dataclass(frozen=True)
class Total(Kernel):
    """y = the sum of all elements of x0, x1, ..., `lengths` elements each, whole vectors.

    Arguments: x0, x1, ..., y.
    """

    family: ClassVar[str] = "total"

    lengths: tuple[int, ...]
    width: int

    @property
    def lanes(self) -> int:
        return self.width

    @property
    def grid(self) -> tuple[int, ...]:
        return (1,)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (*(Argument(f"x{i}") for i in range(len(self.lengths))), Argument("y", written=True))

    def describe(self, k: Printer) -> None:
        sums = [k.register(k.constant(0.0), "partial") for _ in range(PARTIALS)]
        for number, length in enumerate(self.lengths):
            for i, at, _ in positions(k, length, self.width):
                x = k.load(f"x{number}", at)
                sums[i].value = sums[i].value + x
        a, b, c, d = (total.value for total in sums)
        k.store("y", 0, k.reduce("add", (a + b) + (c + d)))


@dataclass(frozen=True)
class OverPieces(Kernel):
    """An item is a piece of one of x0, x1, ..., `lengths` elements each; arguments: x0, x1, ..., y.

    `width` is what takes elements side by side: lanes of a vector, or work-items of a group.
    """

    lengths: tuple[int, ...]
    piece: int
    width: int

    @property
    def pieces(self) -> tuple[int, ...]:
        """Of each array."""
        return tuple(-(-length // self.piece) for length in self.lengths)

    @property
    def grid(self) -> tuple[int, ...]:
        return (sum(self.pieces),)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        named = [Argument(f"x{i}", aliased=True) for i in range(len(self.lengths))]
        return (*named, Argument("y", written=True))

    @property
    def bytes(self) -> int:
        return 4 * sum(self.lengths)


@dataclass(frozen=True)
class SquareSums(OverPieces):
    """y[piece] = sums of the squares of that piece's elements, lane by lane; y [pieces, lanes]."""

    family: ClassVar[str] = "square_sums"

    @property
    def lanes(self) -> int:
        return self.width

    def describe(self, k: Printer) -> None:
        (piece,) = k.ids
        first = 0
        for number, (length, pieces) in enumerate(zip(self.lengths, self.pieces, strict=True)):
            last = first + pieces - 1
            if pieces > 1:
                with k.when(k.within(piece, first, last)):
                    self._sum(k, f"x{number}", piece - first, piece, self.piece)
            with k.when(k.index_compare("eq", piece, last)):
                self._sum(k, f"x{number}", piece - first, piece, length - (pieces - 1) * self.piece)
            first += pieces

    def _sum(self, k: Printer, name: str, part: Index, piece: Index, length: int) -> None:
        sums = [k.register(k.constant(0.0), "partial") for _ in range(PARTIALS)]
        start = part * self.piece
        for number, at, count in positions(k, length, self.width):
            x = k.load(name, start + at, count=count)
            x = some_lanes(k, x, count) if count else x
            sums[number].value = k.fma(x, x, sums[number].value)
        a, b, c, d = (total.value for total in sums)
        k.store("y", piece * self.width, (a + b) + (c + d))
