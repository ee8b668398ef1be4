"""From a Model to the message that stores it; the arrays are collected aside, not copied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from nnconv.schemas import ir_pb2 as ir
from nnconv.schemas.dims import Shape
from nnconv.schemas.errors import InputError, SourceSpan, UnsupportedError
from nnconv.schemas.operators import OPSET
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import (
        Filler,
        Graph,
        LayerRecord,
        Model,
        Node,
        Parameter,
        Preprocessing,
        Value,
    )
    from nnconv.schemas.types import Array

VERSION = 1
"""Raised when an older reader could no longer understand what is written."""

MOST_DEPTH = 30
"""Graphs inside attributes of nodes of graphs; protobuf reads 100 messages deep, three for each."""

ALIGNMENT = 64
INLINE_BYTES = 64
"""Tensors up to this size stand in the message itself."""

CHUNK = 1 << 18
"""Elements of a strided array that are gathered at a time."""


class Weights:
    """The arrays to be written behind the message, each at a multiple of 64 bytes, shared ones
    once."""

    def __init__(self) -> None:
        self.arrays: list[tuple[int, Array]] = []
        self.length = 0
        self._places: dict[Any, int] = {}

    def place(self, array: Array) -> int:
        """The offset at which `array` will stand."""
        memory = array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str
        if memory not in self._places:
            offset = self.length + -self.length % ALIGNMENT
            self._places[memory] = offset
            self.arrays.append((offset, array))
            self.length = offset + array.nbytes
        return self._places[memory]

    def write(self, file: BinaryIO) -> None:
        """All arrays with the gaps between them, little-endian and in C order."""
        position = 0
        for offset, array in self.arrays:
            file.write(bytes(offset - position))
            for chunk in chunks(array):
                file.write(chunk)
            position = offset + array.nbytes


def chunks(array: Array) -> Iterator[Any]:
    """The bytes of `array` piece by piece; one that is strided or swapped is never copied whole."""
    little = array.dtype.newbyteorder("<")
    if array.flags.c_contiguous and array.dtype == little:
        yield array.reshape(-1).view(np.uint8).data
        return
    pieces = np.nditer(  # type: ignore[call-overload]  # the flags are right, their type is narrow
        array, ["external_loop", "buffered", "zerosize_ok"], [["readonly", "contig"]],
        op_dtypes=[little], order="C", casting="equiv", buffersize=CHUNK,
    )  # fmt: skip
    for piece in pieces:
        yield np.ascontiguousarray(piece).view(np.uint8).data


def pack(model: Model, producer: str) -> tuple[ir.Model, Weights]:
    """The message without its weights, and these.

    Raises InputError for names that are no UTF-8, UnsupportedError for attributes that have no
    place.
    """
    weights = Weights()
    try:
        message = _Packer(weights).model(model)
    except UnicodeEncodeError as error:
        shown = ascii(error.object[:60])
        raise InputError(f"a name or text is not valid UTF-8: {shown}", hint="rename it") from None
    message.producer = producer
    return message, weights


class _Packer:
    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.depth = 0

    def model(self, model: Model) -> ir.Model:
        message = ir.Model(format="nnir", version=VERSION, name=model.name)
        if model.mode != "test":
            message.mode = model.mode
        message.operator_sets.add(version=OPSET)
        message.operator_sets.add(domain="nnconv", version=1)
        message.graph.CopyFrom(self.graph(model.graph))
        for name, value in sorted(model.preprocessing.items()):
            message.preprocessing.append(self.preprocessing(name, value))
        if model.labels:
            message.labels.name.extend(model.labels)
        source = model.source
        if source.format or source.dialect or source.files:
            message.source.format, message.source.dialect = source.format, source.dialect
            message.source.files.extend(source.files)
        for key, text in sorted(model.metadata.items()):
            message.metadata.add(key=key, value=text)
        return message

    def graph(self, graph: Graph) -> ir.Graph:
        if self.depth > MOST_DEPTH:
            raise UnsupportedError(
                f"graphs nested more than {MOST_DEPTH} deep have no place in .nnir"
            )
        self.depth += 1
        message = ir.Graph(name=graph.name)
        message.values.extend(map(self.value, graph.values.values()))
        message.inputs.extend(value.name for value in graph.inputs)
        positions = {id(layer): index for index, layer in enumerate(graph.layers, 1)}
        message.nodes.extend(self.node(node, positions) for node in graph.nodes)
        message.outputs.extend(value.name for value in graph.outputs)
        for state in graph.state:
            message.state.add(name=state.name, read=state.read.name, write=state.write.name)
        for loss in graph.losses:
            message.losses.add(value=loss.value.name, weight=_unless(loss.weight, 1.0))
        message.layers.extend(map(self.layer, graph.layers))
        for name, size in sorted(graph.sizes.items()):
            message.sizes.add(name=name, value=size)
        self.depth -= 1
        return message

    def value(self, value: Value) -> ir.Value:
        message = ir.Value(name=value.name)
        if value.data is not None:
            message.data.CopyFrom(self.tensor(value.data))
        else:
            message.type = int(value.dtype)
            if value.shape is not None:
                message.shape.CopyFrom(_shape(value.shape))
        if value.parameter is not None:
            message.parameter.CopyFrom(self.parameter(value.parameter))
        return message

    def parameter(self, parameter: Parameter) -> ir.Parameter:
        message = ir.Parameter(
            lr_mult=_unless(parameter.lr_mult, 1.0), decay_mult=_unless(parameter.decay_mult, 1.0)
        )
        if parameter.filler is not None:
            message.filler.CopyFrom(self.filler(parameter.filler))
        return message

    def filler(self, filler: Filler) -> ir.Filler:
        return ir.Filler(type=filler.type, options=self.attributes(filler.options))

    def tensor(self, array: Array) -> ir.Tensor:
        dtype = DType.of(array.dtype)
        message = ir.Tensor(type=int(dtype), sizes=array.shape)
        if dtype is DType.STRING:
            items = array.ravel().tolist()
            message.strings.extend(s if isinstance(s, bytes) else str(s).encode() for s in items)
        elif array.nbytes <= INLINE_BYTES:
            message.inline = b"".join(chunks(array))
        else:
            message.offset, message.length = self.weights.place(array), array.nbytes
        return message

    def node(self, node: Node, layers: Mapping[int, int]) -> ir.Node:
        message = ir.Node(op=node.op, name=node.name)
        message.inputs.extend("" if value is None else value.name for value in node.inputs)
        message.omitted.extend(index for index, value in enumerate(node.inputs) if value is None)
        message.outputs.extend(value.name for value in node.outputs)
        message.attributes.extend(self.attributes(node.attributes))
        if node.layer is not None:
            message.layer = layers.get(id(node.layer), 0)
        return message

    def attributes(self, attributes: Mapping[str, Any]) -> Iterator[ir.Attribute]:
        for name, value in sorted(attributes.items()):
            message = ir.Attribute(name=name)
            self.attribute(message, value)
            yield message

    def attribute(self, message: ir.Attribute, value: Any) -> None:
        """Put `value` into the field for its type; a list is stored as its items' type says."""
        from nnconv.schemas.graph import Graph

        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool | int):
            message.integer = _in_range(message.name, int(value))
        elif isinstance(value, float):
            message.number = value
        elif isinstance(value, str):
            message.text = value
        elif isinstance(value, bytes):
            message.data = value
        elif isinstance(value, np.ndarray):
            message.tensor.CopyFrom(self.tensor(value))
        elif isinstance(value, Graph):
            message.graph.CopyFrom(self.graph(value))
        elif isinstance(value, tuple | list):
            self.items(message, value)
        else:
            kind = type(value).__name__
            raise UnsupportedError(
                f"attribute '{message.name}' is a {kind}, which .nnir cannot hold"
            )

    def items(self, message: ir.Attribute, values: Iterable[Any]) -> None:
        from nnconv.schemas.graph import Graph

        items = [value.item() if isinstance(value, np.generic) else value for value in values]
        if all(isinstance(item, int) for item in items):
            message.integers.items.extend(_in_range(message.name, int(item)) for item in items)
            message.integers.SetInParent()  # an empty list is a list too
        elif all(isinstance(item, int | float) for item in items):
            message.numbers.items.extend(items)
        elif all(isinstance(item, str) for item in items):
            message.texts.items.extend(items)
        elif all(isinstance(item, np.ndarray) for item in items):
            message.tensors.items.extend(map(self.tensor, items))
        elif all(isinstance(item, Graph) for item in items):
            message.graphs.items.extend(map(self.graph, items))
        else:
            raise UnsupportedError(
                f"the items of attribute '{message.name}' are of different kinds"
            )

    def layer(self, layer: LayerRecord) -> ir.Layer:
        message = ir.Layer(name=layer.name, type=layer.type, message=layer.message)
        if layer.span != SourceSpan():
            message.span.CopyFrom(
                ir.Span(
                    file=layer.span.file, line=layer.span.line, column=layer.span.column,
                    layer=layer.span.layer, excerpt=layer.span.excerpt,
                )
            )  # fmt: skip
        message.parameters.extend(layer.parameters)
        message.fingerprint = layer.fingerprint
        return message

    def preprocessing(self, name: str, value: Preprocessing) -> ir.Preprocessing:
        message = ir.Preprocessing(input=name, mean=value.mean, crop=value.crop)
        if value.channels != "BGR":
            message.channels = value.channels
        if value.scale != 1:
            message.scale = value.scale
        if value.mean_image is not None:
            message.mean_image.CopyFrom(self.tensor(value.mean_image))
        return message


def _shape(shape: Shape) -> ir.Shape:
    return ir.Shape(
        sizes=[dim if isinstance(dim, int) else -1 for dim in shape],
        formulas=[str(dim) for dim in shape if not isinstance(dim, int)],
    )


def _unless(value: float, default: float) -> float | None:
    return None if value == default else value


def _in_range(name: str, value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise UnsupportedError(f"attribute '{name}' is {value}, which takes more than 64 bits")
    return value
