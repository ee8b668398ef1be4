"""Pooling and LRN on graphics cards: an element a work-item, neighbours side by side.

Windows are clipped at the picture by run-time bounds. What remembers for a gradient, and the
gradients, are samples/pool.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.language import DTYPES, I32, Argument, Index, Kernel, Printer, Value
from nnconv.runtime.kernels.norm import divided
from nnconv.runtime.kernels.pool import LOWEST, Places, mean_cells, window_cells


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
        best = k.register(k.constant(0.0 if self.average else LOWEST), "best")
        for cell in window_cells(k, self.window, self.x, self.y, (row, column)):
            value = k.scalar("x", self.x.at(image, channel, *cell))
            best.value = best.value + value if self.average else k.max(value, best.value)
        result = best.value
        if self.average:
            result = result / self._cells(k, (row, column))
        k.store("y", self.y.at(image, channel, row, column), result)

    def _cells(self, k: Printer, position: tuple[Index, Index]) -> Value:
        """What an average divides by."""
        ends = self.pad_end if self.include_pad else (None, None)
        extents = ((self.x.height, self.y.height), (self.x.width, self.y.width))
        rows, columns = (
            mean_cells(k, axis, k.index(axis.first(place)), *extent, end)
            for axis, place, extent, end in zip(
                self.window.axes, position, extents, ends, strict=True
            )
        )
        return rows * columns


@dataclass(frozen=True)
class PlacedPool(_ByElement):
    """y = the largest of each window of x, but at least -FLT_MAX, and where it stands: the first of
    equals, -1 where there is none; plain arrays, NaN never wins.

    Arguments: x, y, places (like y, dense).
    """

    family: ClassVar[str] = "placed_pool"

    x: Array
    y: Array
    window: Window
    places: Places

    @property
    def _made(self) -> Array:
        return self.y

    @property
    def arguments(self) -> tuple[Argument, ...]:
        places = Argument("places", DTYPES[self.places.kind], written=True)
        return (Argument("x"), Argument("y", written=True), places)

    @property
    def bytes(self) -> int:
        return 4 * (self.x.batch * self.x.channels * self.x.pixels + 2 * self.total)

    def describe(self, k: Printer) -> None:
        image, channel, row, column = k.ids
        best, place = k.register(k.constant(LOWEST), "best"), k.register(k.constant(-1, I32), "at")
        for cell in window_cells(k, self.window, self.x, self.y, (row, column)):
            value = k.scalar("x", self.x.at(image, channel, *cell))
            wins = value > best.value
            place.value = k.select(wins, k.index_value(self.places.number(*cell)), place.value)
            best.value = k.select(wins, value, best.value)
        k.store("y", self.y.at(image, channel, row, column), best.value)
        before = k.index_value((image * self.y.channels + channel) * self.places.plane)
        number = k.select(place.value < 0, place.value, place.value + before)
        dense = Array.dense(self.y.batch, self.y.channels, self.y.height, self.y.width)
        kind = DTYPES[self.places.kind]
        k.store("places", dense.at(image, channel, row, column), k.cast(number, kind))


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
