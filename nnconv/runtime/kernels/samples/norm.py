"""Local response normalisation with samples in lanes: channels are planes, so a window over them is
as many streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.language import Argument, Condition, Index, Kernel, Printer
from nnconv.runtime.kernels.norm import divided


@dataclass(frozen=True, slots=True)
class Response:
    """What LRN divides by: (bias + alpha/size * sum of x^2 over `size` channels)^beta."""

    size: int
    alpha: float
    beta: float
    bias: float

    @property
    def before(self) -> int:
        """Channels of the window below its own; there is one more above where `size` is even."""
        return (self.size - 1) // 2


@dataclass(frozen=True)
class SampleLRN(Kernel):
    """y = x / scale^beta (ONNX LRN-13), one item a row of a channel. Arguments: x, y."""

    family: ClassVar[str] = "samples_lrn"

    x: Array
    response: Response
    y: Array

    @property
    def lanes(self) -> int:
        return self.x.lanes

    @property
    def grid(self) -> tuple[int, ...]:
        """Channels run fastest: a window's other channels are in the cache."""
        return (self.x.batch, self.x.height, self.x.blocks)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("y", written=True))

    @property
    def bytes(self) -> int:
        return 16 * self.x.batch * self.x.blocks * self.x.pixels * self.lanes

    def describe(self, k: Printer) -> None:
        group, row, channel = k.ids
        near = list(self._near(k, channel))
        alpha = self.response.alpha / self.response.size
        with k.loop(self.x.width, name="column") as column:
            squares = []
            for other, there in near:
                value = k.load("x", self.x.at(group, other, row, column))
                square = value * value
                squares.append(
                    square if there is None else k.select(there, square, k.constant(0.0))
                )
            scale = k.fma(alpha, k.sum(squares), self.response.bias)
            x = k.load("x", self.x.at(group, channel, row, column))
            y = divided(k, x, scale, self.response.beta)
            k.store("y", self.y.at(group, channel, row, column), y)

    def _near(self, k: Printer, channel: Index) -> Iterator[tuple[Index, Condition | None]]:
        """The channels of the window, and whether they are there."""
        last, before = self.x.blocks - 1, self.response.before
        for shift in range(-before, self.response.size - before):
            if not shift:
                yield channel, None
                continue
            there = k.within(channel + shift, 0, last + 1)
            yield k.smaller(k.larger(channel + shift, 0), last), there
