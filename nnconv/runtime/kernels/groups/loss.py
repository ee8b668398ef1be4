"""Softmax with cross entropy and its gradient on graphics cards: a group a sample.

Samples are rows of contiguous scores; where classes are not the last axis, neighbouring work-items
are neighbouring pixels, and samples/loss.py has the kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.functions import exp, log
from nnconv.runtime.kernels.groups.reduce import peak_and_total
from nnconv.runtime.kernels.groups.vector import InGroups, fold, is_first, stride_over
from nnconv.runtime.kernels.language import (
    DTYPES,
    F32,
    I32,
    Argument,
    Index,
    Printer,
    Value,
)
from nnconv.runtime.kernels.losses import FLOOR


@dataclass(frozen=True)
class _OverRows(InGroups):
    """What kernels that read a label a row share; `ignore` is a label that does not count."""

    rows: int
    length: int
    width: int
    labels: str = "f32"  # their type
    ignore: int | None = None

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.rows,)

    @property
    def local(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def bytes(self) -> int:
        return 12 * self.rows * self.length

    def _label(self, k: Printer) -> Value:
        """The label of this row as a whole number."""
        return k.cast(k.scalar("label", k.ids[0]), I32)

    def _counted(self, k: Printer, label: Value, value: Value) -> Value:
        if self.ignore is None:
            return value
        return k.select(k.compare("eq", label, self.ignore), k.constant(0.0), value)


@dataclass(frozen=True)
class RowLoss(_OverRows):
    """y = log(sum of exp(x)) - x[label], at most -log(FLT_MIN); NaN where the label is no class.

    Arguments: x [rows, length], label [rows], y [rows], 0 where nothing counts.
    """

    family: ClassVar[str] = "group_loss"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("label", DTYPES[self.labels]), Argument("y", written=True))

    def describe(self, k: Printer) -> None:
        start, label = k.index(k.ids[0] * self.length), self._label(k)
        largest, total = peak_and_total(k, "x", start, self.length)
        with k.when(is_first(k)):
            chosen = k.register(k.constant(math.nan), "chosen")
            place = k.value_index(label)
            with k.when(k.within(place, 0, self.length)):
                chosen.value = k.scalar("x", start + place) - largest
            loss = k.min(FLOOR, log(k, total) - chosen.value)
            k.store("y", k.ids[0], self._counted(k, label, loss))


@dataclass(frozen=True)
class RowLossGrad(_OverRows):
    """dx = (softmax(x) - [class is label]) * dy / divisor, 0 where nothing counts.

    Arguments: x, label, dy (one number), divisor (one number), dx.
    """

    family: ClassVar[str] = "group_loss_grad"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        label, scalars = (
            Argument("label", DTYPES[self.labels]),
            [Argument("dy"), Argument("divisor")],
        )
        return (Argument("x"), label, *scalars, Argument("dx", written=True))

    def describe(self, k: Printer) -> None:
        start, label = k.index(k.ids[0] * self.length), self._label(k)
        largest, total = peak_and_total(k, "x", start, self.length)
        slope = k.scalar("dy", 0) / k.scalar("divisor", 0)
        share, chosen = k.constant(1.0) / total, k.value_index(label)

        def write(_: int, at: Index) -> None:
            hit = k.select(k.index_compare("eq", at, chosen), 1.0, k.constant(0.0))
            power = exp(k, k.scalar("x", start + at) - largest)
            value = (power * share - hit) * slope
            k.store("dx", start + at, self._counted(k, label, value))

        stride_over(k, self.length, write)


@dataclass(frozen=True)
class GroupLabelCount(InGroups):
    """divisor = how many labels are not `ignore`, at least 1. Arguments: label, divisor."""

    family: ClassVar[str] = "group_label_count"

    length: int
    ignore: int
    width: int
    labels: str = "f32"

    @property
    def grid(self) -> tuple[int, ...]:
        return (1,)

    @property
    def local(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("label", DTYPES[self.labels]), Argument("divisor", written=True))

    def describe(self, k: Printer) -> None:
        def counts(at: Index) -> Value:
            label = k.cast(k.scalar("label", at), I32)
            return k.cast(k.compare("ne", label, self.ignore), F32)

        total = fold(k, "add", self.length, counts, "sums")
        with k.when(is_first(k)):
            k.store("divisor", 0, k.max(1.0, total))
