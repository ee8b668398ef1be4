"""The gradient of local response normalisation across channels that are not in lanes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.functions import power
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer, Value
from nnconv.runtime.kernels.samples.lanes import Cut

_VECTORS = 4  # side by side in an item, so that memory is read in longer runs


@dataclass(frozen=True)
class LRNGrad(Kernel):
    """dx = dy / s^beta - 2 alpha beta / size * x * window(dy * x / s^(beta + 1)).

    s is what LRN divides by, before the power; the window is the forward one mirrored. The arrays
    are plain or have samples in lanes; the elements of a row follow one another. `ratio` keeps
    what the window runs over: an item reads there what it wrote itself.

    Arguments: x, dy, ratio, dx.
    """

    family: ClassVar[str] = "lrn_grad"

    x: Array
    dy: Array
    ratio: Array
    dx: Array
    size: int
    alpha: float
    beta: float
    bias: float
    width: int  # lanes of a vector

    @property
    def lanes(self) -> int:
        return self.width

    @property
    def _pieces(self) -> Cut:
        """Of a row."""
        elements = self.x.width * self.x.lanes
        return Cut(elements, self.width * min(_VECTORS, -(-elements // self.width)))

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.x.batch, self.x.height, self._pieces.count)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        made = Argument("ratio", written=True), Argument("dx", written=True)
        return (Argument("x"), Argument("dy"), *made)

    @property
    def bytes(self) -> int:
        return 16 * self.x.batch * self.x.blocks * self.x.pixels * self.x.lanes * self.size

    def describe(self, k: Printer) -> None:
        image, row, piece = k.ids
        pieces = self._pieces
        for length in pieces.bodies(k, piece):
            start = piece * pieces.width
            before, behind = (self.size - 1) // 2, self.size // 2
            for channel, near in self._channels(k, before, behind):
                for at, count in self._vectors(start, length):
                    self._divide(k, (image, channel, row), at, count, near)
            for channel, near in self._channels(k, behind, before):
                for at, count in self._vectors(start, length):
                    self._spread(k, (image, channel, row), at, count, near)

    def _channels(self, k: Printer, before: int, behind: int) -> Iterator[tuple[Index, range]]:
        """Each channel with the offsets of its neighbours: those at the edges lack some."""
        count = self.x.blocks
        low = min(before, count)
        high = max(low, count - behind)
        for c in range(low):
            yield Index((), c), range(-c, min(behind, count - 1 - c) + 1)
        if high > low:
            with k.loop(high, start=low, name="channel") as channel:
                yield channel, range(-before, behind + 1)
        for c in range(high, count):
            yield Index((), c), range(-min(before, c), count - c)

    def _vectors(self, start: Index, length: int) -> Iterator[tuple[Index, int]]:
        for first in range(0, length, self.width):
            left = length - first
            yield start + first, left if left < self.width else 0

    def _load(
        self, k: Printer, name: str, place: tuple[Index, Index, Index], at: Index, count: int
    ) -> Value:
        array: Array = getattr(self, name)
        return k.load(name, array.at(*place) + at, count=count)

    def _divide(
        self, k: Printer, place: tuple[Index, Index, Index], at: Index, count: int, near: range
    ) -> None:
        """dx = dy / s^beta and ratio = dx * x / s, for now."""
        image, channel, row = place
        around = [self._load(k, "x", (image, channel + d, row), at, count) for d in near]
        x = around[near.index(0)]
        total = k.sum([value * value for value in around])
        scale = k.fma(self.alpha / self.size, total, self.bias)
        slope = self._load(k, "dy", place, at, count) * power(k, scale, k.constant(-self.beta))
        k.store("dx", self.dx.at(*place) + at, slope, count=count)
        k.store("ratio", self.ratio.at(*place) + at, slope * x / scale, count=count)

    def _spread(
        self, k: Printer, place: tuple[Index, Index, Index], at: Index, count: int, near: range
    ) -> None:
        image, channel, row = place
        around = [self._load(k, "ratio", (image, channel + d, row), at, count) for d in near]
        x, slope = (self._load(k, name, place, at, count) for name in ("x", "dx"))
        factor = x * (-2 * self.alpha * self.beta / self.size)
        k.store("dx", self.dx.at(*place) + at, k.fma(factor, k.sum(around), slope), count=count)
