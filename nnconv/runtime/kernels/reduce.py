"""Reductions and softmax over one axis of outer x length x inner elements.

Lanes run along whichever of length and inner is contiguous. Sums are kept in several partial sums
that are joined in a fixed order, so results depend on the shape alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.functions import Activation, exp, log
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer, Value
from nnconv.schemas.errors import InternalError

_PARTIALS = 4  # independent sums: hides the latency of an addition, and rounds less


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


@dataclass(frozen=True)
class Fold:
    """A reduction: unary before, how two are joined, unary after (given the length)."""

    before: Activation
    join: str
    after: Callable[[int], Activation]


def _plain(name: str = "Identity") -> Callable[[int], Activation]:
    return lambda length: Activation(name)


FOLDS: dict[str, Fold] = {
    "ReduceSum": Fold(Activation(), "add", _plain()),
    "ReduceMean": Fold(Activation(), "add", lambda n: Activation("Affine", (1 / n, 0.0))),
    "ReduceMax": Fold(Activation(), "max", _plain()),
    "ReduceMin": Fold(Activation(), "min", _plain()),
    "ReduceProd": Fold(Activation(), "mul", _plain()),
    "ReduceL1": Fold(Activation("Abs"), "add", _plain()),
    "ReduceL2": Fold(Activation("Square"), "add", _plain("Sqrt")),
    "ReduceSumSquare": Fold(Activation("Square"), "add", _plain()),
    "ReduceLogSum": Fold(Activation(), "add", _plain("Log")),
}
_NEUTRAL = {"add": 0.0, "mul": 1.0, "max": -math.inf, "min": math.inf}


@dataclass(frozen=True)
class _AlongAxis(Kernel):
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

    def _fold(
        self, k: Printer, join: str, places: _Places, value: Callable[[Index, int], Value]
    ) -> Value:
        """All values of `places` joined lane by lane, by partial sums in a fixed order."""
        neutral = _NEUTRAL[join]
        partials = [k.register(k.constant(neutral), "partial") for _ in range(_PARTIALS)]
        for number, at, count in places(k):
            here = value(at, count)
            if count:
                inside = k.vector([1.0] * count + [0.0] * (self.width - count)) > 0.0
                here = k.select(inside, here, k.constant(neutral))
            partial = partials[number]
            partial.value = k.combine2(join, partial.value, here)
        a, b, c, d = (partial.value for partial in partials)
        return k.combine2(join, k.combine2(join, a, b), k.combine2(join, c, d))


_Places = Callable[[Printer], Iterator[tuple[int, Index, int]]]


def _positions(length: int, step: int) -> _Places:
    """(partial, position, count) for a loop over `length` in steps; count 0 is a whole vector."""

    def walk(k: Printer) -> Iterator[tuple[int, Index, int]]:
        full, rest = divmod(length, step)
        turns, left = divmod(full, _PARTIALS)
        if turns:
            with k.loop(turns, name="turn") as turn:
                for p in range(_PARTIALS):
                    yield p, turn * (_PARTIALS * step) + p * step, 0
        for p in range(left):
            yield p, Index((), (turns * _PARTIALS + p) * step), 0
        if rest:
            yield left, Index((), full * step), rest

    return walk


@dataclass(frozen=True)
class Reduce(_AlongAxis):
    """y[outer, inner] = fold over the axis of x[outer, :, inner]; `operation` is a name of
    `FOLDS`.
    """

    family: ClassVar[str] = "reduce"

    operation: str

    def _row(self, k: Printer, outer: Index) -> None:
        fold, length = FOLDS[self.operation], self.x.length

        def value(at: Index, count: int) -> Value:
            return fold.before(k, k.load("x", self.x.at(outer, at, 0), count=count))

        joined = self._fold(k, fold.join, _positions(length, self.width), value)
        result = fold.after(length)(k, k.reduce(fold.join, joined))
        k.store("y", self.y.at(outer, 0, 0), result)

    def _columns(self, k: Printer, outer: Index, inner: Index, count: int) -> None:
        fold, length = FOLDS[self.operation], self.x.length

        def value(at: Index, _: int) -> Value:
            return fold.before(k, k.load("x", self.x.at(outer, at, inner), count=count))

        joined = self._fold(k, fold.join, _positions(length, 1), value)
        k.store("y", self.y.at(outer, 0, inner), fold.after(length)(k, joined), count=count)


@dataclass(frozen=True)
class Softmax(_AlongAxis):
    """y = e^(x - max) / sum of them along the axis; its logarithm with `logarithm`."""

    family: ClassVar[str] = "softmax"

    logarithm: bool = False

    def _row(self, k: Printer, outer: Index) -> None:
        places = _positions(self.x.length, self.width)
        largest = self._fold(
            k, "max", places, lambda at, n: k.load("x", self.x.at(outer, at, 0), count=n)
        )
        peak = k.splat(k.reduce("max", largest))
        total = self._fold(k, "add", places, self._exponential(k, outer, None, peak))
        self._write(k, outer, None, places, peak, k.splat(k.reduce("add", total)))

    def _columns(self, k: Printer, outer: Index, inner: Index, count: int) -> None:
        places = _positions(self.x.length, 1)
        peak = self._fold(
            k, "max", places, lambda at, _: k.load("x", self.x.at(outer, at, inner), count=count)
        )
        total = self._fold(k, "add", places, self._exponential(k, outer, (inner, count), peak))
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
        places: _Places,
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
