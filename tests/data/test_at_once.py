"""What is quick to read is read when asked for, and by workers again where that changes."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from nnconv.runtime import data
from nnconv.runtime.data import loader as loaders


class Recorded(data.ArrayDataset):
    """A data set that remembers which thread read each batch and can be slow."""

    def __init__(self) -> None:
        super().__init__({"data": np.arange(1000)})
        self.readers: list[bool] = []
        self.pause = 0.0

    def read(self, indices: Any) -> data.Batch:
        self.readers.append(threading.current_thread() is threading.main_thread())
        time.sleep(self.pause)
        return super().read(indices)


def test_who_reads_changes_with_the_time_it_takes_and_batches_do_not(monkeypatch: Any) -> None:
    monkeypatch.setattr(loaders, "_QUICK", 0.02)
    dataset = Recorded()
    loader = data.Loader(dataset, 10, seed=3, workers=1)
    got = []
    for number, batch in enumerate(loader.stream(0, 110)):
        got.append(batch["data"].tolist())
        dataset.pause = 0.03 if 79 <= number < 85 else 0.0
    readers, dataset.readers = dataset.readers, []
    assert not any(readers[:20])
    assert all(readers[60:80])
    assert not any(readers[90:95])
    assert got == [loader.read(number)["data"].tolist() for number in range(110)]
