"""Statistics by channel and the sums of their gradient, against formulas in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.batch_norm import (
    ChannelMoments,
    ChannelSlopes,
    PlaneMoments,
    PlaneSums,
)
from nnconv.runtime.kernels.samples.lanes import samples_array
from nnconv.runtime.kernels.target import Target
from tests.kernels.harness import (
    JUNK,
    Floats,
    buffer,
    close,
    few,
    memory_of,
    random,
    run,
    same_on_two_threads,
    view,
)

SHAPES = st.tuples(
    st.integers(1, 40), st.integers(1, 20), st.sampled_from([1, 3, 8]), st.sampled_from([1, 5, 70])
)
AXES = (0, 2, 3)


def lay_out(values: Floats, lanes: int) -> tuple[Array, Floats]:
    """Values in a buffer, plain (lanes 1) or with samples in lanes, those behind the last junk."""
    n, c, h, w = values.shape
    if lanes == 1:
        array = Array.dense(n, c, h, w)
        return array, memory_of(array, values)
    array = samples_array(n, c, h, w, lanes)
    full = np.full((array.batch * lanes, c, h, w), JUNK, np.float32)
    full[:n] = values
    memory = memory_of(array)
    view(array, memory)[:] = full.reshape(-1, lanes, c, h, w).transpose(0, 2, 3, 4, 1)
    return array, memory


def statistics(target: Target, values: Floats, lanes: int) -> tuple[Floats, list[Floats]]:
    """What the two kernels make of values: statistics, and Caffe's next sums from old ones of 2."""
    n, c, h, w = values.shape
    array, memory = lay_out(values, lanes)
    parts = buffer(np.full(3 * array.batch * c, np.nan))
    planes = PlaneMoments(array, n, target.lanes)
    run(planes, target, memory, parts)
    assert same_on_two_threads(planes, target, memory, parts)
    found = buffer(np.full(3 * c, np.nan))
    old = [buffer(np.full(size, 2.0)) for size in (c, c, 1)]
    new = [buffer(np.full(size, np.nan)) for size in (c, c, 1)]
    join = ChannelMoments(c, n, lanes, h * w, target.lanes, 1e-5, 0.75)
    run(join, target, parts, *old, found, *new)
    return found.reshape(3, c), new


@pytest.mark.parametrize("plain", [False, True], ids=["samples", "plain"])
@few
@given(shape=SHAPES, mean=st.sampled_from([0.0, -3.0, 1000.0]))
def test_statistics_are_those_of_double_precision(
    target: Target, plain: bool, shape: tuple[int, ...], mean: float
) -> None:
    values = random(shape, 1) + np.float32(mean)
    (middle, inverse, shift), moved = statistics(target, values, 1 if plain else target.lanes)
    exact = values.astype(np.float64)
    variance = exact.var(AXES)
    close(inverse, 1 / np.sqrt(variance + 1e-5), rel=3e-6)
    ours = (values - middle.reshape(-1, 1, 1)) * inverse.reshape(-1, 1, 1)
    ours = ours + shift.reshape(-1, 1, 1)
    wanted = exact - exact.mean(AXES, keepdims=True)
    close(ours, wanted / np.sqrt(variance + 1e-5).reshape(-1, 1, 1), rel=5e-6)
    count = values.size // shape[1]
    close(moved[0], 1.5 + exact.mean(AXES), rel=1e-6)
    close(moved[1], 1.5 + variance * (count / (count - 1) if count > 1 else 1), rel=5e-6)
    assert moved[2].tolist() == [2.5]


@pytest.mark.parametrize("plain", [False, True], ids=["samples", "plain"])
@pytest.mark.parametrize("gated", [False, True])
@few
@given(shape=SHAPES, mean=st.sampled_from([0.0, 300.0]))
def test_gradients_are_those_of_double_precision(
    target: Target, gated: bool, plain: bool, shape: tuple[int, ...], mean: float
) -> None:
    lanes = 1 if plain else target.lanes
    values, slopes = random(shape, 1) + np.float32(mean), random(shape, 2)
    n, c, h, w = shape
    scale, offset = random((c,), 3), random((c,), 4)
    known, _ = statistics(target, values, lanes)
    x, memory = lay_out(values, lanes)
    dy, other = lay_out(slopes, lanes)
    factors = [buffer(scale), buffer(offset)]
    parts = buffer(np.full(2 * x.batch * c, np.nan))
    planes = PlaneSums(x, n, target.lanes, dy, gated)
    given = [memory, other, buffer(known), *(factors if gated else [])]
    run(planes, target, *given, parts)
    assert same_on_two_threads(planes, target, *given, parts)
    found, *sums = (buffer(np.full(size, np.nan)) for size in (3 * c, c, c))
    join = ChannelSlopes(c, n, lanes, h * w, target.lanes, True, (True, True))
    run(join, target, parts, buffer(known), factors[0], found, *sums)

    exact, tall = values.astype(np.float64), (-1, 1, 1)
    inverse = 1 / np.sqrt(exact.var(AXES, keepdims=True) + 1e-5)
    normal = (exact - exact.mean(AXES, keepdims=True)) * inverse
    passed = normal * scale.reshape(tall) + offset.reshape(tall)
    near = np.abs(passed) < 1e-4  # on either side of the ReLU's kink
    kept = slopes * (passed > 0) if gated else slopes.astype(np.float64)
    if gated and near.any():
        return
    size = np.abs(slopes).sum(AXES).max()
    for got, want in zip(sums, ((kept * normal).sum(AXES), kept.sum(AXES)), strict=True):
        assert np.abs(got - want).max() <= 1e-5 * size
    p, q, r = found.reshape(3, c, 1, 1)
    gate = (passed > 0) if gated else 1
    ours = p * (slopes * gate) + q * (values - known[0].reshape(tall)) + r
    common, shared = (kept.mean(AXES, keepdims=True), (kept * normal).mean(AXES, keepdims=True))
    want = scale.reshape(tall) * inverse * (kept - common - normal * shared)
    scaled = np.abs(scale.reshape(tall) * inverse).max() * max(np.abs(slopes).max(), 1)
    assert np.abs(ours - want).max() <= 2e-5 * scaled
