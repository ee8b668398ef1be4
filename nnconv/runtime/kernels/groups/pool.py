"""Pooling, its gradients and LRN on graphics cards: an element a work-item, neighbours side by
side.

Windows are clipped at the picture by run-time bounds. The maximum may note which of its taps won;
its gradient then reads neither the input nor searches: a pixel adds up the windows that it lies in,
so every element has one owner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.language import F32, I32, Argument, Index, Kernel, Printer, Value
from nnconv.runtime.kernels.norm import divided

Taps = tuple[Index | int, Index | int]  # from, to


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
    """y = largest or mean element of each window of x, as `pool.Pool` has it; plain arrays.

    With `index` the maximum writes its tap too (row by row, the first of equals; -1: none).
    Arguments: x, y, [index (like y, dense)].
    """

    family: ClassVar[str] = "element_pool"

    x: Array
    y: Array
    window: Window
    average: bool = False
    include_pad: bool = False
    pad_end: tuple[int, int] = (0, 0)
    index: bool = False

    @property
    def _made(self) -> Array:
        return self.y

    @property
    def arguments(self) -> tuple[Argument, ...]:
        more = (Argument("index", written=True),) if self.index else ()
        return (Argument("x"), Argument("y", written=True), *more)

    @property
    def bytes(self) -> int:
        return 4 * (self.x.batch * self.x.channels * self.x.pixels + self.total)

    def describe(self, k: Printer) -> None:
        image, channel, row, column = k.ids
        corner, spans = [], []
        for axis, place in enumerate((row, column)):
            corner.append(k.index(place * self.window.stride[axis] - self.window.pad[axis]))
            spans.append(self._inside(k, axis, corner[axis]))
        best = k.register(k.constant(0.0 if self.average else -math.inf), "best")
        which = k.register(k.constant(-1.0), "which")
        (low, high), (left, right) = spans
        with k.loop(high, start=low, name="kh") as kh, k.loop(right, start=left, name="kw") as kw:
            down, across = (
                first + tap * step
                for first, tap, step in zip(corner, (kh, kw), self.window.dilation, strict=True)
            )
            value = k.scalar("x", self.x.at(image, channel, down, across))
            if self.index:
                number = k.cast(k.index_value(kh * self.window.size[1] + kw, I32), F32)
                loses = k.both(k.negate(value > best.value), k.negate(which.value < 0.0))
                which.value = k.select(loses, which.value, number)
                best.value = k.select(loses, best.value, value)
            else:
                best.value = best.value + value if self.average else k.max(value, best.value)
        result = best.value
        if self.average:
            result = result / self._cells(k, corner, spans)
        k.store("y", self.y.at(image, channel, row, column), result)
        if self.index:
            y = self.y
            dense = Array.dense(y.batch, y.channels, y.height, y.width)
            k.store("index", dense.at(image, channel, row, column), which.value)

    def _inside(self, k: Printer, axis: int, first: Index) -> Taps:
        """The taps of a window at `first` that lie in the picture."""
        extent = (self.x.height, self.x.width)[axis]
        size, step = self.window.size[axis], self.window.dilation[axis]
        last = ((self.y.height, self.y.width)[axis] - 1) * self.window.stride[axis]
        last += (size - 1) * step - self.window.pad[axis]
        start: Index | int = 0
        if self.window.pad[axis]:
            start = k.quotient(k.larger(first * -1 + (step - 1), 0), step)
        if last < extent:
            return start, size
        stop = k.quotient(k.larger(first * -1 + (extent + step - 1), 0), step)
        return start, k.smaller(stop, size)

    def _cells(self, k: Printer, corner: list[Index], spans: list[Taps]) -> Value:
        """What an average divides by."""
        counts = []
        for axis, (start, stop) in enumerate(spans):
            if self.include_pad:
                # ONNX counts padding, but not what hangs over it in ceil mode
                step = self.window.dilation[axis]
                end = (self.x.height, self.x.width)[axis] + self.pad_end[axis] + step - 1
                room = k.quotient(corner[axis] * -1 + end, step)
                start, stop = 0, k.smaller(room, self.window.size[axis])
            counts.append(k.cast(k.index_value(Index.of(stop) - start, I32), F32))
        return counts[0] * counts[1]


@dataclass(frozen=True)
class _PoolGradient(_ByElement):
    """What the gradients share: the windows that a pixel lies in. Dilation is 1."""

    dy: Array
    dx: Array
    window: Window

    @property
    def _made(self) -> Array:
        return self.dx

    @property
    def bytes(self) -> int:
        return 4 * (self.total + 2 * self.dy.batch * self.dy.channels * self.dy.pixels)

    def describe(self, k: Printer) -> None:
        image, channel, row, column = k.ids
        (low, high), (left, right) = (
            self._windows(k, axis, place) for axis, place in enumerate((row, column))
        )
        total = k.register(k.constant(0.0), "sum")
        with k.loop(high, start=low, name="y") as y, k.loop(right, start=left, name="x") as x:
            part = self._part(k, (image, channel), (y, x), (row, column))
            total.value = total.value + part
        k.store("dx", self.dx.at(image, channel, row, column), total.value)

    def _windows(self, k: Printer, axis: int, position: Index) -> Taps:
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
class ElementMaxPoolGrad(_PoolGradient):
    """dx = the sum of dy over the windows whose `index` names the pixel. Arguments: dy, index,
    dx.
    """

    family: ClassVar[str] = "element_max_pool_grad"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("dy"), Argument("index"), Argument("dx", written=True))

    def _part(
        self,
        k: Printer,
        plane: tuple[Index, Index],
        window: tuple[Index, Index],
        pixel: tuple[Index, Index],
    ) -> Value:
        kh, kw = (
            place + pad - number * stride
            for place, number, stride, pad in zip(
                pixel, window, self.window.stride, self.window.pad, strict=True
            )
        )
        tap = k.cast(k.index_value(kh * self.window.size[1] + kw, I32), F32)
        dense = Array.dense(self.dy.batch, self.dy.channels, self.dy.height, self.dy.width)
        won = k.compare("eq", k.scalar("index", dense.at(*plane, *window)), tap)
        return k.select(won, k.scalar("dy", self.dy.at(*plane, *window)), k.constant(0.0))


@dataclass(frozen=True)
class ElementAveragePoolGrad(_PoolGradient):
    """dx = the sum over the windows of a pixel of dy over what the mean divided by.

    With `include_pad` that is the window's extent in the padded image (`pad_end` at the bottom and
    right), without it its extent in the image. Arguments: dy, dx.
    """

    family: ClassVar[str] = "element_average_pool_grad"

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
        cells = self._extent(k, 0, window[0]) * self._extent(k, 1, window[1])
        return k.scalar("dy", self.dy.at(*plane, *window)) / cells

    def _extent(self, k: Printer, axis: int, number: Index) -> Value:
        """How many rows or columns of a window count."""
        inside, size = (self.dx.height, self.dx.width)[axis], self.window.size[axis]
        first = k.index(number * self.window.stride[axis] - self.window.pad[axis])
        low: Index | int = 0 if self.include_pad else k.larger(first * -1, 0)
        end = inside + self.pad_end[axis] if self.include_pad else inside
        high = k.smaller(first * -1 + end, size)
        return k.cast(k.index_value(high - low, I32), F32)


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
