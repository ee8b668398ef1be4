"""Update rules as graphs: one entry of a table a solver, formulas as Caffe has them (CAFFE.md 10).

A rule gets the parameter's gradient and histories and returns what to subtract and the histories
that follow. g is the gradient, after clipping, averaging and weight decay; r the rate, that of the
iteration times the parameter's own lr_mult.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.ops.rules import emit

if TYPE_CHECKING:
    from nnconv.schemas.graph import Value
    from nnconv.schemas.training import TrainingSpec

Update = tuple["Value", tuple["Value", ...]]
Rule = Callable[["TrainingSpec", "Value", "Value", Sequence["Value"], "Correction | None"], Update]


@dataclass(frozen=True, slots=True)
class Correction:
    """What makes up for moments that start at 0: `first` is 1 / (1 - b1^t), `second` is
    sqrt(1 - b2^t), `both` their product; scalars."""

    first: Value
    second: Value
    both: Value


@dataclass(frozen=True, slots=True)
class Solver:
    """`rule(spec, g, r, histories, correction)` gives (what to subtract, the next histories).

    `histories` is how many arrays a parameter has, `corrected` whether the rule needs a Correction,
    `decoupled` whether weight decay is taken off the weight instead of added to the gradient.
    """

    rule: Rule
    histories: int = 1
    corrected: bool = False
    decoupled: bool = False


def _sgd(spec: TrainingSpec, g: Value, r: Value, h: Sequence[Value], _: object) -> Update:
    """h' = r g + m h; subtract h'."""
    moved = g * r + h[0] * spec.momentum
    return moved, (moved,)


def _nesterov(spec: TrainingSpec, g: Value, r: Value, h: Sequence[Value], _: object) -> Update:
    """h' = r g + m h; subtract (1 + m) h' - m h."""
    moved = g * r + h[0] * spec.momentum
    return moved * (1 + spec.momentum) - h[0] * spec.momentum, (moved,)


def _adagrad(spec: TrainingSpec, g: Value, r: Value, h: Sequence[Value], _: object) -> Update:
    """h' = h + g^2; subtract r g / (sqrt(h') + delta)."""
    total = h[0] + g * g
    return r * (g / (emit("Sqrt", total) + spec.delta)), (total,)


def _rmsprop(spec: TrainingSpec, g: Value, r: Value, h: Sequence[Value], _: object) -> Update:
    """h' = d h + (1 - d) g^2; subtract r g / (sqrt(h') + delta)."""
    mean = h[0] * spec.rms_decay + g * g * (1 - spec.rms_decay)
    return r * (g / (emit("Sqrt", mean) + spec.delta)), (mean,)


def _adadelta(spec: TrainingSpec, g: Value, r: Value, h: Sequence[Value], _: object) -> Update:
    """h' = m h + (1-m) g^2; v = g sqrt((u + delta) / (h' + delta)); u' = m u + (1-m) v^2; subtract
    r v."""
    m, delta = spec.momentum, spec.delta
    squares = h[0] * m + g * g * (1 - m)
    v = g * emit("Sqrt", (h[1] + delta) / (squares + delta))
    return r * v, (squares, h[1] * m + v * v * (1 - m))


def _adam(
    spec: TrainingSpec, g: Value, r: Value, h: Sequence[Value], c: Correction | None
) -> Update:
    """m' = b1 m + (1-b1) g; v' = b2 v + (1-b2) g^2; subtract r c m' / (sqrt(v') + delta), with
    c = sqrt(1 - b2^t) / (1 - b1^t)."""
    assert c is not None
    first, second = _moments(spec, g, h)
    return (r * c.both) * (first / (emit("Sqrt", second) + spec.delta)), (first, second)


def _moments(spec: TrainingSpec, g: Value, h: Sequence[Value]) -> tuple[Value, Value]:
    b1, b2 = spec.momentum, spec.momentum2
    return h[0] * b1 + g * (1 - b1), h[1] * b2 + g * g * (1 - b2)


def _adamw(
    spec: TrainingSpec, g: Value, r: Value, h: Sequence[Value], c: Correction | None
) -> Update:
    """Adam with delta beside the corrected root: subtract r m' / (1 - b1^t) / (sqrt(v') / sqrt(1 -
    b2^t) + delta) (Loshchilov and Hutter 2019, algorithm 2)."""
    assert c is not None
    first, second = _moments(spec, g, h)
    root = emit("Sqrt", second) / c.second + spec.delta
    return (r * c.first) * (first / root), (first, second)


SOLVERS: dict[str, Solver] = {
    "SGD": Solver(_sgd),
    "Nesterov": Solver(_nesterov),
    "AdaGrad": Solver(_adagrad),
    "RMSProp": Solver(_rmsprop),
    "AdaDelta": Solver(_adadelta, histories=2),
    "Adam": Solver(_adam, histories=2, corrected=True),
    "AdamW": Solver(_adamw, histories=2, corrected=True, decoupled=True),
}


def corrections(spec: TrainingSpec, iteration: int) -> tuple[np.float32, ...]:
    """What a Correction holds at t = iteration + 1, in its order; computed in float64, for 1 - b2^t
    cancels in float32."""
    t = iteration + 1
    first = 1 / (1 - as_float32(spec.momentum) ** t)
    second = math.sqrt(1 - as_float32(spec.momentum2) ** t)
    return np.float32(first), np.float32(second), np.float32(first * second)


def as_float32(value: float) -> float:
    """A setting as Caffe holds it; 1 - 0.999 differs by 1e-5 between the two."""
    return float(np.float32(value))
