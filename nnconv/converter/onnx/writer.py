"""Writes a Model as ONNX: the lowest opset that says every node, weights streamed behind the nodes.

Only what is small is built as a message. The initializers are written one after the other straight
from their arrays into the place that the wire format has for them, or into a side file (`external`,
and beyond protobuf's limit of 2 GiB).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from nnconv.converter.onnx import proto, sizes
from nnconv.converter.onnx.legal import OLDEST, RUNTIME_OPSET, attributes_at, opsets, with_inner
from nnconv.converter.onnx.lower import lowered
from nnconv.converter.onnx.tensors import packed, packed_size
from nnconv.converter.wire_format import LENGTH, varint
from nnconv.schemas.errors import InputError, Report, UnsupportedError
from nnconv.schemas.files import atomic_write, storable
from nnconv.schemas.graph import Graph, Model, Node, Value
from nnconv.schemas.operators import OPSET, operator
from nnconv.schemas.types import DType

MOST_INLINE = (1 << 31) - (1 << 20)
SMALL = 1024  # bytes; smaller tensors stay in the model when there is a side file
LARGEST_CONSTANT = 1 << 26  # bytes; a larger constant is streamed as weights are
_ALIGNMENT = 64
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9

# The IR version that came with an opset: (from opset, IR). Below 4 every initializer had to be an
# input too.
_IR_VERSIONS = (
    (28, 14),
    (25, 13),
    (24, 12),
    (23, 11),
    (21, 10),
    (19, 9),
    (15, 8),
    (12, 7),
    (11, 6),
    (10, 5),
)
_ML_IR_VERSIONS = ((5, 10), (4, 9), (3, 8), (2, 6), (1, 4))
_OLDEST_IR = 4


def export_onnx(
    model: Model,
    path: str | os.PathLike[str],
    *,
    opset: int | None = None,
    external: bool = False,
) -> Report:
    """Write `model`, in test mode, to `path`; says in the Report what ONNX could not hold.

    `opset` asks for a version; without it, the lowest is taken at which every node means the same.
    `external` puts the weights into `path`.data. Nothing is left behind when writing fails.

    Raises UnsupportedError for a node that ONNX (or the wanted opset) cannot express, InputError
    for parameters without data.
    """
    report = Report(os.fspath(path))
    graph = lowered(model, report)
    _note_left_out(model, report)
    versions = _versions(graph, opset, report)
    header = _model(model, graph, versions)
    body = _Encoder(versions).graph(graph, stored=False)
    tensors = [_Tensor(value) for value in _initializers(graph)]
    target = Path(path)
    with ExitStack() as files:  # both take their places together, the side file first
        file = files.enter_context(atomic_write(target))
        if external or sum(tensor.size for tensor in tensors) + body.ByteSize() > MOST_INLINE:
            name = storable(target.with_name(target.name + ".data"))
            side = files.enter_context(atomic_write(target.with_name(name)))
            _write_side_file(side, [t for t in tensors if t.size >= SMALL], name)
        _write(file, header.SerializeToString(deterministic=True), body, tensors)
        file.flush()
    return report


def _note_left_out(model: Model, report: Report) -> None:
    if any(not preprocessing.is_default for preprocessing in model.preprocessing.values()):
        report.note("the preprocessing of pictures is not written: ONNX has no place for it")
    if model.labels:
        report.note("the labels are not written: ONNX has no place for them")


# --- versions -------------------------------------------------------------------------------------


def _versions(graph: Graph, wanted: int | None, report: Report) -> dict[str, int]:
    """Domain -> the version to write."""
    if wanted is not None and not OLDEST <= wanted <= OPSET:
        raise InputError(f"opset {wanted} cannot be written, only {OLDEST} to {OPSET}")
    possible: dict[str, frozenset[int]] = {"": frozenset(range(OLDEST, OPSET + 1))}
    for node in with_inner(graph):
        domain = _domain(node.op)
        legal = opsets(node)
        if not domain and wanted is not None and wanted not in legal:
            raise _needs_another(node, legal, wanted)
        possible[domain] = possible.get(domain, legal) & legal
        if not possible[domain]:
            raise UnsupportedError(
                f"no opset has both {node.op} '{node.output.name}' and the nodes before it"
            )
    found = {domain: min(legal) for domain, legal in possible.items()}
    found[""] = wanted or found[""]
    if found[""] > RUNTIME_OPSET:
        report.warning(f"opset {found['']} is newer than ONNX Runtime 1.31 loads ({RUNTIME_OPSET})")
    return found


def _needs_another(node: Node, legal: frozenset[int], wanted: int) -> UnsupportedError:
    later = [version for version in legal if version > wanted]
    hint = (
        f"it needs opset {min(later)}"
        if later
        else f"the newest that has it is {max(legal, default=0)}"
    )
    return UnsupportedError(
        f"opset {wanted} has no {node.op} as '{node.output.name}' uses it",
        span=node.span,
        hint=hint,
    )


def _domain(op: str) -> str:
    return op.rpartition(".")[0]


def _model(model: Model, graph: Graph, versions: dict[str, int]) -> Any:
    """The ModelProto without its graph."""
    message = proto.message("ModelProto")
    tables = {"": _IR_VERSIONS, "ai.onnx.ml": _ML_IR_VERSIONS}
    needed = [
        ir
        for domain, version in versions.items()
        for first, ir in tables[domain]
        if version >= first
    ]
    message.ir_version = max([_OLDEST_IR, *needed])
    message.producer_name = "nnconv"
    for domain, version in sorted(versions.items()):
        message.opset_import.add(domain=domain, version=version)
    metadata = model.metadata | {sizes.KEY: sizes.written(graph)}
    for key, text in sorted(metadata.items()):
        if text or key != sizes.KEY:
            message.metadata_props.add(key=key, value=text)
    return message


# --- graphs and nodes -----------------------------------------------------------------------------


class _Encoder:
    """Graphs and nodes as messages, at chosen versions."""

    def __init__(self, versions: dict[str, int]) -> None:
        self.versions = versions

    def graph(self, graph: Graph, stored: bool) -> Any:
        """A GraphProto; its initializers only where `stored` is set (inner graphs)."""
        message = proto.message("GraphProto")
        message.name = graph.name or "graph"
        for value in graph.inputs:
            _port(message.input.add(), value)
        for value in dict.fromkeys(graph.outputs):
            _port(message.output.add(), value)
        for value in graph.values.values():
            if _is_constant_node(value):
                _constant(message.node.add(), value)
        for node in graph.nodes:
            self._node(message.node.add(), node)
        if stored:
            for tensor in map(_Tensor, _initializers(graph)):
                tensor.fill(message.initializer.add())
        return message

    def _node(self, message: Any, node: Node) -> None:
        message.op_type = node.op.rpartition(".")[2]
        message.domain = domain = _domain(node.op)
        message.name = node.name
        names = ["" if value is None else value.name for value in node.inputs]
        while names and not names[-1]:  # OpenCV takes an omitted bias that is named "" for one
            names.pop()
        message.input.extend(names)
        message.output.extend(value.name for value in node.outputs)
        for name, value in sorted(attributes_at(node, self.versions[domain]).items()):
            kind = operator(node.op).attributes[name].type
            self._attribute(message.attribute.add(name=name), kind, value)

    def _attribute(self, message: Any, kind: str, value: Any) -> None:
        number, field = _FIELDS[kind]
        message.type = number
        if kind in ("tensor", "tensors"):
            for array in value if kind == "tensors" else [value]:
                fill_tensor(message.tensors.add() if kind == "tensors" else message.t, array)
        elif kind in ("graph", "graphs"):
            for graph in value if kind == "graphs" else [value]:
                target = message.graphs.add() if kind == "graphs" else message.g
                target.CopyFrom(self.graph(graph, stored=True))
        elif kind.endswith("s"):
            getattr(message, field).extend(map(_bytes, value))
        else:
            setattr(message, field, _bytes(value))


_FIELDS = {
    "float": (1, "f"), "int": (2, "i"), "string": (3, "s"), "tensor": (4, "t"), "graph": (5, "g"),
    "floats": (6, "floats"), "ints": (7, "ints"), "strings": (8, "strings"),
    "tensors": (9, "tensors"), "graphs": (10, "graphs"),
}  # fmt: skip


def _bytes(value: Any) -> Any:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _port(message: Any, value: Value) -> None:
    """Name, type and shape of an input or output; open sizes by their formula."""
    if value.dtype is DType.UNDEFINED:
        raise UnsupportedError(f"the element type of '{value.name}' is not known")
    message.name = value.name
    tensor = message.type.tensor_type
    tensor.elem_type = int(value.dtype)
    if value.shape is None:
        return
    tensor.shape.SetInParent()
    for dim in value.shape:
        if isinstance(dim, int):
            tensor.shape.dim.add(dim_value=dim)
        else:
            tensor.shape.dim.add(dim_param=str(dim))


def _constant(message: Any, value: Value) -> None:
    message.op_type = "Constant"
    message.output.append(value.name)
    attribute = message.attribute.add(name="value", type=_FIELDS["tensor"][0])
    fill_tensor(attribute.t, value.data)


# --- weights --------------------------------------------------------------------------------------


def _is_constant_node(value: Value) -> bool:
    """Whether a stored value becomes a node: a float initializer would be read as a weight."""
    if value.data is None or value.parameter is not None:
        return False
    return value.data.dtype.kind == "f" and value.data.nbytes <= LARGEST_CONSTANT


def _initializers(graph: Graph) -> list[Value]:
    return [v for v in graph.values.values() if v.is_stored and not _is_constant_node(v)]


class _Place(NamedTuple):
    location: str
    offset: int


class _Tensor:
    """A stored value on its way out; `place` says where in a side file its elements lie."""

    def __init__(self, value: Value) -> None:
        if value.data is None:
            raise InputError(
                f"parameter '{value.name}' has no data yet",
                hint="load weights first, or fill it by its filler",
            )
        self.name = value.name
        self.array = value.data
        self.dtype = value.dtype
        self.is_text = value.dtype is DType.STRING
        self.size = 0 if self.is_text else packed_size(value.data.size, value.dtype)
        self.place: _Place | None = None

    def head(self) -> bytes:
        """The TensorProto without its elements (text and side files: the whole of it)."""
        message = proto.message("TensorProto")
        message.name = self.name
        message.dims.extend(self.array.shape)
        message.data_type = int(self.dtype)
        if self.is_text:
            message.string_data.extend(map(_bytes, self.array.reshape(-1).tolist()))
        if self.place is not None:
            message.data_location = proto.EXTERNAL
            entries = {
                "location": self.place.location,
                "offset": self.place.offset,
                "length": self.size,
            }
            for key, entry in entries.items():
                message.external_data.add(key=key, value=str(entry))
        serialized: bytes = message.SerializeToString(deterministic=True)
        return serialized

    @property
    def is_inline(self) -> bool:
        return not self.is_text and self.place is None

    def elements(self) -> memoryview:
        """The bytes of the elements, a view of the array where it lies as files hold it."""
        return packed(self.array, self.dtype).reshape(-1).view("u1").data

    def fill(self, message: Any) -> None:
        """The whole as a message."""
        message.ParseFromString(self.head())
        if self.is_inline:
            message.raw_data = bytes(self.elements())


def fill_tensor(message: Any, array: Any) -> None:
    """An array as a TensorProto without a name."""
    carrier = Graph().constant(array)
    _Tensor(carrier).fill(message)
    message.ClearField("name")


def _write(file: BinaryIO, header: bytes, body: Any, tensors: Sequence[_Tensor]) -> None:
    """The model: its header, then the graph as nodes and initializers."""
    nodes = body.SerializeToString(deterministic=True)
    pieces = [_initializer(tensor) for tensor in tensors]
    length = len(nodes) + sum(
        len(head) + (tensor.size if tensor.is_inline else 0)
        for head, tensor in zip(pieces, tensors, strict=True)
    )
    file.write(header)
    file.write(varint(_GRAPH << 3 | LENGTH) + varint(length))
    file.write(nodes)
    for head, tensor in zip(pieces, tensors, strict=True):
        file.write(head)
        if tensor.is_inline:
            file.write(tensor.elements())


def _initializer(tensor: _Tensor) -> bytes:
    """All bytes of an initializer's field up to its elements."""
    head = tensor.head()
    if tensor.is_inline:
        head += varint(_RAW_DATA << 3 | LENGTH) + varint(tensor.size)
    length = len(head) + (tensor.size if tensor.is_inline else 0)
    return varint(_INITIALIZER << 3 | LENGTH) + varint(length) + head


def _write_side_file(file: BinaryIO, tensors: Sequence[_Tensor], name: str) -> None:
    """The elements of `tensors`, each aligned, and where they lie."""
    offset = 0
    for tensor, padding in zip(tensors, _paddings(tensors), strict=True):
        file.write(bytes(padding))
        tensor.place = _Place(name, offset + padding)
        file.write(tensor.elements())
        offset += padding + tensor.size


def _paddings(tensors: Sequence[_Tensor]) -> Iterator[int]:
    offset = 0
    for tensor in tensors:
        padding = -offset % _ALIGNMENT
        yield padding
        offset += padding + tensor.size
