"""Element by element, with numpy's broadcasting: one line an operator, formulas as ONNX states
them.

Results keep the dtype of the (first) float input; integers divide as C does, rounding towards zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.runtime.ops.registry import add_kernel, kernel
from nnconv.schemas.errors import InputError, UnsupportedError
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.types import Array


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), as (1 + tanh(x/2)) / 2, which overflows at neither end."""
    return 0.5 * np.tanh(0.5 * x) + 0.5


def softplus(x: Array) -> Array:
    """log(1 + e^x), as max(x, 0) + log1p(e^-|x|)."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def erf(x: Array) -> Array:
    """2/sqrt(pi) * e^-x^2 * sum of 2^n x^(2n+1) / (2n+1)!! (Abramowitz & Stegun 7.1.6), in float64.

    All terms have one sign, so nothing cancels; beyond 6 the result is 1 in double precision.
    """
    wide = np.clip(np.asarray(x, np.float64), -6, 6)
    square = 2 * wide * wide
    term = wide.copy()
    total = wide.copy()
    for n in range(1, 200):
        term = term * square / (2 * n + 1)
        total += term
        if not np.any(np.abs(term) > 1e-17 * np.abs(total)):
            break
    return (2 / math.sqrt(math.pi) * np.exp(-wide * wide) * total).astype(x.dtype)


def gelu(x: Array, *, approximate: str) -> Array:
    """x * Phi(x): by erf, or with approximate="tanh" by tanh(sqrt(2/pi) (x + 0.044715 x^3))."""
    if approximate == "tanh":
        share = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    else:
        share = erf(x * math.sqrt(0.5))
    return np.asarray(0.5 * x * (1 + share))


def is_inf(x: Array, *, detect_negative: int, detect_positive: int) -> Array:
    return (np.isposinf(x) & bool(detect_positive)) | (np.isneginf(x) & bool(detect_negative))


def shrink(x: Array, *, bias: float, lambd: float) -> Array:
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0)).astype(x.dtype)


def selu(x: Array, *, alpha: float, gamma: float) -> Array:
    return gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


UNARY: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Acos": np.arccos,
    "Acosh": np.arccosh,
    "Asin": np.arcsin,
    "Asinh": np.arcsinh,
    "Atan": np.arctan,
    "Atanh": np.arctanh,
    "BitwiseNot": np.invert,
    "Ceil": np.ceil,
    "Celu": lambda x, *, alpha: np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0) / alpha),
    "Cos": np.cos,
    "Cosh": np.cosh,
    "Elu": lambda x, *, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "Erf": erf,
    "Exp": np.exp,
    "Floor": np.floor,
    "Gelu": gelu,
    "HardSigmoid": lambda x, *, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Identity": lambda x: x,
    "IsInf": is_inf,
    "IsNaN": np.isnan,
    "LeakyRelu": lambda x, *, alpha: np.where(x > 0, x, alpha * x),
    "Log": np.log,
    "Mish": lambda x: x * np.tanh(softplus(x)),
    "Neg": np.negative,
    "Not": np.logical_not,
    "Reciprocal": np.reciprocal,
    "Relu": lambda x: np.maximum(x, 0),
    "Round": np.rint,
    "Selu": selu,
    "Shrink": shrink,
    "Sigmoid": sigmoid,
    "Sign": np.sign,
    "Sin": np.sin,
    "Sinh": np.sinh,
    "Softplus": softplus,
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Sqrt": np.sqrt,
    "Swish": lambda x, *, alpha: x * sigmoid(alpha * x),
    "Tan": np.tan,
    "Tanh": np.tanh,
    "ThresholdedRelu": lambda x, *, alpha: np.where(x > alpha, x, 0).astype(x.dtype),
}


def divide(a: Array, b: Array) -> Array:
    """a / b; integers round towards zero (ONNX Div-14), and by zero give 0 rather than a trap."""
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    quotient = np.floor_divide(a, b)
    return np.asarray(quotient + ((quotient < 0) & (quotient * b != a)).astype(a.dtype))


def modulo(a: Array, b: Array, *, fmod: int) -> Array:
    """The sign of the divisor (Python's), or with `fmod` that of the dividend (C's)."""
    return np.fmod(a, b) if fmod else np.mod(a, b)


def power(a: Array, b: Array) -> Array:
    """a ^ b, in the type of the base."""
    wide = np.result_type(a, b) if a.dtype.kind in "iu" else a.dtype
    result = np.power(a.astype(wide, copy=False), b.astype(wide, copy=False))
    return np.asarray(result).astype(a.dtype, copy=False)


def bit_shift(a: Array, b: Array, *, direction: str) -> Array:
    """Shift by `b` bits; what is shifted by the width or more is 0 (numpy leaves that open)."""
    shift = np.left_shift if direction == "LEFT" else np.right_shift
    width = a.dtype.itemsize * 8
    return np.where(b < width, shift(a, np.minimum(b, width - 1)), 0).astype(a.dtype)


BINARY: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "And": np.logical_and,
    "BitShift": bit_shift,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
    "Div": divide,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Mod": modulo,
    "Mul": np.multiply,
    "Or": np.logical_or,
    "PRelu": lambda x, slope: np.where(x > 0, x, slope * x),
    "Pow": power,
    "Sub": np.subtract,
    "Xor": np.logical_xor,
}

VARIADIC: dict[str, Callable[..., Any]] = {
    "Max": lambda *arrays: reduce(np.maximum, arrays),
    "Mean": lambda *arrays: reduce(np.add, arrays) / arrays[0].dtype.type(len(arrays)),
    "Min": lambda *arrays: reduce(np.minimum, arrays),
    "Sum": lambda *arrays: reduce(np.add, arrays),
}

for _op, _function in (UNARY | BINARY | VARIADIC).items():
    add_kernel(_op, _function)


@kernel("Clip")
def clip(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    """min(max(x, low), high); a bound left out does not bound."""
    if low is not None:
        x = np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


@kernel("Where")
def where(condition: Array, x: Array, y: Array) -> Array:
    return np.where(condition, x, y)


@kernel("Cast")
def cast(x: Array, *, to: int, saturate: int = 1) -> Array:
    """Each element in another type, as numpy converts: floats truncate, to bool is "not zero"."""
    return _cast(x, DType(to))


@kernel("CastLike")
def cast_like(x: Array, target: Array, *, saturate: int = 1) -> Array:
    return _cast(x, DType.of(target.dtype))


def _cast(x: Array, to: DType) -> Array:
    if to is DType.STRING or x.dtype.kind in "OSU":
        raise UnsupportedError("casts from or to strings are not supported")
    if to.name.startswith(("FLOAT8", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2")):
        raise UnsupportedError(f"casts to {to} are not supported yet")
    return x.astype(to.numpy)


@kernel("SwiGLU")
def swiglu(a: Array, b: Array, *, alpha: float) -> Array:
    """swish(a) * b."""
    return a * sigmoid(alpha * a) * b


@kernel("Einsum")
def einsum(*arrays: Array, equation: str) -> Array:
    """Einstein summation; the equation's letters name axes, `...` the rest."""
    if not set(equation) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,-> "):
        raise InputError(f"'{equation}' is not an Einsum equation")
    return np.asarray(np.einsum(equation.replace(" ", ""), *arrays, optimize=True))
