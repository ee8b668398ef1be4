"""Where bodies of operators register, and how one takes the place of its node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value

Body = Callable[["Node", str], "Sequence[Value] | None"]

BODIES: dict[str, Body] = {}


def function(op: str) -> Callable[[Body], Body]:
    """Register the body of an operator."""

    def register(body: Body) -> Body:
        BODIES[op] = body
        return body

    return register


def body_of(op: str) -> Body | None:
    """The body of an operator, None where it has none."""
    return BODIES.get(op)


def expand(node: Node, mode: str = "test") -> bool:
    """Replace `node` by its body, where it has one for `mode` and the sizes known; say whether it
    did.

    The new values take over the names of the outputs, the new nodes the layer record.
    """
    body = body_of(node.op)
    if body is None:
        return False
    graph = node.graph
    with graph.inserting(before=node):
        values = body(node, mode)
    if values is None:
        return False
    for old, new in zip(node.outputs, values, strict=False):
        graph.replace(old, new, keep_name=True)
    graph.remove(node)
    return True
