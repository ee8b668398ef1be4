"""How many nodes the local functions of a model unfold to, counted before any is put in its place.

Functions that call functions twice each, sixty deep, are a few kilobytes that unfold to more nodes
than any memory holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nnconv.converter.onnx.order import inner_graphs
from nnconv.schemas.errors import InputError

MOST_NODES = 1 << 20
MOST_DEPTH = 64

Key = tuple[str, str, str]


def check_unfolding(nodes: Iterable[Any], functions: Mapping[Key, Any]) -> None:
    """Raise InputError when the functions called by `nodes` call themselves, or unfold without
    bounds.
    """
    if functions:
        _Counter(functions).count(nodes, ())


class _Counter:
    def __init__(self, functions: Mapping[Key, Any]) -> None:
        self.functions = functions
        self.known: dict[Key, int] = {}

    def count(self, nodes: Iterable[Any], calling: tuple[Key, ...]) -> int:
        total = 0
        for node in _with_inner(nodes):
            total += self._of_call((node.domain, node.op_type, node.overload), calling)
            if total > MOST_NODES:
                raise InputError(
                    f"the functions of the model unfold to more than {MOST_NODES} nodes"
                )
        return total

    def _of_call(self, key: Key, calling: tuple[Key, ...]) -> int:
        if key not in self.functions:
            return 1
        if key in calling:
            raise InputError(
                f"the function {' > '.join(name for _, name, _ in (*calling, key))} calls itself"
            )
        if len(calling) >= MOST_DEPTH:
            raise InputError(f"functions call functions more than {MOST_DEPTH} deep")
        if key not in self.known:
            self.known[key] = self.count(self.functions[key].node, (*calling, key))
        return self.known[key]


def _with_inner(nodes: Iterable[Any]) -> Iterable[Any]:
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in inner_graphs(attribute):
                waiting += graph.node
