"""Views: where the elements of an array lie, and how cutting, turning and repeating changes that.

Pure arithmetic on a shape and strides, as numpy does for its own arrays: what an operator moves is
said in these words once, for plain arrays and for the other forms (moves.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nnconv.runtime.kernels.elementwise import Strided, space
from nnconv.runtime.lowering.layout import Place


@dataclass(frozen=True, slots=True)
class View:
    """Elements by their coordinates; strides and the place of the first one count elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @staticmethod
    def dense(shape: Sequence[int]) -> View:
        """Row-major, without gaps.

        >>> View.dense((2, 3, 4)).cut(1, 2, 1).ordered((2, 0, 1))
        View(shape=(4, 2, 1), strides=(1, 12, 4), offset=8)
        """
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        return View(tuple(shape), tuple(strides))

    def cut(self, axis: int, start: int, count: int, step: int = 1) -> View:
        """`count` elements along an axis, every `step`-th (backwards where negative; 0 repeats)."""
        stride = self.strides[axis]
        cut = self._replaced(axis, (count,), (stride * step,))
        return replace(cut, offset=self.offset + start * stride)

    def split(self, axis: int, *sizes: int) -> View:
        """An axis as several, the last of them running fastest."""
        steps = (self.strides[axis] * math.prod(sizes[i + 1 :]) for i in range(len(sizes)))
        return self._replaced(axis, sizes, tuple(steps))

    def inserted(self, axis: int, size: int = 1) -> View:
        """A new axis along which the elements repeat."""
        shape, strides = self.shape, self.strides
        return replace(
            self,
            shape=(*shape[:axis], size, *shape[axis:]),
            strides=(*strides[:axis], 0, *strides[axis:]),
        )

    def joined(self, axis: int, count: int) -> View:
        """`count` axes from one on as a single one; they must follow one another without gaps."""
        size = math.prod(self.shape[axis : axis + count])
        stride = self.strides[axis + count - 1]
        end = axis + count
        return replace(
            self,
            shape=(*self.shape[:axis], size, *self.shape[end:]),
            strides=(*self.strides[:axis], stride, *self.strides[end:]),
        )

    def ordered(self, order: Sequence[int]) -> View:
        """The axes in another order; those behind the ones named keep their places."""
        whole = (*order, *range(len(order), len(self.shape)))
        return replace(
            self,
            shape=tuple(self.shape[d] for d in whole),
            strides=tuple(self.strides[d] for d in whole),
        )

    def _replaced(self, axis: int, sizes: Sequence[int], strides: Sequence[int]) -> View:
        return replace(
            self,
            shape=(*self.shape[:axis], *sizes, *self.shape[axis + 1 :]),
            strides=(*self.strides[:axis], *strides, *self.strides[axis + 1 :]),
        )

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def unbroken(self) -> bool:
        """The elements follow one another in memory."""
        if self.elements <= 1:
            return True
        _, (operand,) = space(self.shape, [Strided(self.strides)])
        return operand.strides == (1,)


def forward(x: View, y: View) -> tuple[View, View]:
    """The same pairs of elements, with y never running backwards."""
    for axis, (size, step) in enumerate(zip(y.shape, y.strides, strict=True)):
        if step < 0:
            x, y = (view.cut(axis, size - 1, size, -1) for view in (x, y))
    return x, y


def around(y: View, cuts: Sequence[tuple[int, int, int]]) -> Iterator[View]:
    """What a box, given as (axis, start, count), leaves of a view: disjoint slabs before and
    behind it.
    """
    for axis, start, count in cuts:
        end = start + count
        for first, size in ((0, start), (end, y.shape[axis] - end)):
            if size:
                yield y.cut(axis, first, size)
        y = y.cut(axis, start, count)


def view_of(place: Place, sizes: Sequence[int]) -> View:
    """A value where it lies, in elements from its own start, over its axes; blocked or with samples
    side by side its lanes are one axis more, and the axis they belong to counts blocks or groups.
    """
    array, rank = place.array, len(sizes)
    steps = (array.image, array.block, array.row, array.column)
    if array.lanes == 1:
        return View.dense(sizes) if place.dense else View(tuple(sizes), steps[:rank])
    blocks = array.channels // array.lanes if place.samples else array.blocks
    extents = (array.batch, blocks, array.height, array.width)
    axes = {2: (0, 1), 3: (0, 1, 3)}.get(rank, (0, 1, 2, 3))
    shape, strides = ([given[axis] for axis in axes] for given in (extents, steps))
    return View((*shape, array.lanes), (*strides, 1))
