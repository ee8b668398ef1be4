"""Convolutions against ONNX Runtime, and against the sum as it is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.schemas.errors import InputError
from tests.ops.check import Case, cases, check, compute, floats

CONV = [
    *cases("Conv", (2, 6, 9, 8), (4, 6, 3, 2), (4,), strides=[(1, 1), (2, 3)],
           pads=[(0, 0, 0, 0), (1, 2, 0, 1)],
           dilations=[(1, 1), (2, 3)]),
    *cases("Conv", (2, 6, 7, 7), (9, 2, 3, 3), group=[3], strides=[(2, 2)]),
    *cases("Conv", (1, 5, 6, 6), (5, 1, 3, 3), (5,), group=[5], pads=[(1, 1, 1, 1)]),
    *cases("Conv", (2, 3, 11), (4, 3, 5), (4,), strides=[(2,)], pads=[(2, 2)]),
    *cases("Conv", (1, 2, 5, 6, 7), (3, 2, 2, 3, 2), strides=[(1, 2, 1)]),
    *cases("Conv", (1, 3, 7, 6), (2, 3, 1, 1)),
    *cases("Conv", (1, 3, 7, 6), (2, 3, 3, 3), auto_pad=["SAME_UPPER", "SAME_LOWER", "VALID"],
           strides=[(2, 2)]),
]  # fmt: skip

CONV_TRANSPOSE = [
    *cases("ConvTranspose", (2, 6, 4, 5), (6, 4, 3, 2), (4,), strides=[(1, 1), (2, 3)],
           pads=[(0, 0, 0, 0), (1, 0, 0, 1)], dilations=[(1, 1), (2, 1)]),
    *cases("ConvTranspose", (1, 6, 4, 4), (6, 2, 3, 3), group=[3], strides=[(2, 2)]),
    *cases("ConvTranspose", (1, 3, 4, 4), (3, 2, 3, 3), strides=[(2, 2)], output_padding=[(1, 1)]),
    *cases("ConvTranspose", (1, 3, 4, 4), (3, 2, 3, 3), strides=[(2, 2)], output_shape=[(9, 8)]),
    *cases("ConvTranspose", (1, 1, 4, 5), (1, 2, 1, 2), auto_pad=["SAME_UPPER", "SAME_LOWER"],
           strides=[(3, 3)]),
    *cases("ConvTranspose", (1, 3, 4, 4), (3, 2, 3, 3), auto_pad=["SAME_UPPER", "SAME_LOWER"],
           strides=[(2, 2)]),
    *cases("ConvTranspose", (2, 3, 6), (3, 2, 4), strides=[(3,)]),
]  # fmt: skip


@pytest.mark.parametrize("case", CONV, ids=str)
def test_conv(case: Case) -> None:
    check(case, rel=2e-6)


@pytest.mark.parametrize("case", CONV_TRANSPOSE, ids=str)
def test_conv_transpose(case: Case) -> None:
    check(case, rel=2e-6)


def _by_definition(x: Any, w: Any, b: Any, *, strides: Any, pads: Any) -> Any:
    wide = np.pad(x, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
    rows = (wide.shape[2] - w.shape[2]) // strides[0] + 1
    columns = (wide.shape[3] - w.shape[3]) // strides[1] + 1
    y = np.empty((x.shape[0], w.shape[0], rows, columns))
    for i, j in np.ndindex(rows, columns):
        window = wide[:, :, i * strides[0] :, j * strides[1] :][:, :, : w.shape[2], : w.shape[3]]
        y[:, :, i, j] = np.einsum("ncij,mcij->nm", window, w) + b
    return y


def test_conv_is_the_sum_over_its_window() -> None:
    case = Case(
        "Conv", ((2, 3, 6, 7), (4, 3, 3, 2), (4,)), {"strides": (2, 1), "pads": (1, 0, 2, 1)}
    )
    check(case, _by_definition, rel=1e-6)


def test_conv_gives_the_same_in_one_slab_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("Conv", ((2, 3, 20, 9), (4, 3, 3, 3)), {"pads": (1, 1, 1, 1)})
    (whole,) = compute(case)
    monkeypatch.setattr("nnconv.runtime.ops.conv._COLUMN_BYTES", 1)
    (rows,) = compute(case)
    np.testing.assert_allclose(rows, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_batch_of_nothing_gives_nothing(op: str) -> None:
    (y,) = compute(Case(op, ((0, 4, 5, 5), (4, 4, 3, 3), (4,)), {"strides": (2, 2)}))
    assert y.shape[:2] == (0, 4)


@pytest.mark.parametrize("op", ["Conv", "MaxPool", "nnconv.Pool"])
def test_windows_that_cannot_move_are_refused(op: str) -> None:
    weights = [floats(np.ones((4, 4, 3, 3)))] if op == "Conv" else []
    attributes = {"kernel_shape": (3, 3), "strides": (0, 1)}
    with pytest.raises(InputError):
        compute(Case(op, ((1, 4, 5, 5), *weights), attributes))


def test_weights_that_do_not_fit_are_named_with_both_shapes() -> None:
    with pytest.raises(InputError, match="3"):
        compute(Case("Conv", ((1, 3, 5, 5), (2, 4, 3, 3))))
