"""Rates over time; Caffe's own policies are also compared with recorded runs
(test_golden_train)."""

from __future__ import annotations

import pytest

from nnconv.runtime.training.schedule import Rate
from nnconv.schemas.training import Schedule

CASES = [
    (Schedule(0.5), [0.5, 0.5]),
    (Schedule(1.0, "step", gamma=0.5, stepsize=2), [1, 1, 0.5, 0.5, 0.25]),
    (Schedule(1.0, "exp", gamma=0.5), [1, 0.5, 0.25]),
    (Schedule(1.0, "inv", gamma=1.0, power=2.0), [1, 1 / 4, 1 / 9]),
    (Schedule(1.0, "poly", power=2.0, max_iter=4), [1, 9 / 16, 4 / 16, 1 / 16, 0, 0]),
    (Schedule(2.0, "sigmoid", gamma=0.0, stepsize=1), [1, 1]),
    (Schedule(1.0, "cosine", max_iter=4, min_lr=0.2), [1, 0.2 + 0.8 * 0.853553391, 0.6]),
    (Schedule(1.0, warmup=4, warmup_start=0.2), [0.4, 0.6, 0.8, 1.0, 1.0]),
    # at most one step an iteration
    (Schedule(1.0, "multistep", gamma=0.1, stepvalue=(1, 1, 2)), [1, 0.1, 0.01, 0.001, 0.001]),
]


@pytest.mark.parametrize(("schedule", "rates"), CASES)
def test_the_rate_follows_its_policy(schedule: Schedule, rates: list[float]) -> None:
    rate = Rate(schedule)
    assert [rate.at(i) for i in range(len(rates))] == pytest.approx(rates)
