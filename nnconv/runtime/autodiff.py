"""Gradients as graphs: new nodes, in the same graph, that compute derivatives of what is there.

Reverse mode: nodes are walked from the last to the first, each turning the gradients of its results
into those of its inputs by the rule that its family registers (`ops/`). A value used several times
has its gradients added in the order of the walk, so that the same graph gives the same sums. Every
node is met once, whatever the size of the graph; and because gradients are ordinary nodes, they can
be differentiated again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.ops.registry import subject
from nnconv.runtime.ops.rules import GRADIENTS, THROUGH, emit, shape_of, zeros_like
from nnconv.schemas.errors import InputError, UnsupportedError, did_you_mean
from nnconv.schemas.functions import body_of

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Loss, Node, Value

Seeds = Mapping["Value", "Value | float"]

MARK = "@grad"
"""Marks the names of gradient nodes; the gradient of value X is called `X@grad`."""

STOP = "nnconv.StopGradient"


def gradients(
    graph: Graph,
    of: Seeds | Sequence[Loss] | None = None,
    wrt: Iterable[Value | str] | None = None,
    *,
    mode: str = "train",
) -> dict[Value, Value]:
    """Add nodes for the gradients of the weighted sum of `of` with respect to each of `wrt`.

    `of` are values with weights (numbers, or values of the same shape) or losses; None: the
    graph's losses. A value that is no scalar counts as the sum of its elements. `wrt` are values of
    any kind, by themselves or by name; None: all parameters that are not frozen. The gradients are
    nodes behind the last one, shaped like the values they belong to, zeros where nothing leads from
    a value to a loss, or only a way through nnconv.StopGradient. `mode` is asked only where an
    operator is differentiated through a body.

    Raises InputError for unknown names and values that are not floats, UnsupportedError, with the
    path from the loss to the value, for an operator on it that has no gradient.
    """
    seeds = _seeds(graph, of)
    chosen = _chosen(graph, wrt)
    walk = _Walk(graph, chosen, mode)
    found = walk.run(seeds)
    _remove_unused(walk.emitted, set(found.values()) | set(graph.outputs))
    return found


def _seeds(graph: Graph, of: Seeds | Sequence[Loss] | None) -> dict[Value, Value | float]:
    if isinstance(of, Mapping):
        seeds = dict(of)
    else:
        losses = graph.losses if of is None else of
        seeds = {}
        for loss in losses:
            seeds[loss.value] = float(seeds.get(loss.value, 0.0)) + loss.weight  # type: ignore[arg-type]
    if not seeds:
        raise InputError("there is no loss to differentiate", hint="say what: --of NAME, loss=...")
    for value in seeds:
        if not value.dtype.is_float:
            raise InputError(f"'{value.name}' is {value.dtype}: only floats have gradients")
    return seeds


def _chosen(graph: Graph, wrt: Iterable[Value | str] | None) -> list[Value]:
    if wrt is None:
        known = graph.parameters.values()
        return [v for v in known if v.parameter is not None and not v.parameter.frozen]
    chosen = []
    for item in [wrt] if isinstance(wrt, str) else wrt:
        name = item if isinstance(item, str) else item.name
        if name not in graph.values:
            inputs = ", ".join(value.name for value in graph.inputs)
            hint = did_you_mean(name, graph.values) or f"the inputs are {inputs}"
            raise InputError(f"there is no value '{name}' in the model", hint=hint)
        value = graph.values[name]
        if not value.dtype.is_float:
            raise InputError(f"'{name}' is {value.dtype}: only floats have gradients")
        chosen.append(value)
    return list(dict.fromkeys(chosen))


class _Walk:
    """One reverse pass. `leads` are the values that depend on what was chosen; `parts` the
    gradients that have arrived at each of them so far; `origin` the reader that sent the first."""

    def __init__(self, graph: Graph, chosen: Sequence[Value], mode: str) -> None:
        self.graph = graph
        self.chosen = chosen
        self.mode = mode
        self.leads: set[Value] = set(chosen)
        self.parts: dict[Value, list[Value]] = {}
        self.origin: dict[Value, Node] = {}
        self.emitted: list[Node] = []
        self.unnamed: set[Value] = set()
        self.taken: set[Value] = set()
        self.names = {node.name: 1 for node in graph.nodes if MARK in node.name}

    def run(self, seeds: Mapping[Value, Value | float]) -> dict[Value, Value]:
        graph = self.graph
        work = list(graph.nodes)
        self._mark(work)
        with graph.inserting(before=None), graph.source(None):
            first = graph.last
            for value, weight in seeds.items():
                if value in self.leads:
                    self.parts.setdefault(value, []).append(_seed(value, weight))
            self._emitted(first, "loss")
            while work:
                node = work.pop()
                if not any(value in self.parts for value in node.outputs):
                    continue
                if any(value in self.leads for value in node.inputs if value is not None):
                    work += self._step(node)
            return {value: self._named(value) for value in self.chosen}

    def _mark(self, nodes: Iterable[Node]) -> None:
        """What depends on the chosen values, as far as floats carry it and nothing stops it."""
        for node in nodes:
            if node.op != STOP and any(
                value in self.leads for value in node.inputs if value is not None
            ):
                self.leads.update(v for v in node.outputs if v.dtype.is_float or not v.dtype)

    def _step(self, node: Node) -> list[Node]:
        """Send the gradients of a node's results to its inputs; the nodes to be walked instead
        where it has a body and no rule."""
        first = self.graph.last
        rule = GRADIENTS.get(node.op)
        if rule is None:
            return self._enter(node)
        try:
            sent = rule(node, *(self._total(value) for value in node.outputs))
        except UnsupportedError as error:
            raise self._missing(node, error.problems[0].message) from None
        self._emitted(first, node.name or node.outputs[0].name)
        results = sent if isinstance(sent, tuple) else (sent,)
        for value, part in zip(node.inputs, results, strict=False):
            if value is not None and part is not None and value in self.leads:
                if part.shape is None:  # inference may lose it on the way; it cannot be another
                    part.shape = value.shape
                self.parts.setdefault(value, []).append(part)
                self.origin.setdefault(value, node)
        return []

    def _enter(self, node: Node) -> list[Node]:
        """Emit the node's body before it, and let its results stand for the node's."""
        before = node.before
        with self.graph.inserting(before=node), self.graph.source(None):
            values = self._body(node)
        if values is None:
            raise self._missing(node, f"no gradient is known for {node.op}")
        body = [] if node.before is before else list(_between(self.graph, before, node))
        self._mark(body)
        self.emitted += body
        for old, new in zip(node.outputs, values, strict=False):
            if (total := self._total(old)) is not None and new in self.leads:
                self.parts.setdefault(new, []).append(total)
                self.origin.setdefault(new, node)
        return body

    def _body(self, node: Node) -> Sequence[Value] | None:
        if (through := THROUGH.get(node.op)) is not None:
            return through(node)
        body = body_of(node.op)
        return None if body is None else body(node, self.mode)

    def _total(self, value: Value) -> Value | None:
        """The sum of what has arrived at a value, which is all once its maker is met."""
        parts = self.parts.get(value)
        if parts is None:
            return None
        total = parts[0]
        if len(parts) > 1:
            first = self.graph.last
            for part in parts[1:]:
                total = total + part
            self._emitted(first, value.name)
            self.parts[value] = [total]
        self._name(total, value)
        return total

    def _name(self, total: Value, value: Value) -> None:
        """Call a gradient after its value, where nothing else has given it a name."""
        if total in self.unnamed:
            self.unnamed.discard(total)
            self.graph.rename(total, self.graph.fresh_name(f"{value.name}{MARK}"))

    def _named(self, value: Value) -> Value:
        """The gradient of a chosen value under the name `VALUE@grad`, always a node's result of its
        own."""
        total = self._total(value)
        if total is None:
            first = self.graph.last
            total = zeros_like(value)
            self._emitted(first, value.name)
            self._name(total, value)
        if not total.name.startswith(f"{value.name}{MARK}") or total in self.taken:
            first = self.graph.last
            total = emit("Identity", total)
            self._emitted(first, value.name)
            self._name(total, value)
        self.taken.add(total)
        return total

    def _emitted(self, first: Node | None, name: str) -> None:
        """Note and mark the nodes behind `first` as made for the node called `name`."""
        for node in self.graph.after(first):
            node.name = self._node_name(f"{name}{MARK}")
            self.emitted.append(node)
            self.unnamed.update(node.outputs)

    def _node_name(self, stem: str) -> str:
        """`stem`, numbered from the second node of that name on: other formats want them unique."""
        name = stem
        while name in self.names:
            self.names[stem] += 1
            name = f"{stem}_{self.names[stem]}"
        self.names[name] = 1
        return name

    def _missing(self, node: Node, message: str) -> UnsupportedError:
        """The error that names the way from the loss over `node` to a chosen value."""
        above = []
        step: Node | None = node
        while step is not None:
            above.append(step)
            step = next((self.origin[v] for v in step.outputs if v in self.origin), None)
        below = self._way_down(node)
        path = " <- ".join(
            [*(n.outputs[0].name for n in reversed(above)), *(value.name for value in below)]
        )
        return UnsupportedError(f"{subject(node)}: {message}; on the way {path}", span=node.span)

    def _way_down(self, node: Node) -> list[Value]:
        """From a node's inputs down to a chosen value."""
        chosen, way = set(self.chosen), []
        step: Node | None = node
        while step is not None:
            value = next(v for v in step.inputs if v is not None and v in self.leads)
            way.append(value)
            step = None if value in chosen else value.producer
        return way


def _between(graph: Graph, before: Node | None, node: Node) -> Iterable[Node]:
    for found in graph.after(before):
        if found is node:
            return
        yield found


def _seed(value: Value, weight: Value | float) -> Value:
    """The gradient of the weighted sum with respect to one of its terms: the weight itself."""
    if not isinstance(weight, int | float):
        return weight
    if value.shape == ():
        return value.graph.constant(weight, value.dtype)
    fill = np.array([weight], value.dtype.numpy)
    return emit("ConstantOfShape", shape_of(value), value=fill)


def _remove_unused(emitted: Sequence[Node], kept: set[Value]) -> None:
    """Take out what rules said but nobody asked for, with the constants made for it."""
    for node in reversed(emitted):
        if not node.linked or any(value.uses or value in kept for value in node.outputs):
            continue
        inputs = [value for value in node.inputs if value is not None]
        graph = node.graph
        graph.remove(node)
        for value in inputs:
            if value.parameter is None and value.data is not None and not value.uses:
                graph.discard(value)
