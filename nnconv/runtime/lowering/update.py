"""Updates of state: everything that is done to the elements of a parameter and of its histories is
one kernel, which writes the new values over the old ones.

An update is found from its end: what leads to the state's next value element by element, up to the
gradient and to scalars such as the rate. States that share steps (a weight and its momentum) are
one update with several results. Where a kernel that makes a gradient can do so, it does the update
at once (`Finish`), and the gradient is never written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nnconv.runtime.kernels.elementwise import chain
from nnconv.runtime.kernels.samples.lanes import Finish
from nnconv.runtime.lowering.claims import Claim, Read, Scope, lowers, sizes
from nnconv.runtime.lowering.elementwise import ELEMENTWISE, Program, append, conditions, input_of
from nnconv.runtime.lowering.gradients.conv import plain
from nnconv.runtime.lowering.layout import Operand, Place, is_float, strided_plain
from nnconv.runtime.lowering.squares import leave_squares

if TYPE_CHECKING:
    from nnconv.runtime.kernels.language import Kernel
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Graph, Node, Value

_MOST_STEPS = 64


@lowers(*ELEMENTWISE, first=True)
def update(node: Node, scope: Scope) -> Claim | None:
    """The update that a node belongs to, as a whole."""
    found = _update(node, scope)
    if found is None:
        return None

    def emit(builder: Builder) -> str:
        return _emit(builder, found)

    return Claim(found.nodes, found.reads(scope), found.results[0], 1, emit, found.results[1:])


@dataclass(frozen=True, slots=True)
class Update:
    """The nodes of an update, its steps, and the next values by the steps that make them."""

    nodes: tuple[Node, ...]
    program: Program
    results: tuple[Value, ...]
    steps: tuple[int, ...]

    def reads(self, scope: Scope) -> tuple[Read, ...]:
        return tuple(Read(v, 1) for v in self.program.inputs if scope.constant(v) is None)

    @property
    def made(self) -> tuple[int, ...]:
        """The results as a kernel numbers values: inputs first."""
        return tuple(len(self.program.inputs) + step for step in self.steps)


def _update(node: Node, scope: Scope, gradient: Value | None = None) -> Update | None:
    """The update of a node where kernels have all its steps; `gradient` is to be input 0."""
    regions = scope.remember("updates", lambda: _regions(scope.graph))
    found: tuple[list[Node], list[Value]] | None = regions.get(node)
    if found is None:
        return None
    nodes, results = found
    taken = [*dict.fromkeys(maker for n in nodes for maker in conditions(n)), *nodes]
    program, made = Program([] if gradient is None else [gradient]), dict[Any, int]()
    if any(n in scope.taken or not append(n, scope, program, made) for n in nodes):
        return None
    return Update(tuple(taken), program, tuple(results), tuple(made[value] for value in results))


def update_at(gradient: Value, scope: Scope) -> Update | None:
    """The update that alone reads a gradient and may be done where it is made: each of its other
    operands has the gradient's elements or is one number.
    """
    readers = gradient.consumers
    found = _update(readers[0], scope, gradient) if readers else None
    if found is None or scope.is_result(gradient) or not set(readers) <= set(found.nodes):
        return None
    shapes = {sizes(value) for value in (*found.program.inputs, *found.results)}
    fits = all(shape == sizes(gradient) or math.prod(shape) == 1 for shape in shapes)
    return found if fits and math.prod(sizes(gradient)) > 1 else None


def finish(
    builder: Builder, found: Update, with_update: Callable[[Finish], Kernel]
) -> tuple[Kernel, list[Operand | Place]]:
    """The kernel that makes a gradient with the update behind it, and the operands that this
    adds.
    """
    _, *others = found.program.inputs
    shape = sizes(found.results[0])
    read = [plain(builder, value) for value in others]
    made = [builder.write_state(value, found.nodes) for value in found.results]
    dense = tuple(sizes(value) == shape for value in others)
    done = Finish(dense, tuple(found.program.kernel_steps()), found.made)
    kernel = with_update(done)
    squares = leave_squares(builder, found.results[0], kernel.total)
    if squares is None:
        return kernel, [*read, *made]
    return with_update(replace(done, squares=True)), [*read, *made, squares]


def _emit(builder: Builder, found: Update) -> str:
    shape = sizes(found.results[0]) or (1,)
    program = found.program
    where = [input_of(builder, value, shape, 1) for value in program.inputs]
    places = [builder.write_state(value, found.nodes) for value in found.results]
    kernel = chain(
        shape, [strided for _, strided in where], [strided_plain(p, shape) for p in places],
        program.kernel_steps(), found.made, builder.scope.width,
    )  # fmt: skip
    builder.job(kernel, *(operand for operand, _ in where), *places)
    return f"update of {len(found.results)}, {len(program.steps)} steps"


def _regions(graph: Graph) -> dict[Node, tuple[list[Node], list[Value]]]:
    """Every node of an update, with the nodes of that update in order and the next values."""
    writes = [s.write for s in graph.state if s.write.producer is not None and is_float(s.write)]
    owner: dict[Node, set[Node]] = {}
    for write in writes:
        region = _behind(write, set(writes))
        for shared in {id(owner[n]): owner[n] for n in region if n in owner}.values():
            region |= shared
        owner.update(dict.fromkeys(region, region))
    places = {node: number for number, node in enumerate(graph.nodes)}
    found: dict[Node, tuple[list[Node], list[Value]]] = {}
    for region in {id(r): r for r in owner.values()}.values():
        nodes = sorted(region, key=places.__getitem__)
        results = [write for write in writes if write.producer in region]
        last = places[nodes[-1]]
        if len(nodes) <= _MOST_STEPS and _closed(region, results, last, places):
            found.update(dict.fromkeys(nodes, (nodes, results)))
    return found


def _behind(write: Value, results: set[Value]) -> set[Node]:
    """The elementwise nodes of one shape that lead to a value, as far as nobody else reads them."""
    found: set[Node] = set()
    ends = [write]
    while ends:
        maker = ends.pop().producer
        if maker is None or maker in found or not _fits(maker, write):
            continue
        found.add(maker)
        ends += [value for value in maker.inputs if value is not None]
    while True:
        leaking = {n for n in found if n.output not in results and _leaks(n.output, found)}
        if not leaking:
            return found
        found -= leaking


def _fits(node: Node, write: Value) -> bool:
    same = node.op in ELEMENTWISE and len(node.outputs) == 1 and is_float(node.output)
    return same and sizes(node.output) == sizes(write)


def _leaks(value: Value, region: set[Node]) -> bool:
    """Whether somebody outside a set of nodes reads a value."""
    outside = any(reader not in region for reader in value.consumers)
    return outside or value in value.graph.outputs


def _closed(region: set[Node], results: list[Value], last: int, places: dict[Node, int]) -> bool:
    """Nobody waits for what an update makes before all of it is done."""
    inside = all(n.output in results or not _leaks(n.output, region) for n in region)
    inside = inside and not any(value in value.graph.outputs for value in results)
    outside = (r for value in results for r in value.consumers if r not in region)
    return inside and all(places[reader] > last for reader in outside)
