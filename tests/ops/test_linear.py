"""Matrix products against ONNX Runtime and numpy's in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from nnconv.schemas.errors import InputError
from tests.ops.check import Case, cases, check, compute

GEMM = [
    *cases("Gemm", (4, 5), (5, 3), (3,), alpha=[1.0, 0.5], beta=[1.0, 2.0]),
    *cases("Gemm", (5, 4), (3, 5), transA=[1], transB=[1]),
    *cases("Gemm", (4, 5), (3, 5), (4, 1), transB=[1], alpha=[1.5]),
    Case("Gemm", ((4, 5), (5, 3), ())),
]


@pytest.mark.parametrize("case", GEMM, ids=str)
def test_gemm(case: Case) -> None:
    check(case, rel=2e-6)


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 4), (4, 5)),
        ((2, 3, 4), (4, 5)),
        ((2, 1, 3, 4), (5, 4, 2)),
        ((4,), (4, 3)),
        ((3, 4), (4,)),
        ((4,), (4,)),
    ],
    ids=str,
)
def test_matmul_broadcasts(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    check(Case("MatMul", shapes), rel=2e-6)
    check(Case("MatMul", shapes), np.matmul, rel=1e-6)


def test_sizes_that_cannot_be_multiplied_are_both_named() -> None:
    with pytest.raises(InputError, match=r"5.*6|6.*5"):
        compute(Case("Gemm", ((4, 5), (6, 3))))
