"""Updates of state: everything that is done to the elements of a parameter and of its histories is
one kernel, which writes the new values over the old ones.

An update is found from its end: what leads to the state's next value element by element, up to the
gradient and to scalars such as the rate. States that share steps (a weight and its momentum) are
one update with several results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnconv.runtime.kernels.elementwise import chain
from nnconv.runtime.lowering.claims import Claim, Read, Scope, lowers, sizes
from nnconv.runtime.lowering.elementwise import ELEMENTWISE, Program, append, input_of
from nnconv.runtime.lowering.layout import is_float, strided_plain

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Graph, Node, Value

_MOST_STEPS = 64


@lowers(*ELEMENTWISE, first=True)
def update(node: Node, scope: Scope) -> Claim | None:
    """The update that a node belongs to, as a whole."""
    regions = scope.remember("updates", lambda: _regions(scope.graph))
    found: tuple[list[Node], list[Value]] | None = regions.get(node)
    if found is None:
        return None
    nodes, results = found
    program, made = Program(), dict[Any, int]()
    if any(n in scope.taken or not append(n, scope, program, made) for n in nodes):
        return None
    computed = [value for value in program.inputs if scope.constant(value) is None]
    steps = [made[value] for value in results]

    def emit(builder: Builder) -> str:
        return _emit(builder, program, results, steps, nodes)

    reads = tuple(Read(value, 1) for value in computed)
    return Claim(tuple(nodes), reads, results[0], 1, emit, tuple(results[1:]))


def _emit(
    builder: Builder, program: Program, results: list[Value], steps: list[int], nodes: list[Node]
) -> str:
    shape = sizes(results[0]) or (1,)
    where = [input_of(builder, value, shape, 1) for value in program.inputs]
    places = [builder.write_state(value, nodes) for value in results]
    first = len(program.inputs)
    kernel = chain(
        shape, [strided for _, strided in where], [strided_plain(p, shape) for p in places],
        program.kernel_steps(), [first + step for step in steps], builder.scope.width,
    )  # fmt: skip
    builder.job(kernel, *(operand for operand, _ in where), *places)
    return f"update of {len(results)}, {len(program.steps)} steps"


def _regions(graph: Graph) -> dict[Node, tuple[list[Node], list[Value]]]:
    """Every node of an update, with the nodes of that update in order and the next values."""
    writes = [s.write for s in graph.state if s.write.producer is not None and is_float(s.write)]
    owner: dict[Node, set[Node]] = {}
    for write in writes:
        region = _behind(write, set(writes))
        for shared in {id(owner[n]): owner[n] for n in region if n in owner}.values():
            region |= shared
        owner.update(dict.fromkeys(region, region))
    order = {node: number for number, node in enumerate(graph.nodes) if node in owner}
    found: dict[Node, tuple[list[Node], list[Value]]] = {}
    for region in {id(r): r for r in owner.values()}.values():
        nodes = sorted(region, key=order.__getitem__)
        results = [write for write in writes if write.producer in region]
        if len(nodes) <= _MOST_STEPS and _closed(region, results, graph):
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


def _closed(region: set[Node], results: list[Value], graph: Graph) -> bool:
    """Nobody waits for what an update makes before all of it is done."""
    inside = all(n.output in results or not _leaks(n.output, region) for n in region)
    return inside and not any(_leaks(value, region) for value in results)
