"""The cpu device: stretches of generated kernels, each one call, with reference kernels in
between.

A `CpuProgram` is immutable and may be called by any number of threads: what a run writes to (the
arena, the tables of addresses) is a `_Frame`, and each call takes a free one or makes another.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.runtime.devices import jit
from nnconv.runtime.devices.base import Device, DeviceInfo, Program, Settings, Step
from nnconv.runtime.devices.jobs import Job, JobTable, aligned
from nnconv.runtime.lowering.build import HostCall, KernelJob, Lowered, Stretch, lower
from nnconv.runtime.lowering.layout import Buffer, Floats, Home, numpy_view
from nnconv.runtime.lowering.pack import Store
from nnconv.runtime.ops import has_kernel
from nnconv.runtime.tune import Tuner
from nnconv.schemas.errors import NnconvError

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Node
    from nnconv.schemas.types import Array

_MOST_FRAMES = 16  # kept for later calls; more exist only while more callers run at once


class CpuDevice:
    """Runs what the lowering claims by kernels compiled for this processor, the rest by reference
    kernels.
    """

    name = "cpu"
    optimises = True

    def supports(self, node: Node) -> bool:
        return has_kernel(node)

    def lower(self, graph: Graph, settings: Settings) -> Program:
        target = jit.host()
        tuner = Tuner(target, settings.tune)
        lowered = lower(graph, settings, target, Store(settings.shared), tuner, by_image=True)
        return CpuProgram(lowered, settings.threads or 0)


class CpuProgram:
    """A plan on the cpu device."""

    def __init__(self, lowered: Lowered, threads: int) -> None:
        self.steps: Sequence[Step] = lowered.steps
        self.peak_bytes = 4 * lowered.arena
        self._lowered = lowered
        self._threads = threads
        kernels = [
            job.kernel
            for stage in lowered.stages
            if isinstance(stage, Stretch)
            for job in stage.jobs
        ]
        codes = jit.load_all(kernels)
        self._codes = {kernel.digest: code for kernel, code in zip(kernels, codes, strict=True)}
        self._free: list[_Frame] = []
        self._lock = threading.Lock()

    def __call__(
        self,
        arrays: Sequence[Array | None],
        step: int,
        watch: Callable[[Step, float], None] | None = None,
    ) -> list[Array]:
        frame = self._take()
        try:
            return frame.run(arrays, step, watch)
        finally:
            with self._lock:
                if len(self._free) < _MOST_FRAMES:
                    self._free.append(frame)

    def _take(self) -> _Frame:
        with self._lock:
            if self._free:
                return self._free.pop()
        return _Frame(self._lowered, self._codes, self._threads)


class _Table:
    """Jobs of a stretch as a JobTable, and which of their addresses change from run to run."""

    def __init__(
        self, jobs: Sequence[KernelJob], codes: dict[str, jit.Code], arena: Floats, threads: int
    ) -> None:
        bound: dict[int, list[tuple[int, int]]] = {}
        ready = []
        place = 0
        for job in jobs:
            addresses = []
            for operand in job.operands:
                if operand.buffer.home is Home.HOST:
                    bound.setdefault(operand.buffer.slot, []).append((place, 4 * operand.offset))
                place += 1
                addresses.append(_address(operand.buffer, arena) + 4 * operand.offset)
            kernel = job.kernel
            code = codes[kernel.digest]
            ready.append(Job(code, tuple(addresses), kernel.total, kernel.chunk))
        stored = [o.buffer.data for job in jobs for o in job.operands if o.buffer.data is not None]
        self._table = JobTable(ready, threads, [arena, *stored])
        self._bound = [(slot, *np.array(found, np.int64).T.copy()) for slot, found in bound.items()]
        self._seen: list[Any] = [_nothing] * len(self._bound)

    def run(self, values: list[Any]) -> None:
        """Arrays that are those of the last run (states, mostly) keep their addresses."""
        for number, (slot, places, offsets) in enumerate(self._bound):
            array = values[slot]
            if self._seen[number]() is not array:
                self._table.rebind(places, offsets + array.ctypes.data)
                self._seen[number] = weakref.ref(array)
        self._table.run()


def _nothing() -> None:
    """A weak reference to what is gone."""


def _address(buffer: Buffer, arena: Floats) -> int:
    if buffer.home is Home.ARENA:
        return int(arena.ctypes.data) + 4 * buffer.offset
    return 0 if buffer.data is None else int(buffer.data.ctypes.data)


class _Frame:
    """The memory of one run at a time, and the plan's jobs bound to it."""

    def __init__(self, lowered: Lowered, codes: dict[str, jit.Code], threads: int) -> None:
        self._lowered = lowered
        self._codes = codes
        self._threads = threads
        self._arena = aligned(lowered.arena, fill=0.0)  # borders are zero from here on
        self._tables: dict[int, list[tuple[int | None, _Table]]] = {}
        self._watched: dict[int, list[tuple[int | None, _Table]]] = {}
        self._views = {
            number: [_view(read, self._arena) for read in stage.reads]
            for number, stage in enumerate(lowered.stages)
            if isinstance(stage, HostCall)
        }
        self._readers = {
            number: _slots_read(stage)
            for number, stage in enumerate(lowered.stages)
            if isinstance(stage, Stretch)
        }

    def run(
        self,
        arrays: Sequence[Array | None],
        step: int,
        watch: Callable[[Step, float], None] | None,
    ) -> list[Array]:
        lowered = self._lowered
        values: list[Any] = [None] * lowered.slots
        for slot, data in lowered.stored.items():
            values[slot] = data
        for slot, array in zip(lowered.feeds, arrays, strict=True):
            values[slot] = array
        for slot, sizes in lowered.fresh.items():
            values[slot] = np.empty(sizes, np.float32)
        for number, stage in enumerate(lowered.stages):
            if isinstance(stage, HostCall):
                self._call(number, stage, values, step, watch)
            else:
                self._run(number, stage, values, watch)
        return [_result(values[r.slot], r.copy) for r in lowered.results]

    def _run(
        self,
        number: int,
        stretch: Stretch,
        values: list[Any],
        watch: Callable[[Step, float], None] | None,
    ) -> None:
        for slot in self._readers[number]:
            values[slot] = _readable(values[slot])
        known = self._tables if watch is None else self._watched
        if number not in known:
            known[number] = self._build(stretch, split=watch is not None)
        spent: dict[int, float] = {}  # a step that is done image by image has several tables
        for mark, table in known[number]:
            started = time.perf_counter()
            table.run(values)
            if mark is not None:
                spent[mark] = spent.get(mark, 0.0) + time.perf_counter() - started
        if watch is not None:
            for mark, seconds in spent.items():
                watch(self._lowered.steps[mark], seconds)

    def _build(self, stretch: Stretch, split: bool) -> list[tuple[int | None, _Table]]:
        """The stretch as one table, or as one for each of its steps."""
        if not split:
            return [(None, self._table(stretch.jobs))]
        start = 0
        found: list[tuple[int | None, _Table]] = []
        for step, end in stretch.marks:
            found.append((step, self._table(stretch.jobs[start:end])))
            start = end
        return found

    def _table(self, jobs: Sequence[KernelJob]) -> _Table:
        return _Table(jobs, self._codes, self._arena, self._threads)

    def _call(
        self,
        number: int,
        stage: HostCall,
        values: list[Any],
        step: int,
        watch: Callable[[Step, float], None] | None,
    ) -> None:
        started = time.perf_counter()
        reads = [_host_array(read, values) for read in self._views[number]]
        what = self._lowered.steps[stage.step]
        results = what.call(reads, step)
        for slot, result in zip(stage.writes, results, strict=False):
            # a view of the arena would change under its reader's hands
            inside = np.may_share_memory(result, self._arena)
            values[slot] = result.copy() if inside else result
        if watch is not None:
            watch(what, time.perf_counter() - started)


def _view(read: Any, arena: Floats) -> Any:
    """What of a host call's operand is the same in all runs: a view of the arena or of
    parameters.
    """
    if isinstance(read, int) or read[0].buffer.home is Home.HOST:
        return read
    place, sizes = read
    buffer = place.buffer
    memory = arena[buffer.offset :] if buffer.home is Home.ARENA else buffer.data
    view = numpy_view(place, sizes, memory)
    view.flags.writeable = False
    return view


def _host_array(view: Any, values: list[Any]) -> Any:
    if isinstance(view, int):
        return values[view]
    if isinstance(view, tuple):  # another view of an array of this run
        place, sizes = view
        return numpy_view(place, sizes, _readable(values[place.buffer.slot]).reshape(-1))
    return view


def _slots_read(stretch: Stretch) -> list[int]:
    buffers = (operand.buffer for job in stretch.jobs for operand in job.operands)
    return sorted({buffer.slot for buffer in buffers if buffer.home is Home.HOST})


def _readable(array: Array) -> Array:
    """As kernels read it: without gaps, aligned to its elements."""
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.array(array, order="C")


def _result(array: Array, copy: bool) -> Array:
    return array.copy(order="C") if copy else array


def devices() -> list[DeviceInfo]:
    """The processor, with the reason where kernels cannot be compiled for it."""
    try:
        target = jit.host()
    except NnconvError as error:
        return [DeviceInfo("cpu", "this processor", False, error.problems[0].message)]
    lanes = f"{target.lanes} lanes of float32"
    return [DeviceInfo("cpu", f"kernels compiled for {target.cpu or 'this processor'}, {lanes}")]


def open_device(name: str) -> Device:
    return CpuDevice()
