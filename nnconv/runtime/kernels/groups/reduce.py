"""Reductions, softmax and sums of squares on graphics cards: a group a row, or beside each other.

Where what is kept lies side by side, neighbours keep neighbouring elements and few work-items share
a sum; else a whole group does. Sums of very many elements are cut into parts, by their shape alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from nnconv.runtime.kernels.functions import Activation, exp, log
from nnconv.runtime.kernels.groups.vector import ROUNDS, InGroups, fold, is_first, join, stride_over
from nnconv.runtime.kernels.language import (
    Argument,
    Index,
    Printer,
    Value,
)
from nnconv.runtime.kernels.squares import OverPieces


@dataclass(frozen=True, slots=True)
class Box:
    """Some axes of an array: how long they are, and the elements from one place to the next."""

    extents: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.extents)

    @property
    def contiguous(self) -> bool:
        return bool(self.steps) and self.steps[-1] == 1

    @property
    def joined(self) -> Box:
        """The same elements with as few axes as possible."""
        axes: list[tuple[int, int]] = []
        for extent, step in zip(self.extents, self.steps, strict=True):
            if extent == 1:
                continue
            if axes and axes[-1][1] == step * extent:
                axes[-1] = (axes[-1][0] * extent, step)
            else:
                axes.append((extent, step))
        return Box(tuple(n for n, _ in axes), tuple(step for _, step in axes))

    def at(self, k: Printer, number: Index) -> Index:
        found = Index()
        for place, step in zip(k.coordinates(number, self.extents), self.steps, strict=True):
            found = found + place * step
        return found


@dataclass(frozen=True)
class GroupReduce(InGroups):
    """y[kept, part] = after(all of before(x) in that part joined); x lies at kept + reduced.

    A group is `down` work-items a sum, for `across` sums side by side.
    """

    family: ClassVar[str] = "group_reduce"

    kept: Box
    reduced: Box
    join: str
    before: Activation
    after: Activation
    down: int
    across: int
    parts: int = 1

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.parts, -(-self.kept.count // self.across))

    @property
    def local(self) -> tuple[int, ...]:
        return (self.down, self.across)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("y", written=True))

    @property
    def bytes(self) -> int:
        return 4 * self.kept.count * self.reduced.count

    def describe(self, k: Printer) -> None:
        part, group = k.ids
        _, beside = k.local_ids
        number = k.index(group * self.across + beside)
        start = self.kept.at(k, k.smaller(number, self.kept.count - 1))
        length = -(-self.reduced.count // self.parts)
        first = k.index(part * length)
        below = None
        if self.reduced.count % self.parts:
            below = k.smaller(first * -1 + self.reduced.count, length)
        start = k.index(start)

        def element(at: Index) -> Value:
            place = self.reduced.at(k, k.index(first + at))
            return self.before(k, k.scalar("x", start + place))

        total = fold(k, self.join, length, element, "sums", below)
        mine = is_first(k)
        with k.when(k.both(mine, k.index_compare("lt", number, self.kept.count))):
            k.store("y", number * self.parts + part, self.after(k, total))


@dataclass(frozen=True)
class GroupSoftmax(InGroups):
    """y = e^(x - max) / sum of them, for rows of contiguous elements; its logarithm with
    `logarithm`. Arguments: x, y.
    """

    family: ClassVar[str] = "group_softmax"

    rows: int
    length: int
    width: int
    logarithm: bool = False

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.rows,)

    @property
    def local(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x", aliased=True), Argument("y", written=True, aliased=True))

    @property
    def bytes(self) -> int:
        return 8 * self.rows * self.length

    def describe(self, k: Printer) -> None:
        start = k.index(k.ids[0] * self.length)
        largest, total = peak_and_total(k, "x", start, self.length)
        shift = largest + log(k, total) if self.logarithm else largest
        factor = 1.0 / total

        def write(_: int, at: Index) -> None:
            value = k.scalar("x", start + at) - shift
            result = value if self.logarithm else exp(k, value) * factor
            k.store("y", start + at, result)

        stride_over(k, self.length, write)


def peak_and_total(k: Printer, name: str, start: Index, length: int) -> tuple[Value, Value]:
    """The largest of a row, and the sum of e^(element - largest), for all work-items of a group."""
    largest = fold(k, "max", length, lambda at: k.scalar(name, start + at), "sums")

    def power(at: Index) -> Value:
        return exp(k, k.scalar(name, start + at) - largest)

    return largest, fold(k, "add", length, power, "sums")


@dataclass(frozen=True)
class GroupSquares(InGroups, OverPieces):
    """y[piece] = the sum of the squares in that piece."""

    family: ClassVar[str] = "group_squares"

    @property
    def local(self) -> tuple[int, ...]:
        return (self.width,)

    def describe(self, k: Printer) -> None:
        """Which array a piece is of is one branch for the whole group; the sum comes after it."""
        (piece,) = k.ids
        total = k.register(k.constant(0.0), "total")
        first = 0
        for number, (length, pieces) in enumerate(zip(self.lengths, self.pieces, strict=True)):
            with k.when(k.within(piece, first, first + pieces)):
                start = k.index((piece - first) * self.piece)
                total.value = self._squares(k, f"x{number}", start, length)
            first += pieces
        whole = join(k, "add", [total.value], "sums")[0]
        with k.when(is_first(k)):
            k.store("y", piece, whole)

    def _squares(self, k: Printer, name: str, start: Index, length: int) -> Value:
        sums = [k.register(k.constant(0.0), "part") for _ in range(ROUNDS)]

        def add(which: int, at: Index) -> None:
            x = k.scalar(name, start + at)
            sums[which].value = k.fma(x, x, sums[which].value)

        count = min(self.piece, length)
        uneven = length > self.piece and length % self.piece
        stride_over(k, count, add, k.index(start * -1 + length) if uneven else None)
        return k.sum([each.value for each in sums])


@dataclass(frozen=True)
class GroupTotal(InGroups):
    """y = the sum of all elements of x0, x1, ..., `lengths` elements each, over `divisor` where
    there is one. Arguments: x0, x1, ..., [divisor], y.
    """

    family: ClassVar[str] = "group_total"

    lengths: tuple[int, ...]
    width: int
    divided: bool = False

    @property
    def grid(self) -> tuple[int, ...]:
        return (1,)

    @property
    def local(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        named = [Argument(f"x{i}") for i in range(len(self.lengths))]
        named += [Argument("divisor")] if self.divided else []
        return (*named, Argument("y", written=True))

    def describe(self, k: Printer) -> None:
        sums = [k.register(k.constant(0.0), "part") for _ in range(ROUNDS)]

        def add(name: str, which: int, at: Index) -> None:
            sums[which].value = sums[which].value + k.scalar(name, at)

        for number, length in enumerate(self.lengths):
            stride_over(k, length, partial(add, f"x{number}"))
        total = join(k, "add", [k.sum([each.value for each in sums])], "sums")[0]
        with k.when(is_first(k)):
            k.store("y", 0, total / k.scalar("divisor", 0) if self.divided else total)
