"""Running a plan: a table of jobs walked by one generated function, by as many threads as there
are.

A job is (function, its table of addresses, total items, chunk). Every thread calls the same `run`.
A job's items are split into as many segments as there are threads, each with a counter of its own.
A thread takes chunks of its own segment, then of the others', and waits until all items of a job
are done before going on: so from job to job, and from run to run, a core meets the same part of the
data, and two threads seldom reach for the same counter. Each counter carries the number of the run
it belongs to, so a helper that wakes late finds foreign numbers and leaves: the caller never waits
for a helper that holds no work, and a busy machine costs no more than the cores it takes away.
Items are independent and partitioned by shape, so results are the same bit for bit whoever takes
them. A caller that nobody helps walks the jobs by `alone`, without counters.

Helpers are Python threads inside the generated `serve`, which releases the GIL, watches a mailbox
for about a millisecond and then returns to be parked on a semaphore.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from nnconv.runtime.devices import jit
from nnconv.runtime.devices.walking import (
    COUNT_BITS,
    JOB_WORDS,
    LINE,
    MAIL_WORDS,
    walking_text,
)
from nnconv.runtime.kernels.arrays import aligned
from nnconv.schemas.errors import InputError, InternalError

__all__ = ["Job", "JobTable", "Team", "aligned", "default_threads"]

_RUN_NUMBERS = 1 << (63 - COUNT_BITS)
_MOST_SEGMENTS = 8  # of a job; more threads share them


@cache
def _functions() -> tuple[jit.Code, Any, Any, Any]:
    """The generated code (kept loaded), `lead`, `serve` and `alone` as ctypes functions; all
    release the GIL.
    """
    code = jit.load(walking_text(jit.host()))
    word = ctypes.c_int64
    lead = ctypes.CFUNCTYPE(word, *[word] * 7)(code.addresses["nnconv_lead"])
    serve = ctypes.CFUNCTYPE(word, *[word] * 3)(code.addresses["nnconv_serve"])
    alone = ctypes.CFUNCTYPE(word, *[word] * 2)(code.addresses["nnconv_alone"])
    return code, lead, serve, alone


@dataclass(frozen=True)
class Job:
    """`total` items of loaded code, and the addresses of its arguments in the kernel's order."""

    code: jit.Code
    arguments: tuple[int, ...]
    total: int
    chunk: int


class Team:
    """The helper threads of this process, hired when first wanted, asleep when nothing runs."""

    def __init__(self) -> None:
        self._free = threading.RLock()  # re-entered when a table is collected while another starts
        self._helpers: list[_Helper] = []
        self._mail = aligned(MAIL_WORDS * _MOST_HELPERS, np.int64, 0)
        self._mail_at = int(self._mail.ctypes.data)

    def _hire(self, count: int) -> int:
        """Have `count` helpers, or as many as the system gives; how many there are."""
        while len(self._helpers) < count:
            slot = len(self._helpers)
            box = self._mail[slot * MAIL_WORDS : (slot + 1) * MAIL_WORDS]
            try:
                self._helpers.append(_Helper(box, slot + 1))
            except RuntimeError:  # no more threads to be had: slower, not wrong
                break
        return min(count, len(self._helpers))

    def run(self, table: JobTable) -> None:
        """All jobs of the table, in order. When another table is running, this one runs on its
        caller alone.
        """
        if not self._free.acquire(blocking=False):
            table.run_alone()
            return
        try:
            helpers = self._hire(min(table.threads - 1, _MOST_HELPERS))
            for helper in self._helpers[:helpers]:
                helper.wake()
            _, lead, _, _ = _functions()
            if lead(*table.next_run(), self._mail_at, helpers) != 1:
                raise InternalError("a plan was run twice at once")
        finally:
            self._free.release()

    def forget(self, jobs: int) -> None:
        """Return when no helper is in the table at this address, nor can enter it; its memory may
        then go.
        """
        if not self._helpers:
            return
        with self._free:
            _, lead, _, _ = _functions()
            lead(0, 0, 0, 0, 1, self._mail_at, len(self._helpers))
            while any(helper.busy_with(jobs) for helper in self._helpers):
                time.sleep(0)

    def close(self) -> None:
        """Send the helpers home; they are gone when this returns."""
        with self._free:
            helpers, self._helpers = self._helpers, []
        for helper in helpers:
            helper.dismiss()


class _Helper:
    """One thread: in `serve` while there is work, on its semaphore when there was none for a
    while.
    """

    def __init__(self, box: np.ndarray, number: int) -> None:
        self._box = box
        self._number = number
        self._bell = threading.Semaphore(0)
        self._asleep = False
        self._stop = False
        self._thread = threading.Thread(target=self._work, name=f"nnconv-{number}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        _, _, serve, _ = _functions()
        ticket = 0  # also takes what was posted before this thread came up
        while not self._stop:
            ticket = serve(self._box.ctypes.data, ticket, self._number)
            self._asleep = True
            # What was posted between the last look and this line would otherwise wait for the next
            # run.
            if not self._stop and self._box[0] == ticket:
                self._bell.acquire()
            self._asleep = False

    def wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._bell.release()

    def busy_with(self, jobs: int) -> bool:
        return bool(self._box[LINE] == jobs)

    def dismiss(self) -> None:
        self._stop = True
        self._bell.release()
        self._thread.join()


_MOST_HELPERS = 255
_team = Team()
_tables: weakref.WeakSet[JobTable] = weakref.WeakSet()


def _after_fork() -> None:
    """A child has one thread: no helpers, and locks that nobody holds."""
    global _team
    _team = Team()
    for table in _tables:
        table.unlock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: _team.close())


def default_threads() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class JobTable:
    """A plan's jobs, ready to be run again and again.

    `owners` are kept alive with the table: the arrays whose addresses its jobs hold. A table is run
    by one caller at a time; a second one waits.

    Raises InputError for `threads` below 1.
    """

    def __init__(
        self, jobs: Sequence[Job], threads: int = 0, owners: Sequence[object] = ()
    ) -> None:
        if threads < 0:
            raise InputError(f"threads must be 1 or more, got {threads}", hint="0 means all cores")
        self.threads = threads or default_threads()
        self._owners = (list(owners), [job.code for job in jobs])
        self._lock = threading.Lock()
        self._starts = np.cumsum([0, *(len(job.arguments) for job in jobs)])
        self._addresses = aligned(int(self._starts[-1]) + 1, np.int64, 0)
        self._segments = min(self.threads, _MOST_SEGMENTS)
        lines = max(len(jobs), 1) * (1 + self._segments)
        self._counters = aligned(lines * LINE, np.int64, 0)
        self._cells = self._addresses.data  # single items are set faster than numpy's
        self._jobs = aligned(max(len(jobs), 1) * JOB_WORDS, np.int64, 0)
        self._at = int(self._jobs.ctypes.data)
        self._counters_at = int(self._counters.ctypes.data)
        self._count = len(jobs)
        for i, job in enumerate(jobs):
            self._set(i, job)
        # words that ctypes need not convert from call to call
        words = self._at, self._count, self._counters_at, 0, self._segments
        self._letter = [ctypes.c_int64(word) for word in words]
        self.run_alone: Callable[[], int] = partial(_functions()[3], *self._letter[:2])
        _tables.add(self)

    def _set(self, i: int, job: Job) -> None:
        if not (0 < job.total < 1 << (COUNT_BITS - 1) and 0 < job.chunk < 1 << (COUNT_BITS - 1)):
            raise InternalError(f"job {i} ({job.code.name}): total {job.total}, chunk {job.chunk}")
        start = int(self._starts[i])
        self._addresses[start : start + len(job.arguments)] = job.arguments
        table = self._addresses.ctypes.data + start * 8
        chunks = -(-job.total // job.chunk)
        span = -(-chunks // self._segments) * job.chunk
        words = (job.code.address, table, job.total, job.chunk, span)
        self._jobs[i * JOB_WORDS : (i + 1) * JOB_WORDS] = words

    def __len__(self) -> int:
        return self._count

    def bind(self, job: int, slot: int, address: int) -> None:
        """Give a job's argument another address, before the next run."""
        start, end = self._starts[job], self._starts[job + 1]
        if not 0 <= slot < end - start:
            raise InternalError(f"job {job} has {end - start} arguments, not {slot + 1}")
        self._addresses[start + slot] = address

    def rebind(self, place: int, address: int) -> None:
        """Give an argument, counted through all jobs, another address before the next run."""
        self._cells[place] = address

    def run(self) -> None:
        """All jobs in order, by up to `threads` threads; releases the GIL."""
        with self._lock:
            if not self._count:
                return
            if self.threads == 1:
                self.run_alone()
            else:
                _team.run(self)

    def next_run(self) -> list[ctypes.c_int64]:
        """(jobs, count, counters, number, segments) for `lead`; every run has another number."""
        number = self._letter[3]
        number.value = number.value % (_RUN_NUMBERS - 1) + 1
        return self._letter

    def unlock(self) -> None:
        """After a fork: the thread that held the lock does not exist here."""
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if hasattr(self, "_at") and self.threads > 1:
            _team.forget(self._at)
