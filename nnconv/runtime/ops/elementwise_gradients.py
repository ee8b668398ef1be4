"""Gradients of what works element by element: one line an operator, in tables like the kernels'.

At kinks they keep Caffe's conventions: at 0 Relu, LeakyRelu, Elu and PRelu take the negative side's
slope and Abs has slope 0; Clip passes the gradient at both bounds; of equal operands of a Max the
second wins over the first, a later one only by being greater.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nnconv.runtime.ops.rules import (
    GRADIENTS,
    Rule,
    above,
    emit,
    flat,
    gradient,
    integers,
    number,
    spread,
    sum_to,
    through,
    where,
)
from nnconv.schemas.errors import UnsupportedError
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value

Slope = Callable[..., Any]
"""(x, y, dy, attributes by keyword) -> dx."""


def _sigmoid(x: Value) -> Value:
    return emit("Sigmoid", x)


def _d_celu(x: Value, y: Value, dy: Value, alpha: float) -> Value:
    return where(above(x), dy, dy * (y / alpha + 1))


def _d_gelu(x: Value, y: Value, dy: Value, approximate: str) -> Value:
    """d(x Phi(x)) = Phi(x) + x phi(x), and the derivative of its form in tanh."""
    if approximate == "tanh":
        root = math.sqrt(2 / math.pi)
        t = emit("Tanh", root * (x + 0.044715 * (x * x * x)))
        inner = root * (3 * 0.044715 * (x * x) + 1)
        return dy * (0.5 * (t + 1) + 0.5 * x * (1 - t * t) * inner)
    share = 0.5 * (emit("Erf", x * math.sqrt(0.5)) + 1)
    density = emit("Exp", -0.5 * (x * x)) * (1 / math.sqrt(2 * math.pi))
    return dy * (share + x * density)


def _d_hard_swish(x: Value, y: Value, dy: Value) -> Value:
    return where(above(x, 3.0), dy, where(above(x, -3.0), dy * (x / 3 + 0.5), 0.0))


def _d_mish(x: Value, y: Value, dy: Value) -> Value:
    t = emit("Tanh", emit("Softplus", x))
    return dy * (t + x * (1 - t * t) * _sigmoid(x))


def _d_selu(x: Value, y: Value, dy: Value, alpha: float, gamma: float) -> Value:
    return where(above(x), dy * gamma, dy * (y + alpha * gamma))


def _d_swish(x: Value, y: Value, dy: Value, alpha: float = 1.0) -> Value:
    share = _sigmoid(x * alpha)
    return dy * (share + alpha * y * (1 - share))


def _d_hard_sigmoid(x: Value, y: Value, dy: Value, alpha: float, beta: float) -> Value:
    inside = emit("And", above(y), emit("Less", y, number(y, 1)))
    return where(inside, dy * alpha, 0.0)


def _d_shrink(x: Value, y: Value, dy: Value, bias: float, lambd: float) -> Value:
    return where(above(emit("Abs", x), lambd), dy, 0.0)


UNARY: dict[str, Slope] = {
    "Abs": lambda x, y, dy: dy * emit("Sign", x),
    "Acos": lambda x, y, dy: -dy / emit("Sqrt", 1 - x * x),
    "Acosh": lambda x, y, dy: dy / emit("Sqrt", x * x - 1),
    "Asin": lambda x, y, dy: dy / emit("Sqrt", 1 - x * x),
    "Asinh": lambda x, y, dy: dy / emit("Sqrt", x * x + 1),
    "Atan": lambda x, y, dy: dy / (x * x + 1),
    "Atanh": lambda x, y, dy: dy / (1 - x * x),
    "Celu": _d_celu,
    "Cos": lambda x, y, dy: -dy * emit("Sin", x),
    "Cosh": lambda x, y, dy: dy * emit("Sinh", x),
    "Elu": lambda x, y, dy, alpha: where(above(x), dy, dy * (y + alpha)),
    "Erf": lambda x, y, dy: dy * (2 / math.sqrt(math.pi) * emit("Exp", -(x * x))),
    "Exp": lambda x, y, dy: dy * y,
    "Gelu": _d_gelu,
    "HardSigmoid": _d_hard_sigmoid,
    "HardSwish": _d_hard_swish,
    "Identity": lambda x, y, dy: dy,
    "LeakyRelu": lambda x, y, dy, alpha: where(above(x), dy, dy * alpha),
    "Log": lambda x, y, dy: dy / x,
    "Mish": _d_mish,
    "Neg": lambda x, y, dy: -dy,
    "Reciprocal": lambda x, y, dy: -dy * (y * y),
    "Relu": lambda x, y, dy: where(above(x), dy, 0.0),
    "Selu": _d_selu,
    "Shrink": _d_shrink,
    "Sigmoid": lambda x, y, dy: dy * (y * (1 - y)),
    "Sin": lambda x, y, dy: dy * emit("Cos", x),
    "Sinh": lambda x, y, dy: dy * emit("Cosh", x),
    "Softplus": lambda x, y, dy: dy * _sigmoid(x),
    "Softsign": lambda x, y, dy: dy * emit("Reciprocal", (emit("Abs", x) + 1) ** 2),
    "Sqrt": lambda x, y, dy: dy / (2 * y),
    "Swish": _d_swish,
    "Tan": lambda x, y, dy: dy * (y * y + 1),
    "Tanh": lambda x, y, dy: dy * (1 - y * y),
    "ThresholdedRelu": lambda x, y, dy, alpha: where(above(x, alpha), dy, 0.0),
}


def _unary(slope: Slope) -> Rule:
    def rule(node: Node, dy: Value) -> Value:
        result: Value = slope(node.required(0), node.output, dy, **node.arguments())
        return result

    return rule


GRADIENTS.update({op: _unary(slope) for op, slope in UNARY.items()})

BINARY: dict[str, Slope] = {
    "Add": lambda a, b, y, dy: (dy, dy),
    "Div": lambda a, b, y, dy: (dy / b, -dy * y / b),
    "Mul": lambda a, b, y, dy: (dy * b, dy * a),
    "PRelu": lambda a, b, y, dy: (where(above(a), dy, dy * b), where(above(a), 0.0, dy * a)),
    "Sub": lambda a, b, y, dy: (dy, -dy),
}
"""(a, b, y, dy) -> both gradients, before they are summed to their operands' shapes."""


def _binary(slopes: Slope) -> Rule:
    def rule(node: Node, dy: Value) -> tuple[Value, ...]:
        operands = node.required(0), node.required(1)
        parts = slopes(*operands, node.output, dy)
        return tuple(sum_to(part, x) for part, x in zip(parts, operands, strict=True))

    return rule


GRADIENTS.update({op: _binary(slopes) for op, slopes in BINARY.items()})

# Hardmax is a choice and so, between the places where they jump, are the rest
flat("Ceil", "Floor", "Hardmax", "Round", "Sign")


@gradient("Pow")
def d_pow(node: Node, dy: Value) -> tuple[Value | None, Value | None]:
    """d(a^b) = b a^(b-1) da + a^b log(a) db."""
    a, b = node.required(0), node.required(1)
    exponent = b if b.dtype is a.dtype else emit("Cast", b, to=int(a.dtype))
    base = sum_to(dy * (exponent * emit("Pow", a, exponent - 1)), a)
    if not b.dtype.is_float:
        return base, None
    return base, sum_to(emit("CastLike", dy * (node.output * emit("Log", a)), b), b)


@gradient("Sum")
def d_sum(node: Node, dy: Value) -> tuple[Value | None, ...]:
    return tuple(sum_to(dy, x) for x in node.inputs if x is not None)


@gradient("Mean")
def d_mean(node: Node, dy: Value) -> tuple[Value | None, ...]:
    share = dy * (1 / len(node.inputs))
    return tuple(sum_to(share, x) for x in node.inputs if x is not None)


@gradient("Max", "Min")
def d_extreme(node: Node, dy: Value) -> tuple[Value | None, ...]:
    """To the one operand that was chosen (eltwise_layer.cpp, Forward_cpu: MAX keeps a mask)."""
    first, *rest = (x for x in node.inputs if x is not None)
    wins = "Greater" if node.op == "Max" else "Less"
    best, chosen = first, []
    for place, x in enumerate(rest):
        taken = emit("Not", emit(wins, best, x)) if place == 0 else emit(wins, x, best)
        chosen.append(taken)
        best = emit(node.op, best, x)
    parts = []
    for x, taken in zip(reversed(rest), reversed(chosen), strict=True):
        parts.append(sum_to(where(taken, dy, 0.0), x))
        dy = where(taken, 0.0, dy)
    return (sum_to(dy, first), *reversed(parts))


@gradient("Clip")
def d_clip(node: Node, dy: Value) -> tuple[Value | None, ...]:
    x, low, high = node.required(0), node.input(1), node.input(2)
    parts: list[Value | None] = [None, None]
    for place, (bound, outside) in enumerate(((low, "Less"), (high, "Greater"))):
        if bound is not None:
            beyond = emit(outside, x, bound)
            parts[place] = sum_to(where(beyond, dy, 0.0), bound)
            dy = where(beyond, 0.0, dy)
    return (dy, *parts)


@gradient("Where")
def d_where(node: Node, dy: Value) -> tuple[Value | None, ...]:
    condition, a, b = (node.required(place) for place in range(3))
    return None, sum_to(where(condition, dy, 0.0), a), sum_to(where(condition, 0.0, dy), b)


@gradient("Cast", "CastLike")
def d_cast(node: Node, dy: Value) -> Value | None:
    x = node.required(0)
    if not x.dtype.is_float:
        return None
    return emit("Cast", dy, to=int(x.dtype))


@through("SwiGLU")
def swiglu(node: Node) -> list[Value]:
    a, b = node.required(0), node.required(1)
    return [a * _sigmoid(a * node.alpha) * b]


@gradient("Mod")
def d_mod(node: Node, dy: Value) -> Value | None:
    """a - b floor(a/b) (or trunc), piecewise linear in a; its slope in b is not offered."""
    a = node.required(0)
    return sum_to(dy, a) if a.dtype in (DType.FLOAT32, DType.FLOAT64) else None


@gradient("Einsum")
def d_einsum(node: Node, dy: Value) -> tuple[Value, ...]:
    """Each operand's gradient is the sum over what is left of dy and the other operands; an axis
    that only this operand has, and that was summed, repeats it."""
    given, _, wanted = node.equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if "->" not in node.equation:  # the letters that stand once, in order
        wanted = "".join(sorted(c for c in set(given) if c.isalpha() and given.count(c) == 1))
    if "." in node.equation or any(len(set(term)) < len(term) for term in terms):
        raise UnsupportedError(f"no gradient for Einsum '{node.equation}'")
    values = [node.required(place) for place in range(len(terms))]
    return tuple(_d_operand(place, terms, wanted, values, dy) for place in range(len(terms)))


def _d_operand(
    place: int, terms: Sequence[str], wanted: str, values: Sequence[Value], dy: Value
) -> Value:
    x, term = values[place], terms[place]
    others = [other for other in range(len(terms)) if other != place]
    known = set(wanted).union(*(terms[other] for other in others))
    kept = "".join(letter for letter in term if letter in known)
    left = ",".join([wanted, *(terms[other] for other in others)])
    dx = emit("Einsum", dy, *(values[other] for other in others), equation=f"{left}->{kept}")
    if kept == term:
        return dx
    missing = [axis for axis, letter in enumerate(term) if letter not in known]
    return spread(emit("Unsqueeze", dx, integers(x, missing)), x)
