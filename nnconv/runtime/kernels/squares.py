"""The sum of the squares of many arrays at once: how long a gradient is, and whether all is finite.

All arrays are cut into pieces of one size; each piece gives a vector of sums, and those are added
up by a `Total`. The order of additions depends on sizes alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer
from nnconv.runtime.kernels.samples.lanes import some_lanes

_PARTIALS = 4  # independent sums: hides the latency of a multiply-add, and rounds less
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
        sums = [k.register(k.constant(0.0), "partial") for _ in range(_PARTIALS)]
        for number, length in enumerate(self.lengths):
            turns, rest = divmod(length // self.width, _PARTIALS)
            if turns:
                with k.loop(turns, name="turn") as t:
                    for i, total in enumerate(sums):
                        x = k.load(f"x{number}", (t * _PARTIALS + i) * self.width)
                        total.value = total.value + x
            for i in range(rest):
                x = k.load(f"x{number}", (turns * _PARTIALS + i) * self.width)
                sums[i].value = sums[i].value + x
        a, b, c, d = (total.value for total in sums)
        k.store("y", 0, k.reduce("add", (a + b) + (c + d)))


@dataclass(frozen=True)
class SquareSums(Kernel):
    """y[piece] = sums of the squares of that piece's elements, lane by lane.

    Arguments: x0, x1, ... of `lengths` elements, y [pieces, lanes].
    """

    family: ClassVar[str] = "square_sums"

    lengths: tuple[int, ...]
    width: int  # lanes of a vector

    @property
    def lanes(self) -> int:
        return self.width

    @property
    def pieces(self) -> tuple[int, ...]:
        """Of each array."""
        return tuple(-(-length // PIECE) for length in self.lengths)

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

    def describe(self, k: Printer) -> None:
        (piece,) = k.ids
        first = 0
        for number, (length, pieces) in enumerate(zip(self.lengths, self.pieces, strict=True)):
            last = first + pieces - 1
            if pieces > 1:
                with k.when(k.within(piece, first, last)):
                    self._sum(k, f"x{number}", piece - first, piece, PIECE)
            with k.when(k.index_compare("eq", piece, last)):
                self._sum(k, f"x{number}", piece - first, piece, length - (pieces - 1) * PIECE)
            first += pieces

    def _sum(self, k: Printer, name: str, part: Index, piece: Index, length: int) -> None:
        sums = [k.register(k.constant(0.0), "partial") for _ in range(_PARTIALS)]
        start, turn = part * PIECE, _PARTIALS * self.width
        turns, rest = divmod(length, turn)
        if turns:
            with k.loop(turns, name="turn") as t:
                for number, total in enumerate(sums):
                    x = k.load(name, start + t * turn + number * self.width)
                    total.value = k.fma(x, x, total.value)
        for number in range(-(-rest // self.width)):
            count = min(self.width, rest - number * self.width)
            x = k.load(name, start + (turns * turn + number * self.width), count=count)
            x = some_lanes(k, x, count)
            sums[number].value = k.fma(x, x, sums[number].value)
        a, b, c, d = (total.value for total in sums)
        k.store("y", piece * self.width, (a + b) + (c + d))
