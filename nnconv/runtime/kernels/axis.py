"""A window along one axis: which of its taps, its positions and its neighbours meet, as bounds of
loops.

What is known when a kernel is printed costs nothing there: a bound that no window reaches is a
number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nnconv.runtime.kernels.language import Index, Printer

Bounds = tuple[Index | int, Index | int]  # from, to


@dataclass(frozen=True, slots=True)
class Axis:
    """Input cell = position * stride + tap * dilation - pad."""

    size: int
    stride: int = 1
    dilation: int = 1
    pad: int = 0

    def first(self, position: Index) -> Index:
        """The cell under the first tap of a window."""
        return position * self.stride - self.pad

    def last(self, count: int) -> int:
        """The cell under the last tap of the last of `count` windows."""
        return (count - 1) * self.stride - self.pad + (self.size - 1) * self.dilation

    def taps(self, k: Printer, first: Index, extent: int, count: int) -> Bounds:
        """The taps that lie inside an input of `extent`, of the window whose first cell is `first`,
        one of `count`."""
        start = ceiling(k, first * -1, self.dilation) if self.pad else 0
        return start, self.stop(k, first, extent, count)

    def stop(self, k: Printer, first: Index, extent: int, count: int) -> Index | int:
        """The tap behind those that lie before the end of an input."""
        if self.last(count) < extent:
            return self.size
        return k.smaller(ceiling(k, first * -1 + extent, self.dilation), self.size)

    def positions(self, k: Printer, tap: Index, extent: int, count: int) -> Bounds:
        """The positions, of `count`, where a tap lies inside an input of `extent`."""
        before = tap * -self.dilation + self.pad
        start = ceiling(k, before, self.stride)
        return start, k.smaller(ceiling(k, before + extent, self.stride), count)

    @property
    def tap_step(self) -> int:
        """Taps from one that meets a cell to the next that does."""
        return self.stride // math.gcd(self.stride, self.dilation)

    @property
    def line_step(self) -> int:
        """Positions by which the window then lies further ahead."""
        return self.dilation // math.gcd(self.stride, self.dilation)

    def windows(self, k: Printer, cell: Index, count: int) -> tuple[Index, Index, Bounds]:
        """(first tap, its position, turns): in turn t a cell is met by tap `first` + t * tap_step
        of the window at `position` - t * line_step, one of `count`."""
        shared, step, apart = math.gcd(self.stride, self.dilation), self.tap_step, self.line_step
        place = k.index(cell + self.pad)
        whole = k.quotient(place, shared) if shared > 1 else place
        first = Index()
        if step > 1:
            first = k.remainder(k.remainder(whole, step) * pow(apart, -1, step), step)
        line = whole
        if step > 1:  # shifted, since the position of the first tap may lie before 0
            line = k.index(k.quotient(whole - first * apart + step * apart, step) - apart)
        turns = k.smaller(ceiling(k, first * -1 + self.size, step), ceiling(k, line + 1, apart))
        if shared > 1:
            turns = k.smaller(turns, k.larger(k.remainder(place, shared) * -1 + 1, 0) * self.size)
        return first, line, (ceiling(k, line - count + 1, apart), turns)


def ceiling(k: Printer, number: Index, divisor: int) -> Index:
    """number / divisor rounded up, 0 below that."""
    kept = k.larger(number + (divisor - 1), 0)
    return k.quotient(kept, divisor) if divisor > 1 else kept
