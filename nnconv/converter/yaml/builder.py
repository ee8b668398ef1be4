"""Builds the graph layer by layer: names in scope, parameters of layers, and errors at their place.

A layer that fails leaves its name behind as broken; layers that read a broken name are skipped in
silence, so that one mistake is told once and the next mistake is told too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnconv.converter.yaml.compose import Document, Item
from nnconv.schemas.dims import Dim
from nnconv.schemas.errors import InputError, did_you_mean
from nnconv.schemas.graph import Filler, Graph, LayerRecord, Parameter, State, Value

MOST_LAYERS = 200_000
MOST_HINTS = 5_000
"""Names; among more, looking for the nearest takes too long."""
BLOCK_INPUT = "in"
"""What a layer inside a block calls the value that enters the block."""


class Broken(Exception):
    """A layer reads what an earlier mistake has kept from being made."""


@dataclass(slots=True)
class Training:
    """What a layer's mapping says about its parameters."""

    lr_mult: float = 1.0
    decay_mult: float = 1.0
    filler: Filler | None = None
    bias_filler: Filler | None = None


@dataclass(slots=True)
class Scope:
    """Names of layers and inputs; a block sees those around it. None marks a broken one."""

    names: dict[str, Value | None] = field(default_factory=dict)
    outer: Scope | None = None
    prefix: str = ""

    def find(self, name: str) -> Value | None:
        """The value called `name`; raises KeyError when there is none."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        raise KeyError(name)

    def known(self) -> list[str]:
        scope, found = self.outer, list(self.names)
        while scope is not None:
            found += scope.names
            scope = scope.outer
        return found


class Builder:
    """The graph being made, and the value that the next layer reads by default."""

    def __init__(self, document: Document, graph: Graph) -> None:
        self.document = document
        self.graph = graph
        self.scope = Scope()
        self.previous: Value | None = None
        self.stale = False  # the previous layer is broken
        self.made = 0

    def value(self, name: str) -> Value:
        """The value called `name`: a layer, an input or something stored."""
        try:
            found = self.scope.find(name)
        except KeyError:
            # a file that an exporter wrote may name any value, inner ones and stored ones
            if name in self.graph.values:
                return self.graph.values[name]
            known = [*self.scope.known(), *self.graph.values]
            near = did_you_mean(name, known) if len(known) < MOST_HINTS else ""
            raise InputError(f"nothing before this layer is called '{name}'", hint=near) from None
        if found is None:
            raise Broken
        return found

    def current(self) -> Value:
        """What the layer before gives, or the first input."""
        if self.stale:
            raise Broken
        if self.previous is None:
            raise InputError("nothing stands before this layer", hint="declare an input first")
        return self.previous

    def finish(self, name: str, value: Value | None) -> None:
        """A layer is done (None: it failed); the next one reads its value."""
        self.previous, self.stale = value, value is None
        if name:
            self.scope.names[name] = value


class Layer:
    """One layer while it is built; `name` is that of its value, with the block's prefix."""

    def __init__(
        self, builder: Builder, name: str, op: str, item: Item, training: Training, span: Any
    ) -> None:
        self.builder = builder
        self.graph = builder.graph
        self.name = name
        self.item = item
        self.training = training
        self.record = LayerRecord(name, op, span=span)
        self.stored: list[str] = []

    def emit(self, op: str, *inputs: Value | None, **attributes: Any) -> Value:
        """The node that makes this layer's value."""
        made: Value = self.graph.emit(op, *inputs, outputs=[self.name], **attributes)
        return made

    def inner(self, word: str) -> str:
        """The name of a value inside the layer."""
        return f"{self.name}:{word}"

    def wrong(self, setting: str, message: str) -> InputError:
        return InputError(f"layer '{self.name}': {message}")

    def channels(self, x: Value) -> int:
        """How many channels `x` has; raises InputError where nobody can know."""
        shape = x.known_shape
        if len(shape) < 2 or not isinstance(shape[1], int):
            shown = "x".join(map(str, shape)) or "a scalar"
            raise InputError(f"layer '{self.name}' needs channels on axis 1, '{x.name}' is {shown}")
        return shape[1]

    def product(self, dims: Sequence[Dim]) -> int:
        if not all(isinstance(dim, int) for dim in dims):
            shown = "x".join(map(str, dims))
            raise InputError(
                f"layer '{self.name}' needs fixed sizes, but its input has {shown} an item",
                hint="write numbers for height and width of the input",
            )
        return math.prod(dim for dim in dims if isinstance(dim, int))

    def weights(self, shape: tuple[int, ...]) -> Value:
        return self.parameter(0, shape, self.training.filler or Filler("xavier"))

    def bias(self, shape: tuple[int, ...]) -> Value:
        return self.parameter(1, shape, self.training.bias_filler or Filler())

    def parameter(self, index: int, shape: tuple[int, ...], filler: Filler) -> Value:
        """The parameter NAME/index."""
        training = self.training
        setting = Parameter(training.lr_mult, training.decay_mult, filler)
        return self._store(index, shape, setting)

    def running(self, index: int, shape: tuple[int, ...]) -> Value:
        """A stored value that runs change and training does not."""
        return self._store(index, shape, Parameter(0.0, 1.0, Filler()))

    def keep(self, stored: Iterable[Value], following: Iterable[Value]) -> None:
        """Let each run find in `stored` what the run before left in `following`."""
        pairs = zip(stored, following, strict=True)
        self.graph.state += [State(read.name, read, write) for read, write in pairs]

    def _store(self, index: int, shape: tuple[int, ...], setting: Parameter) -> Value:
        name = f"{self.name}/{index}"
        declared = self.graph.values.get(name)
        if declared is not None and declared.parameter is not None:
            if declared.shape != shape:
                raise InputError(
                    f"parameter '{name}' is declared with the shape {declared.shape}, the layer "
                    f"needs {shape}"
                )
            return declared
        value = self.graph.add_parameter(name, shape, parameter=setting)
        self.stored.append(name)
        return value
