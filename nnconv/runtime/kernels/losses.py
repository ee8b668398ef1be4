"""Softmax with cross entropy, its gradient, and accuracy, on plain values along any axis.

Positions are all elements but the axis of the classes: outer x inner, a label each, as floats or
integers. Lanes run along the classes where they are contiguous, else along positions. A label that
is no class gives NaN: a kernel cannot raise. (With samples in lanes: samples/loss.py.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.functions import exp, log, truncated
from nnconv.runtime.kernels.language import DTYPES, F32, I32, Argument, Index, Printer, Value
from nnconv.runtime.kernels.reduce import AlongAxis, Places, places_along

FLOOR = 87.33654475  # -log(FLT_MIN), beyond which Caffe's loss does not grow


@dataclass(frozen=True)
class _OverLabels(AlongAxis):
    """What the kernels that read labels share; `ignore` is a label that does not count."""

    labels: str = "f32"  # their type
    ignore: int | None = None

    @property
    def _label_argument(self) -> Argument:
        return Argument("label", DTYPES[self.labels])

    def _label(self, k: Printer, outer: Index, inner: Index | None, count: int) -> Value:
        """Labels as whole numbers in floats: a number for a row, a vector for columns."""
        at = outer * self.x.inner + (inner or 0)
        label = k.scalar("label", at) if inner is None else k.load("label", at, count=count)
        return truncated(k, label) if label.dtype.floating else k.cast(label, F32)

    def _counted(self, k: Printer, label: Value, value: Value) -> Value:
        """0 for labels that do not count."""
        if self.ignore is None:
            return value
        return k.select(k.compare("eq", label, float(self.ignore)), 0.0, value)

    def _score(self, k: Printer, outer: Index, label: Value) -> Value:
        """x of a row's own class, NaN where there is no such class."""
        chosen = k.register(k.constant(math.nan, lanes=1), "chosen")
        with k.when(k.both(label >= 0.0, label < float(self.x.length))):
            number = k.value_index(k.cast(label, I32))
            chosen.value = k.scalar("x", self.x.at(outer, number, 0))
        return chosen.value

    def _scores(self, k: Printer, outer: Index, inner: Index, label: Value, count: int) -> Value:
        """x of the columns' own classes, NaN where there is no such class."""
        chosen = k.register(k.constant(math.nan), "chosen")
        with k.loop(self.x.length, name="class") as c:
            score = k.load("x", self.x.at(outer, c, inner), count=count)
            chosen.value = k.select(_is_class(k, label, c), score, chosen.value)
        return chosen.value

    def _reader(
        self, k: Printer, outer: Index, inner: Index | None, fixed: int
    ) -> tuple[Places, Callable[[Index, int], Value]]:
        """How to walk along the classes, and the scores on the way."""

        def read(at: Index, count: int) -> Value:
            lanes = count if inner is None else fixed
            return k.load("x", self.x.at(outer, at, inner or 0), count=lanes)

        return places_along(self.x.length, self.width if inner is None else 1), read

    def _softmax(
        self, k: Printer, outer: Index, inner: Index | None, fixed: int
    ) -> tuple[Value, Value]:
        """The largest score, and the sum of exp(score - largest): in all lanes for a row."""
        places, read = self._reader(k, outer, inner, fixed)
        largest = self.fold(k, "max", places, read)
        peak = largest if inner is not None else k.splat(k.reduce("max", largest))
        total = self.fold(k, "add", places, lambda at, n: exp(k, read(at, n) - peak))
        return peak, total if inner is not None else k.splat(k.reduce("add", total))


@dataclass(frozen=True)
class SoftmaxLoss(_OverLabels):
    """y = log(sum of exp(x)) - x[label], at most -log(FLT_MIN), 0 where the label does not count.

    Arguments: x, label [outer, inner], y [outer, inner].
    """

    family: ClassVar[str] = "softmax_loss"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), self._label_argument, Argument("y", written=True))

    def _row(self, k: Printer, outer: Index) -> None:
        peak, total = (k.part(value, 0, 1) for value in self._softmax(k, outer, None, 0))
        label = self._label(k, outer, None, 0)
        loss = k.min(FLOOR, log(k, total) - (self._score(k, outer, label) - peak))
        k.store("y", self.y.at(outer, 0, 0), self._counted(k, label, loss))

    def _columns(self, k: Printer, outer: Index, inner: Index, count: int) -> None:
        peak, total = self._softmax(k, outer, inner, count)
        label = self._label(k, outer, inner, count)
        score = self._scores(k, outer, inner, label, count)
        loss = k.min(FLOOR, log(k, total) - (score - peak))
        k.store("y", self.y.at(outer, 0, inner), self._counted(k, label, loss), count=count)


@dataclass(frozen=True)
class SoftmaxLossGrad(_OverLabels):
    """dx = (softmax(x) - [class is label]) * dy / divisor, 0 where the label does not count.

    Arguments: x, label [outer, inner], dy (one number), divisor (one number), dx.
    """

    family: ClassVar[str] = "softmax_loss_grad"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        numbers = Argument("dy"), Argument("divisor")
        return (Argument("x"), self._label_argument, *numbers, Argument("dx", written=True))

    def _row(self, k: Printer, outer: Index) -> None:
        label = self._label(k, outer, None, 0)
        slope = self._counted(k, label, k.scalar("dy", 0) / k.scalar("divisor", 0))
        peak, total = self._softmax(k, outer, None, 0)
        share = k.splat(slope) / total
        places, read = self._reader(k, outer, None, 0)
        for _, at, count in places(k):
            value = exp(k, read(at, count) - peak) * share
            k.store("dx", self.y.at(outer, at, 0), value, count=count)
        with k.when(k.both(label >= 0.0, label < float(self.x.length))):
            mine = self.y.at(outer, k.value_index(k.cast(label, I32)), 0)
            k.store("dx", mine, k.scalar("dx", mine) - slope)

    def _columns(self, k: Printer, outer: Index, inner: Index, count: int) -> None:
        label = self._label(k, outer, inner, count)
        slope = k.broadcast("dy", 0) / k.broadcast("divisor", 0)
        slope = self._counted(k, label, slope)
        peak, total = self._softmax(k, outer, inner, count)
        share = slope / total
        with k.loop(self.x.length, name="class") as c:
            score = k.load("x", self.x.at(outer, c, inner), count=count)
            hit = k.select(_is_class(k, label, c), slope, k.constant(0.0))
            value = exp(k, score - peak) * share - hit
            k.store("dx", self.y.at(outer, c, inner), value, count=count)


@dataclass(frozen=True)
class Hits(_OverLabels):
    """hit = 1 where fewer than `top` other classes score as high as the true one, else 0; `kind` is
    the true class, -1 where it does not count (and hit is 0).

    Arguments: x, label, hit, kind, all but x [outer, inner].
    """

    family: ClassVar[str] = "hits"

    top: int = 1

    @property
    def arguments(self) -> tuple[Argument, ...]:
        made = Argument("hit", written=True), Argument("kind", written=True)
        return (Argument("x"), self._label_argument, *made)

    def _row(self, k: Printer, outer: Index) -> None:
        label = self._label(k, outer, None, 0)
        mine = self._score(k, outer, label)
        total = self._as_high(k, outer, None, 0, k.splat(mine))
        self._leave(k, self.y.at(outer, 0, 0), label, k.reduce("add", total), 0)

    def _columns(self, k: Printer, outer: Index, inner: Index, count: int) -> None:
        label = self._label(k, outer, inner, count)
        mine = self._scores(k, outer, inner, label, count)
        total = self._as_high(k, outer, inner, count, mine)
        self._leave(k, self.y.at(outer, 0, inner), label, total, count)

    def _as_high(
        self, k: Printer, outer: Index, inner: Index | None, fixed: int, mine: Value
    ) -> Value:
        """How many scores are not below the true class's, itself among them."""
        places, read = self._reader(k, outer, inner, fixed)
        one, none = k.constant(1.0), k.constant(0.0)
        return self.fold(k, "add", places, lambda at, n: k.select(read(at, n) >= mine, one, none))

    def _leave(self, k: Printer, at: Index, label: Value, total: Value, count: int) -> None:
        hit = k.select(total - 1.0 < float(self.top), 1.0, k.like(total, 0.0))
        known = k.both(label >= 0.0, label < float(self.x.length))
        hit = k.select(known, hit, k.like(hit, math.nan))
        kind = label
        if self.ignore is not None:
            ignored = k.compare("eq", label, float(self.ignore))
            kind = k.select(ignored, -1.0, label)
        k.store("hit", at, self._counted(k, label, hit), count=count)
        k.store("kind", at, kind, count=count)


def _is_class(k: Printer, label: Value, c: Index) -> Value:
    return k.compare("eq", label, k.splat(k.cast(k.index_value(c, I32), F32)))
