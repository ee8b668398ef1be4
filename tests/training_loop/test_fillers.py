"""Fillers against what real Caffe drew: the moments and ranges recorded in golden/fillers."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

import nnconv
from nnconv.runtime.training.fillers import fill, fill_parameters
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import Filler
from tests.places import shared

CASES = [
    case
    for case in json.loads(shared("golden", "fillers", "fillers.json").read_text())
    if case["ok"] and "filler" in case
]


def filler_of(text: str) -> Filler:
    found: dict[str, Any] = dict(re.findall(r"(\w+): *\"?([^\s\"]+)\"?", text))
    kind = found.pop("type", "constant")
    return Filler(kind, {k: v if k == "variance_norm" else float(v) for k, v in found.items()})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_draws_have_caffes_moments(case: dict[str, Any]) -> None:
    drawn = fill(tuple(case["shape"]), filler_of(case["filler"]), stream=99).astype(np.float64)
    spread = max(case["std"], 1e-6)
    # both are samples of n: means differ by a few standard errors
    assert drawn.mean() == pytest.approx(case["mean"], abs=7 * spread / np.sqrt(case["n"]))
    assert drawn.std() == pytest.approx(case["std"], rel=12 / np.sqrt(case["n"]), abs=1e-6)
    if "xavier" in case["filler"]:  # uniform: nothing beyond sqrt(3) deviations
        assert np.abs(drawn).max() <= spread * np.sqrt(3) * (1 + 5 / np.sqrt(case["n"]))
    assert (drawn == 0).mean() == pytest.approx(
        case["zero_fraction"], abs=6 * 0.5 / np.sqrt(case["n"])
    )


def test_bilinear_is_caffes_kernel() -> None:
    with np.load(shared("golden", "fillers", "bilinear.npz")) as recorded:
        for name in recorded.files:
            expected = recorded[name]
            found = fill(expected.shape, Filler("bilinear"), stream=1)
            np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=name)


def test_a_parameter_starts_the_same_whatever_stands_beside_it() -> None:
    whole, part = nnconv.load("zoo:lenet"), nnconv.load("zoo:lenet")
    fill_parameters(whole.graph, seed=4, only=list(whole.parameters))
    assert fill_parameters(part.graph, seed=4, only=["conv2/0"]) == ["conv2/0"]
    assert (whole.weights["conv2/0"] == part.weights["conv2/0"]).all()
    assert (whole.weights["conv1/0"] != part.weights["conv1/0"]).any()


def test_an_unknown_filler_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'gaussian'"):
        fill((2, 2), Filler("gausian"), stream=1)
