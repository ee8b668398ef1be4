"""Elementwise operators in the kernels' terms: which function, which parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.functions import NONE, Activation
from nnconv.runtime.lowering.claims import Scope, sizes
from nnconv.runtime.lowering.layout import is_float

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value

# Operators that are one unary function, with the attributes that are its parameters.
_UNARY: dict[str, tuple[str, ...]] = {
    "Identity": (), "Relu": (), "LeakyRelu": ("alpha",), "Neg": (), "Abs": (), "Sqrt": (),
    "Reciprocal": (), "Floor": (), "Ceil": (), "Round": (), "Sign": (), "Exp": (), "Log": (),
    "Tanh": (), "Erf": (), "Sigmoid": (), "Softplus": (), "Softsign": (), "Elu": ("alpha",),
    "Selu": ("alpha", "gamma"), "Celu": ("alpha",), "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"), "HardSwish": (), "Swish": ("alpha",), "Mish": (),
}  # fmt: skip
_POWERS = {2.0: "Square", 1.0: "Identity", 0.5: "Sqrt", -1.0: "Reciprocal"}
_MOST_PRODUCTS = 64.0  # the largest whole exponent that is done by multiplication


def activation(node: Node, scope: Scope) -> Activation | None:
    """The unary function that a node applies to its first input, None where it is none."""
    if node.op in _UNARY:
        return Activation(node.op, tuple(float(getattr(node, a)) for a in _UNARY[node.op]))
    if node.op == "Gelu":
        return Activation("GeluTanh" if node.approximate == "tanh" else "Gelu")
    if node.op == "Clip":
        low, high = (_scalar(node.input(i), scope, d) for i, d in ((1, -math.inf), (2, math.inf)))
        return None if low is None or high is None else Activation("Clip", (low, high))
    if node.op == "Pow":
        return _power(_scalar(node.input(1), scope, None))
    return None


def _power(exponent: float | None) -> Activation | None:
    """x^exponent; of a negative base only whole powers are numbers."""
    if exponent in _POWERS:
        return Activation(_POWERS[exponent])
    if exponent is None or not math.isfinite(exponent):
        return None
    if exponent != int(exponent):
        return Activation("Power", (exponent,))
    return Activation("WholePower", (exponent,)) if abs(exponent) <= _MOST_PRODUCTS else None


def _scalar(value: Value | None, scope: Scope, default: float | None) -> float | None:
    """A constant of one element; `default` where the input is omitted."""
    if value is None:
        return default
    data = scope.constant(value)
    return None if data is None or data.size != 1 else float(data.reshape(-1)[0])


def after(value: Value, scope: Scope) -> tuple[Node | None, Activation]:
    """The unary function applied to a value, where nothing else reads it."""
    node = scope.only_reader(value)
    if node is None or node.required(0) is not value or not is_float(node.output):
        return None, NONE
    found = activation(node, scope)
    if found is None or sizes(node.output) != sizes(value):
        return None, NONE
    return node, found
