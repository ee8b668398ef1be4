"""Job tables: the order of jobs, threads that help, and what happens when nothing goes to plan."""

from __future__ import annotations

import gc
import os
import threading
import time

import numpy as np
import pytest

from nnconv.runtime.devices import jit, jobs
from nnconv.runtime.devices.jobs import Job, JobTable
from nnconv.runtime.devices.walking import walking_text
from nnconv.runtime.kernels.elementwise import Chain, Step, Strided, chain
from nnconv.schemas.errors import InputError, InternalError
from tests.kernels.harness import Floats, buffer

SIZE = 50_000


def affine(scale: float, shift: float) -> Chain:
    one, step = [Strided((1,))], Step("Affine", (0,), (scale, shift))
    return chain([SIZE], one, one, [step], [1], jit.host().lanes)


def alternating(memory: Floats, count: int, threads: int, chunk: int = 1) -> JobTable:
    """x := 2 x, x := x + 1, x := 2 x, ... in place: any job out of order or done twice shows."""
    kernels = [affine(2, 0), affine(1, 1)]
    codes = jit.load_all(kernels)
    address = memory.ctypes.data
    table = [Job(codes[i % 2], (address, address), kernels[0].total, chunk) for i in range(count)]
    return JobTable(table, threads=threads, owners=[memory])


def expected(count: int) -> float:
    value = 0.0
    for i in range(count):
        value = value + 1 if i % 2 else value * 2
    return value


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_jobs_run_in_order_and_each_item_once(threads: int, chunk: int) -> None:
    memory = buffer(np.zeros(SIZE))
    table = alternating(memory, 20, threads, chunk)
    for _ in range(20):
        memory[:] = 0
        table.run()
        assert (memory == expected(20)).all()


def test_an_empty_table_does_nothing() -> None:
    JobTable([], threads=2).run()


def test_a_helper_sleeps_when_nothing_runs_and_comes_back() -> None:
    memory = buffer(np.zeros(SIZE))
    table = alternating(memory, 6, threads=2)
    for _ in range(3):
        table.run()
        before = time.process_time()
        time.sleep(0.1)
        assert time.process_time() - before < 0.05
    memory[:] = 0
    table.run()
    assert (memory == expected(6)).all()


def test_tables_run_from_several_python_threads_at_once() -> None:
    memories = [buffer(np.zeros(SIZE)) for _ in range(4)]
    tables = [alternating(memory, 10, threads=2) for memory in memories]

    def work(table: JobTable, memory: Floats) -> None:
        for _ in range(20):
            memory[:] = 0
            table.run()

    workers = [
        threading.Thread(target=work, args=pair) for pair in zip(tables, memories, strict=True)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all((memory == expected(10)).all() for memory in memories)


def test_one_table_called_from_two_threads_runs_twice() -> None:
    memory = buffer(np.zeros(SIZE))
    table = alternating(memory, 2, threads=2)  # x := 2 x + 1
    callers = [threading.Thread(target=table.run) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert (memory == 3).all()


def test_tables_may_be_dropped_right_after_they_ran() -> None:
    memory = buffer(np.zeros(SIZE))
    for _ in range(200):
        table = alternating(memory, 3, threads=2)
        table.run()
        del table
    gc.collect()
    memory[:] = 0
    alternating(memory, 3, threads=2).run()
    assert (memory == expected(3)).all()


def test_the_gil_is_free_while_jobs_run() -> None:
    memory = buffer(np.zeros(SIZE))
    table = alternating(memory, 3000, threads=1, chunk=1000)
    seen, stop = [], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append(time.perf_counter())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    inside = False
    for _ in range(1000):  # a busy machine may not wake the watcher during any one run
        start = time.perf_counter()
        table.run()
        end = time.perf_counter()
        inside = any(start < moment < end for moment in seen[-10:])
        if inside:
            break
    stop.set()
    watcher.join()
    assert inside


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_process_goes_on_with_helpers_of_its_own() -> None:
    memory = buffer(np.zeros(SIZE))
    table = alternating(memory, 8, threads=2)
    table.run()
    child = os.fork()
    if child == 0:
        memory[:] = 0
        table.run()
        os._exit(0 if (memory == expected(8)).all() else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    table.run()


def test_an_argument_can_be_bound_to_another_buffer() -> None:
    first, second = buffer(np.zeros(SIZE)), buffer(np.full(SIZE, np.nan))
    table = alternating(first, 2, threads=2)
    table.bind(1, 1, second.ctypes.data)
    table.run()
    assert (first == 0).all()
    assert (second == 1).all()
    with pytest.raises(InternalError, match="2 arguments"):
        table.bind(0, 2, 0)


def test_run_numbers_come_round_without_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_RUN_NUMBERS", 4)
    memory = buffer(np.zeros(SIZE))
    table = alternating(memory, 5, threads=2)
    for _ in range(12):
        memory[:] = 0
        table.run()
        assert (memory == expected(5)).all()


@pytest.mark.parametrize("kind", ["neon", "sse"])
def test_run_compiles_for_every_architecture(kind: str) -> None:
    target = jit.target(kind)
    assert jit.emit_object(walking_text(target), target)[:4] == b"\x7fELF"


def test_threads_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="threads"):
        JobTable([], threads=-1)
