"""Pooling and LRN on graphics cards: an element a work-item, neighbours side by side.

Windows are clipped at the picture by run-time bounds. What remembers for a gradient, and the
gradients, are samples/pool.py's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.language import Argument, Kernel, Printer
from nnconv.runtime.kernels.norm import divided
from nnconv.runtime.kernels.pool import mean_cells


@dataclass(frozen=True)
class _ByElement(Kernel):
    """One work-item an element of the last argument's array."""

    @property
    def lanes(self) -> int:
        return 1

    @property
    def _made(self) -> Array:
        raise NotImplementedError

    @property
    def grid(self) -> tuple[int, ...]:
        made = self._made
        return (made.batch, made.channels, made.height, made.width)


@dataclass(frozen=True)
class ElementPool(_ByElement):
    """y = largest or mean element of each window of x, as `pool.Pool` has it; plain arrays."""

    family: ClassVar[str] = "element_pool"

    x: Array
    y: Array
    window: Window
    average: bool = False
    include_pad: bool = False
    pad_end: tuple[int, int] = (0, 0)

    @property
    def _made(self) -> Array:
        return self.y

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("y", written=True))

    @property
    def bytes(self) -> int:
        return 4 * (self.x.batch * self.x.channels * self.x.pixels + self.total)

    def describe(self, k: Printer) -> None:
        image, channel, row, column = k.ids
        down, across = self.window.axes
        top, edge = k.index(down.first(row)), k.index(across.first(column))
        low, high = down.taps(k, top, self.x.height, self.y.height)
        left, right = across.taps(k, edge, self.x.width, self.y.width)
        best = k.register(k.constant(0.0 if self.average else -math.inf), "best")
        with k.loop(high, start=low, name="kh") as kh, k.loop(right, start=left, name="kw") as kw:
            cell = (top + kh * down.dilation, edge + kw * across.dilation)
            value = k.scalar("x", self.x.at(image, channel, *cell))
            best.value = best.value + value if self.average else k.max(best.value, value)
        result = best.value
        if self.average:
            ends = self.pad_end if self.include_pad else (None, None)
            rows = mean_cells(k, down, top, self.x.height, self.y.height, ends[0])
            columns = mean_cells(k, across, edge, self.x.width, self.y.width, ends[1])
            result = result / (rows * columns)
        k.store("y", self.y.at(image, channel, row, column), result)


@dataclass(frozen=True)
class ElementLRN(_ByElement):
    """y = x / (bias + alpha/size * sum of x^2 over `size` channels)^beta (ONNX LRN-13); plain
    arrays. The window of channel c is c - (size-1)//2 ... c + size//2.
    """

    family: ClassVar[str] = "element_lrn"

    x: Array
    y: Array
    size: int
    alpha: float
    beta: float
    bias: float

    @property
    def _made(self) -> Array:
        return self.y

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("y", written=True))

    @property
    def bytes(self) -> int:
        return 8 * self.total

    def describe(self, k: Printer) -> None:
        image, channel, row, column = k.ids
        first = k.larger(channel - (self.size - 1) // 2, 0)
        stop = k.smaller(channel + (self.size // 2 + 1), self.x.channels)
        total = k.register(k.constant(0.0), "sum")
        with k.loop(stop, start=first, name="c") as c:
            near = k.scalar("x", self.x.at(image, c, row, column))
            total.value = k.fma(near, near, total.value)
        scale = k.fma(self.alpha / self.size, total.value, self.bias)
        x = k.scalar("x", self.x.at(image, channel, row, column))
        k.store("y", self.y.at(image, channel, row, column), divided(k, x, scale, self.beta))
