"""Pooling that remembers, and its gradient, on arrays whose lanes are samples (samples.py).

The forward kernel writes, beside the largest element of each window, which of the window's taps it
was; the gradient then needs neither the input nor a search. A pixel's gradient is the sum over the
windows that it lies in, found by run-time bounds, so that every element has one owner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.language import F32, I32, Argument, Index, Kernel, Printer, Value
from nnconv.runtime.kernels.samples import dense_like


def _taps(k: Printer, first: Index, size: int, extent: int) -> tuple[Index | int, Index]:
    """The taps [start, stop) of a window at `first` that lie in an image of `extent`."""
    return k.larger(first * -1, 0), k.smaller(first * -1 + extent, size)


@dataclass(frozen=True)
class SampleMaxPool(Kernel):
    """y = the largest of each window, index = its tap (row by row, the first of equals; -1: none).

    Dilation is 1. Arguments: x, y, index (like y, without gaps).
    """

    family: ClassVar[str] = "samples_max_pool"

    x: Array
    y: Array
    window: Window

    @property
    def lanes(self) -> int:
        return self.y.lanes

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.y.batch, self.y.blocks, self.y.height)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("y", written=True), Argument("index", written=True))

    @property
    def bytes(self) -> int:
        taps = self.window.size[0] * self.window.size[1]
        return self.y.batch * self.y.blocks * self.y.pixels * self.lanes * (2 * taps + 8)

    def describe(self, k: Printer) -> None:
        image, channel, row = k.ids
        size, stride, pad = self.window.size, self.window.stride, self.window.pad
        top = k.index(row * stride[0] - pad[0])
        low, high = _taps(k, top, size[0], self.x.height)
        with k.loop(self.y.width, name="column") as column:
            edge = k.index(column * stride[1] - pad[1])
            left, right = _taps(k, edge, size[1], self.x.width)
            best, place = k.register(k.constant(-math.inf)), k.register(k.constant(-1.0))
            with (
                k.loop(high, start=low, name="kh") as kh,
                k.loop(right, start=left, name="kw") as kw,
            ):
                value = k.load("x", self.x.at(image, channel, top + kh, edge + kw))
                number = k.splat(k.cast(k.index_value(kh * size[1] + kw, I32), F32))
                empty = place.value < 0.0
                wins = k.negate(k.both(k.negate(value > best.value), k.negate(empty)))
                best.value = k.select(wins, value, best.value)
                place.value = k.select(wins, number, place.value)
            k.store("y", self.y.at(image, channel, row, column), best.value)
            k.store("index", dense_like(self.y).at(image, channel, row, column), place.value)


@dataclass(frozen=True)
class _PoolGradient(Kernel):
    """What the gradients of both kinds of pooling share: the windows that a pixel lies in."""

    dy: Array
    dx: Array
    window: Window

    @property
    def lanes(self) -> int:
        return self.dx.lanes

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.dx.batch, self.dx.blocks, self.dx.height)

    @property
    def bytes(self) -> int:
        return 12 * self.dx.batch * self.dx.blocks * self.dx.pixels * self.lanes

    def describe(self, k: Printer) -> None:
        image, channel, row = k.ids
        low, high = self._windows(k, 0, row)
        with k.loop(self.dx.width, name="column") as column:
            left, right = self._windows(k, 1, column)
            total = k.register(k.constant(0.0))
            with (
                k.loop(high, start=low, name="y") as y,
                k.loop(right, start=left, name="x") as x,
            ):
                total.value = total.value + self._part(k, (image, channel), (y, x), (row, column))
            k.store("dx", self.dx.at(image, channel, row, column), total.value)

    def _windows(self, k: Printer, axis: int, position: Index) -> tuple[Index, Index]:
        """The windows [start, stop) along an axis that a pixel lies in."""
        extent = (self.dy.height, self.dy.width)[axis]
        size, stride = self.window.size[axis], self.window.stride[axis]
        place = k.index(position + self.window.pad[axis])
        start = k.quotient(k.larger(place - size + stride, 0), stride)
        return start, k.smaller(k.quotient(place, stride) + 1, extent)

    def _part(
        self,
        k: Printer,
        plane: tuple[Index, Index],
        window: tuple[Index, Index],
        pixel: tuple[Index, Index],
    ) -> Value:
        """What a window sends to a pixel in it."""
        raise NotImplementedError


@dataclass(frozen=True)
class SampleMaxPoolGrad(_PoolGradient):
    """dx = the sum of dy over the windows whose `index` names the pixel. Arguments: dy, index,
    dx."""

    family: ClassVar[str] = "samples_max_pool_grad"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("dy"), Argument("index"), Argument("dx", written=True))

    @property
    def _apart(self) -> bool:
        """Every pixel lies in exactly one window."""
        size, stride = self.window.size, self.window.stride
        exact = (self.dy.height * size[0], self.dy.width * size[1])
        return size == stride and exact == (self.dx.height, self.dx.width)

    @property
    def grid(self) -> tuple[int, ...]:
        if not self._apart or self.window.pad != (0, 0):
            return super().grid
        return (self.dy.batch, self.dy.blocks, self.dy.height)

    def describe(self, k: Printer) -> None:
        if not self._apart or self.window.pad != (0, 0):
            super().describe(k)
            return
        image, channel, row = k.ids
        size = self.window.size
        with k.loop(self.dy.width, name="x") as x:
            value = k.load("dy", self.dy.at(image, channel, row, x))
            place = k.load("index", dense_like(self.dy).at(image, channel, row, x))
            for r in range(size[0]):
                for c in range(size[1]):
                    mine = k.compare("eq", place, float(r * size[1] + c))
                    goal = self.dx.at(image, channel, row * size[0] + r, x * size[1] + c)
                    k.store("dx", goal, k.select(mine, value, k.constant(0.0)))

    def _part(
        self,
        k: Printer,
        plane: tuple[Index, Index],
        window: tuple[Index, Index],
        pixel: tuple[Index, Index],
    ) -> Value:
        size, stride, pad = self.window.size, self.window.stride, self.window.pad
        kh = pixel[0] + pad[0] - window[0] * stride[0]
        kw = pixel[1] + pad[1] - window[1] * stride[1]
        tap = k.splat(k.cast(k.index_value(kh * size[1] + kw, I32), F32))
        won = k.load("index", dense_like(self.dy).at(*plane, *window))
        value = k.load("dy", self.dy.at(*plane, *window))
        return k.select(k.compare("eq", won, tap), value, k.constant(0.0))


@dataclass(frozen=True)
class SampleAveragePoolGrad(_PoolGradient):
    """dx = the sum over the windows of a pixel of dy over what the mean divided by.

    With `include_pad` that is the window's extent in the padded image (`pad_end` at the bottom and
    right), without it its extent in the image. Arguments: dy, dx.
    """

    family: ClassVar[str] = "samples_average_pool_grad"

    include_pad: bool = False
    pad_end: tuple[int, int] = (0, 0)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("dy"), Argument("dx", written=True))

    def _part(
        self,
        k: Printer,
        plane: tuple[Index, Index],
        window: tuple[Index, Index],
        pixel: tuple[Index, Index],
    ) -> Value:
        rows, columns = (self._extent(k, axis, window[axis]) for axis in (0, 1))
        cells = k.cast(rows, F32) * k.cast(columns, F32)
        return k.load("dy", self.dy.at(*plane, *window)) / k.splat(cells)

    def _extent(self, k: Printer, axis: int, number: Index) -> Value:
        """How many rows or columns of a window count, as an integer."""
        inside = (self.dx.height, self.dx.width)[axis]
        first = k.index(number * self.window.stride[axis] - self.window.pad[axis])
        low, high = _taps(k, first, self.window.size[axis], inside)
        if self.include_pad:
            low = 0
            room = first * -1 + (inside + self.pad_end[axis])
            high = k.smaller(room, self.window.size[axis])
        return k.index_value(Index.of(high) - low, I32)
