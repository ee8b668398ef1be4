"""From the stored message to a Model. Nothing in a file is trusted: every name, position, size and
offset is checked before it is used, and the first that is wrong is named."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from nnconv.schemas import ir_pb2 as ir
from nnconv.schemas.dims import Dim, Shape, Symbolic
from nnconv.schemas.dims_text import parse
from nnconv.schemas.errors import InputError, NnconvError, SourceSpan
from nnconv.schemas.graph import (
    Filler,
    Graph,
    LayerRecord,
    Loss,
    Model,
    Parameter,
    Preprocessing,
    Source,
    State,
    Value,
)  # fmt: skip
from nnconv.schemas.operators import operator
from nnconv.schemas.pack import ALIGNMENT, MOST_DEPTH, VERSION
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

Known = Mapping[str, "Value"]

MOST_AXES = 64  # as numpy
MOST_GRAPHS = 1 << 15
"""Graphs in one model, those in attributes included; each takes 800 bytes, two in the file."""
MOST_LAYERS = 1 << 14
"""Layer records in a graph beyond one for each node and value."""


def unpack(message: ir.Model, weights: memoryview) -> Model:
    """The model that `message` stores, its larger arrays being views of `weights`.

    Raises InputError for what is damaged, UnsupportedError for operators that this nnconv lacks.
    """
    if message.format != "nnir":
        raise InputError(f"this is no nnconv model: its format is '{message.format[:40]}'")
    if message.version > VERSION:
        hint = "update nnconv"
        raise InputError(
            f"written as version {message.version}, this reads up to {VERSION}", hint=hint
        )
    reader = _Reader(weights)
    model = Model(
        reader.graph(message.graph, {}, set(), 0), name=message.name, mode=message.mode or "test"
    )
    if model.mode not in ("test", "train"):
        raise InputError(f"the mode is test or train, not '{model.mode}'")
    model.name = message.name
    for entry in message.preprocessing:
        model.preprocessing[entry.input] = reader.preprocessing(entry)
    model.labels = tuple(message.labels.name)
    source = message.source
    model.source = Source(source.format, source.dialect, tuple(source.files))
    model.metadata = {pair.key: pair.value for pair in message.metadata}
    return model


class _Reader:
    def __init__(self, weights: memoryview) -> None:
        self.weights = weights.toreadonly()  # so is every array that is a view of it
        self.graphs = 0

    def graph(self, message: ir.Graph, outer: Known, made: set[Value], depth: int) -> Graph:
        """A graph, and those inside it. `outer` are the values of the graphs around it that it may
        read; `made` grows by what has its origin, so that nothing is read before."""
        if depth > MOST_DEPTH:
            raise InputError(f"graphs are nested more than {MOST_DEPTH} deep")
        self.graphs += 1
        if self.graphs > MOST_GRAPHS:
            raise InputError(f"the model holds more than {MOST_GRAPHS:,} graphs")
        most = MOST_LAYERS + len(message.nodes) + len(message.values)
        if len(message.layers) > most:
            raise InputError(f"the graph has {len(message.layers):,} layers, {most:,} is the most")
        graph = Graph(message.name)
        graph.layers = [_layer(layer) for layer in message.layers]
        for size in message.sizes:
            Symbolic.name(size.name)  # refuses what is no name
            graph.sizes[size.name] = size.value
        with _of("value") as place:
            for value in message.values:
                place[0] = value.name
                self.value(graph, value)
        graph.inputs = [_find(graph, name, "input") for name in message.inputs]
        if stored := [value.name for value in graph.inputs if value.is_stored]:
            raise InputError(f"'{stored[0]}' is both an input and stored")
        known: Known = ChainMap(graph.values, outer) if outer else graph.values  # type: ignore[arg-type]
        made.update(value for value in graph.values.values() if value.is_stored)
        made.update(graph.inputs)
        with _of("node") as place:
            for node in message.nodes:
                place[0] = node.outputs[0] if node.outputs else node.name
                self.node(graph, node, known, made, depth)
        graph.outputs = [_made(graph, name, "output", made) for name in message.outputs]
        graph.state = [_state(graph, state, made) for state in message.state]
        for loss in message.losses:
            weight = loss.weight if loss.HasField("weight") else 1.0
            graph.losses.append(Loss(_made(graph, loss.value, "loss", made), weight))
        return graph

    def value(self, graph: Graph, message: ir.Value) -> None:
        if message.HasField("data"):
            stored = message.data
            data = self.tensor(stored)
            value = graph.add_value(message.name, _DTYPES[stored.type], data.shape)
            value.data = data
        else:
            shape = _shape(message.shape) if message.HasField("shape") else None
            value = graph.add_value(message.name, _dtype(message.type), shape)
        if message.HasField("parameter"):
            value.parameter = self.parameter(message.parameter)
            if value.data is None and not _is_bound(value.shape):
                raise InputError("a parameter needs a shape of numbers")

    def node(
        self, graph: Graph, message: ir.Node, known: Known, made: set[Value], depth: int
    ) -> None:
        omitted = set(message.omitted)
        inputs = [
            None if index in omitted else _made_before(known, name, made)
            for index, name in enumerate(message.inputs)
        ]
        attributes = {
            item.name: self.attribute(item, known, made, depth) for item in message.attributes
        }
        operator(message.op).check(len(inputs), attributes)
        outputs = [_find(graph, name, "output") for name in message.outputs]
        if len(set(outputs)) < len(outputs) or not made.isdisjoint(outputs):
            raise InputError("an output is already made elsewhere")
        if message.layer > len(graph.layers):
            raise InputError(f"layer {message.layer} of {len(graph.layers)} does not exist")
        node = graph.append(message.op, inputs, outputs, attributes)
        node.name = message.name
        node.layer = graph.layers[message.layer - 1] if message.layer else None
        made.update(outputs)

    def attribute(self, message: ir.Attribute, known: Known, made: set[Value], depth: int) -> Any:
        kind = message.WhichOneof("value")
        if kind is None:
            raise InputError(f"attribute '{message.name}' has no value")
        value = getattr(message, kind)
        if kind == "tensor":
            return self.tensor(value)
        if kind == "graph":
            return self.graph(value, known, made, depth + 1)
        if kind == "tensors":
            return tuple(map(self.tensor, value.items))
        if kind == "graphs":
            return tuple(self.graph(item, known, made, depth + 1) for item in value.items)
        return tuple(value.items) if kind in ("integers", "numbers", "texts") else value

    def tensor(self, message: ir.Tensor) -> Array:
        """The elements as a read-only view, without a copy, once sizes, type and place agree."""
        sizes = tuple(message.sizes[:])  # a slice is copied in C
        if len(sizes) > MOST_AXES:
            raise InputError(f"a tensor of {len(sizes)} axes is too much, {MOST_AXES} is the most")
        count = prod(sizes)
        dtype, kind, itemsize = _stored(message.type)
        if dtype is DType.STRING:
            return _strings(message, count).reshape(sizes)
        if message.HasField("offset"):
            place: Any = self.weights
            offset, length = message.offset, message.length
            if offset % ALIGNMENT or offset + length > len(place):
                raise _beyond(message, len(place))
        else:
            place = message.inline
            offset, length = 0, len(place)
        if count * itemsize != length:
            raise InputError(
                f"a tensor of {'x'.join(map(str, sizes)) or 'one'} {dtype} takes "
                f"{count * itemsize} bytes, {length} are stored"
            )
        array: Array = ndarray(sizes, kind, place, offset)
        if dtype is DType.BOOL and array.size and array.view(np.uint8).max() > 1:
            raise InputError("a tensor of bool holds bytes other than 0 and 1")
        return array

    def parameter(self, message: ir.Parameter) -> Parameter:
        if not message.ListFields():  # most have the defaults
            return Parameter()
        filler = None
        if message.HasField("filler"):
            options = {
                item.name: self.attribute(item, {}, set(), 0) for item in message.filler.options
            }
            filler = Filler(message.filler.type, options)
        return Parameter(
            message.lr_mult if message.HasField("lr_mult") else 1.0,
            message.decay_mult if message.HasField("decay_mult") else 1.0,
            filler,
        )

    def preprocessing(self, message: ir.Preprocessing) -> Preprocessing:
        return Preprocessing(
            channels=message.channels or "BGR",
            mean=tuple(message.mean),
            mean_image=self.tensor(message.mean_image) if message.HasField("mean_image") else None,
            scale=message.scale if message.HasField("scale") else 1.0,
            crop=message.crop,
        )


@contextmanager
def _of(kind: str) -> Iterator[list[str]]:
    """Errors raised inside say which value or node they are about: the one last put into the
    list."""
    place = [""]
    try:
        yield place
    except NnconvError as error:
        first = error.problems[0]
        raise type(error)(f"{kind} '{place[0][:80]}': {first.message}", hint=first.hint) from None


def _is_bound(shape: Shape | None) -> bool:
    return shape is not None and all(isinstance(dim, int) for dim in shape)


def _find(graph: Graph, name: str, what: str) -> Value:
    if (value := graph.values.get(name)) is None:
        raise InputError(f"the {what} '{name[:80]}' does not exist")
    return value


def _made(graph: Graph, name: str, what: str, made: set[Value]) -> Value:
    if (value := _find(graph, name, what)) not in made:
        raise InputError(f"the {what} '{name[:80]}' is made by no node")
    return value


def _made_before(known: Known, name: str, made: set[Value]) -> Value:
    value = known.get(name)
    if value is None or value not in made:
        reason = "does not exist" if value is None else "is used before it is made"
        raise InputError(f"the input '{name[:80]}' {reason}")
    return value


def _state(graph: Graph, message: ir.State, made: set[Value]) -> State:
    read = _made(graph, message.read, "state", made)
    if not read.is_stored:
        raise InputError(f"state '{message.name[:80]}' reads a value without a start")
    return State(message.name, read, _made(graph, message.write, "state", made))


def _layer(message: ir.Layer) -> LayerRecord:
    span = message.span
    return LayerRecord(
        name=message.name,
        type=message.type,
        message=message.message,
        span=SourceSpan(span.file, span.line, span.column, span.layer, span.excerpt),
        parameters=tuple(message.parameters),
        fingerprint=message.fingerprint,
    )


def _dtype(number: int) -> DType:
    if (dtype := _DTYPES.get(number)) is None:
        raise InputError(f"unknown element type {number}")
    return dtype


_DTYPES = {dtype.value: dtype for dtype in DType}


@cache
def _stored(number: int) -> tuple[DType, np.dtype[Any], int]:
    """An element type, how its elements stand in a file, and the bytes that one takes."""
    dtype = _dtype(number)
    if dtype is DType.UNDEFINED:
        raise InputError("a tensor lacks its type")
    kind = dtype.numpy.newbyteorder("<")
    return dtype, kind, kind.itemsize


def _beyond(message: ir.Tensor, length: int) -> InputError:
    return InputError(
        f"a tensor at {message.offset}, {message.length} bytes long, does not lie in the weights "
        f"({length} bytes)",
        hint="was the file cut short?",
    )


def _shape(message: ir.Shape) -> Shape:
    if len(message.sizes) > MOST_AXES:
        raise InputError(f"{len(message.sizes)} axes are too many, {MOST_AXES} is the most")
    formulas = iter(message.formulas)
    shape = tuple(_dim(size, formulas) for size in message.sizes)
    if next(formulas, None) is not None:
        raise InputError("a shape has more formulas than open sizes")
    return shape


def _dim(size: int, formulas: Iterable[str]) -> Dim:
    if size >= 0:
        return size
    formula = next(iter(formulas), None)
    if size < -1 or formula is None:
        raise InputError(f"{size} is no size")
    return parse(formula)


def _strings(message: ir.Tensor, count: int) -> Array:
    if count != len(message.strings):
        raise InputError(f"a tensor of {count} strings stores {len(message.strings)}")
    array = np.empty(count, object)
    array[:] = [item.decode("utf-8", "surrogateescape") for item in message.strings]
    return array
