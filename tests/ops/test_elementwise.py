"""Element by element: every line of the tables against ONNX Runtime, integers and edges by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nnconv.runtime.ops.elementwise import BINARY, UNARY, VARIADIC, erf
from nnconv.schemas.types import DType
from tests.ops.check import Case, check, compute, floats

# Where a function is not defined on [-2, 2], or interesting elsewhere.
RANGES = {
    "Acos": (-1, 1),
    "Acosh": (1, 4),
    "Asin": (-1, 1),
    "Atanh": (-0.9, 0.9),
    "Log": (0.01, 5),
    "Sqrt": (0, 5),
    "Pow": (0.1, 3),
    "HardSigmoid": (-4, 4),
    "HardSwish": (-5, 5),
    "Softplus": (-30, 30),
    "Sigmoid": (-100, 100),
    "Mish": (-30, 30),
    "Erf": (-5, 5),
}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Celu": {"alpha": 0.7},
    "Elu": {"alpha": 1.3},
    "Gelu": {"approximate": "tanh"},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "LeakyRelu": {"alpha": 0.3},
    "Mod": {"fmod": 1},
    "Selu": {"alpha": 1.5, "gamma": 1.1},
    "Shrink": {"bias": 0.2, "lambd": 0.7},
    "Swish": {"alpha": 1.7},
    "ThresholdedRelu": {"alpha": 0.4},
}
BOOLEAN = {"And", "Or", "Xor", "Not"}
INTEGER = {"BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"}
FLOATING = [op for op in UNARY | BINARY | VARIADIC if op not in BOOLEAN | INTEGER]


def _inputs(op: str, wide: tuple[int, ...], narrow: tuple[int, ...]) -> tuple[object, ...]:
    return (wide,) if op in UNARY else (wide, narrow)


@pytest.mark.parametrize("op", FLOATING)
@pytest.mark.parametrize("shapes", [((3, 4, 5), (4, 1)), ((6,), (6,)), ((), ())], ids=str)
def test_every_float_line_of_the_tables(
    op: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    low, high = RANGES.get(op, (-2, 2))
    check(Case(op, _inputs(op, *shapes), ATTRIBUTES.get(op, {}), low=low, high=high), rel=2e-6)


@pytest.mark.parametrize("op", sorted(BOOLEAN))
def test_every_boolean_line_of_the_tables(op: str) -> None:
    a, b = np.array([[True], [False]]), np.array([True, False])
    check(Case(op, (a,) if op in UNARY else (a, b)))


@pytest.mark.parametrize("op", sorted(INTEGER - {"BitShift"}))
def test_every_bitwise_line_of_the_tables(op: str) -> None:
    a, b = np.arange(16, dtype=np.uint8).reshape(4, 4), np.array([3, 5, 250, 0], np.uint8)
    check(Case(op, (a,) if op in UNARY else (a, b)))


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifting_by_the_width_or_more_gives_zero(direction: str) -> None:
    case = Case(
        "BitShift",
        (np.full(3, 255, np.uint8), np.array([1, 8, 200], np.uint8)),
        {"direction": direction},
    )
    (result,) = compute(case)
    assert result.tolist() == [254 if direction == "LEFT" else 127, 0, 0]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_integer_division_rounds_towards_zero(dtype: type) -> None:
    signs = [1] if dtype is np.uint8 else [1, -1]
    a: Any = np.array([s * n for s in signs for n in (7, 6, 1, 0)], dtype)
    for divisor in signs:
        check(Case("Div", (a, np.array([divisor * 3], dtype))))


@pytest.mark.parametrize("fmod", [0, 1])
def test_mod_of_integers_takes_the_sign_that_is_asked_for(fmod: int) -> None:
    a, b = np.array([-7, 7, -7, 7], np.int32), np.array([3, -3, -3, 3], np.int32)
    check(Case("Mod", (a, b), {"fmod": fmod}))


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
def test_variadic_operators_take_any_number_of_inputs(op: str) -> None:
    check(Case(op, ((2, 3), (3,), (2, 1), (1,))))
    check(Case(op, ((2, 3),)))


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (None, 0.5), (-0.5, None), (None, None)], ids=str)
def test_clip_bounds_only_where_a_bound_is_given(bounds: tuple[float | None, float | None]) -> None:
    low, high = (None if b is None else np.float32(b) for b in bounds)
    arrays = [None if b is None else np.asarray(b) for b in (low, high)]
    check(Case("Clip", ((4, 5), *arrays)))


def test_where_broadcasts_all_three() -> None:
    check(Case("Where", (np.array([[True], [False]]), (3,), (2, 1))))


@pytest.mark.parametrize("to", [DType.INT32, DType.UINT8, DType.BOOL, DType.FLOAT16, DType.FLOAT64])
def test_cast_truncates_and_widens(to: DType) -> None:
    x = np.array([0.0, 0.9, 1.5, 2.6, 100.4], np.float32)
    check(Case("Cast", (x,), {"to": int(to)}))


def test_pow_keeps_the_type_of_its_base() -> None:
    check(Case("Pow", (np.array([1, 2, 3], np.int32), np.array([2, 3, 2], np.int64))))
    check(Case("Pow", (np.array([1, 2, 3], np.float32), np.array([2, 3, 2], np.int64))))


def test_erf_has_fourteen_digits() -> None:
    x = np.linspace(-8, 8, 2001)
    wanted = np.array([math.erf(v) for v in x])
    assert np.abs(erf(x) - wanted).max() < 4e-15


@pytest.mark.parametrize("op", ["Sigmoid", "Softplus", "Mish", "Tanh", "Gelu", "Elu", "Selu"])
def test_activations_do_not_overflow(op: str) -> None:
    (y,) = compute(Case(op, (np.array([-1e4, -100, 100, 1e4], np.float32),)))
    assert np.isfinite(y).all()


@pytest.mark.parametrize("op", ["Relu", "Max", "Min", "Clip"])
def test_nan_is_passed_on(op: str) -> None:
    x = np.array([np.nan, 1, -1], np.float32)
    bounds = {
        "Max": (floats([0]),),
        "Min": (floats([0]),),
        "Clip": (np.float32(-9), np.float32(9)),
    }
    (y,) = compute(Case(op, (x, *map(np.asarray, bounds.get(op, ())))))
    assert np.isnan(y[0]) and not np.isnan(y[1:]).any()


@pytest.mark.parametrize("equation", ["ij,jk->ik", "bij,bkj->bik", "ii->i", "...i->..."])
def test_einsum(equation: str) -> None:
    shapes = {"ij,jk->ik": ((2, 3), (3, 4)), "bij,bkj->bik": ((2, 3, 4), (2, 5, 4))}
    check(Case("Einsum", shapes.get(equation, ((3, 3),)), {"equation": equation}))
