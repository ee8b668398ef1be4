"""Normalisations, softmax and dropout: against ONNX Runtime, and against Caffe's formulas in
double.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.schemas.errors import InputError, UnsupportedError
from tests.ops.check import Case, cases, check, compute, floats

POSITIVE = np.array([0.3, 2.0, 0.01], np.float32)

STANDARD = [
    # not onnx.reference: its LRN (1.23.2) is wrong unless batch == channels; ORT refuses even sizes
    *cases("LRN", (2, 7, 4, 3), size=[1, 3, 5], alpha=[1e-4, 0.5], beta=[0.75, 1.0],
           bias=[1.0, 2.0]),
    Case("LRN", ((1, 1, 1, 1),), {"size": 3}),
    *cases("BatchNormalization", (2, 3, 4, 5), (3,), (3,), (3,), POSITIVE, epsilon=[1e-5, 0.1]),
    Case("BatchNormalization", ((4, 3), (3,), (3,), (3,), POSITIVE)),
    *cases("InstanceNormalization", (2, 3, 4, 5), (3,), (3,), epsilon=[1e-5, 0.1]),
    *cases("GroupNormalization", (2, 6, 4, 5), (6,), (6,), num_groups=[1, 2, 3, 6]),
    *cases("LayerNormalization", (2, 3, 4), (4,), (4,), axis=[-1]),
    Case("LayerNormalization", ((2, 3, 4), (3, 4)), {"axis": 1}, 3),
    *cases("RMSNormalization", (2, 3, 4), (4,), axis=[-1]),
    *cases("MeanVarianceNormalization", (2, 3, 4, 5), axes=[(0, 2, 3), (2, 3)]),
    *cases("LpNormalization", (2, 3, 4), p=[1, 2], axis=[0, -1]),
    *cases("Softmax", (2, 3, 4), axis=[0, 1, -1]),
    *cases("LogSoftmax", (2, 3, 4), axis=[0, 1, -1]),
    *cases("Hardmax", (2, 3, 4), axis=[0, 1, -1]),
    Case("Dropout", ((3, 4),), {}, 2),
]  # fmt: skip


@pytest.mark.parametrize("case", STANDARD, ids=str)
def test_normalisations_of_onnx(case: Case) -> None:
    check(case, rel=2e-6)


def test_lrn_of_even_size_reaches_one_channel_further_up() -> None:
    x = np.arange(1, 6, dtype=np.float32).reshape(1, 5, 1, 1)
    (y,) = compute(Case("LRN", (x,), {"size": 2, "alpha": 2.0, "beta": 1.0, "bias": 0.0}))
    squares = np.arange(1, 7) ** 2 * [1, 1, 1, 1, 1, 0]
    np.testing.assert_allclose(
        y.reshape(-1), x.reshape(-1) / (squares[:-1] + squares[1:]), rtol=1e-6
    )


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_of_thousands_does_not_overflow(op: str) -> None:
    check(Case(op, (np.array([[1000, 999, -1000]], np.float32),), {"axis": 1}))


def test_batch_normalization_in_training_moves_its_statistics() -> None:
    case = Case(
        "BatchNormalization", ((4, 3, 5), (3,), (3,), (3,), POSITIVE), {"training_mode": 1}, 3
    )
    check(case, rel=5e-6)


def _caffe_batch_norm(
    x: Any, mean_sum: Any, variance_sum: Any, factor: Any, *, use_global_stats: int, **options: Any
) -> tuple[Any, ...]:
    """CAFFE.md section 7."""
    f, eps = options.get("moving_average_fraction", 0.999), options.get("epsilon", 1e-5)
    axes, shape = (0, *range(2, x.ndim)), (-1, *(1,) * (x.ndim - 2))
    if use_global_stats:
        s = 0 if factor[0] == 0 else 1 / factor[0]
        mean, variance, after = mean_sum * s, variance_sum * s, (mean_sum, variance_sum, factor)
    else:
        mean, variance = x.mean(axes), x.var(axes)
        m = x.size / x.shape[1]
        unbiased = variance * (m / (m - 1) if m > 1 else 1)
        after = (f * mean_sum + mean, f * variance_sum + unbiased, f * factor + 1)
    y = (x - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + eps)
    return (y, *after)


@pytest.mark.parametrize("use_global_stats", [0, 1])
@pytest.mark.parametrize("factor", [0.0, 2.5])
@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (4, 3), (1, 3, 2)], ids=str)
def test_caffe_batch_norm_and_its_state(
    use_global_stats: int, factor: float, shape: tuple[int, ...]
) -> None:
    state = ((3,), POSITIVE * 3, floats([factor]))
    attributes = {
        "use_global_stats": use_global_stats,
        "epsilon": 1e-2,
        "moving_average_fraction": 0.9,
    }
    check(Case("nnconv.BatchNorm", (shape, *state), attributes, 4), _caffe_batch_norm, rel=2e-6)


def test_caffe_batch_norm_of_one_value_a_channel_keeps_the_factor_at_one() -> None:
    case = Case(
        "nnconv.BatchNorm", ((1, 3), (3,), POSITIVE, floats([1])), {"use_global_stats": 0}, 4
    )
    check(case, _caffe_batch_norm)


def test_batch_norm_without_a_mode_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="mode"):
        compute(Case("nnconv.BatchNorm", ((2, 3), (3,), POSITIVE, floats([1])), {}, 4))


def test_dropout_keeps_the_share_and_the_mean() -> None:
    x = np.ones((1000, 100), np.float32)
    (y,) = compute(Case("nnconv.Dropout", (x,), {"ratio": 0.3, "seed": 11}))
    kept = y != 0
    assert abs(kept.mean() - 0.7) < 0.005
    np.testing.assert_allclose(y[kept], 1 / 0.7, rtol=1e-6)


def test_dropout_with_another_seed_drops_others() -> None:
    first, again, other = (
        compute(Case("nnconv.Dropout", ((64, 64),), {"seed": s}))[0] for s in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.3


def test_a_dropout_ratio_of_one_is_refused() -> None:
    with pytest.raises(InputError, match="ratio"):
        compute(Case("nnconv.Dropout", ((2, 2),), {"ratio": 1.0}))
