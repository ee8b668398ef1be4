"""A transposed convolution as ordinary ones: the phases of its output.

Along an axis of stride s, output position p takes the input at (p + begin - k * dilation) / s for
those taps k where that is whole. Positions s apart take the same taps, so each of the s phases is a
convolution of stride 1 with every (s / gcd(s, dilation))-th tap, in reverse order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

MOST_PHASES = 4096  # of an output: each takes kernel calls of its own


@dataclass(frozen=True, slots=True)
class Phase:
    """Output positions first, first + stride, ... along one axis: `count` of them, which see
    `taps` of the kernel, `dilation` apart, `pad` before the input's first cell."""

    first: int
    count: int
    taps: tuple[int, ...]
    dilation: int
    pad: int

    @property
    def alike(self) -> tuple[int, int, int, int]:
        """What phases have in common that differ in their taps only."""
        return self.count, len(self.taps), self.dilation, self.pad


def phases(size: int, stride: int, dilation: int, begin: int, extent: int) -> list[Phase]:
    """The phases of an axis whose kernel has `size` taps and whose result has `extent` cells."""
    shared = math.gcd(stride, dilation)
    step, apart = stride // shared, dilation // shared
    inverse = pow(apart, -1, step)
    found = []
    for first in range(min(stride, extent)):
        place = first + begin
        lowest = place // shared * inverse % step if place % shared == 0 else size
        taps = tuple(reversed(range(lowest, size, step)))
        ahead = (place - lowest * dilation) // stride
        pad = (len(taps) - 1) * apart - ahead if taps else 0
        found.append(Phase(first, -(-(extent - first) // stride), taps, apart, pad))
    return found


def runs(axis: Sequence[Phase]) -> Iterator[list[Phase]]:
    """Neighbouring phases that differ in their taps only."""
    for _, run in groupby(axis, key=lambda phase: phase.alike):
        yield list(run)
