"""Where values lie: buffers, windows on them, and the three forms a value may take.

A value is plain (lanes 1: row-major, as numpy has it), blocked (nChw16c, `lanes` channels side by
side), or has its samples side by side, as training wants it (kernels/samples/): then `lanes` is
negative. All are an `Array` on a `Buffer`; so a slice of a concatenation, a picture with a border
and the user's own input differ in numbers only.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nnconv.runtime.kernels.arrays import Array, Border
from nnconv.runtime.kernels.elementwise import Strided
from nnconv.runtime.kernels.samples.lanes import samples_array
from nnconv.schemas.dims import evaluate_shape, names
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Value

Floats = NDArray[np.float32]


class Home(enum.Enum):
    """Where a buffer's memory comes from."""

    ARENA = "arena"  # the plan's own memory, shared by what is not alive at the same time
    HOST = "host"  # a numpy array of the run: an input, a result, what a reference kernel returned
    STORED = "stored"  # packed parameters, shared by all plans


@dataclass(eq=False, slots=True)
class Buffer:
    """A piece of memory, and the jobs from the first that touches it to the last.

    `geometry` marks a buffer whose border is zero from the start and must stay so: it is only
    shared with buffers of the same geometry, which write the same elements.
    """

    home: Home
    size: int  # f32 elements
    geometry: Array | None = None
    slot: int = -1  # of a HOST buffer: its place in the run's list of arrays
    data: Floats | None = None  # of a STORED buffer
    first: int = -1
    last: int = -1
    offset: int = -1  # of an ARENA buffer: its start in the arena, in elements

    def touch(self, job: int) -> None:
        self.first = job if self.first < 0 else self.first
        self.last = max(self.last, job)


@dataclass(frozen=True, slots=True)
class Operand:
    """An address: elements from the start of a buffer."""

    buffer: Buffer
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Form:
    """Blocked (`lanes` above 1), plain (1) or so many samples side by side (below 0); a plain value
    with a border is a form of its own, because most readers of plain values expect them without
    gaps."""

    lanes: int
    bordered: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A value in one of its forms; `samples` is how many there are where lanes are samples."""

    buffer: Buffer
    array: Array
    samples: int = 0

    @property
    def lanes(self) -> int:
        return self.array.lanes

    @property
    def view(self) -> Array:
        """The array as kernels see it: from its own start, so that equal views share kernels."""
        return replace(self.array, offset=0)

    @property
    def operand(self) -> Operand:
        return Operand(self.buffer, self.array.offset)

    def at(self, elements: int) -> Operand:
        """An address counted from the buffer's start."""
        return Operand(self.buffer, elements)

    @property
    def dense(self) -> bool:
        """Pixels, blocks and images follow one another without gaps."""
        array = self.array
        return (
            array.row == array.width * array.column
            and array.column == array.lanes
            and array.block == array.height * array.row
            and (array.batch == 1 or array.image == array.blocks * array.block)
        )


@dataclass(slots=True)
class Wanted:
    """What readers ask of a value in one form."""

    border: Border = field(default_factory=Border)
    readers: int = 0


def extents(value: Value) -> tuple[int, ...] | None:
    """The sizes of a value, None where they are not all numbers."""
    if value.shape is None or any(names(dim) for dim in value.shape):
        return None
    return evaluate_shape(value.shape, {})


def is_float(value: Value | None) -> bool:
    """A float32 value of known, non-zero size: what kernels compute with."""
    if value is None or value.dtype is not DType.FLOAT32:
        return False
    sizes = extents(value)
    return sizes is not None and all(sizes)


def image_sizes(sizes: Sequence[int]) -> tuple[int, int, int, int]:
    """Any shape as batch, channels, height, width; axes past the fourth are joined to the last."""
    if len(sizes) == 1:
        return (1, sizes[0], 1, 1)
    if len(sizes) <= 3:
        batch, channels, width = (*sizes, 1, 1, 1)[:3]
        return (batch, channels, 1, width)
    return (sizes[0], sizes[1], sizes[2], int(np.prod(sizes[3:])))


def dense_array(sizes: Sequence[int], lanes: int, border: Border | None = None) -> Array:
    """The array that fills a buffer of its own, in the form that `lanes` names."""
    if lanes < 0:
        return samples_array(*image_sizes(sizes), -lanes, border)
    return Array.dense(*image_sizes(sizes), lanes, border)


def numpy_view(place: Place, sizes: Sequence[int], memory: Floats) -> Floats:
    """A plain value in `memory` (its buffer's elements) as numpy sees it, without its border."""
    array = place.array
    whole = memory[array.offset :]
    if place.dense:
        return whole[: int(np.prod(sizes, dtype=np.int64))].reshape(sizes)
    shape = (array.batch, array.channels, array.height, array.width)
    steps = tuple(4 * n for n in (array.image, array.block, array.row, array.column))
    return np.lib.stride_tricks.as_strided(whole, shape, steps).reshape(sizes)


def strided_plain(place: Place, sizes: Sequence[int]) -> Strided:
    """A plain value as an operand over all its axes."""
    array = place.array
    if not sizes:
        return Strided((1,))
    if len(sizes) == 4 or not place.dense:
        steps: tuple[int, ...] = (array.image, array.block, array.row, array.column)
        return Strided(steps[: len(sizes)])
    dense = [1] * len(sizes)
    for axis in range(len(sizes) - 2, -1, -1):
        dense[axis] = dense[axis + 1] * sizes[axis + 1]
    return Strided(tuple(dense))


def broadcast(operand: Strided, sizes: Sequence[int], rank: int) -> Strided:
    """The same elements over `rank` axes, axes of size 1 and missing ones repeated."""
    steps = [0 if size == 1 else step for size, step in zip(sizes, operand.strides, strict=True)]
    return Strided((0,) * (rank - len(steps)) + tuple(steps), operand.offset)
