"""Random nets on the cpu device against the reference device, which is checked against real
Caffe.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnconv.runtime.executor import compile_model
from tests.cpu.nets import random_model

TOLERANCE = 1e-4  # of the largest element
seeds = st.integers(0, 100_000)


def largest_difference(got: Any, wanted: Any) -> float:
    assert got.shape == wanted.shape
    scale = float(np.abs(wanted).max()) or 1.0
    return float(np.abs(got.astype(np.float64) - wanted).max()) / scale


@pytest.mark.parametrize("winograd", [0, 2, 4])
@settings(max_examples=40)
@given(seed=seeds)
def test_a_random_net_gives_what_the_reference_device_gives(winograd: int, seed: int) -> None:
    model, x = random_model(seed)
    wanted = compile_model(model, device="reference").run({"x": x})
    got = compile_model(model, device="cpu", winograd=winograd).run({"x": x})
    for name, array in wanted.items():
        assert largest_difference(got[name], array) <= TOLERANCE, name


@settings(max_examples=40)
@given(seed=seeds)
def test_results_do_not_depend_on_the_number_of_threads(seed: int) -> None:
    model, x = random_model(seed)
    one, two = (compile_model(model, device="cpu", threads=n).run({"x": x}) for n in (1, 2))
    for name, array in one.items():
        assert np.array_equal(array, two[name], equal_nan=True), name


@settings(max_examples=30)
@given(seed=seeds)
def test_a_run_leaves_nothing_behind_for_the_next(seed: int) -> None:
    """Buffers are reused: borders must still be zero, and slices hold their own values only."""
    model, x = random_model(seed)
    executable = compile_model(model, device="cpu")
    first = executable.run({"x": x})
    executable.run({"x": 100 * x + 7})
    again = executable.run({"x": x})
    for name, array in first.items():
        assert np.array_equal(array, again[name], equal_nan=True), name


@settings(max_examples=20)
@given(seed=seeds)
def test_watched_steps_compute_the_same(seed: int) -> None:
    model, x = random_model(seed)
    executable = compile_model(model, device="cpu")
    seen: list[Any] = []
    watched = executable.run({"x": x}, watch=lambda step, seconds: seen.append(step))
    for name, array in executable.run({"x": x}).items():
        assert np.array_equal(array, watched[name], equal_nan=True), name
    assert seen
