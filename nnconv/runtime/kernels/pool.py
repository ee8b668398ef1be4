"""Max, average and global pooling on blocked arrays; windows are clipped at the image, as ONNX
says.

One item is an output row of a block. Columns whose window crosses an edge are bodies of their own,
so no border is needed; rows are clipped by run-time bounds. Caffe's pooling is ceil mode: its last
window may hang over the padded image, which clipping covers too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.language import F32, I32, Argument, Index, Kernel, Printer, Value

_UNROLLED = 8  # taps of a row that are printed one by one; wider windows get a loop


@dataclass(frozen=True)
class Pool(Kernel):
    """y = largest or mean element of each window of x, both blocked with equal lanes.

    `average` with `include_pad` divides by the window's extent inside the padded image (`pad_end`
    is
    the padding at the bottom and right); without it, by the extent inside the image itself.
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
        first = row * self.window.stride[0] - self.window.pad[0]
        start, stop = self._clipped_rows(k, first)
        rows = self._counted_rows(k, first, start, stop) if self.average else None
        for column, taps, counted in self._columns(k):
            corner = self.x.at(
                image, block, first, column * self.window.stride[1] - self.window.pad[1]
            )
            value = self._window(k, corner, start, stop, taps)
            if rows:
                value = value / k.splat(rows * float(counted))
            k.store("y", self.y.at(image, block, row, column), value)

    def _clipped_rows(self, k: Printer, first: Index) -> tuple[Index | int, Index | int]:
        """The taps [start, stop) of a window at row `first` that lie in the image."""
        size, dilation = self.window.size[0], self.window.dilation[0]
        if not self.window.pad[0] and self._fits_rows:
            return 0, size
        start = k.quotient(k.larger(first * -1 + (dilation - 1), 0), dilation)
        stop = k.quotient(k.larger(first * -1 + (self.x.height + dilation - 1), 0), dilation)
        return start, k.smaller(stop, size)

    @property
    def _fits_rows(self) -> bool:
        last = (self.y.height - 1) * self.window.stride[0] - self.window.pad[0]
        return last + (self.window.size[0] - 1) * self.window.dilation[0] < self.x.height

    def _counted_rows(
        self, k: Printer, first: Index, start: Index | int, stop: Index | int
    ) -> Value:
        """How many rows the divisor counts, as a number."""
        if self.include_pad:
            # ONNX counts padding, but not what hangs over it in ceil mode.
            end = self.x.height + self.pad_end[0] + self.window.dilation[0] - 1
            stop = k.smaller(
                k.quotient(first * -1 + end, self.window.dilation[0]), self.window.size[0]
            )
            start = 0
        count = Index.of(stop) - Index.of(start)
        return k.cast(k.index_value(count, I32), F32)

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

    def _window(
        self, k: Printer, corner: Index, start: Index | int, stop: Index | int, taps: range
    ) -> Value:
        neutral = k.constant(0.0 if self.average else -math.inf)
        total = k.register(neutral, "total")
        step = self.window.dilation[1] * self.x.column
        with k.loop(stop, start=start, name="kh") as kh:
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


def global_pool(x: Array, y: Array, average: bool) -> Pool:
    """One window over the whole image."""
    return Pool(x, y, Window((x.height, x.width), (1, 1)), average)
