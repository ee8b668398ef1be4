"""Elementwise functions over the whole f32 range, and chains of them with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnconv.runtime.kernels.elementwise import Chain, Step, Strided, chain, space
from nnconv.runtime.kernels.functions import BINARY, UNARY
from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import InternalError
from tests.kernels.harness import (
    Doubles,
    Floats,
    buffer,
    close,
    few,
    random,
    run,
    same_on_two_threads,
)

_erf = np.vectorize(math.erf, otypes=[float])


def softplus(x: Doubles) -> Doubles:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


# operation, parameters: answer in double precision, largest relative error (0: exact)
FUNCTIONS: dict[tuple[str, tuple[float, ...]], tuple[Callable[[Doubles], Doubles], float]] = {
    ("Exp", ()): (np.exp, 1.5e-7),
    ("Log", ()): (np.log, 1.5e-7),
    ("Tanh", ()): (np.tanh, 3e-7),
    ("Erf", ()): (_erf, 3e-7),
    ("Sigmoid", ()): (lambda x: 1 / (1 + np.exp(-x)), 3e-7),
    ("Softplus", ()): (softplus, 3e-7),
    ("Elu", (0.5,)): (lambda x: np.where(x < 0, 0.5 * np.expm1(x), x), 3e-7),
    ("Celu", (2.0,)): (lambda x: np.where(x < 0, 2 * np.expm1(x / 2), x), 3e-7),
    ("Relu", ()): (lambda x: np.maximum(x, 0), 0),
    ("LeakyRelu", (0.25,)): (lambda x: np.where(x < 0, x / 4, x), 0),
    ("Clip", (-1.0, 6.0)): (lambda x: np.clip(x, -1, 6), 0),
    ("Neg", ()): (np.negative, 0),
    ("Abs", ()): (np.abs, 0),
    ("Sqrt", ()): (np.sqrt, 0),
    ("Reciprocal", ()): (np.reciprocal, 0),
    ("Floor", ()): (np.floor, 0),
    ("Ceil", ()): (np.ceil, 0),
    ("Round", ()): (np.rint, 0),
    ("Square", ()): (np.square, 0),
    ("Finite", ()): (lambda x: np.where(np.isfinite(x), x, 0.0), 0),
    ("WholePower", (3.0,)): (lambda x: x**3, 2e-7),
    ("WholePower", (-1.0,)): (np.reciprocal, 2e-7),
    ("Counted", (-1.0,)): (lambda x: np.where(np.trunc(x) == -1, 0.0, 1.0), 0),
    ("Not", ()): (lambda x: 1 - x, 6e-8),
    ("Softsign", ()): (lambda x: x / (1 + np.abs(x)), 3e-7),
    ("ThresholdedRelu", (0.5,)): (lambda x: np.where(x > 0.5, x, 0), 0),
}
LIMITED: dict[
    tuple[str, tuple[float, ...]], Callable[[Doubles], Doubles]
] = {  # of these the error is relative to the largest value on -8 ... 8
    ("HardSigmoid", (0.2, 0.5)): lambda x: np.clip(x * np.float32(0.2) + 0.5, 0, 1),
    ("HardSwish", ()): lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    ("Swish", (1.0,)): lambda x: x / (1 + np.exp(-x)),
    ("Mish", ()): lambda x: x * np.tanh(softplus(x)),
    ("Gelu", ()): lambda x: 0.5 * x * (1 + _erf(x * math.sqrt(0.5))),
    ("GeluTanh", ()): lambda x: (
        0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    ("Selu", (1.67, 1.05)): lambda x: np.where(x < 0, 1.67 * np.expm1(x), x) * 1.05,
    ("Affine", (3.0, -1.0)): lambda x: 3 * x - 1,
    ("Sign", ()): np.sign,
    ("Identity", ()): lambda x: x,
}


def unary(operation: str, parameters: tuple[float, ...], values: Floats, target: Target) -> Floats:
    n = values.size
    step = Step(operation, (0,), parameters)
    kernel = chain([n], [Strided((1,))], [Strided((1,))], [step], [1], target.lanes)
    x, y = buffer(values), buffer(np.zeros(n))
    run(kernel, target, x, y)
    return y


def every_kind_of_number() -> Floats:
    """Every 20011th bit pattern, all edges among them, and a dense stretch around 0."""
    patterns = np.arange(0, 1 << 32, 20011, dtype=np.uint64).astype(np.uint32)
    edges = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        1e-45,
        -1e-45,
        1.1754944e-38,
        3.4028235e38,
        1.0,
        -1.0,
    ]
    near = np.linspace(-110, 110, 40001)
    return np.concatenate([patterns.view(np.float32), np.array([*edges, *near], np.float32)])


@pytest.mark.parametrize(
    ("operation", "parameters"), FUNCTIONS, ids=lambda v: v if isinstance(v, str) else ""
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_function_is_accurate_over_all_floats(
    operation: str, parameters: tuple[float, ...], target: Target
) -> None:
    answer, relative = FUNCTIONS[operation, parameters]
    x = every_kind_of_number()
    got, want = unary(operation, parameters, x, target), answer(x.astype(np.float64))
    rounded = want.astype(np.float32)
    if relative == 0:
        np.testing.assert_array_equal(got, rounded)
        return
    np.testing.assert_array_equal(np.isnan(got), np.isnan(rounded))
    np.testing.assert_array_equal(np.isposinf(got), np.isposinf(rounded))
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(rounded))
    normal = np.isfinite(rounded) & (np.abs(want) >= 1.2e-38)
    assert (np.abs(got - want)[normal] <= relative * np.abs(want[normal])).all()
    subnormal = np.isfinite(rounded) & ~normal
    assert np.abs(got - want)[subnormal].max(initial=0) <= 3e-39


@pytest.mark.parametrize(
    ("operation", "parameters"), LIMITED, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_composed_function_is_accurate_where_nets_use_it(
    operation: str, parameters: tuple[float, ...], target: Target
) -> None:
    x = np.linspace(-8, 8, 5001, dtype=np.float32)
    close(
        unary(operation, parameters, x, target),
        LIMITED[operation, parameters](x.astype(np.float64)),
        1e-6,
    )


def test_every_unary_function_is_tested() -> None:
    tested = {name for name, _ in (*FUNCTIONS, *LIMITED)}
    assert set(UNARY) - tested == {"Power"}


BINARIES: dict[str, Callable[..., Doubles]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "PRelu": lambda a, b: np.where(a < 0, a * b, a),
    "Pow": lambda a, b: np.abs(a) ** b,
    "SigmoidCrossEntropy": lambda x, t: np.log1p(np.exp(-np.abs(x))) - x * (t - (x >= 0)),
    "SigmoidCrossEntropyGrad": lambda x, t: 1 / (1 + np.exp(-x)) - t,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Equal": np.equal,
    "Gate": lambda a, b: np.where(a > 0, b, 0),
    "And": lambda a, b: (a > 0) & (b > 0),
    "Or": lambda a, b: (a > 0) | (b > 0),
}
CONDITIONS = ("And", "Or")  # of the numbers 1 and 0


@pytest.mark.parametrize("operation", BINARY)
@few
@given(data=st.data())
def test_a_binary_function_broadcasts_over_any_space(
    target: Target, operation: str, data: st.DataObject
) -> None:
    draw = data.draw
    shape = draw(
        st.lists(st.integers(1, 40), min_size=1, max_size=4).filter(lambda s: math.prod(s) < 20000)
    )
    other = [extent if draw(st.booleans()) else 1 for extent in shape]
    order = draw(st.permutations(range(len(shape))))  # how the first operand lies in memory
    a, b = random([shape[d] for d in order], 1), random(other, 2)
    a = np.abs(a) + np.float32(0.1) if operation == "Pow" else a
    if operation in CONDITIONS:
        a, b = (np.float32(1) * (x > 0) for x in (a, b))
    back = np.argsort(order)
    strides = [s // 4 for s in a.transpose(back).strides]
    spread = [0 if extent == 1 else s // 4 for extent, s in zip(other, b.strides, strict=True)]
    dense = [s // 4 for s in np.empty(shape, np.float32).strides]
    operands = [Strided(tuple(strides)), Strided(tuple(spread))]
    kernel = chain(
        shape, operands, [Strided(tuple(dense))], [Step(operation, (0, 1))], [2], target.lanes
    )
    x0, x1, y = buffer(a), buffer(b), buffer(np.full(math.prod(shape), np.nan))
    run(kernel, target, x0, x1, y)
    want = BINARIES[operation](a.transpose(back).astype(np.float64), b.astype(np.float64))
    np.testing.assert_allclose(y.reshape(shape), want, rtol=1e-5, atol=1e-6)
    assert same_on_two_threads(kernel, target, x0, x1, y)


def test_a_chain_computes_all_steps_in_one_pass_and_may_write_in_place(target: Target) -> None:
    a, b, scale = random((3, 20, 50), 1), random((3, 20, 50), 2), random((20,), 3)
    steps = [Step("Mul", (0, 1)), Step("Add", (3, 2)), Step("HardSwish", (4,))]
    dense, channel = Strided((1000, 50, 1)), Strided((0, 1, 0))
    kernel = chain((3, 20, 50), [dense, channel, dense], [dense], steps, [5], target.lanes)
    memory = buffer(a)
    run(kernel, target, memory, buffer(scale), buffer(b), memory)
    x = a.astype(np.float64) * scale[:, None] + b
    close(memory.reshape(a.shape), x * np.clip(x / 6 + 0.5, 0, 1), 1e-6)


def test_a_chain_may_have_many_inputs(target: Target) -> None:
    values, one = [random((100,), seed) for seed in range(30)], Strided((1,))
    steps = [Step("Add", (0, 1)), *(Step("Add", (28 + i, i)) for i in range(2, 30))]
    kernel = chain([100], [one] * 30, [one], steps, [58], target.lanes)
    y = buffer(np.full(100, np.nan))
    run(kernel, target, *map(buffer, values), y)
    close(y, np.sum(values, axis=0, dtype=np.float64), 1e-6)


def test_a_space_has_no_more_dimensions_than_its_operands_need() -> None:
    dense = Strided((120, 20, 5, 1))
    assert space((3, 6, 4, 5), [dense, dense])[0] == (360,)
    assert space((3, 6, 4, 5), [dense, Strided((0, 1, 0, 0))])[0] == (3, 6, 20)


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(InternalError, match="Frobnicate"):
        Chain((8,), (Strided((1,)),), (Strided((1,)),), (Step("Frobnicate", (0,)),), (1,), 8)
