"""Pooling that remembers, and its gradient, on arrays whose lanes are samples (lanes.py).

The forward kernel writes, beside the largest element of each window, which of the window's taps it
was; the gradient then needs neither the input nor a search. A pixel's gradient is the sum over the
windows that it lies in, found by run-time bounds, so that every element has one owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.language import F32, I32, Argument, Index, Kernel, Printer, Value
from nnconv.runtime.kernels.order import Best, Order
from nnconv.runtime.kernels.pool import LOWEST, Places
from nnconv.runtime.kernels.samples.lanes import dense_like


def _taps(
    k: Printer, first: Index, size: int, extent: int, dilation: int = 1
) -> tuple[Index | int, Index]:
    """The taps [start, stop) of a window at `first` that lie in an image of `extent`."""
    if dilation == 1:
        return k.larger(first * -1, 0), k.smaller(first * -1 + extent, size)
    start = k.quotient(k.larger(first * -1 + (dilation - 1), 0), dilation)
    stop = k.quotient(k.larger(first * -1 + (extent + dilation - 1), 0), dilation)
    return start, k.smaller(stop, size)


@dataclass(frozen=True)
class SampleMaxPool(Kernel):
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
        dilation = self.window.dilation
        low, high = _taps(k, top, size[0], self.x.height, dilation[0])
        with k.loop(self.y.width, name="column") as column:
            edge = k.index(column * stride[1] - pad[1])
            left, right = _taps(k, edge, size[1], self.x.width, dilation[1])
            best, place = k.register(k.constant(LOWEST)), k.register(k.constant(-1.0))
            with (
                k.loop(high, start=low, name="kh") as kh,
                k.loop(right, start=left, name="kw") as kw,
            ):
                cell = (top + kh * dilation[0], edge + kw * dilation[1])
                value = k.load("x", self.x.at(image, channel, *cell))
                tap = self.places.number(*cell) if self.places else kh * size[1] + kw
                number = k.splat(k.cast(k.index_value(tap, I32), F32))
                wins = value > best.value
                best.value = k.select(wins, value, best.value)
                place.value = k.select(wins, number, place.value)
            k.store("y", self.y.at(image, channel, row, column), best.value)
            notes = self.notes or dense_like(self.y)
            k.store("index", notes.at(image, channel, row, column), place.value)


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
        """Every pixel lies in exactly one window."""
        size, stride = self.window.size, self.window.stride
        if self.window.dilation != (1, 1):
            return False
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
        rows, columns = (self._extent(k, axis, window[axis]) for axis in (0, 1))
        cells = k.cast(rows, F32) * k.cast(columns, F32)
        share = k.load("dy", self.dy.at(*plane, *window)) / k.splat(cells)
        if self.window.dilation == (1, 1):
            return share
        off = [self._tap(k, axis, pixel[axis], window[axis])[1] for axis in (0, 1)]
        met = k.smaller(off[0] + off[1], 1) * -1 + 1
        return share * k.splat(k.cast(k.index_value(met, I32), F32))

    def _extent(self, k: Printer, axis: int, number: Index) -> Value:
        """How many rows or columns of a window count, as an integer."""
        inside = (self.dx.height, self.dx.width)[axis]
        first = k.index(number * self.window.stride[axis] - self.window.pad[axis])
        size, dilation = self.window.size[axis], self.window.dilation[axis]
        low, high = _taps(k, first, size, inside, dilation)
        if self.include_pad:
            low = 0
            high = _taps(k, first, size, inside + self.pad_end[axis], dilation)[1]
        return k.index_value(Index.of(high) - low, I32)


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
