"""Reductions over any dimensions of any strides, against numpy in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnconv.runtime.kernels.elementwise import Step, Strided, space
from nnconv.runtime.kernels.fold import JOINS, RECIPES, Fold, cut
from nnconv.runtime.kernels.target import Target
from tests.kernels.harness import buffer, close, few, random, run, same_on_two_threads

ANSWERS: dict[str, Any] = {
    "ReduceSum": lambda x, axes: x.sum(axes),
    "ReduceMean": lambda x, axes: x.mean(axes),
    "ReduceMax": lambda x, axes: x.max(axes),
    "ReduceMin": lambda x, axes: x.min(axes),
    "ReduceProd": lambda x, axes: x.prod(axes),
    "ReduceL1": lambda x, axes: np.abs(x).sum(axes),
    "ReduceL2": lambda x, axes: np.sqrt((x * x).sum(axes)),
    "ReduceSumSquare": lambda x, axes: (x * x).sum(axes),
    "ReduceLogSum": lambda x, axes: np.log(x.sum(axes)),
}
NUMPY: dict[str, Any] = {"add": np.sum, "mul": np.prod, "max": np.max, "min": np.min}


def dense(shape: tuple[int, ...], kept: Any = None) -> Strided:
    """The strides of a dense array; 0 for dimensions that it lacks."""
    steps, step = [], 1
    for d in range(len(shape) - 1, -1, -1):
        has = kept is None or d in kept
        steps.append(step if has else 0)
        step *= shape[d] if has else 1
    return Strided(tuple(reversed(steps)))


@pytest.mark.parametrize("operation", RECIPES)
@few
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 5, 16, 37, 70]), min_size=1, max_size=3).map(tuple),
    joined=st.sets(st.integers(0, 2), min_size=1),
)
def test_a_reduction_is_what_numpy_says(
    target: Target, operation: str, shape: tuple[int, ...], joined: set[int]
) -> None:
    axes = tuple(sorted({axis % len(shape) for axis in joined}))
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    values = random(shape, 1)
    values = {"ReduceLogSum": np.abs(values), "ReduceProd": 1 + values / 20}.get(operation, values)
    want = np.asarray(ANSWERS[operation](values.astype("f8"), axes))
    recipe, count = RECIPES[operation], int(np.prod([shape[axis] for axis in axes]))
    extents, (x, y) = space(shape, [dense(shape), dense(shape, kept)])
    kernel = Fold(extents, (x,), y, recipe.steps or (Step("Identity", (0,)),), recipe.join,
                  target.lanes, recipe.after(count))  # fmt: skip
    source, made = buffer(values), buffer(np.full(want.size, np.nan))
    if not kernel.joined:
        return
    run(kernel, target, source, made)
    # a sum of both signs may nearly cancel: the error is relative to what was added
    scale = np.abs(values).sum(axes).max() if operation in ("ReduceSum", "ReduceMean") else 0
    worst = np.abs(made.reshape(want.shape) - want).max()
    assert worst <= 4e-6 * max(scale, np.abs(want).max())
    assert same_on_two_threads(kernel, target, source, made)


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kept", [0, 1])
def test_what_is_no_number_is_passed_on_wherever_it_stands(
    target: Target, join: str, bad: float, kept: int
) -> None:
    shape = (3, 150) if kept == 0 else (150, 3)
    kernel = Fold(shape, (dense(shape),), dense(shape, [kept]), (), join, target.lanes)
    for place in (0, 1, 64, 100, 149):
        values = 1 + random(shape, 2) / 20
        values[(1, place) if kept == 0 else (place, 1)] = bad
        made = buffer(np.full(3, np.nan))
        run(kernel, target, buffer(values), made)
        close(made, NUMPY[join](values.astype("f8"), axis=1 - kept), rel=1e-5)


def test_operands_may_have_any_strides_and_steps_join_them(target: Target) -> None:
    """y[b] = sum over a, c of (x[c, b, a] - z[c])^2 / d: a transposed x, and a z that repeats."""
    x, z, divisor = random((7, 5, 33), 3), random((7,), 4), np.full(1, 4, np.float32)
    steps = (Step("Sub", (0, 1)), Step("Square", (2,)))
    kernel = Fold(
        (33, 5, 7), (Strided((1, 33, 165)), Strided((0, 0, 1))), Strided((0, 1, 0)), steps, "add",
        target.lanes, divided=True,
    )  # fmt: skip
    made = buffer(np.full(5, np.nan))
    run(kernel, target, buffer(x), buffer(z), buffer(divisor), made)
    close(made, ((x - z[:, None, None].astype("f8")) ** 2).sum((0, 2)) / 4)


@pytest.mark.parametrize("dtype", ["i32", "i64"])
def test_integers_are_counted(target: Target, dtype: str) -> None:
    labels = np.arange(101) % 7 - 1
    memory: Any = labels.astype({"i32": np.int32, "i64": np.int64}[dtype])
    kernel = Fold(
        (101,), (Strided((1,)),), Strided((0,)), (Step("Counted", (0,), (-1.0,)),), "add",
        target.lanes, types=(dtype,),
    )  # fmt: skip
    made = buffer(np.full(1, np.nan))
    run(kernel, target, memory, made)
    assert made[0] == (labels != -1).sum()


@pytest.mark.parametrize(
    ("shape", "kept", "pieces"),
    [
        ((1000,), [], None),
        ((4_000_000,), [], (0, 16384)),
        ((256, 64, 784), [1], None),
        ((64, 1000, 2), [1], None),
        ((300_000, 3), [1], (0, 5000)),
        ((3, 262_144), [0], (1, 16384)),
    ],
)
def test_few_long_sums_are_done_in_pieces(
    shape: tuple[int, ...], kept: list[int], pieces: tuple[int, int] | None
) -> None:
    kernel = Fold(shape, (dense(shape),), dense(shape, kept), (), "add", 16)
    found = cut(kernel)
    assert (found is None) == (pieces is None)
    if found is not None and pieces is not None:
        assert found[0] == pieces[0]
        assert pieces[1] / 2 <= found[1] <= pieces[1] * 2
