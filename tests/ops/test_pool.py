"""Pooling: ONNX's windows against ONNX Runtime, Caffe's against its loop written out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.ops.check import Case, cases, check, compute

WINDOWS: list[dict[str, Any]] = [
    {"kernel_shape": (2, 2), "strides": (2, 2)},
    {"kernel_shape": (3, 2), "strides": (2, 3), "ceil_mode": 1},
    {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "ceil_mode": 1},
    {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 0, 2, 1)},
    {"kernel_shape": (2, 2), "dilations": (2, 3)},
    {"kernel_shape": (3, 3), "strides": (2, 2), "auto_pad": "SAME_UPPER"},
    {"kernel_shape": (2, 2), "strides": (2, 2), "auto_pad": "SAME_LOWER"},
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("outputs", [1, 2])
def test_max_pool_with_and_without_indices(window: dict[str, Any], outputs: int) -> None:
    check(Case("MaxPool", ((2, 3, 9, 8),), window, outputs))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("count_include_pad", [0, 1])
def test_average_pool(window: dict[str, Any], count_include_pad: int) -> None:
    check(Case("AveragePool", ((2, 3, 9, 8),), window | {"count_include_pad": count_include_pad}))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("rank", [1, 3])
def test_pools_of_other_ranks(op: str, rank: int) -> None:
    check(
        Case(
            op,
            ((2, 2, 7, 6, 5)[: rank + 2],),
            {"kernel_shape": (2,) * rank, "strides": (2,) * rank},
        )
    )


@pytest.mark.parametrize("case", [
    Case("GlobalMaxPool", ((2, 3, 4, 5),)),
    Case("GlobalAveragePool", ((2, 3, 4, 5),)),
    *cases("GlobalLpPool", (2, 3, 4, 5), p=[1, 2]),
], ids=str)  # fmt: skip
def test_global_pools(case: Case) -> None:
    check(case, rel=2e-6)


def test_equal_cells_choose_the_first_in_row_major_order() -> None:
    case = Case(
        "MaxPool",
        (np.zeros((1, 2, 4, 4), np.float32),),
        {"kernel_shape": (2, 2), "strides": (2, 2)},
        2,
    )
    assert compute(case)[1].reshape(-1).tolist() == [0, 2, 8, 10, 16, 18, 24, 26]


def test_nan_never_wins_against_a_number() -> None:
    x = np.array([[[[np.nan, -5, np.nan, np.nan]]]], np.float32)
    (y,) = compute(
        Case("nnconv.Pool", (x,), {"kernel_shape": (1, 2), "strides": (1, 2), "mode": "MAX"})
    )
    assert y.reshape(-1).tolist() == [-5, -float(np.finfo(np.float32).max)]


def _caffe_pool(
    x: Any, *, mode: str, kernel_shape: Any, strides: Any, pads: Any, round_mode: str = "CEIL"
) -> Any:
    """Pooling as CAFFE.md section 7 states it, window by window."""
    rounding = math.ceil if round_mode == "CEIL" else math.floor
    out = []
    for size, k, s, p in zip(x.shape[2:], kernel_shape, strides, pads[:2], strict=True):
        count = rounding((size + 2 * p - k) / s) + 1
        out.append(count - 1 if any(pads) and (count - 1) * s >= size + p else count)
    y = np.empty((*x.shape[:2], *out))
    (height, width), (kh, kw) = x.shape[2:], kernel_shape
    for i, j in np.ndindex(*out):
        top, left = i * strides[0] - pads[0], j * strides[1] - pads[1]
        bottom, right = min(top + kh, height + pads[0]), min(left + kw, width + pads[1])
        area = (bottom - top) * (right - left)
        window = x[:, :, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
        if mode == "MAX":
            lowest = -float(np.finfo(np.float32).max)
            y[:, :, i, j] = np.fmax(window.max((2, 3), initial=lowest), lowest)
        else:
            with np.errstate(invalid="ignore", divide="ignore"):
                y[:, :, i, j] = window.sum((2, 3)) / np.float64(area)
    return y


@pytest.mark.parametrize("case", cases(
    "nnconv.Pool", (2, 3, 7, 8), mode=["MAX", "AVE"], kernel_shape=[(3, 3), (2, 3)],
    strides=[(2, 2), (3, 1)],
    pads=[(0, 0, 0, 0), (1, 1, 1, 1), (1, 0, 1, 0)], round_mode=["CEIL", "FLOOR"],
), ids=str)  # fmt: skip
def test_caffe_pool_counts_windows_and_cells_as_caffe_does(case: Case) -> None:
    check(case, _caffe_pool)


@pytest.mark.parametrize("mode", ["MAX", "AVE"])
def test_a_window_outside_the_data_gives_what_caffe_gives(mode: str) -> None:
    attributes = {"mode": mode, "kernel_shape": (1, 1), "strides": (3, 3), "pads": (0, 0, 0, 0)}
    case = Case("nnconv.Pool", ((1, 1, 3, 4),), attributes)
    (y,) = compute(case)
    assert y.shape == (1, 1, 2, 2)
    empty = y[0, 0, 1, 0]
    assert np.isnan(empty) if mode == "AVE" else empty == np.finfo(np.float32).min
