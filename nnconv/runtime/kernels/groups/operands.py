"""What a product on a graphics card multiplies: matrices, weights and images, seen as two factors.

A product is y[m, n] = sum over d of a[m, d] * b[n, d]. Each factor says where its element of an
`outer` number (m or n) and a `depth` lies, and whether neighbours in memory differ in depth; so a
convolution reads its picture where it lies, and no matrix of windows is ever written. Weights are
taken tap by tap, all channels of a tap one after the other: while one tap lasts, a pixel's address
and whether it lies in the picture stay the same.

Outer numbers past the end are taken for the last one, whose results nobody stores; depths past the
end are read as 0, which is what `Element.inside` is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from nnconv.runtime.kernels.arrays import Array, Matrix
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.language import Condition, Index, Printer


class Element(NamedTuple):
    """Where an element lies, and the conditions under which it is read; else it is 0."""

    at: Index
    inside: tuple[Condition, ...] = ()


class Depth(NamedTuple):
    """A depth, decoded: its tap and channel (or image and pixel), and whether there is one."""

    parts: tuple[Index, ...]
    inside: tuple[Condition, ...]


def _exists(k: Printer, number: Index, count: int, step: int) -> tuple[Condition, ...]:
    """Whether a depth lies before the end; certain where whole steps make it up."""
    return (k.index_compare("lt", number, count),) if count % step else ()


def _last(k: Printer, number: Index, count: int, tile: int) -> Index:
    return k.smaller(number, count - 1) if count % tile else k.index(number)


def _by_tap(
    k: Printer, base: Index, number: Index, sizes: tuple[int, int], step: int
) -> tuple[Index, Index]:
    """(tap, channel) of a depth; where steps do not straddle taps, the tap is that of the step."""
    taps, channels = sizes
    if taps > 1 and channels % step == 0:
        tap = k.quotient(base, channels)
        return tap, k.index(base + number - tap * channels)
    tap, channel = k.coordinates(base + number, (taps, channels))
    return tap, channel


@dataclass(frozen=True, slots=True)
class Factors:
    """Weights or a matrix: element (outer, tap, channel) lies at outer * step + tap * tap_step +
    channel * channel_step, `item` further for each item. With `padded` depths past the end are
    there, and 0.
    """

    count: int
    channels: int
    step: int
    channel_step: int
    taps: int = 1
    tap_step: int = 0
    item: int = 0
    padded: bool = False

    @staticmethod
    def rows(matrix: Matrix) -> Factors:
        """A matrix whose rows are the outer numbers and whose columns are the depths."""
        return Factors(matrix.rows, matrix.columns, matrix.row, matrix.column, item=matrix.step)

    @property
    def depth(self) -> int:
        return self.taps * self.channels

    @property
    def along_depth(self) -> bool:
        return abs(self.step) > abs(self.channel_step)

    def outer(self, k: Printer, item: Index, number: Index, tile: int) -> Index:
        return k.index(item * self.item + _last(k, number, self.count, tile) * self.step)

    def inner(self, k: Printer, base: Index, number: Index, step: int) -> Depth:
        inside = () if self.padded else _exists(k, base + number, self.depth, step)
        if self.taps == 1 or self.tap_step == self.channel_step * self.channels:
            return Depth((Index(), k.index(base + number)), inside)
        return Depth(_by_tap(k, base, number, (self.taps, self.channels), step), inside)

    def element(self, k: Printer, outer: Index, inner: Depth) -> Element:
        tap, channel = inner.parts
        return Element(outer + tap * self.tap_step + channel * self.channel_step, inner.inside)


class _Pixel(NamedTuple):
    start: Index
    row: Index
    column: Index


@dataclass(frozen=True, slots=True)
class Pixels:
    """A picture, an outer number an output pixel of a batch, a depth a tap and a channel.

    With `back` it is the other way round, as the gradient needs it: outer numbers are the pixels
    of x, and what is read are the outputs (`array`) whose windows meet that pixel with a tap.
    """

    array: Array  # channels of one group
    window: Window
    extent: tuple[int, int]  # of the pixels that are outer numbers
    back: bool = False

    along_depth = False

    @property
    def count(self) -> int:
        return self.array.batch * self.extent[0] * self.extent[1]

    @property
    def depth(self) -> int:
        return self.window.size[0] * self.window.size[1] * self.array.channels

    @property
    def _flat(self) -> bool:
        """Outer numbers of an image are its elements in order."""
        same = self.extent == (self.array.height, self.array.width)
        return self.window.pointwise and same and self.array.flat

    def outer(self, k: Printer, item: Index, number: Index, tile: int) -> _Pixel:
        array, (height, width) = self.array, self.extent
        number = _last(k, number, self.count, tile)
        group = item * (array.channels * array.block) + array.offset
        if self._flat:
            image, pixel = k.coordinates(number, (array.batch, height * width))
            return _Pixel(k.index(image * array.image + pixel * array.column + group), pixel, pixel)
        image, row, column = k.coordinates(number, (array.batch, height, width))
        (down, across), (top, left) = self.window.stride, self.window.pad
        if self.back:
            row, column = row + top, column + left
        else:
            row, column = row * down - top, column * across - left
        return _Pixel(k.index(image * array.image + group), k.index(row), k.index(column))

    def inner(self, k: Printer, base: Index, number: Index, step: int) -> Depth:
        size = self.window.size
        inside = _exists(k, base + number, self.depth, step)
        tap, channel = _by_tap(k, base, number, (size[0] * size[1], self.array.channels), step)
        down, across = k.coordinates(tap, size)
        return Depth((down, across, channel), inside)

    def element(self, k: Printer, outer: _Pixel, inner: Depth) -> Element:
        down, across, channel = inner.parts
        start = outer.start + channel * self.array.block
        if self._flat:
            return Element(start, inner.inside)
        at, inside = start, inner.inside
        steps = (self.array.row, self.array.column)
        taps, places = (down, across), (outer.row, outer.column)
        for axis in (0, 1):
            position, known = self._along(k, axis, places[axis], taps[axis])
            at, inside = at + position * steps[axis], inside + known
        return Element(at, inside)

    def _along(
        self, k: Printer, axis: int, place: Index, tap: Index
    ) -> tuple[Index, tuple[Condition, ...]]:
        """The position along an axis, and the conditions for it to be in the picture."""
        window, extent = self.window, (self.array.height, self.array.width)[axis]
        reach, stride = (window.size[axis] - 1) * window.dilation[axis], window.stride[axis]
        if not self.back:
            last = (self.extent[axis] - 1) * stride - window.pad[axis] + reach
            position = k.index(place + tap * window.dilation[axis])
            if window.pad[axis] == 0 and last < extent:
                return position, ()
            return position, (k.within(position, 0, extent),)
        position = k.index(place - tap * window.dilation[axis])
        if stride == 1:
            if window.pad[axis] >= reach and self.extent[axis] + window.pad[axis] <= extent:
                return position, ()
            return position, (k.within(position, 0, extent),)
        whole = k.index_compare("eq", k.remainder(position, stride), 0)
        window_number = k.quotient(position, stride)
        # a position below 0 is refused by itself: division rounds towards 0
        positive = k.index_compare("ge", position, 0)
        return window_number, (positive, whole, k.index_compare("lt", window_number, extent))


class _Tap(NamedTuple):
    start: Index
    row: Index
    column: Index


@dataclass(frozen=True, slots=True)
class Windows:
    """A picture again, an outer number a channel and a tap, a depth an output pixel of a batch:
    what the gradient of weights adds up. With a window of one pixel, it is the gradient itself.
    """

    array: Array  # channels of one group
    window: Window
    extent: tuple[int, int]  # of the outputs

    along_depth = True

    @property
    def count(self) -> int:
        return self.array.channels * self.window.size[0] * self.window.size[1]

    @property
    def depth(self) -> int:
        return self.array.batch * self.extent[0] * self.extent[1]

    def outer(self, k: Printer, item: Index, number: Index, tile: int) -> _Tap:
        array, window = self.array, self.window
        number = _last(k, number, self.count, tile)
        channel, down, across = k.coordinates(number, (array.channels, *window.size))
        row = down * window.dilation[0] - window.pad[0]
        column = across * window.dilation[1] - window.pad[1]
        start = item * (array.channels * array.block) + channel * array.block + array.offset
        return _Tap(k.index(start), k.index(row), k.index(column))

    def inner(self, k: Printer, base: Index, number: Index, step: int) -> Depth:
        place = k.coordinates(k.index(base + number), (self.array.batch, *self.extent))
        return Depth(place, _exists(k, base + number, self.depth, step))

    def element(self, k: Printer, outer: _Tap, inner: Depth) -> Element:
        image, row, column = inner.parts
        array, stride = self.array, self.window.stride
        row = k.index(row * stride[0] + outer.row)
        column = k.index(column * stride[1] + outer.column)
        at = outer.start + image * array.image + row * array.row + column * array.column
        return Element(at, inner.inside + self._known(k, row, column))

    def _known(self, k: Printer, row: Index, column: Index) -> tuple[Condition, ...]:
        found = []
        extents = (self.array.height, self.array.width)
        for axis, position in enumerate((row, column)):
            window = self.window
            last = (self.extent[axis] - 1) * window.stride[axis] - window.pad[axis]
            last += (window.size[axis] - 1) * window.dilation[axis]
            if window.pad[axis] or last >= extents[axis]:
                found.append(k.within(position, 0, extents[axis]))
        return tuple(found)


Operand = Factors | Pixels | Windows
