"""Gathering, scattering, slicing and resizing against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.ops.indexing import COORDINATES, NEAREST
from nnconv.schemas.errors import InputError, UnsupportedError
from tests.ops.check import Case, cases, check, compute, floats


def ints(*values: Any) -> Any:
    return np.array(values, np.int64)


STANDARD = [
    *cases("Gather", (3, 4, 5), ints([0, -1], [2, 1]), axis=[0, 1, -1]),
    Case("Gather", ((3, 4), np.array(1, np.int64))),
    *cases("GatherElements", (3, 4), ints([0, -1], [2, 1]), axis=[0, 1]),
    Case("GatherND", ((3, 4, 5), ints([0, 1], [-1, 2]))),
    Case("GatherND", ((2, 4, 5), ints([[1], [0]], [[-1], [2]])), {"batch_dims": 1}),
    *cases("ScatterElements", (3, 4), ints([0, 2], [2, 1]), (2, 2), axis=[0, 1],
           reduction=["none", "add", "max"]),
    *cases("ScatterND", (4, 3), ints([0], [2]), (2, 3), reduction=["none", "add", "mul", "min"]),
    Case("Slice", ((5, 6), ints(1, 0), ints(4, 100))),
    Case("Slice", ((5, 6), ints(-1), ints(-100), ints(1), ints(-2))),
    Case("Slice", ((5, 6), ints(4, -2), ints(0, 1), ints(0, 1), ints(-1, -1))),
    Case("Slice", ((5, 6), ints(3), ints(3), ints(0))),
    *cases("OneHot", ints([0, -1], [2, 7]), np.array(3, np.int64), floats([-1, 4]),
           axis=[-1, 0, 1]),
    Case("NonZero", (np.array([[1, 0], [0, 2]], np.float32),)),
    Case("Compress", ((3, 4), np.array([True, False, True])), {"axis": 0}),
    Case("Compress", ((3, 4), np.array([False, True, True]))),
    *cases("ReverseSequence", (4, 3, 2), ints(1, 4, 2), batch_axis=[1], time_axis=[0]),
]  # fmt: skip


@pytest.mark.parametrize("case", STANDARD, ids=str)
def test_indexing_of_onnx(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_outside_is_refused_with_the_range(index: int) -> None:
    with pytest.raises(InputError, match="-3 to 2"):
        compute(Case("Gather", ((3, 2), ints(index))))


SCALES = [(1.0, 1.0, 2.0, 2.0), (1.0, 1.0, 0.6, 1.7), (1.0, 1.0, 3.0, 1.0)]


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("place", [name for name in COORDINATES if name != "half_pixel_symmetric"])
@pytest.mark.parametrize("nearest", NEAREST)
def test_resize_to_the_nearest(scales: tuple[float, ...], place: str, nearest: str) -> None:
    attributes = {"coordinate_transformation_mode": place, "nearest_mode": nearest}
    check(Case("Resize", ((1, 2, 5, 6), None, floats(scales)), attributes))


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("place", [name for name in COORDINATES if name != "half_pixel_symmetric"])
def test_resize_linearly(scales: tuple[float, ...], place: str) -> None:
    attributes = {"coordinate_transformation_mode": place, "mode": "linear"}
    check(Case("Resize", ((1, 2, 5, 6), None, floats(scales)), attributes), rel=2e-6)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_resize_to_sizes(policy: str) -> None:
    attributes = {"keep_aspect_ratio_policy": policy, "axes": (2, 3), "mode": "linear"}
    check(Case("Resize", ((1, 2, 5, 6), None, None, ints(10, 9)), attributes), rel=2e-6)


def test_what_resize_does_not_know_is_said() -> None:
    with pytest.raises(UnsupportedError, match="cubic"):
        compute(Case("Resize", ((1, 1, 4, 4), None, floats([1, 1, 2, 2])), {"mode": "cubic"}))
    with pytest.raises(UnsupportedError, match="antialias"):
        compute(Case("Resize", ((1, 1, 4, 4), None, floats([1, 1, 2, 2])), {"antialias": 1}))
