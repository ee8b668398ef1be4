"""Softmax with cross entropy and its gradient on arrays whose lanes are samples (lanes.py).

Everything is done lane by lane, without shuffles. Labels lie one a sample and pixel, as floats or
integers. The gradient computes the softmax again: it costs less than keeping it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.functions import exp, log
from nnconv.runtime.kernels.language import (
    DTYPES,
    F32,
    I32,
    Argument,
    Index,
    Kernel,
    Printer,
    Value,
)
from nnconv.runtime.kernels.losses import FLOOR
from nnconv.runtime.kernels.samples.lanes import Cut


@dataclass(frozen=True)
class _OverLabels(Kernel):
    """What the kernels that read labels share; `ignore` is a label that does not count."""

    x: Array
    samples: int
    labels: str = "f32"  # their type
    ignore: int | None = None

    @property
    def lanes(self) -> int:
        return self.x.lanes

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.x.batch, self.x.height, self.x.width)

    @property
    def bytes(self) -> int:
        return 40 * self.x.batch * self.x.blocks * self.x.pixels * self.lanes

    def describe(self, k: Printer) -> None:
        group, row, column = k.ids
        for count in Cut(self.samples, self.lanes).bodies(k, group):
            self._pixel(k, (group, row, column), count)

    def _pixel(self, k: Printer, place: tuple[Index, Index, Index], count: int) -> None:
        raise NotImplementedError

    def _label(self, k: Printer, place: tuple[Index, Index, Index], count: int) -> Value:
        """The labels of the `count` samples in a vector, as whole numbers in floats."""
        group, row, column = place
        pixels = self.x.pixels
        first = group * (self.lanes * pixels) + row * self.x.width + column
        if pixels == 1:
            label = k.load("label", first, count=count)
        else:
            each = [k.scalar("label", first + lane * pixels) for lane in range(count)]
            label = k.join(each, self.lanes)
        return k.cast(k.cast(label, I32) if label.dtype.floating else label, F32)

    def _counted(self, k: Printer, label: Value, value: Value, count: int) -> Value:
        """0 for lanes without a sample and for labels that do not count."""
        zero = k.constant(0.0)
        if self.ignore is not None:
            value = k.select(k.compare("eq", label, float(self.ignore)), zero, value)
        if count < self.lanes:
            lanes = k.vector([float(lane) for lane in range(self.lanes)])
            value = k.select(lanes < float(count), value, zero)
        return value

    def _softmax(self, k: Printer, place: tuple[Index, Index, Index]) -> tuple[Value, Value]:
        """The largest score of each lane, and the sum of exp(score - largest)."""
        group, row, column = place
        top, total = k.register(k.constant(-math.inf)), k.register(k.constant(0.0))
        with k.loop(self.x.blocks, name="class") as c:
            top.value = k.max(top.value, k.load("x", self.x.at(group, c, row, column)))
        largest = top.value
        with k.loop(self.x.blocks, name="class") as c:
            score = k.load("x", self.x.at(group, c, row, column))
            total.value = total.value + exp(k, score - largest)
        return largest, total.value

    def _is_class(self, k: Printer, label: Value, c: Index) -> Value:
        return k.compare("eq", label, k.splat(k.cast(k.index_value(c, I32), F32)))


@dataclass(frozen=True)
class SampleLoss(_OverLabels):
    """y = log(sum of exp(x)) - x[label], at most -log(FLT_MIN); NaN where the label is no class.

    Arguments: x, label [samples, pixels], y [groups, pixels, lanes], 0 where nothing counts.
    """

    family: ClassVar[str] = "samples_loss"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("label", DTYPES[self.labels]), Argument("y", written=True))

    def _pixel(self, k: Printer, place: tuple[Index, Index, Index], count: int) -> None:
        group, row, column = place
        largest, total = self._softmax(k, place)
        label = self._label(k, place, count)
        chosen = k.register(k.constant(math.nan))
        with k.loop(self.x.blocks, name="class") as c:
            score = k.load("x", self.x.at(group, c, row, column))
            mine = self._is_class(k, label, c)
            chosen.value = k.select(mine, score - largest, chosen.value)
        loss = k.min(FLOOR, log(k, total) - chosen.value)
        at = group * (self.x.pixels * self.lanes) + (row * self.x.width + column) * self.lanes
        k.store("y", at, self._counted(k, label, loss, count))


@dataclass(frozen=True)
class SampleLossGrad(_OverLabels):
    """dx = (softmax(x) - [channel is label]) * dy / divisor, 0 where nothing counts.

    Arguments: x, label, dy (one number), divisor (one number), dx.
    """

    family: ClassVar[str] = "samples_loss_grad"

    dx: Array | None = None

    @property
    def arguments(self) -> tuple[Argument, ...]:
        label = Argument("label", DTYPES[self.labels])
        scalars = Argument("dy"), Argument("divisor")
        return (Argument("x"), label, *scalars, Argument("dx", written=True))

    def _pixel(self, k: Printer, place: tuple[Index, Index, Index], count: int) -> None:
        group, row, column = place
        goal = self.dx or self.x
        largest, total = self._softmax(k, place)
        label = self._label(k, place, count)
        slope = k.broadcast("dy", 0) / k.broadcast("divisor", 0)
        share = k.constant(1.0) / total
        with k.loop(self.x.blocks, name="class") as c:
            score = k.load("x", self.x.at(group, c, row, column))
            hit = k.select(self._is_class(k, label, c), 1.0, k.constant(0.0))
            value = (exp(k, score - largest) * share - hit) * slope
            k.store("dx", goal.at(group, c, row, column), self._counted(k, label, value, count))
