"""The cpu device: stretches of generated kernels, each one call, with reference kernels in
between.

A `CpuProgram` is immutable and may be called by any number of threads: what a run writes to (the
arena, the tables of addresses) is a `_Frame`, and each call takes a free one or makes another.
"""

from __future__ import annotations

import ctypes
import math
import operator
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from nnconv.runtime.devices import jit
from nnconv.runtime.devices.base import Device, DeviceInfo, Program, Settings, Step
from nnconv.runtime.devices.jobs import Job, JobTable, aligned, default_threads
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.lowering.build import HostCall, KernelJob, Lowered, Stretch, lower
from nnconv.runtime.lowering.layout import Buffer, Floats, Home, numpy_view
from nnconv.runtime.lowering.pack import Store
from nnconv.runtime.ops import is_kept
from nnconv.runtime.random import two_words
from nnconv.runtime.tune import Tuner
from nnconv.schemas.errors import InputError, NnconvError

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Node
    from nnconv.schemas.types import Array

_MOST_FRAMES = 16  # kept for later calls; more exist only while more callers run at once
_SMALL = 4096  # bytes of an array that is copied sooner than kernels are given its address
_SMALL_WORK = 6000  # nanoseconds of jobs that threads do not share

Addressed = tuple[Kernel, tuple[int, ...]]
"""A kernel with the addresses of its arguments."""


class Runnable(Protocol):
    """A table of jobs. `run` gives the seconds it took where the device has a clock of its own."""

    def rebind(self, place: int, address: int) -> None: ...

    def run(self) -> float | None: ...


Make = Callable[[Sequence[Addressed], Sequence[Any]], Runnable]


class CpuDevice:
    """Runs what the lowering claims by kernels compiled for this processor, the rest by reference
    kernels.
    """

    name = "cpu"
    optimises = True

    def supports(self, node: Node) -> bool:
        return is_kept(node)

    def lower(self, graph: Graph, settings: Settings) -> Program:
        target = jit.host()
        tuner = Tuner(target, settings.tune)
        store = Store(settings.shared, settings.threads or default_threads())
        lowered = lower(graph, settings, target, store, tuner, by_image=True)
        return CpuProgram(lowered, settings.threads or 0)


class CpuProgram:
    """A plan on the cpu device."""

    recycles = True

    def __init__(self, lowered: Lowered, threads: int) -> None:
        self.steps: Sequence[Step] = lowered.steps
        self.peak_bytes = 4 * lowered.arena
        self._lowered = lowered
        self._threads = threads
        self._spares = _spares(lowered)
        self.prepare(
            [
                job.kernel
                for stage in lowered.stages
                if isinstance(stage, Stretch)
                for job in stage.jobs
            ]
        )
        self._free: deque[_Frame] = deque(maxlen=_MOST_FRAMES)  # its ends are safe to share

    def prepare(self, kernels: Sequence[Kernel]) -> None:
        codes = jit.load_all(kernels)
        self._codes = {kernel.digest: code for kernel, code in zip(kernels, codes, strict=True)}

    def table(self, jobs: Sequence[Addressed], owners: Sequence[Any]) -> Runnable:
        """What runs these jobs in order; the arrays in their addresses live as long."""
        ready = [Job(self._codes[k.digest], at, k.total, k.chunk) for k, at in jobs]
        threads = 1 if _is_small([kernel for kernel, _ in jobs]) else self._threads
        return JobTable(ready, threads, owners)

    def __call__(
        self,
        arrays: Sequence[Array | None],
        step: int,
        watch: Callable[[Step, float], None] | None = None,
        spares: Sequence[Array] = (),
    ) -> list[Array]:
        try:
            frame = self._free.pop()
        except IndexError:
            # weakly: a program that frames hold would only go with the next collection of garbage
            frame = _Frame(self._lowered, weakref.WeakMethod(self.table))
        try:
            given = [(slot, spares[number]) for number, slot in self._spares] if spares else ()
            return frame.run(arrays, step, watch, given)
        finally:
            self._free.append(frame)


class _Table:
    """Jobs of a stretch with addresses, and which of those change from run to run."""

    def __init__(
        self, jobs: Sequence[KernelJob], arena: Floats, make: Make, lasting: Collection[int],
        fixed: Mapping[int, Array],
    ) -> None:  # fmt: skip
        bound: dict[int, list[tuple[int, int]]] = {}
        ready: list[Addressed] = []
        place = 0
        for job in jobs:
            addresses = []
            for operand in job.operands:
                if operand.buffer.home is Home.HOST:
                    bound.setdefault(operand.buffer.slot, []).append((place, 4 * operand.offset))
                place += 1
                addresses.append(_address(operand.buffer, arena) + 4 * operand.offset)
            ready.append((job.kernel, tuple(addresses)))
        stored = [o.buffer.data for job in jobs for o in job.operands if o.buffer.data is not None]
        self._table = make(ready, [arena, *stored])
        for slot in bound.keys() & fixed.keys():
            self._give(bound.pop(slot), fixed[slot])
        self._bound = [_Bound(slot, places) for slot, places in bound.items()]
        self._lasting = [b for b in self._bound if b.slot in lasting]
        self._passing = [b for b in self._bound if b.slot not in lasting]
        self._slots = [b.slot for b in self._lasting]
        self._seen: list[Any] = [None] * len(self._lasting)

    def run(self, values: list[Any]) -> float | None:
        """Arrays that are those of the last run keep their addresses."""
        if self._slots:
            lasting = [values[slot] for slot in self._slots]
            if not all(map(operator.is_, lasting, self._seen)):
                self._seen = lasting
                for bound in self._lasting:
                    self._bind(bound, values)
        for bound in self._passing:
            if bound.seen() is not values[bound.slot]:
                self._bind(bound, values)
                bound.seen = weakref.ref(values[bound.slot])
        return self._table.run()

    def _bind(self, bound: _Bound, values: list[Any]) -> None:
        array = values[bound.slot] = _readable(values[bound.slot])
        self._give(bound.places, array)

    def _give(self, places: list[tuple[int, int]], array: Array) -> None:
        address = _address_of(array)
        for place, offset in places:
            self._table.rebind(place, address + offset)


@dataclass(slots=True)
class _Bound:
    """A slot, the arguments that lie in its array with their bytes from its start, and the array
    that they were last given."""

    slot: int
    places: list[tuple[int, int]]
    seen: Callable[[], Any] = lambda: None


def _address(buffer: Buffer, arena: Floats) -> int:
    if buffer.home is Home.ARENA:
        return int(arena.ctypes.data) + 4 * buffer.offset
    return 0 if buffer.data is None else int(buffer.data.ctypes.data)


class _Frame:
    """The memory of one run at a time, and the plan's jobs bound to it."""

    def __init__(self, lowered: Lowered, make: Callable[[], Make | None]) -> None:
        self._lowered = lowered
        self._make = make
        self._arena = aligned(lowered.arena, fill=0.0)  # borders are zero from here on
        self._tables: dict[tuple[int, bool, bool], list[tuple[int | None, _Table]]] = {}
        self._odd = False  # recycled states change places from run to run: each has its own tables
        self._views = {
            number: [_view(read, self._arena) for read in stage.reads]
            for number, stage in enumerate(lowered.stages)
            if isinstance(stage, HostCall)
        }
        self._lasting = _lasting(lowered)
        self._number = np.zeros(2, np.uint32)
        self._empty: list[Any] = [None] * lowered.slots
        if lowered.number >= 0:
            self._empty[lowered.number] = self._number
        for slot, data in lowered.stored.items():
            self._empty[slot] = data
        own = _small_results(lowered)
        self._own = {slot: _fresh(lowered, slot) for slot in own}
        self._results = [(r.slot, r.copy or r.slot in own) for r in lowered.results]
        self._fresh = [slot for slot in lowered.fresh if slot not in own]
        self._feeds: _Feeds | None = None

    def run(
        self,
        arrays: Sequence[Array | None],
        step: int,
        watch: Callable[[Step, float], None] | None,
        spares: Sequence[tuple[int, Array]],
    ) -> list[Array]:
        lowered = self._lowered
        if lowered.number >= 0:
            self._number[:] = two_words(step)
        self._odd = bool(spares) and not self._odd
        feeds = self._feeds
        if feeds is None:
            feeds = self._feeds = _feeds(lowered, arrays)
            self._own |= {slot: here for _, slot, here in feeds.copied}
            for slot, here in self._own.items():
                self._empty[slot] = here
        values = self._empty.copy()
        for number, slot in feeds.passed:
            values[slot] = arrays[number]
        for number, _, here in feeds.copied:
            here[...] = arrays[number]
        for slot, array in spares:
            values[slot] = array
        for slot in self._fresh:
            if values[slot] is None:
                values[slot] = _fresh(lowered, slot)
        for number, stage in enumerate(lowered.stages):
            if isinstance(stage, HostCall):
                self._call(number, stage, values, step, watch)
            else:
                self._run(number, stage, values, watch)
        return [values[slot].copy() if copy else values[slot] for slot, copy in self._results]

    def _run(
        self,
        number: int,
        stretch: Stretch,
        values: list[Any],
        watch: Callable[[Step, float], None] | None,
    ) -> None:
        which = number, watch is not None, self._odd
        tables = self._tables.get(which)
        if tables is None:
            tables = self._tables[which] = self._build(stretch, split=watch is not None)
        if watch is None:
            for _, table in tables:
                table.run(values)
            return
        spent: dict[int, float] = {}  # a step that is done image by image has several tables
        for mark, table in tables:
            started = time.perf_counter()
            seconds = table.run(values)
            if seconds is None:
                seconds = time.perf_counter() - started
            if mark is not None:
                spent[mark] = spent.get(mark, 0.0) + seconds
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
        make = self._make()
        assert make is not None
        return _Table(jobs, self._arena, make, self._lasting, self._own)

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


def _lasting(lowered: Lowered) -> set[int]:
    """The slots of states: their arrays stay, so that a plan may hold them."""
    first = len(lowered.results) - lowered.states
    written = {result.slot for result in lowered.results[first:]}
    return {*lowered.feeds[len(lowered.feeds) - lowered.states :], *written}


def _fresh(lowered: Lowered, slot: int) -> Array:
    """An array for what kernels compute outside the arena."""
    return np.empty(lowered.fresh[slot], lowered.types.get(slot, np.float32))


def _small_results(lowered: Lowered) -> set[int]:
    """The slots of small outputs: computed in an array of the frame and copied from there."""
    states = {result.slot for result in lowered.results[len(lowered.results) - lowered.states :]}
    return {
        slot
        for slot, sizes in lowered.fresh.items()
        if slot not in states and 4 * math.prod(sizes) <= _SMALL
    }


class _Feeds(NamedTuple):
    """What a run is given, by its place: (place, slot, array of the frame) of small inputs, which
    are copied there, and (place, slot) of all others.
    """

    copied: list[tuple[int, int, Any]]
    passed: list[tuple[int, int]]


def _feeds(lowered: Lowered, arrays: Sequence[Array | None]) -> _Feeds:
    """All runs have the same shapes and types; states are never copied."""
    found = _Feeds([], [])
    for number, (slot, array) in enumerate(zip(lowered.feeds, arrays, strict=True)):
        is_state = number >= len(arrays) - lowered.states
        if array is None or is_state or array.nbytes > _SMALL:
            found.passed.append((number, slot))
        else:
            found.copied.append((number, slot, np.empty(array.shape, array.dtype)))
    return found


def _is_small(kernels: Sequence[Kernel]) -> bool:
    """Whether one thread is done with all jobs sooner than two: each job that threads share costs
    what they wait for one another.
    """
    return sum(map(_nanoseconds, kernels)) < _SMALL_WORK


def _nanoseconds(kernel: Kernel) -> float:
    """A guess at a job's time on one thread whose data is cached; what is no product may compute
    much for each element."""
    if kernel.flops:
        return max(kernel.flops / 150, kernel.bytes / 70)
    return kernel.bytes / 25


def _spares(lowered: Lowered) -> list[tuple[int, int]]:
    """(state, slot) of the states whose next value is computed right in an array of its own, which
    may then be one that the caller spares."""
    outputs = len(lowered.results) - lowered.states
    shown = {result.slot for result in lowered.results[:outputs]}
    made = ((n, result.slot) for n, result in enumerate(lowered.results[outputs:]))
    return [(n, slot) for n, slot in made if slot in lowered.fresh and slot not in shown]


def _address_of(array: Array) -> int:
    """Where the elements of an array without gaps lie."""
    try:  # a third of the time of what follows
        return ctypes.addressof(_NO_BYTES.from_buffer(array.data))
    except (TypeError, ValueError):  # read-only, or of a type that buffers do not know
        return int(array.__array_interface__["data"][0])


_NO_BYTES = ctypes.c_char * 0


def _readable(array: Array) -> Array:
    """As kernels read it: without gaps, aligned to its elements."""
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.array(array, order="C")


def devices() -> list[DeviceInfo]:
    """The processor, with the reason where kernels cannot be compiled for it."""
    try:
        target = jit.host()
    except InputError:  # a wrong word in NNCONV_CPU is no reason to run ten times slower
        raise
    except NnconvError as error:
        return [DeviceInfo("cpu", "this processor", False, error.problems[0].message)]
    lanes = f"{target.lanes} lanes of float32"
    return [DeviceInfo("cpu", f"kernels compiled for {target.cpu or 'this processor'}, {lanes}")]


def open_device(name: str) -> Device:
    return CpuDevice()
