"""Channels of blocked images in another order: slices, splits, shuffles and gathers of channels.

Sixteen channels that come from two or three blocks are so many loads and one shuffle less, whatever
their order. Blocks whose lanes come from alike places share their code (`Run`): of a slice that
starts inside a block all but the last do, of a channel shuffle every second one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.elementwise import gather_lanes
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer
from nnconv.schemas.errors import InternalError

_SPAN_PIXELS = 64  # of an item of a flat array: those of all blocks stay in the nearest cache


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks of y at even distances, made alike from blocks of x at even distances.

    Lane l of block number t takes lane `picks[l][1]` of block `sources[n] + t * steps[n]` of x,
    n being `picks[l][0]`.
    """

    first: int
    step: int
    count: int
    sources: tuple[int, ...]
    steps: tuple[int, ...]
    picks: tuple[tuple[int, int], ...]

    def joined(self, other: Run) -> Run | None:
        """This run with one block more, None where that does not continue it."""
        if self.picks != other.picks:
            return None
        last = self.count - 1
        steps = tuple(
            b - a - s * last
            for a, s, b in zip(self.sources, self.steps, other.sources, strict=True)
        )
        step = other.first - self.first - self.step * last
        if last and (step, steps) != (self.step, self.steps):
            return None
        return replace(self, step=step, count=self.count + 1, steps=steps)


def runs(channels: Sequence[int], lanes: int) -> list[Run]:
    """The blocks that `channels` (of x, in the order of y) fill."""
    found: list[Run] = []
    for block, start in enumerate(range(0, len(channels), lanes)):
        taken = channels[start : start + lanes]
        blocks = tuple(dict.fromkeys(channel // lanes for channel in taken))
        picks = [(blocks.index(channel // lanes), channel % lanes) for channel in taken]
        picks += [picks[-1]] * (lanes - len(picks))  # nobody reads them
        made = Run(block, 0, 1, blocks, (0,) * len(blocks), tuple(picks))
        for at, run in enumerate(found):
            longer = run.joined(made)
            if longer is not None:
                found[at] = longer
                break
        else:
            found.append(made)
    return found


@dataclass(frozen=True)
class Channels(Kernel):
    """y[:, c] = x[:, channel c of `runs`], both blocked."""

    family: ClassVar[str] = "channels"

    x: Array
    y: Array
    runs: tuple[Run, ...]

    def __post_init__(self) -> None:
        if self.x.lanes != self.y.lanes or sum(r.count for r in self.runs) != self.y.blocks:
            raise InternalError("channels: runs and arrays do not belong together")

    @property
    def lanes(self) -> int:
        return self.y.lanes

    @property
    def _flat(self) -> bool:
        return self.x.flat and self.y.flat

    @property
    def grid(self) -> tuple[int, ...]:
        lines = -(-self.y.pixels // _SPAN_PIXELS) if self._flat else self.y.height
        return (self.y.batch, lines, self.y.blocks)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("y", written=True))

    @property
    def bytes(self) -> int:
        return 8 * self.y.batch * self.y.channels * self.y.pixels

    def describe(self, k: Printer) -> None:
        image, line, number = k.ids
        start = 0
        for run in self.runs:
            with k.when(k.within(number, start, start + run.count)):
                self._run(k, run, image, number - start, line)
            start += run.count

    def _run(self, k: Printer, run: Run, image: Index, number: Index, line: Index) -> None:
        sources = [s + number * step for s, step in zip(run.sources, run.steps, strict=True)]
        block = run.first + number * run.step
        row, first, stop = line, Index(), Index((), self.y.width)
        if self._flat:
            row, first = Index(), line * _SPAN_PIXELS
            stop = k.smaller(first + _SPAN_PIXELS, self.y.pixels)
        with k.loop(stop, start=first, name="pixel") as pixel:
            loaded = [k.load("x", self.x.at(image, s, row, pixel)) for s in sources]
            made = gather_lanes(k, loaded, run.picks)
            k.store("y", self.y.at(image, block, row, pixel), made)
