"""Which nodes kernels take, and together with which neighbours: the table that families register
in.

A rule looks at a node and returns a `Claim`, or None to leave it to the next rule and at last to
the reference kernel. Rules run in the order of the graph and a node belongs to the first claim
that has it, so a rule takes what follows its node as far as it can (bias, residual, activation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nnconv.runtime.kernels.arrays import Border
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.target import Target
from nnconv.runtime.lowering.layout import Form, Wanted, extents, is_float
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Graph, Node, Value
    from nnconv.schemas.types import Array


@dataclass(frozen=True, slots=True)
class Read:
    """A claim's input: in which form (lanes; 0 for its natural one) and with how much border."""

    value: Value
    lanes: int = 0
    border: Border = field(default_factory=Border)

    def form(self, natural: int) -> Form:
        lanes = self.lanes or natural
        return Form(lanes, lanes == 1 and bool(self.border))


@dataclass(eq=False, slots=True)
class Claim:
    """Nodes that are computed together. `emit` adds the jobs and returns what the kernel is
    called.

    `lanes` is the form in which the result is written; `others` are further results, in the form
    `other_lanes`. With `view` results may lie where an input lies. A claim takes its turn where its
    last node stands.
    """

    nodes: tuple[Node, ...]
    reads: tuple[Read, ...]
    output: Value
    lanes: int
    emit: Callable[[Builder], str]
    others: tuple[Value, ...] = ()
    other_lanes: int = 1
    view: bool = False

    def with_plain_samples(self) -> Claim:
        """The claim where a vector is one number, as on graphics cards: samples in lanes, one of
        them, lie plain.
        """
        self.lanes, self.other_lanes = abs(self.lanes), abs(self.other_lanes)
        self.reads = tuple(replace(read, lanes=abs(read.lanes)) for read in self.reads)
        return self


Rule = Callable[["Node", "Scope"], Claim | None]
RULES: dict[str, list[Rule]] = {}
WHOLE: dict[str, list[Rule]] = {}
"""Rules for nodes that give integers, in the order of their modules' names."""
_FIRST: set[tuple[str, Rule]] = set()


def lowers(*ops: str, first: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule for operators. Those with `first` are asked before all others; among the
    rest, and among these, modules come in the order of their names, whoever imports whom first.
    """

    def register(rule: Rule) -> Rule:
        for op in ops:
            _FIRST.update([(op, rule)] if first else [])
            known = RULES.setdefault(op, [])
            known.append(rule)
            known.sort(key=lambda each: ((op, each) not in _FIRST, each.__module__))
        return rule

    return register


def lowers_whole(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators where some of their results are integers (numbers.py)."""

    def register(rule: Rule) -> Rule:
        for op in ops:
            WHOLE.setdefault(op, []).append(rule)
        return rule

    return register


class Scope:
    """What rules may ask: forms of values so far, constants, and who reads what."""

    def __init__(self, graph: Graph, target: Target, winograd: int) -> None:
        self.graph = graph
        self.target = target
        self.winograd = winograd
        self.lanes: dict[Value, int] = {}  # natural form of what is computed so far; 1 by default
        self.taken: set[Node] = set()
        self._memory: dict[str, Any] = {}
        self._results = {*graph.outputs, *(state.write for state in graph.state)}
        self._changing = {*graph.inputs, *(state.read for state in graph.state)}

    @property
    def width(self) -> int:
        return self.target.lanes

    def remember(self, key: str, make: Callable[[], Any]) -> Any:
        """What a rule finds out about the whole graph, once."""
        if key not in self._memory:
            self._memory[key] = make()
        return self._memory[key]

    def constant(self, value: Value | None) -> Array | None:
        """The data of a stored value that is the same in all runs."""
        if value is None or value in self._changing:
            return None
        return value.data

    def natural(self, value: Value) -> int:
        """The form in which a value is made: lanes, 1 for plain."""
        return self.lanes.get(value, 1)

    def label_type(self, value: Value) -> str | None:
        """How kernels call the type of labels, which may be integers in an array of the run."""
        if is_float(value):
            return "f32"
        found = extents(value)
        given = found is not None and all(found) and self.constant(value) is None
        return {DType.INT64: "i64", DType.INT32: "i32"}.get(value.dtype) if given else None

    def lanewise(self, value: Value) -> int:
        """The form for kernels that treat all lanes alike: samples where they are, else blocks."""
        natural = self.natural(value)
        return natural if natural < 0 else self.width

    def is_result(self, value: Value) -> bool:
        """Whether somebody outside the graph needs a value."""
        return value in self._results

    def is_wanted(self, value: Value) -> bool:
        """Whether anybody needs a value."""
        return bool(value.uses) or self.is_result(value)

    def comes_before(self, readers: Iterable[Node], node: Node) -> bool:
        """Whether one of the readers has its turn before a node."""
        turns = self.remember("turns", lambda: {n: i for i, n in enumerate(self.graph.nodes)})
        return any(turns[reader] < turns[node] for reader in readers)

    def only_reader(self, value: Value) -> Node | None:
        """The free node that alone reads a value which nobody outside needs."""
        readers = value.consumers
        if len(readers) != 1 or len(value.uses) != 1 or value in self._results:
            return None
        return None if readers[0] in self.taken else readers[0]


def claim_all(graph: Graph, scope: Scope) -> dict[Node, Claim]:
    """The claims by the node at which each takes its turn: the last of its nodes."""
    turns: dict[Node, Claim] = {}
    for node in graph.nodes:
        if node in scope.taken:
            continue
        claim = _claim(node, scope)
        if claim is None:
            continue
        scope.taken.update(claim.nodes)
        scope.lanes.update(dict.fromkeys(claim.others, claim.other_lanes))
        scope.lanes[claim.output] = claim.lanes
        turns[claim.nodes[-1]] = claim
    return turns


def _claim(node: Node, scope: Scope) -> Claim | None:
    if any(value is not None and extents(value) is None for value in node.inputs):
        return None  # sizes that data decide
    rules = RULES if all(is_float(value) for value in node.outputs) else WHOLE
    claims = (claim for rule in rules.get(node.op, ()) if (claim := rule(node, scope)))
    found = next(claims, None)
    return found.with_plain_samples() if found and scope.width == 1 else found


def wants(claims: Iterable[Claim], scope: Scope) -> dict[tuple[Value, Form], Wanted]:
    """The border that readers want around each value, by form."""
    found: dict[tuple[Value, Form], Wanted] = {}
    for claim in claims:
        for read in claim.reads:
            form = read.form(scope.natural(read.value))
            wanted = found.setdefault((read.value, form), Wanted())
            wanted.border = wanted.border.union(read.border)
            wanted.readers += 1
    return found


def sizes(value: Value) -> tuple[int, ...]:
    """The sizes of a value that is known to be bound."""
    found = extents(value)
    assert found is not None
    return found


def image(value: Value | None) -> tuple[int, int, int, int] | None:
    """Batch, channels, height and width of a float value with four axes."""
    if value is None or not is_float(value):
        return None
    found = sizes(value)
    return (found[0], found[1], found[2], found[3]) if len(found) == 4 else None


def any_empty(window: Window, x: tuple[int, ...], y: tuple[int, ...]) -> bool:
    """Some window lies wholly outside the image, as Caffe allows; the kernel does not."""
    axes = zip(x[2:], y[2:], window.size, window.stride, window.dilation, window.pad, strict=True)
    return any(
        (count - 1) * stride - pad >= extent or (size - 1) * dilation - pad < 0
        for extent, count, size, stride, dilation, pad in axes
    )
