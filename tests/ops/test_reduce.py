"""Reductions against ONNX Runtime, in every form of axes."""

from __future__ import annotations

import numpy as np
import pytest

from nnconv.runtime.ops.reduce import REDUCTIONS
from nnconv.schemas.errors import InputError
from tests.ops.check import Case, cases, check, compute

AXES = [None, np.array([1], np.int64), np.array([0, -1], np.int64)]


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions(op: str, axes: np.ndarray | None, keepdims: int) -> None:
    low = 0.1 if op == "ReduceLogSum" else -2
    check(Case(op, ((3, 4, 5), axes), {"keepdims": keepdims}, low=low), rel=2e-6)


# What a reduction of a single element does to it; the others leave it as it is.
OF_ONE = {
    "ReduceL1": np.abs,
    "ReduceL2": np.abs,
    "ReduceLogSum": np.log,
    "ReduceSumSquare": np.square,
}


@pytest.mark.parametrize("op", REDUCTIONS)
def test_no_axes_with_the_flag_reduces_nothing(op: str) -> None:
    low = 0.1 if op == "ReduceLogSum" else -2
    case = Case(op, ((3, 4), np.zeros(0, np.int64)), {"noop_with_empty_axes": 1}, low=low)
    (y,) = compute(case)
    (x, _) = case.arrays()
    assert x is not None
    np.testing.assert_allclose(y, OF_ONE.get(op, lambda x: x)(x), rtol=1e-6)


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"])
def test_reductions_of_integers(op: str) -> None:
    check(Case(op, (np.arange(-5, 7, dtype=np.int32).reshape(3, 4), np.array([1], np.int64))))


def test_log_sum_exp_of_thousands_does_not_overflow() -> None:
    (y,) = compute(Case("ReduceLogSumExp", (np.array([1000, 1000], np.float32),), {"keepdims": 0}))
    assert abs(float(y) - (1000 + np.log(2))) < 1e-3


TIES = np.array([[1, 3, 3, 0], [2, 2, 2, 2]], np.float32)


@pytest.mark.parametrize("case", [
    *cases("ArgMax", TIES, axis=[0, 1, -1], keepdims=[0, 1], select_last_index=[0, 1]),
    *cases("ArgMin", TIES, axis=[0, 1], keepdims=[0, 1], select_last_index=[0, 1]),
], ids=str)  # fmt: skip
def test_the_index_of_the_extreme_with_ties(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_top_k_orders_and_breaks_ties_by_the_lower_index(largest: int, axis: int) -> None:
    check(Case("TopK", (TIES, np.array([2], np.int64)), {"largest": largest, "axis": axis}, 2))
    check(Case("TopK", ((5, 6), np.array([3], np.int64)), {"largest": largest, "axis": axis}, 2))


def test_top_k_of_more_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="5"):
        compute(Case("TopK", (TIES, np.array([5], np.int64)), {}, 2))


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_sums(exclusive: int, reverse: int) -> None:
    check(
        Case(
            "CumSum", ((3, 4), np.array(1, np.int64)), {"exclusive": exclusive, "reverse": reverse}
        )
    )
