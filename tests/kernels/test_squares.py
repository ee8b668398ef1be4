"""Sums of squares of many arrays, against float64; and a gradient whose update is done at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnconv.runtime.devices import jobs
from nnconv.runtime.kernels.elementwise import Step
from nnconv.runtime.kernels.samples.lanes import Finish
from nnconv.runtime.kernels.samples.linear import SampleRows, sample_gemm_weights
from nnconv.runtime.kernels.squares import PIECE, SquareSums, Total
from nnconv.runtime.kernels.target import Target
from tests.kernels.harness import close, run, same_on_two_threads

LENGTHS = [(1,), (15,), (16, 1), (PIECE,), (PIECE + 1, 7), (3 * PIECE - 5, 64, PIECE // 2)]


def filled(seed: int, size: int) -> np.ndarray:
    made = jobs.aligned(size)
    made[:] = np.random.default_rng(seed).standard_normal(size)
    return made


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_squares_are_summed_over_all_arrays(lengths: tuple[int, ...], target: Target) -> None:
    kernel = SquareSums(lengths, PIECE, target.lanes)
    arrays = [filled(seed, length) for seed, length in enumerate(lengths)]
    parts, total = jobs.aligned(kernel.total * target.lanes), jobs.aligned(1)
    run(kernel, target, *arrays, parts)
    assert same_on_two_threads(kernel, target, *arrays, parts)
    run(Total((parts.size,), target.lanes), target, parts, total)
    close(total, np.array([sum((a.astype("f8") ** 2).sum() for a in arrays)]), rel=2e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_element_shows(bad: float, target: Target) -> None:
    kernel = SquareSums((PIECE + 3, 9), PIECE, target.lanes)
    parts, total = jobs.aligned(kernel.total * target.lanes), jobs.aligned(1)
    for place in ((0, 0), (0, PIECE + 2), (1, 8)):
        arrays = [filled(0, PIECE + 3), filled(1, 9)]
        arrays[place[0]][place[1]] = bad
        run(kernel, target, *arrays, parts)
        run(Total((parts.size,), target.lanes), target, parts, total)
        assert not np.isfinite(total[0])


@pytest.mark.parametrize(("height", "width"), [(10, 128), (7, 33), (3, 5)])
def test_an_update_is_done_where_the_gradient_is_made(
    height: int, width: int, target: Target
) -> None:
    """h' = 0.5 g + 0.25 h and w' = w - h', in place, and the squares of w'."""
    samples = 2 * target.lanes + 3
    steps = (Step("Affine", (0,), (0.5, 0.0)), Step("Mul", (2, 3)), Step("Add", (4, 5)),
             Step("Sub", (1, 6)))  # fmt: skip
    plain = sample_gemm_weights(
        target, SampleRows(target.lanes * height, height, 1), width, samples, (height, width)
    )
    kernel = replace(plain, finish=Finish((True, True, False), steps, (7, 6), squares=True))
    a, b = filled(0, samples * height), filled(1, samples * width)
    w, h, quarter = filled(2, height * width), filled(3, height * width), jobs.aligned(1, fill=0.25)
    gradient = a.reshape(samples, height).astype("f8").T @ b.reshape(samples, width)
    moved = 0.5 * gradient + 0.25 * h.reshape(height, width).astype("f8")
    wanted = w.reshape(height, width) - moved
    squares = jobs.aligned(kernel.total * target.lanes)
    run(kernel, target, a, b, w, h, quarter, w, h, squares)
    close(w.reshape(height, width), wanted)
    close(h.reshape(height, width), moved)
    close(squares.sum(keepdims=True), np.array([(wanted**2).sum()]))
