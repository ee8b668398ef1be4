"""Pooling that remembers, and its gradient, on arrays whose lanes are samples (lanes.py).

The forward kernel writes, beside the largest element of each window, which of the window's taps it
was; the gradient then needs neither the input nor a search. A pixel's gradient is the sum over the
windows that it lies in, found by run-time bounds, so that every element has one owner. Graphics
cards run the same kernels, one sample in lanes, on plain arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.language import F32, I32, Argument, Index, Kernel, Printer, Value
from nnconv.runtime.kernels.order import Best, Order
from nnconv.runtime.kernels.pool import LOWEST, Places, mean_cells
from nnconv.runtime.kernels.samples.lanes import dense_like


@dataclass(frozen=True)
class _ByRow(Kernel):
    """An item is a row of the array that is made; where a vector is one number, as on graphics
    cards, an element: neighbours are side by side."""

    @property
    def made(self) -> Array:
        raise NotImplementedError

    @property
    def lanes(self) -> int:
        return self.made.lanes

    @property
    def grid(self) -> tuple[int, ...]:
        made = self.made
        row = (made.batch, made.blocks, made.height)
        return row if self.lanes > 1 else (*row, made.width)

    def columns(self, k: Printer) -> AbstractContextManager[Index]:
        """Those of an item, one by one."""
        return k.loop(self.made.width, name="column") if self.lanes > 1 else nullcontext(k.ids[3])


@dataclass(frozen=True)
class SampleMaxPool(_ByRow):
    """y = the largest of each window, index = its tap (row by row, the first of equals; -1: none),
    or its pixel's number where `places` says how that is counted.

    As Caffe's, the maximum starts from -FLT_MAX, and NaN never wins. Arguments: x, y, index (as
    `notes` says, else like y without gaps).
    """

    family: ClassVar[str] = "samples_max_pool"

    x: Array
    y: Array
    window: Window
    places: Places | None = None
    notes: Array | None = None

    @property
    def made(self) -> Array:
        return self.y

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("y", written=True), Argument("index", written=True))

    @property
    def bytes(self) -> int:
        taps = self.window.size[0] * self.window.size[1]
        return self.y.batch * self.y.blocks * self.y.pixels * self.lanes * (2 * taps + 8)

    def describe(self, k: Printer) -> None:
        image, channel, row = k.ids[:3]
        down, across = self.window.axes
        top = k.index(down.first(row))
        low, high = down.taps(k, top, self.x.height, self.y.height)
        with self.columns(k) as column:
            edge = k.index(across.first(column))
            left, right = across.taps(k, edge, self.x.width, self.y.width)
            best, place = k.register(k.constant(LOWEST)), k.register(k.constant(-1.0))
            with (
                k.loop(high, start=low, name="kh") as kh,
                k.loop(right, start=left, name="kw") as kw,
            ):
                cell = (top + kh * down.dilation, edge + kw * across.dilation)
                value = k.load("x", self.x.at(image, channel, *cell))
                tap = self.places.number(*cell) if self.places else kh * across.size + kw
                number = k.splat(k.cast(k.index_value(tap, I32), F32))
                wins = value > best.value
                best.value = k.select(wins, value, best.value)
                place.value = k.select(wins, number, place.value)
            k.store("y", self.y.at(image, channel, row, column), best.value)
            notes = self.notes or dense_like(self.y)
            k.store("index", notes.at(image, channel, row, column), place.value)


@dataclass(frozen=True)
class _PoolGradient(_ByRow):
    """What the gradients of both kinds of pooling share: the windows that a pixel lies in."""

    dy: Array
    dx: Array
    window: Window

    @property
    def made(self) -> Array:
        return self.dx

    @property
    def bytes(self) -> int:
        return 12 * self.dx.batch * self.dx.blocks * self.dx.pixels * self.lanes

    def describe(self, k: Printer) -> None:
        image, channel, row = k.ids[:3]
        low, high = self._windows(k, 0, row)
        with self.columns(k) as column:
            left, right = self._windows(k, 1, column)
            total = k.register(k.constant(0.0))
            with (
                k.loop(high, start=low, name="y") as y,
                k.loop(right, start=left, name="x") as x,
            ):
                total.value = total.value + self._part(k, (image, channel), (y, x), (row, column))
            k.store("dx", self.dx.at(image, channel, row, column), total.value)

    def _windows(self, k: Printer, axis: int, position: Index) -> tuple[Index, Index]:
        """The windows [start, stop) along an axis that reach over a pixel."""
        extent = (self.dy.height, self.dy.width)[axis]
        reach = (self.window.size[axis] - 1) * self.window.dilation[axis] + 1
        stride, place = self.window.stride[axis], k.index(position + self.window.pad[axis])
        start = k.quotient(k.larger(place - reach + stride, 0), stride)
        return start, k.smaller(k.quotient(place, stride) + 1, extent)

    def _tap(self, k: Printer, axis: int, position: Index, number: Index) -> tuple[Index, Index]:
        """Which tap of a window lies on a pixel; and how far that is from the truth, 0 where it
        does."""
        dilation = self.window.dilation[axis]
        ahead = position + self.window.pad[axis] - number * self.window.stride[axis]
        if dilation == 1:
            return ahead, Index()
        ahead = k.index(ahead)
        return k.quotient(ahead, dilation), k.remainder(ahead, dilation)

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
        """Every pixel lies in exactly one window, and an item is a row of windows."""
        size, stride = self.window.size, self.window.stride
        if self.lanes == 1 or self.window.dilation != (1, 1) or self.window.pad != (0, 0):
            return False
        exact = (self.dy.height * size[0], self.dy.width * size[1])
        return size == stride and exact == (self.dx.height, self.dx.width)

    @property
    def grid(self) -> tuple[int, ...]:
        if not self._apart:
            return super().grid
        return (self.dy.batch, self.dy.blocks, self.dy.height)

    def describe(self, k: Printer) -> None:
        if not self._apart:
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
        size = self.window.size
        (kh, above), (kw, left) = (self._tap(k, axis, pixel[axis], window[axis]) for axis in (0, 1))
        number = kh * size[1] + kw
        if self.window.dilation != (1, 1):  # between two taps: no number that is ever noted
            number = number - k.smaller(above + left, 1) * (size[0] * size[1] + 2)
        tap = k.splat(k.cast(k.index_value(number, I32), F32))
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
        cells = self._cells(k, 0, window[0]) * self._cells(k, 1, window[1])
        share = k.load("dy", self.dy.at(*plane, *window)) / k.splat(cells)
        if self.window.dilation == (1, 1):
            return share
        off = [self._tap(k, axis, pixel[axis], window[axis])[1] for axis in (0, 1)]
        met = k.smaller(off[0] + off[1], 1) * -1 + 1
        return share * k.splat(k.cast(k.index_value(met, I32), F32))

    def _cells(self, k: Printer, number: int, position: Index) -> Value:
        """How many rows or columns of a window count."""
        axis, pad_end = self.window.axes[number], self.pad_end[number]
        extent, count = ((a.height, a.width)[number] for a in (self.dx, self.dy))
        first = k.index(axis.first(position))
        return mean_cells(k, axis, first, extent, count, pad_end if self.include_pad else None)


@dataclass(frozen=True)
class SamplePeakGrad(Kernel):
    """dx = dy at the first of the largest elements of each plane of x, 0 elsewhere; blocks of
    channels or of samples alike. Arguments: x, dy [planes], dx.
    """

    family: ClassVar[str] = "samples_peak_grad"

    x: Array
    dy: Array
    dx: Array

    @property
    def lanes(self) -> int:
        return self.dx.lanes

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.dx.batch, self.dx.blocks)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("dy"), Argument("dx", written=True))

    @property
    def bytes(self) -> int:
        return 8 * self.dx.batch * self.dx.blocks * self.dx.pixels * self.lanes

    def describe(self, k: Printer) -> None:
        image, block = k.ids
        order, best = Order(), Best.none(k, elements=False)
        for row, column, place in self._pixels(k):
            x = k.load("x", self.x.at(image, block, row, column))
            key = order.key(k, x)
            best.meet(k, key > best.key.value, key, place, x)
        slope, first = k.load("dy", self.dy.at(image, block)), best.place.value
        for row, column, place in self._pixels(k):
            value = k.select(k.compare("eq", place, first), slope, k.constant(0.0))
            k.store("dx", self.dx.at(image, block, row, column), value)

    def _pixels(self, k: Printer) -> Iterator[tuple[Index, Index, Value]]:
        """Row, column and number of each, in rolled loops."""
        width = self.dx.width
        with k.loop(self.dx.height, name="row") as row, k.loop(width, name="column") as column:
            yield row, column, k.splat(k.index_value(row * width + column))
