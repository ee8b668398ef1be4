"""Which value a name of the file stands for: by graph, by enclosing graph, by function."""

from __future__ import annotations

from collections.abc import Mapping

from nnconv.schemas.graph import Graph, Value


class Scope:
    """The names that nodes of one graph or function body can read.

    A name that is not defined here is looked up in `outer` (the graph around). `prefix` is put
    before the names that a function's body defines, where they enter the caller's graph. `None`
    stands for an input that the caller left out.
    """

    def __init__(
        self, graph: Graph, opsets: Mapping[str, int], outer: Scope | None = None, prefix: str = ""
    ) -> None:
        self.graph = graph
        self.opsets = opsets
        self.outer = outer
        self.prefix = prefix
        self.values: dict[str, Value | None] = {}
        self.depth: int = outer.depth + 1 if outer else 0

    def opset(self, domain: str) -> int:
        return self.opsets.get(domain, 1)

    def define(self, name: str, value: Value | None) -> None:
        self.values[name] = value

    def __contains__(self, name: str) -> bool:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return True
            scope = scope.outer
        return False

    def __getitem__(self, name: str) -> Value | None:
        """The value; raises KeyError for a name that nothing defined."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        raise KeyError(name)

    def get(self, name: str) -> Value | None:
        """The value, None for a name that nothing defined."""
        try:
            return self[name]
        except KeyError:
            return None
