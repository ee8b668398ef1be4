"""Elementwise functions in the kernel language; exp, log, tanh and erf by polynomials of our own.

LLVM's versions are one library call a lane. Coefficients come from tools/fit_polynomials.py;
tests/kernels/test_functions.py samples the whole f32 range and holds each function to the largest
relative error stated in its docstring. Everything is made of operations that both printers spell
alike, so devices that round alike agree bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from nnconv.runtime.kernels.language import F32, I32, Printer, Value

_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # their sum is ln 2, the first has few bits
_MAGIC = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer in the low bits
_MAGIC_BITS = 0x4B400000
_TINY = 1.17549435e-38  # the least normal number

# exp(r) = 1 + r + r^2 p(r) on +-ln(2)/2
_EXP = (0.001381455977, 0.008368735699, 0.04166838987, 0.1666652048, 0.4999999344)
# log(1 + f) = f - f^2/2 + f^3 p(f) on [sqrt(1/2) - 1, sqrt(2) - 1]
_LOG = (
    -0.07632276226,
    0.1276086255,
    -0.1316063728,
    0.142018823,
    -0.1662332694,
    0.2000122072,
    -0.2500082168,
    0.3333333178,
)
# tanh(x) = x + x^3 p(x^2) up to 0.625
_TANH = (-0.005704984391, 0.02063908505, -0.05373971446, 0.1333144219, -0.3333328194)
# erf(x) = x p(x^2) up to 1, and log(1 - erf(x)) = p(x - 2) from there to 4
_ERF = (
    7.853893525e-05, -0.0008010204349, 0.005188329063, -0.02685381279, 0.1128358517,
    -0.3761262583, 1.128379166,
)  # fmt: skip
_ERFC = (
    0.0001863794038,
    -0.0007111075763,
    0.00354423265,
    -0.01648790407,
    -0.9237534823,
    -4.418159387,
    -5.364941044,
)


def _exponential_parts(k: Printer, x: Value) -> tuple[Value, Value, Value]:
    """(r, r^2 p(r), n) with exp(x) = (1 + r + r^2 p(r)) * 2^n; n as an integer. |x| must be below
    2^21.
    """
    shifted = k.fma(_LOG2E, x, _MAGIC)
    n = shifted - _MAGIC
    r = k.fma(-_LN2_LOW, n, k.fma(-_LN2_HIGH, n, x))
    integer = k.binary("sub", k.bits(shifted, I32), _MAGIC_BITS)
    return r, k.polynomial(r, _EXP) * (r * r), integer


def _power_of_two(k: Printer, n: Value) -> Value:
    """2^n for an integer n in [-126, 127]."""
    return k.bits(k.binary("shl", k.binary("add", n, 127), 23), F32)


def exp(k: Printer, x: Value) -> Value:
    """e^x, relative error below 1.5e-7 (one unit in the last place where the result is
    subnormal).
    """
    bounded = k.min(89.0, k.max(-105.0, x))
    r, tail, n = _exponential_parts(k, bounded)
    # In two factors: 2^n alone may be below the least or above the largest number.
    half = k.binary("sub", k.binary("shr", k.binary("add", n, 512), 1), 256)
    value = (tail + r + 1.0) * _power_of_two(k, half)
    return value * _power_of_two(k, k.binary("sub", n, half))


def expm1(k: Printer, x: Value) -> Value:
    """e^x - 1, relative error below 3e-7."""
    near = k.fma(k.polynomial(x, _EXP), x * x, x)
    return k.select(k.abs(x) < 0.34, near, exp(k, x) - 1.0)


def log(k: Printer, x: Value) -> Value:
    """Natural logarithm, relative error below 2e-7; -inf at 0, NaN below."""
    subnormal = x < _TINY
    normal = k.select(subnormal, x * 8388608.0, x)
    # The exponent of x / sqrt(1/2), so that the mantissa is in [sqrt(1/2), sqrt(2)).
    shifted = k.binary("add", k.bits(normal, I32), 0x3F800000 - 0x3F3504F3)
    exponent = k.cast(k.binary("sub", k.binary("shr", shifted, 23), 127), F32)
    exponent = k.select(subnormal, exponent - 23.0, exponent)
    mantissa = k.binary("add", k.binary("and", shifted, 0x7FFFFF), 0x3F3504F3)
    f = k.bits(mantissa, F32) - 1.0
    small = k.fma(_LN2_LOW, exponent, k.polynomial(f, _LOG) * (f * f * f))
    value = k.fma(_LN2_HIGH, exponent, f + k.fma(-0.5, f * f, small))
    value = k.select(x > 3.4028235e38, x, value)
    value = k.select(k.compare("eq", x, 0.0), k.like(x, -math.inf), value)
    return k.select(x >= 0.0, value, k.like(x, math.nan))


def log1p(k: Printer, x: Value) -> Value:
    """log(1 + x), relative error below 4e-7 for x > -0.5: what rounding 1 + x lost is given
    back.
    """
    whole = x + 1.0
    lost = (x - (whole - 1.0)) / whole
    return k.select(whole > 3.4028235e38, x, log(k, whole) + lost)


def _with_sign(k: Printer, magnitude: Value, x: Value) -> Value:
    sign = k.binary("and", k.bits(x, I32), -0x80000000)
    return k.bits(k.binary("or", k.bits(magnitude, I32), sign), F32)


def tanh(k: Printer, x: Value) -> Value:
    """Hyperbolic tangent, relative error below 3e-7."""
    square, size = x * x, k.abs(x)
    near = k.fma(k.polynomial(square, _TANH) * square, x, x)
    far = 1.0 - 2.0 / (exp(k, size * 2.0) + 1.0)
    return k.select(size < 0.625, near, _with_sign(k, far, x))


def sigmoid(k: Printer, x: Value) -> Value:
    """1 / (1 + e^-x), relative error below 3e-7 where the result is normal."""
    return 1.0 / (exp(k, -x) + 1.0)


def erf(k: Printer, x: Value) -> Value:
    """Error function, relative error below 4e-7."""
    size = k.abs(x)
    near = x * k.polynomial(x * x, _ERF)
    tail = exp(k, k.polynomial(k.min(4.0, size) - 2.0, _ERFC))
    return k.select(size < 1.0, near, _with_sign(k, 1.0 - tail, x))


def power(k: Printer, x: Value, exponent: Value) -> Value:
    """x^exponent for x >= 0 as e^(exponent log x): the error grows with |exponent log x|."""
    return exp(k, exponent * log(k, x))


def _softplus(k: Printer, x: Value) -> Value:
    return k.max(0.0, x) + log1p(k, exp(k, -k.abs(x)))


def _truth(k: Printer, mask: Value) -> Value:
    return k.select(mask, 1.0, k.constant(0.0))


def truncated(k: Printer, x: Value) -> Value:
    """The whole number towards zero."""
    return k.select(x < 0.0, k.unary("ceil", x), k.unary("floor", x))


def whole_power(k: Printer, x: Value, exponent: float) -> Value:
    """x^exponent for a whole exponent, by squaring."""
    left, square, result = abs(int(exponent)), x, k.like(x, 1.0)
    while left:
        result = result * square if left & 1 else result
        square, left = square * square, left >> 1
    return result if exponent >= 0 else 1.0 / result


def sigmoid_cross_entropy(k: Printer, x: Value, t: Value, ignore: float | None = None) -> Value:
    """log(1 + e^-|x|) - x (t - [x >= 0]), 0 where the target is the ignored one."""
    rise = t - k.select(x >= 0.0, 1.0, k.like(x, 0.0))
    return _unless(k, t, ignore, log1p(k, exp(k, -k.abs(x))) - x * rise)


def _unless(k: Printer, t: Value, ignore: float | None, value: Value) -> Value:
    if ignore is None:
        return value
    return k.select(k.compare("eq", truncated(k, t), ignore), 0.0, value)


# Unary functions by the ONNX operator's name: (printer, x, *parameters) -> y. Parameters are the
# operator's attributes in the order of its specification.
UNARY: dict[str, Callable[..., Value]] = {
    "Identity": lambda k, x: x,
    "Relu": lambda k, x: k.max(0.0, x),
    "LeakyRelu": lambda k, x, alpha: k.select(x < 0.0, x * alpha, x),
    "Clip": lambda k, x, low, high: k.min(high, k.max(low, x)),
    "Neg": lambda k, x: -x,
    "Abs": lambda k, x: k.abs(x),
    "Sqrt": lambda k, x: k.sqrt(x),
    "Reciprocal": lambda k, x: 1.0 / x,
    "Floor": lambda k, x: k.unary("floor", x),
    "Ceil": lambda k, x: k.unary("ceil", x),
    "Round": lambda k, x: k.rint(x),
    "Sign": lambda k, x: k.select(x > 0.0, 1.0, k.select(x < 0.0, -1.0, x * 0.0)),
    "Exp": exp,
    "Log": log,
    "Tanh": tanh,
    "Erf": erf,
    "Sigmoid": sigmoid,
    "Softplus": _softplus,
    "Softsign": lambda k, x: x / (k.abs(x) + 1.0),
    "Elu": lambda k, x, alpha: k.select(x < 0.0, expm1(k, x) * alpha, x),
    "Selu": lambda k, x, alpha, gamma: k.select(x < 0.0, expm1(k, x) * alpha, x) * gamma,
    "Celu": lambda k, x, alpha: k.select(x < 0.0, expm1(k, x / alpha) * alpha, x),
    "ThresholdedRelu": lambda k, x, alpha: k.select(x > alpha, x, k.like(x, 0.0)),
    "HardSigmoid": lambda k, x, alpha, beta: k.min(1.0, k.max(0.0, k.fma(alpha, x, beta))),
    "HardSwish": lambda k, x: x * k.min(1.0, k.max(0.0, k.fma(1 / 6, x, 0.5))),
    "Swish": lambda k, x, alpha: x * sigmoid(k, x * alpha),
    "Mish": lambda k, x: x * tanh(k, _softplus(k, x)),
    "Gelu": lambda k, x: x * 0.5 * (erf(k, x * math.sqrt(0.5)) + 1.0),
    "GeluTanh": lambda k, x: (
        x
        * 0.5
        * (
            tanh(k, x * k.fma(0.044715 * math.sqrt(2 / math.pi), x * x, math.sqrt(2 / math.pi)))
            + 1.0
        )
    ),
    "Affine": lambda k, x, scale, shift: k.fma(scale, x, shift),
    "Square": lambda k, x: x * x,
    "Finite": lambda k, x: k.select(k.abs(x) <= 3.4028235e38, x, k.like(x, 0.0)),
    "Not": lambda k, x: 1.0 - x,
    "Power": lambda k, x, exponent: power(k, x, k.like(x, exponent)),
    "WholePower": whole_power,
    "Counted": lambda k, t, ignore: _unless(k, t, ignore, k.like(t, 1.0)),
}


def _passing_on(choose: Callable[[Printer, Value, Value], Value]) -> Callable[..., Value]:
    """The larger or smaller one, NaN where either is."""

    def chosen(k: Printer, a: Value, b: Value) -> Value:
        return k.select(k.compare("ne", a, a), a, choose(k, a, b))

    return chosen


# Binary ones: (printer, a, b, *parameters) -> y.
BINARY: dict[str, Callable[..., Value]] = {
    "Add": lambda k, a, b: a + b,
    "Sub": lambda k, a, b: a - b,
    "Mul": lambda k, a, b: a * b,
    "Div": lambda k, a, b: a / b,
    "Max": _passing_on(lambda k, a, b: k.max(a, b)),
    "Min": _passing_on(lambda k, a, b: k.min(a, b)),
    "PRelu": lambda k, x, slope: k.select(x < 0.0, x * slope, x),
    "Pow": power,
    "SigmoidCrossEntropy": sigmoid_cross_entropy,
    "SigmoidCrossEntropyGrad": lambda k, x, t, ignore=None: _unless(
        k, t, ignore, sigmoid(k, x) - t
    ),
    # conditions are the numbers 1 and 0: they live between the steps of a chain only
    "Greater": lambda k, a, b: _truth(k, a > b),
    "GreaterOrEqual": lambda k, a, b: _truth(k, a >= b),
    "Less": lambda k, a, b: _truth(k, a < b),
    "LessOrEqual": lambda k, a, b: _truth(k, a <= b),
    "Equal": lambda k, a, b: _truth(k, k.compare("eq", a, b)),
    "Gate": lambda k, a, b: k.select(a > 0.0, b, k.like(b, 0.0)),
    "And": lambda k, a, b: a * b,
    "Or": lambda k, a, b: k.max(a, b),
}

# Ternary ones: (printer, a, b, c) -> y.
TERNARY: dict[str, Callable[[Printer, Value, Value, Value], Value]] = {
    "Where": lambda k, condition, a, b: k.select(condition > 0.0, a, b),
}


@dataclass(frozen=True, slots=True)
class Activation:
    """A unary function by name, with its parameters; `UNARY` says what the names mean."""

    name: str = "Identity"
    parameters: tuple[float, ...] = ()

    def __call__(self, k: Printer, x: Value) -> Value:
        return UNARY[self.name](k, x, *self.parameters)


NONE = Activation()
