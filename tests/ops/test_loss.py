"""Losses and accuracy: ONNX's against ONNX Runtime, Caffe's against CAFFE.md written out in
double.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.schemas.errors import InputError
from tests.ops.check import Case, cases, check, compute, floats

LABELS = np.array(
    [[0, 3], [2, 1], [-1, 3]], np.float32
)  # 3 items, 2 positions; -1 is to be ignored
SCORES = (3, 4, 2)


def _positions(x: Any, label: Any) -> Any:
    """(scores of a position, its label), one after the other."""
    flat = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
    return zip(flat, label.reshape(-1).astype(int), strict=True)


def _divisor(normalization: str, full: int, valid: int, batch: int) -> int:
    return max(1, {"FULL": full, "VALID": valid, "BATCH_SIZE": batch, "NONE": 1}[normalization])


def _softmax_loss(x: Any, label: Any, *, normalization: str, ignore_label: int) -> float:
    terms = [
        -np.log(max(np.exp(s)[k] / np.exp(s).sum(), 1.17549435e-38))
        for s, k in _positions(x, label) if k != ignore_label
    ]  # fmt: skip
    return np.float64(sum(terms) / _divisor(normalization, label.size, len(terms), x.shape[0]))


NORMALIZATIONS = ["FULL", "VALID", "BATCH_SIZE", "NONE"]


@pytest.mark.parametrize(
    "case",
    cases(
        "nnconv.SoftmaxWithLoss", SCORES, LABELS, normalization=NORMALIZATIONS, ignore_label=[-1]
    ),
    ids=str,
)
def test_softmax_with_loss(case: Case) -> None:
    check(case, _softmax_loss)


def test_the_logarithm_of_a_vanishing_probability_is_bounded() -> None:
    case = Case("nnconv.SoftmaxWithLoss", (floats([[200, 0]]), floats([1])))
    assert abs(float(compute(case)[0]) + np.log(1.17549435e-38)) < 1e-4


def test_a_label_that_is_no_class_is_refused() -> None:
    with pytest.raises(InputError, match=r"label 4 .* 4 classes"):
        compute(Case("nnconv.SoftmaxWithLoss", ((2, 4), floats([0, 4]))))


def _sigmoid_loss(x: Any, t: Any, *, normalization: str, ignore_label: int | None = None) -> float:
    positive = x >= 0
    terms = -(x * (t - positive) - np.log(1 + np.exp(x - 2 * x * positive)))
    kept = np.ones(x.shape, bool) if ignore_label is None else t.astype(int) != ignore_label
    return np.float64(
        terms[kept].sum() / _divisor(normalization, x.size, int(kept.sum()), x.shape[0])
    )


TARGETS = np.linspace(0, 2, 12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("case", [
    *cases("nnconv.SigmoidCrossEntropyLoss", (3, 4), TARGETS, normalization=NORMALIZATIONS),
    *cases("nnconv.SigmoidCrossEntropyLoss", (3, 4), TARGETS, normalization=NORMALIZATIONS,
           ignore_label=[0, 1]),
], ids=str)  # fmt: skip
def test_sigmoid_cross_entropy_loss(case: Case) -> None:
    check(case, _sigmoid_loss)


def test_euclidean_loss() -> None:
    check(Case("nnconv.EuclideanLoss", ((4, 3), (4, 3))), lambda a, b: ((a - b) ** 2).sum() / 8)


def _accuracy(
    x: Any, label: Any, *, top_k: int, ignore_label: int | None = None
) -> tuple[Any, Any]:
    right, seen = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for scores, k in _positions(x, label):
        if k != ignore_label:
            seen[k] += 1
            right[k] += (scores >= scores[k]).sum() - 1 < top_k
    share = right.sum() / seen.sum() if seen.sum() else 0.0
    return np.float64(share), right / np.maximum(seen, 1)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_accuracy_and_that_of_each_class(top_k: int) -> None:
    case = Case("nnconv.Accuracy", (SCORES, LABELS), {"top_k": top_k, "ignore_label": -1}, 2)
    check(case, _accuracy)


@pytest.mark.parametrize(("labels", "share"), [([0, 1], 0.0), ([-1, -1], 0.0)])
def test_equal_scores_count_against_the_true_class_and_nothing_counted_is_zero(
    labels: list[int], share: float
) -> None:
    x = np.zeros((2, 3), np.float32)
    case = Case("nnconv.Accuracy", (x, floats(labels)), {"ignore_label": -1})
    assert compute(case)[0] == share


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("ignored", [{}, {"ignore_index": 2}], ids=str)
@pytest.mark.parametrize("op", ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"])
def test_losses_of_onnx(op: str, reduction: str, ignored: dict[str, int]) -> None:
    labels = np.array([[0, 3], [2, 1], [2, 3]], np.int64)
    outputs = 2 if op.startswith("Softmax") else 1
    weights = floats([1, 0.5, 2, 3])
    check(
        Case(op, (SCORES, labels, weights), {"reduction": reduction} | ignored, outputs), rel=2e-6
    )
