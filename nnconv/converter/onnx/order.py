"""The order of nodes. Files should list them so that each reads only what stands before it; some do
not.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

from nnconv.converter.onnx.scope import Scope
from nnconv.schemas.errors import InputError

GRAPH_FIELDS = ("g", "graphs")


def reads(node: Any) -> list[str]:
    """The names that a node takes from the graph it is in, those that its own graphs capture
    included.
    """
    names = list(filter(None, node.input))
    for attribute in node.attribute:
        for graph in inner_graphs(attribute):
            names += captured(graph)
    return names


def inner_graphs(attribute: Any) -> list[Any]:
    found = [attribute.g] if attribute.HasField("g") else []
    return found + list(attribute.graphs)


def captured(graph: Any) -> list[str]:
    """The names that a graph reads and does not define."""
    own = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
    own.update(name for node in graph.node for name in node.output)
    wanted = [name for node in graph.node for name in reads(node)]
    wanted += [info.name for info in graph.output]
    return [name for name in dict.fromkeys(wanted) if name not in own]


def in_order(nodes: Sequence[Any], scope: Scope) -> Sequence[Any]:
    """`nodes` as they stand, or, where that is no order of execution, the first that is.

    Raises InputError for a name that nothing defines, and for a circle.
    """
    defined: set[str] = set()
    for node in nodes:
        if not all(name in defined or name in scope for name in reads(node)):
            return _sorted(nodes, scope)
        defined.update(node.output)
    return nodes


def _sorted(nodes: Sequence[Any], scope: Scope) -> list[Any]:
    makers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    followers = defaultdict(list)
    missing = [0] * len(nodes)
    for place, node in enumerate(nodes):
        for name in dict.fromkeys(reads(node)):
            if name in makers:
                followers[makers[name]].append(place)
                missing[place] += 1
            elif name not in scope:
                raise InputError(f"{label(node)} reads '{name}', which nothing defines")
    ready = deque(place for place, count in enumerate(missing) if not count)
    order = []
    while ready:
        place = ready.popleft()
        order.append(nodes[place])
        for follower in followers[place]:
            missing[follower] -= 1
            if not missing[follower]:
                ready.append(follower)
    if len(order) < len(nodes):
        stuck = next(node for node, count in zip(nodes, missing, strict=True) if count)
        raise InputError(f"{label(stuck)} waits for its own result: the graph has a circle")
    return order


def label(node: Any) -> str:
    """How messages name a node."""
    name = node.name or next(filter(None, node.output), "")
    return f"node '{name}' ({node.op_type})"
