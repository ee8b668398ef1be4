"""A plan on an OpenCL device: a list of actions that a run queues one after the other and waits for
once.

Values stay on the device: one buffer is the plan's arena, inputs and results have one each,
parameters are shared by all plans of an Executable, states come and go as `Resident`s. Transfers
are actions and steps of their own, so that plans list them and profiles time them; only a host call
makes the queue wait in between. An `OpenCLProgram` may be called by any number of threads: each run
takes a free `_Frame`, which owns the arena, the queue and the kernels with their arguments set.
Processors do without all this: see opencl_walk.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.runtime.devices.base import Step
from nnconv.runtime.devices.opencl.cache import Built, build_all
from nnconv.runtime.devices.opencl.platform import Place, require, translated
from nnconv.runtime.devices.opencl.states import Pool, Resident
from nnconv.runtime.lowering.build import HostCall, KernelJob, Lowered, Stretch
from nnconv.runtime.lowering.layout import Buffer, Home, Operand, numpy_view
from nnconv.runtime.random import two_words
from nnconv.schemas.errors import InternalError, UnsupportedError
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Value
    from nnconv.schemas.types import Array

Watch = Callable[[Step, float], None]
Spent = list[Any] | float  # events that know their times, or the seconds of a host call

_MOST_FRAMES = 16  # kept for later calls; more exist only while more callers run at once


@dataclass(frozen=True, slots=True)
class Launch:
    """Jobs of one step."""

    step: int
    jobs: tuple[KernelJob, ...]


@dataclass(frozen=True, slots=True)
class Upload:
    """The array of a slot to its buffer on the device."""

    step: int
    slot: int


@dataclass(frozen=True, slots=True)
class Download:
    """A buffer to the host: of a slot to a new array there, of the arena for a call's `read`.
    Without `sizes` the array is like the one that was uploaded: a state written over.
    """

    step: int
    buffer: Buffer
    sizes: tuple[int, ...] | None = None
    dtype: Any = np.float32
    waits: bool = False  # for a host call, which needs it now


@dataclass(frozen=True, slots=True)
class Call:
    """A reference kernel on the host."""

    step: int
    stage: HostCall


Action = Launch | Upload | Download | Call


class Script:
    """The actions of a lowered plan with their steps, made once."""

    def __init__(self, graph: Graph, lowered: Lowered) -> None:
        self.lowered = lowered
        self.steps: list[Step] = []
        self.actions: list[Action] = []
        self.on_device: dict[int, Buffer] = {}
        self.slot_bytes: dict[int, int] = {}
        for stage in lowered.stages:
            if isinstance(stage, Stretch):
                self._find_slots(stage.jobs)
        self._here: set[int] = set()  # slots whose array is complete on the host
        self._values = _slot_values(graph, lowered)
        read, written = _state_slots(graph, lowered)
        self.states_in = {slot: name for slot, name in read.items() if slot in self.on_device}
        self._made: set[int] = set(self.states_in)  # slots whose last value is on the device
        counted = (lowered.number,) if lowered.number >= 0 else ()
        for slot in (*lowered.feeds, *lowered.stored, *counted):
            if slot not in self.states_in:
                self._arrives(slot)
        for stage in lowered.stages:
            if isinstance(stage, HostCall):
                self._call(stage)
            else:
                self._stretch(stage)
        self.states_out = {s: name for s, name in written.items() if s in self._made}
        for slot in {*self.states_in, *self.states_out}:
            self.slot_bytes.pop(slot)
        outputs = len(lowered.results) - lowered.states
        for number, result in enumerate(lowered.results):
            if number < outputs or result.slot not in self.states_out:
                self._fetch(result.slot, waits=False)

    @property
    def uploaded_bytes(self) -> int:
        """From the host to the device, a run."""
        return sum(self.slot_bytes[a.slot] for a in self.actions if isinstance(a, Upload))

    @property
    def downloaded_bytes(self) -> int:
        """From the device to the host, a run."""
        found = (a for a in self.actions if isinstance(a, Download))
        return sum(np.dtype(a.dtype).itemsize * a.buffer.size for a in found)

    @property
    def resident_bytes(self) -> int:
        """Of states that stay on the device."""
        return sum(4 * self.on_device[slot].size for slot in self.states_in)

    def _find_slots(self, jobs: Iterable[KernelJob]) -> None:
        """The slots that kernels use, and their bytes by what the kernels take them for."""
        for job in jobs:
            for operand, argument in zip(job.operands, job.kernel.arguments, strict=True):
                if operand.buffer.home is Home.HOST:
                    slot, size = operand.buffer.slot, operand.buffer.size * argument.dtype.bytes
                    self.on_device[slot] = operand.buffer
                    self.slot_bytes[slot] = max(size, self.slot_bytes.get(slot, 0))

    def _add(self, step: Step) -> int:
        self.steps.append(step)
        return len(self.steps) - 1

    def _transfer(self, kind: str, slot: int, value: Value | None = None) -> int:
        value = value or self._values.get(slot)
        values = (value,) if value is not None else ()
        return self._add(Step((), f"opencl:{kind}", values, values, _in_a_script))

    def _arrives(self, slot: int) -> None:
        """An array has come into a slot: kernels read it on the device."""
        self._here.add(slot)
        if slot in self.on_device:
            self.actions.append(Upload(self._transfer("to device", slot), slot))

    def _stretch(self, stretch: Stretch) -> None:
        start = 0
        for number, end in stretch.marks:
            step = self.lowered.steps[number]
            kernel = "opencl:" + step.kernel.removeprefix("cpu:")
            at = self._add(replace(step, kernel=kernel))
            jobs = tuple(stretch.jobs[start:end])
            self.actions.append(Launch(at, jobs))
            written = _written_slots(jobs)
            self._here -= written
            self._made |= written
            start = end

    def _call(self, stage: HostCall) -> None:
        what = self.lowered.steps[stage.step]
        for number, read in enumerate(stage.reads):
            if isinstance(read, int):
                self._fetch(read, waits=True)
            elif read[0].buffer.home is Home.HOST:
                self._fetch(read[0].buffer.slot, waits=True)
            elif read[0].buffer.home is Home.ARENA:
                step = self._transfer("to host", 0, what.reads[number])
                self.actions.append(Download(step, read[0].buffer, waits=True))
        self.actions.append(Call(self._add(what), stage))
        for slot in stage.writes:
            self._made.discard(slot)
            self._arrives(slot)

    def _fetch(self, slot: int, waits: bool) -> None:
        """The array of a slot that kernels fill, unless it is on the host already."""
        if slot in self._here or slot not in self.on_device:
            return
        self._here.add(slot)
        step = self._transfer("to host", slot)
        sizes, dtype = self.lowered.fresh.get(slot), self.lowered.types.get(slot, np.float32)
        self.actions.append(Download(step, self.on_device[slot], sizes, dtype, waits))


def _written_slots(jobs: Iterable[KernelJob]) -> set[int]:
    return {
        operand.buffer.slot
        for job in jobs
        for operand, argument in zip(job.operands, job.kernel.arguments, strict=True)
        if argument.written and operand.buffer.home is Home.HOST
    }


def _state_slots(graph: Graph, lowered: Lowered) -> tuple[dict[int, str], dict[int, str]]:
    """The slots that float32 states are read from and written to, with the states' names."""
    count = len(graph.state)
    reads = lowered.feeds[len(lowered.feeds) - count :]
    writes = [result.slot for result in lowered.results[len(lowered.results) - count :]]
    known = [
        (read, write, state.name)
        for read, write, state in zip(reads, writes, graph.state, strict=True)
        if state.read.dtype is DType.FLOAT32
    ]
    return {read: name for read, _, name in known}, {write: name for _, write, name in known}


def _slot_values(graph: Graph, lowered: Lowered) -> dict[int, Value]:
    """Which value lies in a slot, as far as transfers are shown."""
    states = graph.state
    inputs = (*graph.inputs, *(state.read for state in states))
    outputs = (*graph.outputs, *(state.write for state in states))
    found = dict(zip((result.slot for result in lowered.results), outputs, strict=True))
    found |= dict(zip(lowered.feeds, inputs, strict=True))
    for stage in lowered.stages:
        if isinstance(stage, HostCall):
            found |= dict(zip(stage.writes, lowered.steps[stage.step].writes, strict=False))
    return found


def _in_a_script(arrays: Any, step: int) -> tuple[Any, ...]:
    raise InternalError("a step of an OpenCL device runs within its program only")


class OpenCLProgram:
    """A plan on an OpenCL device. Results are fresh arrays; `watch` hears of kernels' own times."""

    def __init__(
        self, place: Place, graph: Graph, lowered: Lowered, shared: dict[Any, Any]
    ) -> None:
        self.script = Script(graph, lowered)
        self.steps: Sequence[Step] = self.script.steps
        self.place = place
        self.peak_bytes = 4 * lowered.arena + sum(self.script.slot_bytes.values())
        jobs = [j for a in self.script.actions if isinstance(a, Launch) for j in a.jobs]
        for job in jobs:
            check_reach(job)
        self.built = build_all(place, (job.kernel for job in jobs))
        with translated(place.found, "storing parameters"):
            self.stored = _stored(place, jobs, shared)
        self.pool = shared.setdefault(("opencl states", place.name), Pool(place))
        self._free: list[_Frame] = []
        self._lock = threading.Lock()

    @property
    def facts(self) -> dict[str, int]:
        """What plans show besides steps: programs and kernels, and bytes transferred a run."""
        return {
            "programs": len(set(map(id, self.built.values()))),
            "kernels": len(self.built),
            "host_steps": sum(isinstance(action, Call) for action in self.script.actions),
            "bytes_to_device": self.script.uploaded_bytes,
            "bytes_to_host": self.script.downloaded_bytes,
            "bytes_resident": self.script.resident_bytes,
        }

    def __call__(
        self, arrays: Sequence[Array | None], step: int, watch: Watch | None = None
    ) -> list[Array]:
        frame = self._take()
        # a frame that failed is not used again: what it has queued and written is unknown
        with translated(self.place.found, "running"):
            results = frame.run(arrays, step, watch)
        with self._lock:
            if len(self._free) < _MOST_FRAMES:
                self._free.append(frame)
        return results

    def _take(self) -> _Frame:
        with self._lock:
            if self._free:
                return self._free.pop()
        with translated(self.place.found, f"taking {_mib(self.peak_bytes)} for a plan"):
            return _Frame(self)


def _stored(
    place: Place, jobs: Iterable[KernelJob], shared: dict[Any, Any]
) -> dict[int, tuple[Any, Any]]:
    """Parameters on the device by the id of their packed array, uploaded once an Executable."""
    flags = require().mem_flags
    where = flags.USE_HOST_PTR if place.shares_memory else flags.COPY_HOST_PTR
    found = {}
    for job in jobs:
        for operand in job.operands:
            data = operand.buffer.data
            if operand.buffer.home is not Home.STORED or data is None or id(data) in found:
                continue
            key = ("opencl", place.name, id(data))
            if key not in shared:
                _check_size(place, data.nbytes, "parameters")
                memory = require().Buffer(place.context, flags.READ_ONLY | where, hostbuf=data)
                # the array is held too, so that its id stays its own
                shared[key] = (memory, data)
            found[id(data)] = shared[key]
    return found


def _check_size(place: Place, size: int, what: str) -> None:
    most = place.found.device.max_mem_alloc_size
    if size > most:
        raise UnsupportedError(
            f"{what} of {_mib(size)} do not fit a buffer of {place.name}, which holds {_mib(most)}",
            hint="take a smaller batch or picture, or use --device cpu",
        )


def check_reach(job: KernelJob) -> None:
    """Kernels count elements in 32 bits, from where a value starts."""
    if any(operand.buffer.size >= 1 << 31 for operand in job.operands):
        raise UnsupportedError(
            f"kernel {job.kernel.name}: a value of more than 2^31 elements",
            hint="OpenCL kernels index with 32 bits: choose a smaller batch",
        )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


class _Frame:
    """The memory of one run at a time, its queue, and the plan's kernels bound to that memory."""

    def __init__(self, program: OpenCLProgram) -> None:
        cl = require()
        self._cl = cl
        self._place = program.place
        self._script = program.script
        self._stored = program.stored
        self.pool = program.pool
        context = program.place.context
        self._queue = cl.CommandQueue(context)
        self._profiled: Any = None
        self._slots = {slot: self._memory(size) for slot, size in program.script.slot_bytes.items()}
        self._moving: dict[int, list[tuple[Any, int]]] = {
            slot: [] for slot in {*program.script.states_in, *program.script.states_out}
        }
        self._last: dict[int, Any] = {}
        self._arena = self._memory(4 * max(1, program.script.lowered.arena))
        # borders are zero from here on
        cl.enqueue_fill_buffer(self._queue, self._arena, np.float32(0), 0, self._arena.size)
        self._launches = {
            number: [self._bound(job, program.built) for job in action.jobs]
            for number, action in enumerate(self._script.actions)
            if isinstance(action, Launch)
        }
        self._queue.finish()

    def _memory(self, size: int) -> Any:
        _check_size(self._place, size, "values")
        return self._cl.Buffer(self._place.context, self._cl.mem_flags.READ_WRITE, size=size)

    def _bound(self, job: KernelJob, built: dict[str, Built]) -> tuple[Any, tuple[int], tuple[int]]:
        """A kernel with its arguments set, and its global and local size."""
        form = self._place.form
        kernel = built[job.kernel.digest].kernel(job.kernel.name)
        for number, operand in enumerate(job.operands):
            memory, start = self._address(operand)
            if operand.buffer.home is Home.HOST and operand.buffer.slot in self._moving:
                self._moving[operand.buffer.slot].append((kernel, 2 * number))
            else:
                kernel.set_arg(2 * number, memory)
            kernel.set_arg(2 * number + 1, np.int64(4 * start))
        return kernel, (form.global_size(job.kernel),), (form.local_size(job.kernel),)

    def _address(self, operand: Operand) -> tuple[Any, int]:
        """A buffer and where in it, in units of four bytes as everywhere in lowering."""
        buffer = operand.buffer
        if buffer.home is Home.ARENA:
            return self._arena, buffer.offset + operand.offset
        if buffer.home is Home.STORED:
            return self._stored[id(buffer.data)][0], operand.offset
        return self._slots.get(buffer.slot), operand.offset

    def move(self, slot: int, memory: Any) -> None:
        """Let kernels find a state in this buffer from here on."""
        if self._last.get(slot) is not memory:
            for kernel, number in self._moving[slot]:
                kernel.set_arg(number, memory)
            self._last[slot] = memory

    def run(self, arrays: Sequence[Array | None], step: int, watch: Watch | None) -> list[Array]:
        run = _Run(self, arrays, step, self._timed_queue() if watch else self._queue)
        try:
            run.settle()
            for number, action in enumerate(self._script.actions):
                run.take(number, action)
            run.queue.finish()
        except BaseException:
            # nobody may free the arrays while the device reads them
            with contextlib.suppress(self._cl.Error):
                run.queue.finish()
            raise
        if watch is not None:
            run.report(watch, self._script.steps)
        return run.results()

    def _timed_queue(self) -> Any:
        if self._profiled is None:
            timing = self._cl.command_queue_properties.PROFILING_ENABLE
            self._profiled = self._cl.CommandQueue(self._place.context, properties=timing)
        return self._profiled

    # what `_Run` needs

    def launches(self, number: int) -> list[tuple[Any, tuple[int], tuple[int]]]:
        return self._launches[number]

    def slot(self, slot: int) -> Any:
        return self._slots[slot]

    @property
    def arena(self) -> Any:
        return self._arena

    @property
    def script(self) -> Script:
        return self._script


class _Run:
    """One run: the arrays of its slots, and what it has queued."""

    def __init__(
        self, frame: _Frame, arrays: Sequence[Array | None], step: int, queue: Any
    ) -> None:
        lowered = frame.script.lowered
        self.frame = frame
        self.queue = queue
        self.values: list[Any] = [None] * lowered.slots
        for slot, data in (*lowered.stored.items(), *zip(lowered.feeds, arrays, strict=True)):
            # a state that another plan keeps on the device, and this one on the host
            at_home = isinstance(data, Resident) and slot not in frame.script.states_in
            self.values[slot] = data.copy() if at_home else data
        if lowered.number >= 0:
            self.values[lowered.number] = np.array(two_words(step), np.uint32)
        self._residents: dict[int, Resident] = {}
        self._fetched: dict[Buffer, Any] = {}  # parts of the arena, for the next host call
        self._step = step
        self._spent: list[tuple[int, Spent]] = []

    def settle(self) -> None:
        """Have the states on the device, and places for their next values."""
        script, pool = self.frame.script, self.frame.pool
        for slot, name in script.states_in.items():
            given = self.values[slot]
            if not isinstance(given, Resident):
                array = self.values[slot] = _readable(given)
                given = pool.take(name, array.shape)
                require().enqueue_copy(self.queue, given.memory, array, is_blocking=False)
            self._residents[slot] = given
        for slot, name in script.states_out.items():
            if slot not in self._residents:
                self._residents[slot] = pool.take(name, script.lowered.fresh[slot])
        for slot, resident in self._residents.items():
            self.frame.move(slot, resident.memory)

    def results(self) -> list[Any]:
        lowered, kept = self.frame.script.lowered, self.frame.script.states_out
        outputs = len(lowered.results) - lowered.states
        return [
            self._residents[r.slot]
            if number >= outputs and r.slot in kept
            else _result(self.values[r.slot], r.copy)
            for number, r in enumerate(lowered.results)
        ]

    def take(self, number: int, action: Any) -> None:
        self._spent.append((action.step, _WAYS[type(action)](self, number, action)))

    def _launch(self, number: int, action: Launch) -> list[Any]:
        enqueue, queue = require().enqueue_nd_range_kernel, self.queue
        return [enqueue(queue, *bound) for bound in self.frame.launches(number)]

    def _upload(self, number: int, action: Upload) -> list[Any]:
        array = self.values[action.slot] = _readable(self.values[action.slot])
        memory = self._memory(action.slot)
        return [require().enqueue_copy(self.queue, memory, array, is_blocking=False)]

    def _memory(self, slot: int) -> Any:
        resident = self._residents.get(slot)
        return self.frame.slot(slot) if resident is None else resident.memory

    def _download(self, number: int, action: Download) -> list[Any]:
        buffer = action.buffer
        if buffer.home is Home.ARENA:
            target = self._fetched[buffer] = np.empty(buffer.size, np.float32)
            source, start = self.frame.arena, 4 * buffer.offset
        else:
            resident = self._residents.get(buffer.slot)
            sizes = action.sizes
            if sizes is None:
                sizes = (resident or self.values[buffer.slot]).shape
            target = self.values[buffer.slot] = np.empty(sizes, action.dtype)
            source, start = self._memory(buffer.slot), 0
        return [
            require().enqueue_copy(
                self.queue, target, source, src_offset=start, is_blocking=action.waits
            )
        ]

    def _call(self, number: int, action: Call) -> float:
        started = time.perf_counter()
        what = self.frame.script.steps[action.step]
        results = what.call([self._read(read) for read in action.stage.reads], self._step)
        for slot, result in zip(action.stage.writes, results, strict=False):
            self.values[slot] = result
        self._fetched.clear()
        return time.perf_counter() - started

    def _read(self, read: Any) -> Any:
        if isinstance(read, int):
            return self.values[read]
        place, sizes = read
        buffer = place.buffer
        if buffer.home is Home.ARENA:
            memory = self._fetched[buffer]
        elif buffer.home is Home.STORED:
            memory = buffer.data
        else:
            memory = _readable(self.values[buffer.slot]).reshape(-1)
        view = numpy_view(place, sizes, memory)
        view.flags.writeable = False
        return view

    def report(self, watch: Watch, steps: Sequence[Step]) -> None:
        for number, spent in self._spent:
            if isinstance(spent, list):
                spent = 1e-9 * sum(event.profile.end - event.profile.start for event in spent)
            watch(steps[number], spent)


# methods in the run itself would make a cycle, and states would stay until it is collected
_WAYS: dict[type, Callable[[_Run, int, Any], Spent]] = {
    Launch: _Run._launch,
    Upload: _Run._upload,
    Download: _Run._download,
    Call: _Run._call,
}


def _readable(array: Array) -> Array:
    """As a copy to the device reads it: without gaps, aligned to its elements."""
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.array(array, order="C")


def _result(array: Array, copy: bool) -> Array:
    return array.copy(order="C") if copy else array
