"""Formulas as objects: evaluated, printed, drawn, differentiated."""

from __future__ import annotations

import numpy as np
import pytest

import nnconv
from nnconv.schemas.errors import InputError, UnsupportedError


def test_a_formula_and_its_gradients_have_values() -> None:
    x, y = nnconv.input("x", (3,)), nnconv.input("y", (3,))
    z = x * x + y
    assert z(x=[1, 2, 3], y=[4, 5, 6]).tolist() == [5, 9, 15]
    dx, dy = nnconv.grad(z, [x, y])
    assert dx(x=[1, 2, 3]).tolist() == [2, 4, 6]
    assert dy().tolist() == [1, 1, 1]


def test_arithmetic_is_that_of_numpy() -> None:
    x = nnconv.input("x", ("N",), "float64")
    point = np.array([0.5, 2.0, 3.0])
    formula = (1 - x) ** 2 / (2 * x) - np.array([1.0, 2.0, 3.0]) * -x
    wanted = (1 - point) ** 2 / (2 * point) - np.array([1.0, 2.0, 3.0]) * -point
    np.testing.assert_allclose(formula(x=point), wanted, rtol=1e-15)


def test_any_operator_can_be_applied() -> None:
    x, w = nnconv.input("x", (2, 3)), nnconv.input("w", (3, 2))
    y = nnconv.apply("ReduceSum", nnconv.apply("Relu", x @ w), keepdims=0)
    a, b = np.arange(6.0).reshape(2, 3) - 3, np.ones((3, 2))
    assert y(x=a, w=b) == np.maximum(a @ b, 0).sum()
    slope = nnconv.grad(y, w)
    np.testing.assert_array_equal(slope(x=a, w=b), a.T @ (a @ b > 0))


def test_gradients_of_gradients() -> None:
    x = nnconv.input("x")
    value = x**4
    for wanted in (32.0, 48.0, 48.0, 24.0):
        value = nnconv.grad(value, x)
        assert value(x=2.0) == wanted


def test_a_gradient_is_used_like_anything_else() -> None:
    x = nnconv.input("x", (2,))
    y = x * x
    step = x - 0.5 * nnconv.grad(y, x)
    assert step(x=[3, -4]).tolist() == [0, 0]


def test_printed_and_drawn_the_gradient_nodes_show() -> None:
    x = nnconv.input("x", (3,))
    slope = nnconv.grad(x * x, x)
    assert "x@grad: float32 3 = Add(" in str(slope)
    lines = slope.dot().splitlines()
    assert lines[0].startswith("digraph ") and lines[-1] == "}"
    boxes = [line for line in lines if "shape=box" in line]
    assert ["orange" in box for box in boxes] == [False, True, True, True, True]
    assert '  "x" -> "mul";' in lines


def test_a_long_chain_is_no_recursion() -> None:
    x = nnconv.input("x")
    value = x
    for _ in range(3000):
        value = value + 1
    assert value(x=0.0) == 3000
    assert nnconv.grad(value, x)(x=0.0) == 1


def test_mistakes_are_named() -> None:
    x = nnconv.input("x", (3,))
    with pytest.raises(InputError, match="two different inputs are called 'x'"):
        (x + nnconv.input("x", (4,))).model()
    with pytest.raises(InputError, match="no element type 'float31'"):
        nnconv.input("x", (3,), "float31")
    with pytest.raises(InputError, match="grad takes expressions"):
        nnconv.grad(3.0, x)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="Compress"):
        nnconv.grad(nnconv.apply("Compress", x, np.array([True, False, True])), x).model()
