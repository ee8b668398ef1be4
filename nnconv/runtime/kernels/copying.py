"""Strided copies: slices, joins, transposes, repetitions of arrays whose elements stay as they are.

A copy is a shape with two sets of strides. `copy` brings it to the simplest equal one and finds the
way that suits it: in vectors along a line that both sides have in common, or, where each has its
own, in tiles whose rows and columns are exchanged in registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.elementwise import (
    Chain,
    Strided,
    chain,
    gather_lanes,
    load_strided,
    space,
    store_strided,
)
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer, Value
from nnconv.schemas.errors import InternalError

_ITEM_ELEMENTS = 4096  # of one grid item: some microseconds of work
_TILE = 64  # rows and columns of an item that is transposed: it stays in the nearest cache
_UNROLLED = 4  # vectors of a line in one turn of its loop

Place = list[Index]


def transpose(k: Printer, rows: Sequence[Value]) -> list[Value]:
    """A square of vectors with lanes and rows exchanged, in log2(lanes) rounds of shuffles."""
    lanes, square = len(rows), list(rows)
    distance = 1
    while distance < lanes:
        low = [i if not i & distance else lanes + (i ^ distance) for i in range(lanes)]
        high = [i | distance if not i & distance else lanes + i for i in range(lanes)]
        following = list(square)
        for a in range(lanes):
            if not a & distance:
                b = a | distance
                following[a] = k.shuffle(square[a], square[b], low)
                following[b] = k.shuffle(square[a], square[b], high)
        square, distance = following, distance * 2
    return square


@dataclass(frozen=True)
class Copy(Kernel):
    """y = x over `shape`, by one of four ways.

    line: in vectors along the last dimension, whatever the strides. The others exchange the last
    two dimensions, x lying densely along the first of them and y along the second: square, in
    squares of vectors; join, a few rows of x side by side in y (its pixels follow one another);
    part, the inverse of join.
    """

    family: ClassVar[str] = "copy"

    shape: tuple[int, ...]
    x: Strided
    y: Strided
    width: int  # lanes of a vector
    way: str = "line"

    def __post_init__(self) -> None:
        if not len(self.shape) == len(self.x.strides) == len(self.y.strides):
            raise InternalError("copy: operands and shape do not belong together")
        if any(step <= 0 < n - 1 for n, step in zip(self.shape, self.y.strides, strict=True)):
            raise InternalError("copy: the target must be written forward, each element once")

    @property
    def lanes(self) -> int:
        return self.width

    @property
    def _inner(self) -> int:
        return 1 if self.way == "line" else 2

    @property
    def spans(self) -> tuple[int, ...]:
        """Elements of each dimension in an item, of the inner ones whole vectors unless all."""
        whole = _ITEM_ELEMENTS // self.width * self.width
        if self.way == "line":
            found = [min(self.shape[-1], whole)]
        else:
            found = self._tile(*self.shape[-2:])
        left = max(1, _ITEM_ELEMENTS // math.prod(found))
        for extent in reversed(self.shape[: -self._inner]):
            found.insert(0, min(extent, left))
            left //= found[0]
            left = max(1, left)
        return tuple(found)

    def _tile(self, rows: int, columns: int) -> list[int]:
        if self.way == "square":
            return [min(rows, _TILE), min(columns, _TILE)]
        few = columns if self.way == "join" else rows
        many = max(self.width, _ITEM_ELEMENTS // few // self.width * self.width)
        return [min(rows, many), few] if self.way == "join" else [few, min(columns, many)]

    @property
    def grid(self) -> tuple[int, ...]:
        pieces = (-(-n // span) for n, span in zip(self.shape, self.spans, strict=True))
        return tuple(n for n in pieces if n > 1) or (1,)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("y", written=True))

    @property
    def bytes(self) -> int:
        return 8 * math.prod(self.shape)

    def describe(self, k: Printer) -> None:
        given = iter(k.ids)
        numbers = [
            next(given) if span < n else Index()
            for n, span in zip(self.shape, self.spans, strict=True)
        ]
        with ExitStack() as loops:
            place = [
                loops.enter_context(self._loop(k, d, number))
                for d, number in enumerate(numbers[: -self._inner])
            ]
            _WAYS[self.way](self, k, place, numbers)

    def _loop(self, k: Printer, d: int, number: Index) -> AbstractContextManager[Index]:
        extent, span = self.shape[d], self.spans[d]
        start = number * span
        stop: Index | int = start + span
        if extent % span:
            stop = k.smaller(start + span, extent)
        return k.loop(stop, start=start, name="at")

    def _cover(
        self, k: Printer, d: int, numbers: Sequence[Index], step: int
    ) -> Iterator[tuple[Index, int]]:
        """Where an item's steps along a dimension start and how long they are: whole ones, and in
        the last item what is left.
        """
        extent, span, number = self.shape[d], self.spans[d], numbers[d]
        full, rest = divmod(extent, step)
        several = span < extent
        if full:
            start = number * (span // step) if several else Index()
            stop = k.smaller(start + span // step, full) if several else Index((), full)
            with k.loop(stop, start=start, name="step") as turn:
                yield turn * step, step
        if rest:
            last = -(-extent // span) - 1
            with k.when(k.index_compare("eq", number, last)) if several else nullcontext():
                yield Index((), full * step), rest

    def _line(self, k: Printer, place: Place, numbers: Sequence[Index]) -> None:
        along = self.x.strides[-1], self.y.strides[-1]
        long = self.spans[-1] >= _UNROLLED * self.width and set(along) <= {0, 1}
        step = self.width * (_UNROLLED if long else 1)
        for start, length in self._cover(k, -1, numbers, step):
            for at in range(0, length, self.width):
                here, count = [*place, start + at], min(self.width, length - at)
                value = load_strided(k, "x", self.x.at(here), along[0], count)
                store_strided(k, "y", self.y.at(here), along[1], value, count)

    def _square(self, k: Printer, place: Place, numbers: Sequence[Index]) -> None:
        zero = k.constant(0)
        for row, rows in self._cover(k, -2, numbers, self.width):
            for column, columns in self._cover(k, -1, numbers, self.width):
                lines = [
                    k.load("x", self.x.at([*place, row, column + i]), count=rows)
                    if i < columns
                    else zero
                    for i in range(self.width)
                ]
                for i, value in enumerate(transpose(k, lines)[:rows]):
                    k.store("y", self.y.at([*place, row + i, column]), value, count=columns)

    def _join(self, k: Printer, place: Place, numbers: Sequence[Index]) -> None:
        few = self.shape[-1]
        for row, rows in self._cover(k, -2, numbers, self.width):
            lines = [k.load("x", self.x.at([*place, row, i]), count=rows) for i in range(few)]
            for at in range(0, rows * few, self.width):
                elements = (min(at + i, rows * few - 1) for i in range(self.width))
                made = gather_lanes(k, lines, [(e % few, e // few) for e in elements])
                count = min(self.width, rows * few - at)
                k.store("y", self.y.at([*place, row, 0]) + at, made, count=count)

    def _part(self, k: Printer, place: Place, numbers: Sequence[Index]) -> None:
        few = self.shape[-2]
        for column, columns in self._cover(k, -1, numbers, self.width):
            start, total = self.x.at([*place, 0, column]), few * columns
            lines = [
                k.load("x", start + at, count=min(self.width, total - at))
                for at in range(0, total, self.width)
            ]
            for row in range(few):
                elements = (min(i, columns - 1) * few + row for i in range(self.width))
                made = gather_lanes(k, lines, [divmod(e, self.width) for e in elements])
                k.store("y", self.y.at([*place, row, column]), made, count=columns)


_WAYS: dict[str, Callable[[Copy, Printer, Place, Sequence[Index]], None]] = {
    "line": Copy._line,
    "square": Copy._square,
    "join": Copy._join,
    "part": Copy._part,
}


def copy(shape: Sequence[int], x: Strided, y: Strided, lanes: int) -> Copy | Chain:
    """y = x over `shape` with any strides of x, 0 and negative ones included: transposes, slices,
    repetitions, concatenation of plain arrays. y is written forward. Without vectors, as on
    graphics cards, neighbours do neighbouring elements.
    """
    if not shape:  # a scalar is a line of one element
        shape, x, y = (1,), Strided((1,), x.offset), Strided((1,), y.offset)
    if lanes == 1:
        return chain(shape, [x], [y], [], [0], lanes)
    order = sorted(range(len(shape)), key=lambda d: -y.strides[d])
    extents, operands = space([shape[d] for d in order], [_ordered(o, order) for o in (x, y)])
    x, y = operands
    line = next((d for d, step in enumerate(x.strides[:-1]) if step == 1), None)
    if line is None or x.strides[-1] == 1 or y.strides[-1] != 1:
        return Copy(extents, x, y, lanes)
    last = len(extents) - 1
    others = [d for d in range(last) if d != line]
    rows, columns = extents[line], extents[last]
    way, inner = "square", [line, last]
    if 1 < columns <= lanes // 2 and y.strides[line] == columns:
        way = "join"
    elif 1 < rows <= lanes // 2 and x.strides[last] == rows:
        way = "part"
    elif min(rows, columns) < lanes // 4:
        way, inner = "line", [last, line] if rows > columns else [line, last]
    order = [*others, *inner]
    return Copy(
        tuple(extents[d] for d in order), _ordered(x, order), _ordered(y, order), lanes, way
    )


def _ordered(operand: Strided, order: Sequence[int]) -> Strided:
    return Strided(tuple(operand.strides[d] for d in order), operand.offset)
