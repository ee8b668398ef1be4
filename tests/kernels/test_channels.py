"""Channels of blocked images in another order, against numpy's indexing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnconv.runtime.kernels.arrays import Array, Border
from nnconv.runtime.kernels.channels import Channels, runs
from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import InternalError
from tests.kernels.harness import (
    few,
    memory_of,
    placed,
    random,
    read,
    run,
    same_on_two_threads,
    untouched,
)


def shuffled(channels: int, groups: int) -> list[int]:
    order: list[int] = np.arange(channels).reshape(groups, -1).T.reshape(-1).tolist()
    return order


@few
@given(data=st.data())
def test_channels_are_taken_in_any_order(target: Target, data: st.DataObject) -> None:
    draw = data.draw
    n, c = draw(st.integers(1, 2)), draw(st.integers(1, 70))
    h, w = draw(st.integers(1, 9)), draw(st.integers(1, 20))
    order = draw(st.lists(st.integers(0, c - 1), min_size=1, max_size=60))
    if draw(st.booleans()):
        order = list(range(order[0], c))
    x = draw(placed(n, c, h, w, target.lanes, Border()))
    y = draw(placed(n, len(order), h, w, target.lanes, Border()))
    values, memory = random((n, c, h, w), 1), memory_of(y)
    kernel = Channels(x, y, tuple(runs(order, target.lanes)))
    run(kernel, target, source := memory_of(x, values), memory)
    np.testing.assert_array_equal(read(y, memory), values[:, order])
    assert untouched(y, memory)
    assert same_on_two_threads(kernel, target, source, memory)


@pytest.mark.parametrize(
    ("order", "most"),
    [(list(range(58, 116)), 2), (shuffled(116, 2), 3), (shuffled(1024, 4), 4)],
    ids=["slice", "shuffle of halves", "shuffle of quarters"],
)
def test_blocks_that_are_made_alike_share_their_code(order: list[int], most: int) -> None:
    found = runs(order, 16)
    assert len(found) <= most
    assert sum(run.count for run in found) == -(-len(order) // 16)


def test_runs_that_do_not_fill_the_target_are_refused(target: Target) -> None:
    x = Array.dense(1, 40, 2, 2, target.lanes)
    with pytest.raises(InternalError, match="do not belong together"):
        Channels(x, x, tuple(runs(range(8), target.lanes)))
