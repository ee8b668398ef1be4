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
them.

Helpers are Python threads inside the generated `serve`, which releases the GIL, watches a mailbox
for about a millisecond and then returns to be parked on a semaphore.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from nnconv.runtime.devices import jit
from nnconv.runtime.kernels.arrays import aligned
from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import InputError, InternalError

__all__ = ["Job", "JobTable", "Team", "aligned", "default_threads"]

_COUNT_BITS = 40  # items of a job; the bits above hold the number of the run
_RUN_NUMBERS = 1 << (63 - _COUNT_BITS)
_SPINS = 3000  # pauses before a waiting thread starts to give its core away
_IDLE_YIELDS = 1500  # further turns before an idle helper goes to sleep: about a millisecond
_LINE = 8  # int64 in a cache line: each counter has one of its own
_JOB_WORDS = 5  # function, arguments, items, items of a chunk, items of a segment
_MOST_SEGMENTS = 8  # of a job; more threads share them
_WORDS = 2 * _LINE  # int64 of a mailbox


def _run_ir(pause: str, declare: str, give_way: str) -> str:
    """`run(jobs, count, counters, number, segments, me)` and `serve(mailbox)`; both return when
    nothing is left.
    """
    return f"""\
; run: walk `count` jobs of (function, arguments, total, chunk, span of a segment) as thread `me`;
; counters (of items done, then of items taken from each segment) belong to run `number`.
define i64 @nnconv_run(ptr %jobs, i64 %count, ptr %counters, i64 %number, i64 %segments, i64 %me)
#0 {{
entry:
  %tag = shl i64 %number, {_COUNT_BITS}
  %own = urem i64 %me, %segments
  %lines = add i64 %segments, 1
  %job.counters = mul i64 %lines, {_LINE}
  br label %job
job:
  %j = phi i64 [ 0, %entry ], [ %j.next, %finished ]
  %j.at = mul i64 %j, {_JOB_WORDS}
  %p.function = getelementptr i64, ptr %jobs, i64 %j.at
  %p.arguments = getelementptr i64, ptr %p.function, i64 1
  %p.total = getelementptr i64, ptr %p.function, i64 2
  %p.chunk = getelementptr i64, ptr %p.function, i64 3
  %p.span = getelementptr i64, ptr %p.function, i64 4
  %function = load ptr, ptr %p.function
  %arguments = load ptr, ptr %p.arguments
  %total = load i64, ptr %p.total
  %chunk = load i64, ptr %p.chunk
  %span = load i64, ptr %p.span
  %c.at = mul i64 %j, %job.counters
  %done = getelementptr i64, ptr %counters, i64 %c.at
  %end = add i64 %tag, %total
  br label %segment
segment:
  %s = phi i64 [ %own, %job ], [ %s.next, %next.segment ]
  %visited = phi i64 [ 0, %job ], [ %visited.next, %next.segment ]
  %mine = phi i64 [ 0, %job ], [ %so.far, %next.segment ]
  %base = mul i64 %s, %span
  %beyond = add i64 %base, %span
  %cut = icmp ult i64 %beyond, %total
  %limit = select i1 %cut, i64 %beyond, i64 %total
  %start = sub i64 %base, %tag
  %some = icmp ult i64 %base, %total
  %s.line = add i64 %s, 1
  %s.at = mul i64 %s.line, {_LINE}
  %next = getelementptr i64, ptr %done, i64 %s.at
  br i1 %some, label %look, label %next.segment
look:
  %held = phi i64 [ %mine, %segment ], [ %held.next, %work ]
  %seen = load atomic i64, ptr %next seq_cst, align 8
  br label %try
try:
  %at = phi i64 [ %seen, %look ], [ %now, %again ]
  %run = lshr i64 %at, {_COUNT_BITS}
  %ours = icmp eq i64 %run, %number
  br i1 %ours, label %fresh, label %stale
fresh:
  %lo = add i64 %start, %at
  %left = icmp ult i64 %lo, %limit
  br i1 %left, label %take, label %next.segment
take:
  %to = add i64 %at, %chunk
  %swap = cmpxchg ptr %next, i64 %at, i64 %to seq_cst seq_cst
  %now = extractvalue {{ i64, i1 }} %swap, 0
  %got = extractvalue {{ i64, i1 }} %swap, 1
  br i1 %got, label %work, label %again
again:
  br label %try
work:
  %hi.far = add i64 %lo, %chunk
  %inside = icmp ult i64 %hi.far, %limit
  %hi = select i1 %inside, i64 %hi.far, i64 %limit
  call void %function(ptr %arguments, i64 %lo, i64 %hi)
  %items = sub i64 %hi, %lo
  %held.next = add i64 %held, %items
  br label %look
next.segment:
  %so.far = phi i64 [ %mine, %segment ], [ %held, %fresh ]
  %s.up = add i64 %s, 1
  %s.over = icmp eq i64 %s.up, %segments
  %s.next = select i1 %s.over, i64 0, i64 %s.up
  %visited.next = add i64 %visited, 1
  %all.seen = icmp eq i64 %visited.next, %segments
  br i1 %all.seen, label %taken, label %segment
taken:
  %nothing = icmp eq i64 %so.far, 0
  br i1 %nothing, label %wait, label %tell
tell:
  %before = atomicrmw add ptr %done, i64 %so.far seq_cst
  br label %wait
wait:
  %spins = phi i64 [ 0, %taken ], [ 0, %tell ], [ %spins.next, %spin ], [ %spins.next, %yield ]
  %ready = load atomic i64, ptr %done acquire, align 8
  %ready.run = lshr i64 %ready, {_COUNT_BITS}
  %ready.ours = icmp eq i64 %ready.run, %number
  br i1 %ready.ours, label %count.items, label %stale
count.items:
  %all = icmp eq i64 %ready, %end
  br i1 %all, label %finished, label %spin
spin:
  call void {pause}
  %spins.next = add i64 %spins, 1
  %long = icmp ugt i64 %spins.next, {_SPINS}
  br i1 %long, label %yield, label %wait
yield:
  %ignored = call i32 @{give_way}()
  br label %wait
finished:
  %j.next = add i64 %j, 1
  %more = icmp ult i64 %j.next, %count
  br i1 %more, label %job, label %over
over:
  ret i64 1
stale:
  ret i64 0
}}

; serve: mailbox = (ticket, jobs, count, counters, number, segments; busy), as thread `me`; returns
; after a while of silence.
define i64 @nnconv_serve(ptr %mailbox, i64 %last, i64 %me) #0 {{
entry:
  %p.jobs = getelementptr i64, ptr %mailbox, i64 1
  %p.count = getelementptr i64, ptr %mailbox, i64 2
  %p.counters = getelementptr i64, ptr %mailbox, i64 3
  %p.number = getelementptr i64, ptr %mailbox, i64 4
  %p.segments = getelementptr i64, ptr %mailbox, i64 5
  %p.busy = getelementptr i64, ptr %mailbox, i64 {_LINE}
  br label %start
start:
  %known = phi i64 [ %last, %entry ], [ %ticket, %leave ]
  br label %watch
watch:
  %turns = phi i64 [ 0, %start ], [ %turns.next, %rest ], [ %turns.next, %yield ]
  %ticket = load atomic i64, ptr %mailbox seq_cst, align 8
  %differs = icmp ne i64 %ticket, %known
  %half = trunc i64 %ticket to i1
  %whole = xor i1 %half, true
  %new = and i1 %differs, %whole
  br i1 %new, label %enter, label %idle
idle:
  %turns.next = add i64 %turns, 1
  %long = icmp ugt i64 %turns.next, {_SPINS}
  br i1 %long, label %yield, label %rest
rest:
  call void {pause}
  br label %watch
yield:
  %ignored = call i32 @{give_way}()
  %tired = icmp ugt i64 %turns.next, {_SPINS + _IDLE_YIELDS}
  br i1 %tired, label %over, label %watch
enter:
  %jobs = load atomic ptr, ptr %p.jobs seq_cst, align 8
  store atomic ptr %jobs, ptr %p.busy seq_cst, align 8
  %count = load atomic i64, ptr %p.count seq_cst, align 8
  %counters = load atomic ptr, ptr %p.counters seq_cst, align 8
  %number = load atomic i64, ptr %p.number seq_cst, align 8
  %segments = load atomic i64, ptr %p.segments seq_cst, align 8
  %check = load atomic i64, ptr %mailbox seq_cst, align 8
  %same = icmp eq i64 %check, %ticket
  %some = icmp ne i64 %count, 0
  %go = and i1 %same, %some
  br i1 %go, label %help, label %leave
help:
  %result = call i64 @nnconv_run(ptr %jobs, i64 %count, ptr %counters, i64 %number,
    i64 %segments, i64 %me)
  br label %leave
leave:
  store atomic i64 0, ptr %p.busy seq_cst, align 8
  br label %start
over:
  ret i64 %known
}}

; lead: mark the counters with this run's number, put it into `helpers` mailboxes, work along.
define i64 @nnconv_lead(ptr %jobs, i64 %count, ptr %counters, i64 %number, i64 %segments, ptr %mail,
  i64 %helpers) #0 {{
entry:
  %tag = shl i64 %number, {_COUNT_BITS}
  %lines = add i64 %segments, 1
  %all = mul i64 %count, %lines
  %any = icmp ne i64 %count, 0
  br i1 %any, label %mark, label %marked
mark:
  %c = phi i64 [ 0, %entry ], [ %c.next, %mark ]
  %c.at = mul i64 %c, {_LINE}
  %counter = getelementptr i64, ptr %counters, i64 %c.at
  store atomic i64 %tag, ptr %counter release, align 8
  %c.next = add i64 %c, 1
  %c.more = icmp ult i64 %c.next, %all
  br i1 %c.more, label %mark, label %marked
marked:
  %alone = icmp eq i64 %helpers, 0
  br i1 %alone, label %go, label %post
post:
  %h = phi i64 [ 0, %marked ], [ %h.next, %post ]
  %h.at = mul i64 %h, {_WORDS}
  %box = getelementptr i64, ptr %mail, i64 %h.at
  %p.jobs = getelementptr i64, ptr %box, i64 1
  %p.count = getelementptr i64, ptr %box, i64 2
  %p.counters = getelementptr i64, ptr %box, i64 3
  %p.number = getelementptr i64, ptr %box, i64 4
  %p.segments = getelementptr i64, ptr %box, i64 5
  ; the ticket is odd while the letter is being written: a reader that saw either half comes again
  %odd = atomicrmw add ptr %box, i64 1 seq_cst
  store atomic ptr %jobs, ptr %p.jobs seq_cst, align 8
  store atomic i64 %count, ptr %p.count seq_cst, align 8
  store atomic ptr %counters, ptr %p.counters seq_cst, align 8
  store atomic i64 %number, ptr %p.number seq_cst, align 8
  store atomic i64 %segments, ptr %p.segments seq_cst, align 8
  %even = atomicrmw add ptr %box, i64 1 seq_cst
  %h.next = add i64 %h, 1
  %h.more = icmp ult i64 %h.next, %helpers
  br i1 %h.more, label %post, label %go
go:
  br i1 %any, label %work, label %over
work:
  %result = call i64 @nnconv_run(ptr %jobs, i64 %count, ptr %counters, i64 %number,
    i64 %segments, i64 0)
  ret i64 %result
over:
  ret i64 1
}}
{declare}
declare i32 @{give_way}()
attributes #0 = {{ nounwind }}
"""


def _text(target: Target) -> jit.Text:
    windows = "windows" in target.triple or sys.platform == "win32"
    if target.triple.startswith(("aarch64", "arm64")):
        pause, declare = "@llvm.aarch64.hint(i32 1)", "declare void @llvm.aarch64.hint(i32)"
    else:
        pause, declare = "@llvm.x86.sse2.pause()", "declare void @llvm.x86.sse2.pause()"
    text = _run_ir(pause, declare, "SwitchToThread" if windows else "sched_yield")
    return jit.Text("nnconv_run", text, ("nnconv_serve", "nnconv_lead"))


@cache
def _functions() -> tuple[jit.Code, Any, Any]:
    """The generated code (kept loaded), `lead` and `serve` as ctypes functions; both release the
    GIL.
    """
    code = jit.load(_text(jit.host()))
    word = ctypes.c_int64
    lead = ctypes.CFUNCTYPE(word, *[word] * 7)(code.addresses["nnconv_lead"])
    serve = ctypes.CFUNCTYPE(word, *[word] * 3)(code.addresses["nnconv_serve"])
    return code, lead, serve


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
        self._mail = aligned(_WORDS * _MOST_HELPERS, np.int64, 0)
        self._mail_at = int(self._mail.ctypes.data)

    def _hire(self, count: int) -> int:
        """Have `count` helpers, or as many as the system gives; how many there are."""
        while len(self._helpers) < count:
            slot = len(self._helpers)
            box = self._mail[slot * _WORDS : (slot + 1) * _WORDS]
            try:
                self._helpers.append(_Helper(box, slot + 1))
            except RuntimeError:  # no more threads to be had: slower, not wrong
                break
        return min(count, len(self._helpers))

    def run(self, table: JobTable) -> None:
        """All jobs of the table, in order. When another table is running, this one runs on its
        caller alone.
        """
        helpers = min(table.threads - 1, _MOST_HELPERS)
        if helpers < 1 or not self._free.acquire(blocking=False):
            self._lead(table, 0)
            return
        try:
            helpers = self._hire(helpers)
            for helper in self._helpers[:helpers]:
                helper.wake()
            self._lead(table, helpers)
        finally:
            self._free.release()

    def _lead(self, table: JobTable, helpers: int) -> None:
        _, lead, _ = _functions()
        if lead(*table.next_run(), self._mail_at, helpers) != 1:
            raise InternalError("a plan was run twice at once")

    def forget(self, jobs: int) -> None:
        """Return when no helper is in the table at this address, nor can enter it; its memory may
        then go.
        """
        if not self._helpers:
            return
        with self._free:
            _, lead, _ = _functions()
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
        _, _, serve = _functions()
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
        return bool(self._box[_LINE] == jobs)

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
        self._number = 0
        self._starts = np.cumsum([0, *(len(job.arguments) for job in jobs)])
        self._addresses = aligned(int(self._starts[-1]) + 1, np.int64, 0)
        self._segments = min(self.threads, _MOST_SEGMENTS)
        lines = max(len(jobs), 1) * (1 + self._segments)
        self._counters = aligned(lines * _LINE, np.int64, 0)
        self._cells = self._addresses.data  # single items are set faster than numpy's
        self._jobs = aligned(max(len(jobs), 1) * _JOB_WORDS, np.int64, 0)
        self._at = int(self._jobs.ctypes.data)
        self._counters_at = int(self._counters.ctypes.data)
        self._count = len(jobs)
        for i, job in enumerate(jobs):
            self._set(i, job)
        _tables.add(self)

    def _set(self, i: int, job: Job) -> None:
        if not (0 < job.total < 1 << (_COUNT_BITS - 1) and 0 < job.chunk < 1 << (_COUNT_BITS - 1)):
            raise InternalError(f"job {i} ({job.code.name}): total {job.total}, chunk {job.chunk}")
        start = int(self._starts[i])
        self._addresses[start : start + len(job.arguments)] = job.arguments
        table = self._addresses.ctypes.data + start * 8
        chunks = -(-job.total // job.chunk)
        span = -(-chunks // self._segments) * job.chunk
        words = (job.code.address, table, job.total, job.chunk, span)
        self._jobs[i * _JOB_WORDS : (i + 1) * _JOB_WORDS] = words

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
            if self._count:
                _team.run(self)

    def next_run(self) -> tuple[int, int, int, int, int]:
        """(jobs, count, counters, number, segments) for `lead`; every run has another number."""
        self._number = self._number % (_RUN_NUMBERS - 1) + 1
        return self._at, self._count, self._counters_at, self._number, self._segments

    def unlock(self) -> None:
        """After a fork: the thread that held the lock does not exist here."""
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if hasattr(self, "_at"):
            _team.forget(self._at)
