"""Softmax over one axis of outer x length x inner elements, and what else goes along one axis.

Lanes run along whichever of length and inner is contiguous. Sums are kept in several partial sums
that are joined in a fixed order, so results depend on the shape alone. (Reductions: fold.py.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.fold import PARTIALS, positions
from nnconv.runtime.kernels.functions import exp, log
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer, Value
from nnconv.schemas.errors import InternalError


@dataclass(frozen=True, slots=True)
class Axis:
    """outer x length x inner elements and their strides; the axis to reduce is `length`."""

    outer: int
    length: int
    inner: int
    strides: tuple[int, int, int]
    offset: int = 0

    @staticmethod
    def dense(outer: int, length: int, inner: int = 1) -> Axis:
        return Axis(outer, length, inner, (length * inner, inner, 1))

    def at(self, outer: Index, position: Index | int, inner: Index | int) -> Index:
        a, b, c = self.strides
        return outer * a + Index.of(position) * b + Index.of(inner) * c + self.offset


_NEUTRAL = {"add": 0.0, "max": -math.inf}


@dataclass(frozen=True)
class AlongAxis(Kernel):
    """One item a row (inner 1), or a vector of columns."""

    x: Axis
    y: Axis
    width: int

    def __post_init__(self) -> None:
        along_rows = self.x.inner == 1 and self.x.strides[1] == 1
        if not along_rows and (self.x.strides[2] != 1 or self.y.strides[2] != 1):
            raise InternalError(
                f"{self.family}: neither the axis nor what is inside it is contiguous"
            )

    @property
    def rows(self) -> bool:
        """Lanes run along the axis itself."""
        return self.x.inner == 1 and self.x.strides[1] == 1

    @property
    def lanes(self) -> int:
        return self.width

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.x.outer, 1 if self.rows else -(-self.x.inner // self.width))

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x", aliased=True), Argument("y", written=True, aliased=True))

    @property
    def bytes(self) -> int:
        return 8 * self.x.outer * self.x.length * self.x.inner

    def describe(self, k: Printer) -> None:
        outer, group = k.ids
        if self.rows:
            self._row(k, outer)
            return
        tail, groups = self.x.inner % self.width, self.grid[1]
        if not tail or groups > 1:
            full = k.loop(1) if not tail else k.when(k.index_compare("lt", group, groups - 1))
            with full:
                self._columns(k, outer, group * self.width, 0)
        if tail:
            with k.when(k.index_compare("eq", group, groups - 1)):
                self._columns(k, outer, group * self.width, tail)

    def _row(self, k: Printer, outer: Index) -> None:
        raise NotImplementedError

    def _columns(self, k: Printer, outer: Index, inner: Index, count: int) -> None:
        raise NotImplementedError

    def fold(
        self, k: Printer, join: str, places: Places, value: Callable[[Index, int], Value]
    ) -> Value:
        """All values of `places` joined lane by lane, by partial sums in a fixed order."""
        neutral = _NEUTRAL[join]
        partials = [k.register(k.constant(neutral), "partial") for _ in range(PARTIALS)]
        for number, at, count in places(k):
            here = value(at, count)
            if count:
                inside = k.vector([1.0] * count + [0.0] * (self.width - count)) > 0.0
                here = k.select(inside, here, k.constant(neutral))
            partial = partials[number]
            partial.value = k.combine2(join, partial.value, here)
        a, b, c, d = (partial.value for partial in partials)
        return k.combine2(join, k.combine2(join, a, b), k.combine2(join, c, d))


Places = Callable[[Printer], Iterator[tuple[int, Index, int]]]


def places_along(length: int, step: int) -> Places:
    """(partial, position, count) for a loop over `length` in steps; count 0 is a whole vector."""
    return lambda k: positions(k, length, step)


@dataclass(frozen=True)
class Softmax(AlongAxis):
    """y = e^(x - max) / sum of them along the axis; its logarithm with `logarithm`."""

    family: ClassVar[str] = "softmax"

    logarithm: bool = False

    def _row(self, k: Printer, outer: Index) -> None:
        places = places_along(self.x.length, self.width)
        largest = self.fold(
            k, "max", places, lambda at, n: k.load("x", self.x.at(outer, at, 0), count=n)
        )
        peak = k.splat(k.reduce("max", largest))
        total = self.fold(k, "add", places, self._exponential(k, outer, None, peak))
        self._write(k, outer, None, places, peak, k.splat(k.reduce("add", total)))

    def _columns(self, k: Printer, outer: Index, inner: Index, count: int) -> None:
        places = places_along(self.x.length, 1)
        peak = self.fold(
            k, "max", places, lambda at, _: k.load("x", self.x.at(outer, at, inner), count=count)
        )
        total = self.fold(k, "add", places, self._exponential(k, outer, (inner, count), peak))
        self._write(k, outer, (inner, count), places, peak, total)

    def _exponential(
        self, k: Printer, outer: Index, column: tuple[Index, int] | None, peak: Value
    ) -> Callable[[Index, int], Value]:
        """e^(x - peak) at a position, stored to y on the way unless the logarithm is wanted."""
        inner, fixed = column or (Index(), 0)

        def value(at: Index, count: int) -> Value:
            lanes = fixed or count
            power = exp(k, k.load("x", self.x.at(outer, at, inner), count=lanes) - peak)
            if not self.logarithm:
                k.store("y", self.y.at(outer, at, inner), power, count=lanes)
            return power

        return value

    def _write(
        self,
        k: Printer,
        outer: Index,
        column: tuple[Index, int] | None,
        places: Places,
        peak: Value,
        total: Value,
    ) -> None:
        inner, fixed = column or (Index(), 0)
        shift = peak + log(k, total) if self.logarithm else peak
        factor = 1.0 / total
        for _, at, count in places(k):
            lanes = fixed or count
            place = self.y.at(outer, at, inner)
            if self.logarithm:
                value = k.load("x", self.x.at(outer, at, inner), count=lanes) - shift
            else:
                value = k.load("y", place, count=lanes) * factor
            k.store("y", place, value, count=lanes)
