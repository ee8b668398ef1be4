"""Types and shapes of what comes out of the graphs inside If, Loop and Scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.schemas.dims import Shape
from nnconv.schemas.errors import InputError
from nnconv.schemas.infer.registry import Result, infers

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Node, Value


@infers("If")
def branches(node: Node) -> Result:
    """Both branches give the same types; a shape is known where they agree on it."""
    then, other = (_outputs(node, name) for name in ("then_branch", "else_branch"))
    result: Result = []
    for a, b in zip(then, other, strict=True):
        if a.dtype and b.dtype and a.dtype != b.dtype:
            raise InputError(f"one branch gives {a.dtype} ('{a.name}'), the other {b.dtype}")
        result.append((a.dtype or b.dtype, a.shape if a.shape == b.shape else None))
    return result


@infers("Loop")
def loop(node: Node) -> Result:
    """What is carried keeps its type, not its shape; what is gathered gets an axis in front."""
    outputs = _graph(node, "body").outputs[1:]
    if len(outputs) < len(node.outputs):
        raise InputError(f"the body gives {len(outputs)} values, {len(node.outputs)} are asked for")
    return [(value.dtype, None) for value in outputs]


@infers("Scan")
def scan(node: Node) -> Result:
    """States keep type and shape; what is gathered has as many axes as a slice, and one more."""
    body = _graph(node, "body")
    states = len(node.inputs) - (node.num_scan_inputs or 0)
    results: Result = []
    for place, value in enumerate(body.outputs):
        given = node.input(place) if place < states else None
        shape: Shape | None = given.shape if given is not None else None
        results.append((value.dtype, shape))
    return results


def _outputs(node: Node, name: str) -> list[Value]:
    found = _graph(node, name).outputs
    if len(found) != len(node.outputs):
        raise InputError(f"the {name} gives {len(found)} values, not {len(node.outputs)}")
    return found


def _graph(node: Node, name: str) -> Graph:
    graph: Graph | None = node.attributes.get(name)
    if graph is None:
        raise InputError(f"{node.op} needs the graph '{name}'")
    return graph
