"""A plan: a graph bound to sizes, lowered to steps over numbered slots.

Every value of the bound graph has a slot; a step reads slots and fills others, and a slot is
emptied after its last reader. So running is one loop with no look-ups by name, and memory holds
only what is still needed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnconv.runtime.ops import Cost, cost_of
from nnconv.runtime.ops.registry import count, subject
from nnconv.runtime.scaled import Scaled, plain
from nnconv.schemas.errors import InputError

if TYPE_CHECKING:
    from nnconv.runtime.devices.base import Program, Step
    from nnconv.runtime.ops import Call
    from nnconv.runtime.passes import PassResult
    from nnconv.schemas.graph import Graph, Node, Value
    from nnconv.schemas.types import Array

__all__ = ["Plan", "SlotProgram", "check_feasible", "nbytes"]


class _Job(NamedTuple):
    """A step over slots: which it reads and fills, and which nobody reads after it."""

    call: Call
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    frees: tuple[int, ...]


# The slot of omitted inputs: always None.
_NOTHING = 0


class SlotProgram:
    """A Program that runs its steps one after the other from Python. Runs share nothing but stored
    arrays, so any number of threads may be inside."""

    def __init__(self, graph: Graph, steps: Sequence[Step], shared: dict[Any, Any]) -> None:
        self.steps: Sequence[Step] = tuple(steps)
        slots: dict[Value, int] = {}
        for value in _values(graph):
            slots[value] = len(slots) + 1
        self._initial: list[Array | None] = [None] * (len(slots) + 1)
        for value, slot in slots.items():
            if value.data is not None:
                self._initial[slot] = _readable(value.data, shared)
        self._feeds = [slots[value] for value in (*graph.inputs, *(s.read for s in graph.state))]
        self._results = [
            slots[value] for value in (*graph.outputs, *(s.write for s in graph.state))
        ]
        kept = {
            *self._results,
            *(slot for slot in slots.values() if self._initial[slot] is not None),
        }
        last = _last_readers(self.steps)
        self._jobs = [_job(i, step, slots, last, kept) for i, step in enumerate(self.steps)]
        held = {*graph.inputs, *(value for value in slots if slots[value] in kept)}
        self.peak_bytes = _peak_bytes(graph, self.steps, last, held)

    def __call__(
        self,
        arrays: Sequence[Array | None],
        step: int,
        watch: Callable[[Step, float], None] | None = None,
    ) -> list[Array]:
        values = self._initial.copy()
        for slot, array in zip(self._feeds, arrays, strict=True):
            values[slot] = array
        if watch is None:
            for job in self._jobs:
                _run(job, values, step)
        else:
            for job, what in zip(self._jobs, self.steps, strict=True):
                started = time.perf_counter()
                _run(job, values, step)
                watch(what, time.perf_counter() - started)
        foreign = {id(array) for array in (*self._initial, *arrays)}
        return [_fresh(values[slot], foreign) for slot in self._results]


def _values(graph: Graph) -> list[Value]:
    """All values that have a slot, each once."""
    found = dict.fromkeys(graph.values.values())
    for state in graph.state:
        found[state.read] = found[state.write] = None
    return list(found)


def _run(job: _Job, values: list[Array | None], step: int) -> None:
    results = job.call([values[slot] for slot in job.reads], step)
    for slot, result in zip(job.writes, results, strict=False):
        values[slot] = result
    for slot in job.frees:
        values[slot] = None


def _job(
    number: int, step: Step, slots: Mapping[Value, int], last: Mapping[Value, int], kept: set[int]
) -> _Job:
    reads = tuple(_NOTHING if value is None else slots[value] for value in step.reads)
    writes = tuple(slots[value] for value in step.writes)
    done = (
        slots[v] for v in (*step.reads, *step.writes) if v is not None and last.get(v, -1) <= number
    )
    return _Job(step.call, reads, writes, tuple(sorted(set(done) - kept)))


def _last_readers(steps: Sequence[Step]) -> dict[Value, int]:
    """For each value the number of the last step that reads it."""
    return {v: number for number, step in enumerate(steps) for v in step.reads if v is not None}


def _readable(data: Array, shared: dict[Any, Any]) -> Array:
    """Stored data as numpy and BLAS read it fast: aligned, contiguous, native. Most already is;
    what is not (floats held one by one in an old caffemodel) is copied once for all plans."""
    fine = not isinstance(data, Scaled)
    if fine and data.flags.aligned and data.flags.c_contiguous and data.dtype.isnative:
        return data
    key = id(data)
    if key not in shared:
        # the original is held too, so that its id stays its own
        shared[key] = (np.array(plain(data), dtype=data.dtype.newbyteorder("="), order="C"), data)
    return shared[key][0]  # type: ignore[no-any-return]


def _fresh(result: Array | None, foreign: set[int]) -> Array:
    """A result nobody else holds: views and arrays that came from outside are copied."""
    assert result is not None
    own = result.base is None and id(result) not in foreign
    return result if own and result.flags.c_contiguous else result.copy(order="C")


# Some 10 days of a fast core. Numbers in a file may ask for centuries, which nobody can interrupt.
MOST_MACS = 10**17


def check_feasible(graph: Graph) -> None:
    """Raise InputError, naming the layer, for a result that exceeds this machine's memory or takes
    no end of work."""
    memory = _memory()
    for node in graph.nodes:
        largest = max(map(nbytes, node.outputs), default=0)
        if largest > memory:
            held, there = f"{largest / 2**30:,.0f} GiB", f"{memory / 2**30:,.0f}"
            what = f"its result takes {held} of memory, this machine has {there}"
        elif (macs := cost_of(node).macs) > MOST_MACS:
            what = f"takes {macs:.1e} multiply-adds, which would never end"
        else:
            continue
        hint = "are the sizes of the layer and of the input right?"
        raise InputError(f"{subject(node)}: {what}", span=node.span, hint=hint)


@cache
def _memory() -> int:
    """The bytes of memory of this machine, or what one address can tell where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return sys.maxsize


def nbytes(value: Value) -> int:
    """The bytes of a value whose shape is bound (0 while it is not)."""
    return count(value) * value.dtype.itemsize if value.dtype else 0


def _peak_bytes(
    graph: Graph, steps: Sequence[Step], last: Mapping[Value, int], kept: set[Value]
) -> int:
    """The most that inputs and computed values take at any moment; stored values are not counted,
    and the inputs stay to the end, since the caller holds them."""
    held = sum(nbytes(value) for value in graph.inputs)
    peak = held
    for number, step in enumerate(steps):
        held += sum(map(nbytes, step.writes))
        peak = max(peak, held)
        touched = {v for v in (*step.reads, *step.writes) if v is not None}
        done = (v for v in touched - kept if last.get(v, -1) <= number)
        held -= sum(nbytes(v) for v in done if not v.is_stored)
    return peak


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs one set of input shapes: the bound graph, its program, and how it came about."""

    shapes: Mapping[str, tuple[int, ...]]
    graph: Graph
    program: Program
    device: str
    passes: tuple[PassResult, ...] = ()

    @property
    def steps(self) -> Sequence[Step]:
        return self.program.steps

    @property
    def cost(self) -> Cost:
        return sum((step.cost for step in self.steps), Cost(0, 0))

    @property
    def peak_bytes(self) -> int:
        """An estimate of the memory that inputs and computed values need at the worst moment."""
        return self.program.peak_bytes

    @property
    def stored_bytes(self) -> int:
        return sum(v.data.nbytes for v in self.graph.values.values() if v.data is not None)

    @property
    def facts(self) -> Mapping[str, int]:
        """What a device says of its plan besides steps: OpenCL counts programs and transfers."""
        known: Mapping[str, int] = getattr(self.program, "facts", {})
        return known

    def to_dict(self) -> dict[str, Any]:
        """For `nnconv show --plan --json`."""
        return {
            "device": self.device,
            "inputs": {name: list(shape) for name, shape in self.shapes.items()},
            "peak_bytes": self.peak_bytes,
            "stored_bytes": self.stored_bytes,
            "macs": self.cost.macs,
            "passes": [str(result) for result in self.passes if result.changed],
            "steps": [_step_dict(step) for step in self.steps],
            **self.facts,
        }

    def __str__(self) -> str:
        shapes = ", ".join(f"{name} {_text(shape)}" for name, shape in self.shapes.items())
        total = self.cost.macs / 1e6
        head = (
            f"plan on {self.device} for {shapes or 'no inputs'}: {len(self.steps)} steps, "
            f"{total:,.1f} M multiply-adds, {_mib(self.peak_bytes)} at most, "
            f"{_mib(self.stored_bytes)} stored"
        )
        facts = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in self.facts.items())
        return "\n".join([head, *([f"  {facts}"] if facts else []), *map(_step_line, self.steps)])


def _step_line(step: Step) -> str:
    made = ", ".join(f"{value.name} {_text(value.shape)}" for value in step.writes)
    return f"  {step.kernel:<32} {made:<48} {step.cost.macs / 1e6:>12,.3f} M"


def _step_dict(step: Step) -> dict[str, Any]:
    return {
        "kernel": step.kernel,
        "layers": list(dict.fromkeys(_layer(node) for node in step.nodes)),
        "reads": [None if value is None else value.name for value in step.reads],
        "writes": [
            {"name": v.name, "shape": v.shape and list(map(str, v.shape))} for v in step.writes
        ],
        "macs": step.cost.macs,
        "bytes": step.cost.bytes,
    }


def _layer(node: Node) -> str:
    return node.layer.name if node.layer else subject(node)


def _text(shape: Any) -> str:
    return "?" if shape is None else "x".join(map(str, shape)) or "scalar"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
