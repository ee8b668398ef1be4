"""Batches ahead of the step: read, transformed and shuffled by worker threads.

Training reads an endless stream of samples, epoch after epoch, each epoch in an order of its own;
batch number k is samples k*batch ... (k+1)*batch - 1 of it. Seed, epoch and index decide everything
about a sample, so one number, that of the next batch, is all there is to resume.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.data.datasets import DATA, Batch, Dataset, shuffled
from nnconv.runtime.data.transform import WORDS, Transform
from nnconv.runtime.random import philox, stream_of
from nnconv.schemas.errors import InputError

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

AHEAD = 8  # batches at most that wait for the step
MEMORY = 256 << 20  # bytes that they may take together
_QUICK = 400e-6  # seconds; handing a batch from thread to thread may take as long
_QUICK_READS, _SLOW_READS = 32, 3  # a single slow one may be the first of its epoch
_LOW = np.uint64(0xFFFFFFFF)


class Loader:
    """Batches of a data set, as dictionaries of arrays by name.

    `transforms` are applied to the arrays they are named for, where those are bytes; one transform
    alone is for "data". `names` renames what the data set gives to what a model takes, and leaves
    out the rest. Training batches never end and are always full: those at the end of an epoch take
    their last samples from the next. `once` gives every sample once, in order, the last batch being
    what is left.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch: int = 32,
        *,
        seed: int = 0,
        shuffle: bool = True,
        transforms: Transform | Mapping[str, Transform] | None = None,
        names: Mapping[str, str] | None = None,
        workers: int = 2,
        ahead: int = AHEAD,
    ) -> None:
        for what, number in (("batch", batch), ("workers", workers), ("ahead", ahead)):
            if number < 1:
                raise InputError(f"{what} must be at least 1, got {number}")
        self.dataset = dataset
        self.batch = batch
        self.seed = seed
        self.workers = workers
        self.ahead = ahead
        self._transforms = {DATA: transforms} if isinstance(transforms, Transform) else transforms
        self._names = names
        self._shuffle = shuffle
        self._orders = stream_of(seed, "order")
        self._variations = stream_of(seed, "variation")
        # an order is used for a whole epoch, by every worker
        self._order = lru_cache(2)(self._make_order)

    @property
    def batches_per_epoch(self) -> float:
        return len(self.dataset) / self.batch

    def epoch(self, number: int) -> float:
        """How many epochs of samples the first `number` batches hold."""
        return number * self.batch / len(self.dataset)

    def read(self, number: int) -> Batch:
        """Training batch `number`, counted from 0; the same whenever and wherever it is asked
        for.
        """
        parts = [
            self._order(epoch)[start:stop] if self._shuffle else np.arange(start, stop)
            for epoch, start, stop in self._parts(number)
        ]
        indices = parts[0] if len(parts) == 1 else np.concatenate(parts)
        words = None
        if self._transforms:
            counts = [len(part) for part in parts]
            epochs = np.repeat([epoch for epoch, _, _ in self._parts(number)], counts)
            words = _words(self._variations, epochs, indices)
        return self._prepared(indices, words)

    def _parts(self, number: int) -> Iterator[tuple[int, int, int]]:
        """The epochs that a batch has samples of, with the first place in it and the one behind
        the last.
        """
        position, end, size = number * self.batch, (number + 1) * self.batch, len(self.dataset)
        while position < end:
            epoch, start = divmod(position, size)
            stop = min(size, start + end - position)
            yield epoch, start, stop
            position += stop - start

    def stream(self, start: int = 0, stop: int | None = None) -> Generator[Batch]:
        """Training batches `start` up to `stop` (None: for ever), read ahead by the workers."""
        return self._ahead(self.read, start, stop)

    def once(self) -> Generator[Batch]:
        """Every sample once, in the data set's order, nothing varied."""
        return self._ahead(self._read_in_order, 0, -(-len(self.dataset) // self.batch))

    def _read_in_order(self, number: int) -> Batch:
        end = min((number + 1) * self.batch, len(self.dataset))
        return self._prepared(np.arange(number * self.batch, end), None)

    def _prepared(self, indices: Array, words: Array | None) -> Batch:
        batch = self.dataset.read(indices)
        for name, transform in (self._transforms or {}).items():
            if name in batch and batch[name].dtype == np.uint8:
                batch[name] = transform(batch[name], words)
        if self._names is None:
            return batch
        return {new: batch[old] for old, new in self._names.items()}

    def _make_order(self, epoch: int) -> Array:
        order = shuffled(len(self.dataset), self._orders, epoch)
        order.flags.writeable = False  # batches are given views of it
        return order

    def _ahead(
        self, read: Callable[[int], Batch], start: int, stop: int | None
    ) -> Generator[Batch]:
        """Batches in order while others are being read; an error comes with the batch it is in.

        Where that proves to take less time than handing batches from thread to thread, they are
        read when asked for.
        """
        following = start
        while stop is None or following < stop:
            following = yield from self._by_workers(read, following, stop)
            following = yield from _at_once(read, following, stop)

    def _by_workers(
        self, read: Callable[[int], Batch], start: int, stop: int | None
    ) -> Generator[Batch, None, int]:
        """Batches up to `stop`, or till most have been quick to read; what comes next."""
        pool = ThreadPoolExecutor(self.workers, "nnconv-data")
        waiting: deque[Future[tuple[Batch, float]]] = deque()
        depth, following, quick = self.workers, start, 0
        try:
            while True:
                more = quick < _QUICK_READS and (stop is None or following < stop)
                if more and len(waiting) < depth:
                    waiting.append(pool.submit(_timed, read, following))
                    following += 1
                    continue
                if not waiting:
                    return following
                batch, seconds = waiting.popleft().result()
                quick = quick + 1 if seconds < _QUICK else max(0, quick - 4)
                size = sum(array.nbytes for array in batch.values())
                depth = max(1, min(self.ahead, MEMORY // max(1, size)))
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _at_once(
    read: Callable[[int], Batch], start: int, stop: int | None
) -> Generator[Batch, None, int]:
    """Batches up to `stop`, or till several in a row were slow to read; what comes next."""
    following, slow = start, 0
    while slow < _SLOW_READS and (stop is None or following < stop):
        batch, seconds = _timed(read, following)
        slow = slow + 1 if seconds > _QUICK else 0
        following += 1
        yield batch
    return following


def _timed(read: Callable[[int], Batch], number: int) -> tuple[Batch, float]:
    """A batch, and the seconds that reading it took."""
    began = time.perf_counter()
    batch = read(number)
    return batch, time.perf_counter() - began


def _words(stream: int, epochs: Array, indices: Array) -> Array:
    """Random words for samples, [n, WORDS]: a function of the stream, the epoch and the index."""
    index, epoch = indices.astype(np.uint64), epochs.astype(np.uint64)
    half = np.uint64(32)
    counter = (index & _LOW, index >> half, epoch & _LOW, epoch >> half)
    found = philox(counter, (stream & 0xFFFFFFFF, (stream >> 32) & 0xFFFFFFFF))
    return np.stack(found[:WORDS], axis=1)
