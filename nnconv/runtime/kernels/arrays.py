"""How values lie in memory, as kernels see them: `Array` for images, `Matrix` for everything flat.

Both describe a window on a buffer, in elements: where it starts and how far apart neighbours are.
So a slice of a concatenation, a value with a border for its padded reader, and a dense array are
the same thing to a kernel, and cost the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnconv.runtime.kernels.language import Index
from nnconv.schemas.errors import InternalError


@dataclass(frozen=True, slots=True)
class Border:
    """Pixels around an image that belong to its buffer and may be read."""

    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0

    def covers(self, other: Border) -> bool:
        return (
            self.top >= other.top
            and self.left >= other.left
            and self.bottom >= other.bottom
            and self.right >= other.right
        )

    def union(self, other: Border) -> Border:
        """The least border that serves both."""
        return Border(
            max(self.top, other.top),
            max(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def __bool__(self) -> bool:
        return bool(self.top or self.left or self.bottom or self.right)


@dataclass(frozen=True, slots=True)
class Array:
    """batch x channels x height x width f32 elements, `lanes` channels side by side.

    lanes 1 is plain NCHW; lanes L is nChwLc: channel c of a pixel is lane c % L of block c // L.
    `offset` is the element of image 0, block 0, pixel (0, 0), lane 0; the border lies before it.
    Strides count elements. The lanes past the last channel exist and hold anything: nobody reads
    them.
    """

    batch: int
    channels: int
    height: int
    width: int
    lanes: int
    offset: int
    image: int
    block: int
    row: int
    column: int
    border: Border = Border()

    @staticmethod
    def dense(
        batch: int,
        channels: int,
        height: int,
        width: int,
        lanes: int = 1,
        border: Border | None = None,
    ) -> Array:
        """An array that fills its buffer (of `size` elements), border included."""
        edge = border or Border()
        row = (width + edge.left + edge.right) * lanes
        block = (height + edge.top + edge.bottom) * row
        blocks = -(-channels // lanes)
        offset = edge.top * row + edge.left * lanes
        return Array(
            batch, channels, height, width, lanes, offset, blocks * block, block, row, lanes, edge
        )

    @property
    def blocks(self) -> int:
        return -(-self.channels // self.lanes)

    @property
    def tail(self) -> int:
        """Channels in the last block."""
        return self.channels - (self.blocks - 1) * self.lanes

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def flat(self) -> bool:
        """All pixels of a block follow one another, so rows may be joined."""
        return self.height == 1 or self.row == self.width * self.column

    @property
    def size(self) -> int:
        """Elements from the start of the buffer to the last one that may be touched."""
        last = (self.batch - 1) * self.image + (self.blocks - 1) * self.block
        last += (self.height + self.border.bottom - 1) * self.row
        last += (self.width + self.border.right - 1) * self.column + self.lanes - 1
        return self.offset + last + 1

    def flattened(self) -> Array:
        """The same pixels as one row."""
        if not self.flat:
            raise InternalError(f"{self} has gaps between its rows")
        return replace(
            self, height=1, width=self.pixels, row=self.pixels * self.column, border=Border()
        )

    def slice_channels(self, start: int, channels: int) -> Array:
        """A view on some channels; `start` must be a multiple of `lanes`."""
        if start % self.lanes:
            raise InternalError(f"a view cannot start at channel {start} of blocks of {self.lanes}")
        offset = self.offset + start // self.lanes * self.block
        return replace(self, channels=channels, offset=offset)

    def crop(self, top: int, left: int, height: int, width: int) -> Array:
        """A view on some pixels; what lies around them is its border."""
        edge = self.border
        return replace(
            self,
            height=height,
            width=width,
            offset=self.offset + top * self.row + left * self.column,
            border=Border(
                edge.top + top,
                edge.left + left,
                edge.bottom + self.height - top - height,
                edge.right + self.width - left - width,
            ),
        )

    def at(
        self,
        image: Index | int = 0,
        block: Index | int = 0,
        row: Index | int = 0,
        column: Index | int = 0,
    ) -> Index:
        """Address of lane 0 of a pixel, in elements from the start of the buffer."""
        return (
            Index.of(image) * self.image
            + Index.of(block) * self.block
            + Index.of(row) * self.row
            + Index.of(column) * self.column
            + self.offset
        )


@dataclass(frozen=True, slots=True)
class Matrix:
    """batch x rows x columns f32 elements of a buffer, strides in elements."""

    rows: int
    columns: int
    row: int
    column: int = 1
    offset: int = 0
    batch: int = 1
    step: int = 0

    @staticmethod
    def dense(rows: int, columns: int, batch: int = 1) -> Matrix:
        return Matrix(rows, columns, columns, 1, 0, batch, rows * columns)

    @property
    def size(self) -> int:
        last = (self.batch - 1) * self.step + (self.rows - 1) * self.row
        return self.offset + last + (self.columns - 1) * self.column + 1

    @property
    def transposed(self) -> Matrix:
        return replace(self, rows=self.columns, columns=self.rows, row=self.column, column=self.row)

    def at(self, item: Index | int = 0, row: Index | int = 0, column: Index | int = 0) -> Index:
        return (
            Index.of(item) * self.step
            + Index.of(row) * self.row
            + Index.of(column) * self.column
            + self.offset
        )


def aligned(elements: int, dtype: Any = np.float32, fill: float | None = None) -> np.ndarray:
    """A one-dimensional array that starts on a 64-byte boundary; uninitialised without `fill`."""
    item = np.dtype(dtype)
    raw = np.empty(elements * item.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    array: np.ndarray = raw[start : start + elements * item.itemsize].view(item)
    if fill is not None:
        array.fill(fill)
    return array
