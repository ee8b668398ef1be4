"""Batches are read side by side and ahead of the step; who reads them decides nothing."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from nnconv.api.finetune import finetune
from nnconv.runtime import data
from nnconv.runtime.data.loader import Loader
from tests.training_loop.nets import clusters, tiny_net

PATIENCE = 30  # seconds; reached only by a loader that fails


class Watched(data.ArrayDataset):
    """A data set that calls a function of the test's before each batch."""

    def __init__(self, before: Any) -> None:
        super().__init__({"data": np.arange(64)})
        self.before = before

    def read(self, indices: Any) -> data.Batch:
        self.before()
        return super().read(indices)


@pytest.mark.parametrize("workers", [2, 3])
def test_as_many_batches_as_workers_are_read_at_once(workers: int) -> None:
    """Each read waits until all workers are reading."""
    meeting = threading.Barrier(workers, timeout=PATIENCE)
    loader = Loader(Watched(meeting.wait), 4, workers=workers)
    assert len(list(loader.stream(0, 2 * workers))) == 2 * workers


def test_the_next_batches_are_read_while_a_step_goes_on() -> None:
    begun = threading.Semaphore(0)
    stream = Loader(Watched(begun.release), 4, workers=2, ahead=5).stream(0, 16)
    next(stream)
    next(stream)  # from here on the depth is known
    # nobody asks for more: those in hand and five that wait are read all the same
    assert all(begun.acquire(timeout=PATIENCE) for _ in range(2 + 4))
    stream.close()


def test_workers_and_depth_change_no_bit_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Loader.__init__
    found = []
    for workers, ahead in ((1, 1), (4, 7)):

        def chosen(self: Any, *args: Any, **options: Any) -> None:
            made(self, *args, **{**options, "workers": workers, "ahead": ahead})  # noqa: B023

        monkeypatch.setattr(Loader, "__init__", chosen)
        done = finetune(tiny_net(), clusters(), epochs=3, batch=8, seed=2, device="cpu")
        found.append({name: np.array(array) for name, array in done.model.weights.items()})
    assert all((found[0][name] == found[1][name]).all() for name in found[0])
