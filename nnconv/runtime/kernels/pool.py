"""Max, average and global pooling on blocked arrays; windows are clipped at the image, as ONNX
says.

One item is an output row of a block. Columns whose window crosses an edge are bodies of their own,
so no border is needed; rows are clipped by run-time bounds. Caffe's pooling is ceil mode: its last
window may hang over the padded image, which clipping covers too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.axis import Axis, Bounds
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.language import F32, I32, Argument, Index, Kernel, Printer, Value

LOWEST = -3.4028234663852886e38  # -FLT_MAX, what Caffe's maximum starts from
_UNROLLED = 8  # taps of a row that are printed one by one; wider windows get a loop


@dataclass(frozen=True, slots=True)
class Places:
    """How pixels are numbered: row * down + column * across, and `plane` more for each plane
    before theirs; written as a type of the language.
    """

    down: int
    across: int
    plane: int = 0
    kind: str = "f32"

    def number(self, row: Index | int, column: Index | int) -> Index:
        """Within the plane."""
        return Index.of(row) * self.down + Index.of(column) * self.across


@dataclass(frozen=True)
class Pool(Kernel):
    """y = largest or mean element of each window of x, both blocked with equal lanes.

    `average` with `include_pad` divides by the window's extent inside the padded image (`pad_end`
    is the padding at the bottom and right); without it, by the extent inside the image itself. A
    maximum starts from -FLT_MAX, as Caffe's: that is what a window gives that holds nothing but NaN
    and -inf, or lies wholly outside.
    """

    family: ClassVar[str] = "pool"

    x: Array
    y: Array
    window: Window
    average: bool = False
    include_pad: bool = False
    pad_end: tuple[int, int] = (0, 0)

    @property
    def lanes(self) -> int:
        return self.y.lanes

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.y.batch, self.y.blocks, self.y.height)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("y", written=True))

    @property
    def bytes(self) -> int:
        taps = self.window.size[0] * self.window.size[1]
        return self.y.batch * self.y.blocks * self.y.pixels * self.lanes * (taps + 4)

    def describe(self, k: Printer) -> None:
        image, block, row = k.ids
        axis, extents = self.window.axes[0], (self.x.height, self.y.height)
        first = axis.first(row)
        inside = axis.taps(k, first, *extents)
        rows: Value | None = None
        if self.average:
            pad_end = self.pad_end[0] if self.include_pad else None
            rows = mean_cells(k, axis, first, *extents, pad_end)
        for column, taps, counted in self._columns(k):
            corner = self.x.at(
                image, block, first, column * self.window.stride[1] - self.window.pad[1]
            )
            value = self._window(k, corner, inside, taps)
            if rows:
                value = value / k.splat(rows * float(counted))
            k.store("y", self.y.at(image, block, row, column), value)

    def _columns(self, k: Printer) -> Iterator[tuple[Index, range, int]]:
        """(column, taps inside the image, columns the divisor counts): edges singly, the rest
        rolled.
        """
        inner = [c for c in range(self.y.width) if len(self._taps(c)) == self.window.size[1]]
        low, high = (inner[0], inner[-1] + 1) if inner else (self.y.width, self.y.width)
        for edge in range(low):
            yield Index((), edge), self._taps(edge), self._counted(edge)
        if inner:
            with k.loop(high, start=low, name="column") as column:
                yield column, range(self.window.size[1]), self.window.size[1]
        for edge in range(high, self.y.width):
            yield Index((), edge), self._taps(edge), self._counted(edge)

    def _taps(self, column: int) -> range:
        """The taps of a row of the window that lie in the image."""
        step = self.window.dilation[1]
        first = column * self.window.stride[1] - self.window.pad[1]
        start = max(0, -(first // step)) if first < 0 else 0
        stop = min(self.window.size[1], max(0, -(-(self.x.width - first) // step)))
        return range(start, max(start, stop))

    def _counted(self, column: int) -> int:
        if not self.include_pad:
            return len(self._taps(column))
        first = column * self.window.stride[1] - self.window.pad[1]
        room = self.x.width + self.pad_end[1] - first
        return min(self.window.size[1], -(-room // self.window.dilation[1]))

    def _window(self, k: Printer, corner: Index, inside: Bounds, taps: range) -> Value:
        neutral = k.constant(0.0 if self.average else LOWEST)
        total = k.register(neutral, "total")
        step = self.window.dilation[1] * self.x.column
        with k.loop(inside[1], start=inside[0], name="kh") as kh:
            line = corner + kh * (self.window.dilation[0] * self.x.row)
            if len(taps) <= _UNROLLED:
                part = neutral
                for tap in taps:
                    part = self._join(k, part, k.load("x", line + tap * step))
            else:
                row = k.register(neutral, "row")
                with k.loop(taps.stop, start=taps.start, name="kw") as kw:
                    row.value = self._join(k, row.value, k.load("x", line + kw * step))
                part = row.value
            total.value = self._join(k, total.value, part)
        return total.value

    def _join(self, k: Printer, total: Value, value: Value) -> Value:
        # a NaN is passed over, as in Caffe: it is larger than nothing
        return total + value if self.average else k.max(value, total)


def window_cells(
    k: Printer, window: Window, x: Array, y: Array, position: tuple[Index, Index]
) -> Iterator[tuple[Index, Index]]:
    """Row and column of each cell of x in the window at a position of y, in rolled loops."""
    down, across = window.axes
    top, edge = (k.index(axis.first(at)) for axis, at in zip(window.axes, position, strict=True))
    low, high = down.taps(k, top, x.height, y.height)
    left, right = across.taps(k, edge, x.width, y.width)
    with k.loop(high, start=low, name="kh") as kh, k.loop(right, start=left, name="kw") as kw:
        yield top + kh * down.dilation, edge + kw * across.dilation


def mean_cells(
    k: Printer, axis: Axis, first: Index, extent: int, count: int, pad_end: int | None
) -> Value:
    """How many taps of a window along an axis a mean divides by, arguments as `Axis.taps` has them:
    those inside the image, or with `pad_end`, the padding at the end, inside the padded one.
    """
    if pad_end is None:
        start, stop = axis.taps(k, first, extent, count)
    else:  # ONNX counts padding, but not what hangs over it in ceil mode
        # and Caffe's windows may begin behind the padding: less than nothing is divided by then
        room = first * -1 + (extent + pad_end + axis.dilation - 1)
        start, stop = 0, k.smaller(k.quotient(room, axis.dilation), axis.size)
    return k.cast(k.index_value(Index.of(stop) - start, I32), F32)


def global_pool(x: Array, y: Array, average: bool) -> Pool:
    """One window over the whole image."""
    return Pool(x, y, Window((x.height, x.width), (1, 1)), average)
