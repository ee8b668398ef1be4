"""From claims to work: places for values, jobs for kernels, calls of reference kernels between
them.

`Builder` walks the graph once. Claims add jobs (a kernel and the addresses it works on); a value
is brought into another form by a job of its own the first time a reader wants it so. The result
is a `Lowered`: stretches of jobs, each one call at run time, with host calls where nothing claims
a node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nnconv.runtime.devices.base import Settings, Step, reference_step
from nnconv.runtime.kernels.arrays import Border
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.target import Target
from nnconv.runtime.lowering import memory
from nnconv.runtime.lowering.claims import Claim, Scope, claim_all, sizes, wants
from nnconv.runtime.lowering.convert import conversions
from nnconv.runtime.lowering.layout import (
    Buffer,
    Floats,
    Form,
    Home,
    Operand,
    Place,
    Wanted,
    dense_array,
    is_float,
)
from nnconv.runtime.lowering.pack import Name, Store
from nnconv.runtime.lowering.sections import OneImage, sections
from nnconv.schemas.errors import InternalError

if TYPE_CHECKING:
    from nnconv.runtime.tune import Tuner
    from nnconv.schemas.graph import Graph, Node, Value


_WITH_GAPS = {"Conv", "MaxPool", "AveragePool", "nnconv.Pool", "LRN"}  # on graphics cards


@dataclass(frozen=True, slots=True)
class KernelJob:
    """A kernel and what it works on, in the order of its arguments."""

    kernel: Kernel
    operands: tuple[Operand, ...]


@dataclass(slots=True)
class Stretch:
    """Jobs that run as one call. `marks` are (step number, jobs up to here); a step that is done
    image by image has a mark for each.
    """

    jobs: list[KernelJob] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class HostCall:
    """A reference kernel between stretches. A read is a slot, or a place in the arena with its
    sizes.
    """

    step: int
    reads: tuple[int | tuple[Place, tuple[int, ...]], ...]
    writes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """An output: its slot, and whether somebody else may hold that array."""

    slot: int
    copy: bool


@dataclass(slots=True)
class Lowered:
    """A plan's work and memory, ready to be given addresses.

    The run's arrays live in `slots` slots: `feeds` are filled by the caller, `stored` are
    constants for reference kernels, `fresh` are allocated for each run with the given sizes, as
    float32 or what `types` says.
    """

    steps: list[Step]
    stages: list[Stretch | HostCall]
    slots: int
    feeds: list[int]
    stored: dict[int, Any]
    fresh: dict[int, tuple[int, ...]]
    types: dict[int, Any]
    results: list[Result]
    states: int  # how many of the results, the last ones, are next values of states
    arena: int  # elements
    number: int = -1  # the slot of the run's step number where kernels read it, as two u32 words


def lower(
    graph: Graph,
    settings: Settings,
    target: Target,
    store: Store,
    tuner: Tuner,
    *,
    by_image: bool = False,
) -> Lowered:
    """The work of a graph whose sizes are bound; `by_image` suits processors with caches, where a
    job costs little to start.
    """
    scope = Scope(graph, target, settings.winograd)
    turns = claim_all(graph, scope)
    builder = Builder(graph, scope, turns, settings, store, tuner)
    if by_image:
        builder.group()
    for node in graph.nodes:
        builder.visit(node)
    return builder.finish()


class Builder:
    """What a claim's `emit` talks to: places of its values, jobs, scratch, packed parameters."""

    def __init__(
        self,
        graph: Graph,
        scope: Scope,
        turns: dict[Node, Claim],
        settings: Settings,
        store: Store,
        tuner: Tuner,
    ) -> None:
        self.graph = graph
        self.scope = scope
        self.target = scope.target
        self.settings = settings
        self.store = store
        self.tuner = tuner
        self.slices: dict[Value, tuple[Value, int]] = {}  # member -> (concatenation, first channel)
        self._done: set[Node] = set()
        self._in_place: set[int] = set()  # slots of states that are written over
        self.remembered: dict[Node, Place] = {}  # what a node keeps for its gradient
        self._turns = turns
        self._wanted = wants(turns.values(), scope)
        self._places: dict[tuple[Value, Form], Place] = {}
        self._slots: dict[Value, int] = {}
        self._stored: dict[int, Any] = {}
        self._fresh: dict[int, tuple[int, ...]] = {}
        self._types: dict[int, Any] = {}
        self._slot_count = 1  # slot 0 stands for omitted inputs
        self._number_slot = -1
        self._buffers: list[Buffer] = []
        self._steps: list[Step] = []
        self._stages: list[Stretch | HostCall] = []
        self._jobs = 0
        self._packed: list[tuple[Buffer, Name]] = []
        self._plain_results = {v for v in self._results() if scope.natural(v) == 1}
        self._feeds = [self._feed(value) for value in self._inputs()]
        for claim in turns.values():
            if claim.nodes[0].op == "Concat":
                self._join(claim)
        self._sections: dict[Claim, list[Claim]] = {}

    def _inputs(self) -> list[Value]:
        return [*self.graph.inputs, *(state.read for state in self.graph.state)]

    def _results(self) -> list[Value]:
        return [*self.graph.outputs, *(state.write for state in self.graph.state)]

    # -- places

    def read(self, value: Value, lanes: int = 0, bordered: bool = False) -> Place:
        """The value in the form asked for, with the border that its readers want; converted if
        need be. `bordered` asks for the plain form with a border.
        """
        if lanes < 0 and self.scope.width == 1:  # samples in lanes, one of them: plain
            lanes, bordered = 1, (value, Form(1, True)) in self._wanted
        form = Form(lanes or self.scope.natural(value), bordered)
        place = self._places.get((value, form))
        if place is not None and place.array.border.covers(self._border(value, form)):
            return place
        source = place or self.place(value)
        if source.lanes > 1 and form.lanes != 1 and bool(source.samples) != (form.lanes < 0):
            source = self.read(value, 1)
        made = self._allocate(value, form)
        self._convert(value, source, made)
        self._places[value, form] = made
        return made

    def write(self, value: Value) -> Place:
        """Where the value is to be computed: its slice of a concatenation, a result array, or the
        arena.
        """
        form = self._natural(value)
        found = self._places.get((value, form))
        if found is not None:
            return found
        if value in self.slices:
            whole, start = self.slices[value]
            place = self.write(whole)
            array = place.array.slice_channels(start, sizes(value)[1])
            made = Place(place.buffer, array)
        elif value in self._plain_results:
            made = self._result_place(value)
        else:
            made = self._allocate(value, form)
        self._places[value, form] = made
        return made

    def write_state(self, value: Value, nodes: Sequence[Node]) -> Place:
        """Where a state's next value goes: over the one before, where nobody but `nodes`, which
        compute each element from that element, reads it from here on.
        """
        found = [state for state in self.graph.state if state.write is value]
        read = found[0].read if len(found) == 1 else None
        wanted = self.settings.in_place and read in self._slots
        if not wanted or read is None or not self._read_by_now(read, set(nodes)):
            return self.write(value)
        place = self._places[read, Form(1)]
        if value in self._slots or sizes(value) != sizes(read) or read in self._results():
            return self.write(value)
        self._slots[value] = self._slots[read]
        self._in_place.add(self._slots[read])
        self._places[value, Form(1)] = place
        return place

    def _read_by_now(self, value: Value, nodes: set[Node]) -> bool:
        """Whether all that read a value, or a view of it, have had their turn or are `nodes`."""
        for reader in value.consumers:
            if reader in nodes:
                continue
            if reader not in self._done:
                return False
            claim = self._turns.get(reader)
            views = (claim.output, *claim.others) if claim is not None and claim.view else ()
            if any(v in self._results() or not self._read_by_now(v, nodes) for v in views):
                return False
        return True

    def alias(self, value: Value, place: Place) -> None:
        """Let a value be seen where another one lies."""
        self._places[value, self._natural(value)] = place

    def place(self, value: Value) -> Place:
        """The value where it was made, whatever border its readers want; a constant where it is
        stored."""
        if not self._known(value):
            return self.constant(value)
        return self._places[value, self._natural(value)]

    def _natural(self, value: Value) -> Form:
        return Form(self.scope.natural(value))

    def _known(self, value: Value) -> bool:
        return (value, self._natural(value)) in self._places

    def _border(self, value: Value, form: Form) -> Border:
        return self._wanted.get((value, form), Wanted()).border

    def one_image(self, value: Value) -> Place:
        """Memory for one image of a value, as its claim writes it."""
        return self._allocate(value, self._natural(value), images=1)

    def _allocate(self, value: Value, form: Form, images: int = 0) -> Place:
        border = self._border(value, form)
        extents = (images, *sizes(value)[1:]) if images else sizes(value)
        array = dense_array(extents, form.lanes, border)
        buffer = self.buffer(array.size)
        if border:
            buffer.geometry = array
        return Place(buffer, array, sizes(value)[0] if form.lanes < 0 else 0)

    def _result_place(self, value: Value) -> Place:
        """A result that is computed right where the caller gets it."""
        slot = self._slot(value)
        self._fresh[slot] = sizes(value)
        array = dense_array(sizes(value), 1)
        return Place(Buffer(Home.HOST, array.size, slot=slot), array)

    def write_whole(self, value: Value) -> Buffer:
        """Where integers are to be computed: always in an array of the run, as its readers on the
        host and outside want them.
        """
        slot = self._slot(value)
        self._fresh[slot], self._types[slot] = sizes(value), value.dtype.numpy
        return self.host(value)

    def buffer(self, size: int) -> Buffer:
        """Arena memory for as long as jobs use it: also scratch."""
        made = Buffer(Home.ARENA, size)
        self._buffers.append(made)
        return made

    # -- work

    def job(self, kernel: Kernel, *operands: Place | Operand | Buffer) -> None:
        """Append a job. A place stands for the start of its array, a buffer for its own start."""
        addresses = tuple(_operand(given) for given in operands)
        if len(addresses) != len(kernel.arguments):
            raise InternalError(f"{kernel.name} takes {len(kernel.arguments)} operands")
        for operand in addresses:
            operand.buffer.touch(self._jobs)
        if not self._stages or isinstance(self._stages[-1], HostCall):
            self._stages.append(Stretch())
        stretch = self._stages[-1]
        assert isinstance(stretch, Stretch)
        stretch.jobs.append(KernelJob(kernel, addresses))
        self._jobs += 1

    def packed(self, key: Hashable, sources: Sequence[Any], make: Callable[[], Floats]) -> Buffer:
        """Parameters in a kernel's order: made once for all plans, by key and source arrays; they
        are there when the walk is over.
        """
        buffer = Buffer(Home.STORED, 0)
        self._packed.append((buffer, self.store.ask(key, sources, make)))
        return buffer

    def _fill(self) -> None:
        self.store.settle()
        for buffer, name in self._packed:
            buffer.data = self.store.packed(name)
            buffer.size = buffer.data.size

    def _convert(self, value: Value, source: Place, made: Place) -> None:
        """A step of its own, so that plans show what changing forms costs."""
        for kernel, x, y in conversions(source, made, self.scope.width):
            self.job(kernel, x, y)
        label = f"cpu:reorder {called(source)} -> {called(made)}"
        self._mark(Step((), label, (value,), (value,), _in_a_stretch))

    # -- the walk

    def visit(self, node: Node) -> None:
        claim = self._turns.get(node)
        if claim is not None and (section := self._sections.get(claim)):
            if claim is section[0]:
                self._emit_section(section)
        elif claim is not None:
            self._emit(claim)
        elif node not in self.scope.taken:
            self._call_reference(node)

    def _emit(self, claim: Claim) -> None:
        self._mark(self._step(claim, claim.emit(self)))

    def group(self) -> None:
        """Find what is better done image by image (sections.py)."""
        found = sections(list(self.graph.nodes), self._turns, self.slices, self.scope)
        self._sections = {claim: section for section in found for claim in section}

    def _step(self, claim: Claim, label: str) -> Step:
        reads = tuple(dict.fromkeys(read.value for read in claim.reads))
        made = (claim.output, *claim.others)
        self._done.update(claim.nodes)
        return Step(claim.nodes, f"cpu:{label}", reads, made, _in_a_stretch)

    def _emit_section(self, section: list[Claim]) -> None:
        """Its jobs for the first image, then the same for the next, and so on."""
        view = OneImage(self, section)
        ends = view.emit(section)
        first, images = self._jobs, sizes(section[0].output)[0]
        for image in range(images):
            done = 0
            for number, (_, end) in enumerate(ends, len(self._steps)):
                for kernel, operands in view.image(image, done, end):
                    self.job(kernel, *operands)
                stretch = self._stages[-1]
                assert isinstance(stretch, Stretch)
                stretch.marks.append((number, len(stretch.jobs)))
                done = end
        view.settle(first, images)
        self._steps += [
            self._step(claim, f"{label} by image")
            for claim, (label, _) in zip(section, ends, strict=True)
        ]

    def _mark(self, step: Step) -> None:
        self._steps.append(step)
        if self._stages and isinstance(stretch := self._stages[-1], Stretch):
            stretch.marks.append((len(self._steps) - 1, len(stretch.jobs)))

    def _call_reference(self, node: Node) -> None:
        self._done.add(node)
        reads = tuple(0 if value is None else self._host_read(value) for value in node.inputs)
        self._steps.append(reference_step(node))
        for value in node.outputs:
            self._feed(value)
        writes = tuple(self._slots[value] for value in node.outputs)
        self._stages.append(HostCall(len(self._steps) - 1, reads, writes))
        self._jobs += 1

    def _host_read(self, value: Value) -> int | tuple[Place, tuple[int, ...]]:
        if value in self._slots:
            return self._slots[value]
        if not self._known(value):
            return self._constant(value)
        place = self.read(value, 1)
        place.buffer.touch(self._jobs)
        return place, sizes(value)

    def _constant(self, value: Value) -> int:
        if value.data is None:
            raise InternalError(f"'{value.name}' is read before it is computed")
        slot = self._slot(value)
        self._stored[slot] = self.store.readable(value.data)
        return slot

    def _slot(self, value: Value) -> int:
        if value not in self._slots:
            self._slots[value] = self._slot_count
            self._slot_count += 1
        return self._slots[value]

    def _feed(self, value: Value) -> int:
        """A value that lies in a numpy array: where it is float32, kernels read it there too."""
        slot = self._slot(value)
        if is_float(value):
            array = dense_array(sizes(value), 1)
            self._places[value, Form(1)] = Place(Buffer(Home.HOST, array.size, slot=slot), array)
        return slot

    def host(self, value: Value) -> Buffer:
        """The run's own array of an input, of whatever type."""
        return Buffer(Home.HOST, math.prod(sizes(value)), slot=self._slot(value))

    def step_number(self) -> Buffer:
        """The number of the run, in two u32 words, the lower one first: what random numbers depend
        on.
        """
        if self._number_slot < 0:
            self._number_slot = self._slot_count
            self._slot_count += 1
        return Buffer(Home.HOST, 2, slot=self._number_slot)

    def constant(self, value: Value) -> Place:
        """A stored float value as kernels read it, plain."""
        data = self.scope.constant(value)
        if data is None:
            raise InternalError(f"'{value.name}' is no constant")
        array = dense_array(sizes(value), 1)
        buffer = self.packed("plain", [data], lambda: data.astype("f4").reshape(-1))
        return Place(buffer, array)

    # -- concatenation

    def _join(self, claim: Claim) -> None:
        """Members that can be computed right in their slice of the result are told so."""
        node = claim.nodes[0]
        images = node.axis % len(sizes(node.output)) == 1
        gaps = claim.lanes == 1 and bool(self.target.groups) and len(sizes(node.output)) == 4
        if not images or not (claim.lanes > 1 or gaps):
            return
        start = 0
        for read in claim.reads:
            value = read.value
            fits = start % claim.lanes == 0 and self.scope.natural(value) == claim.lanes
            made = self._may_move(value) and (claim.lanes > 1 or self._may_have_gaps(value))
            if (
                fits
                and made
                and value not in self.slices
                and len(value.uses) == len(value.consumers)
            ):
                self.slices[value] = (claim.output, start)
                self._merge_borders(value, claim.output, Form(claim.lanes))
            start += sizes(value)[1]

    def _may_move(self, value: Value) -> bool:
        """Whether the claim that computes a value asks `write` where to (aliases lie where they
        lie).
        """
        turn = None if value.producer is None else self._turns.get(value.producer)
        return turn is not None and turn.output is value and not turn.view

    def _may_have_gaps(self, value: Value) -> bool:
        """Whether a plain value is made by a kernel that takes any strides, for one reader."""
        assert value.producer is not None
        turn = self._turns[value.producer]
        return turn.nodes[0].op in _WITH_GAPS and len(value.consumers) == 1

    def _merge_borders(self, member: Value, whole: Value, form: Form) -> None:
        wanted = self._wanted.setdefault((whole, form), Wanted())
        wanted.border = wanted.border.union(self._border(member, form))

    # -- the end

    def finish(self) -> Lowered:
        results = [self._result(value) for value in self._results()]
        arena = memory.lay_out(self._buffers)
        self._fill()
        return Lowered(
            self._steps, self._stages, self._slot_count, self._feeds, self._stored, self._fresh,
            self._types, results, len(self.graph.state), arena, self._number_slot,
        )  # fmt: skip

    def _result(self, value: Value) -> Result:
        if value in self._slots:
            slot = self._slots[value]
            if slot in self._fresh or slot in self._in_place:
                return Result(slot, copy=False)
            return Result(slot, copy=True)
        if not self._known(value):
            return Result(self._constant(value), copy=True)
        source = self._places.get((value, Form(1))) or self.place(value)
        made = self._result_place(value)
        self._convert(value, source, made)
        return Result(made.buffer.slot, copy=False)


def _operand(given: Place | Operand | Buffer) -> Operand:
    if isinstance(given, Place):
        return given.operand
    return given if isinstance(given, Operand) else Operand(given)


def _in_a_stretch(arrays: Any, step: int) -> tuple[Any, ...]:
    raise InternalError("a step of the cpu device runs within its stretch only")


def called(place: Place) -> str:
    """How a form is called in plans."""
    if place.samples:
        return f"Nchw{place.lanes}n"
    return "nchw" if place.lanes == 1 else f"nChw{place.lanes}c"
