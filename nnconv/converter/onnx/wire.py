"""Finds the weights of an ONNX file without parsing or copying them.

The wire format is walked over a memory map, along the few fields that lead to tensors. What comes
out is a skeleton, the same message in which every large payload is replaced by the number of its
span in the file (`TensorProto.payload`, a field of ours), small enough for protobuf to parse, and
the list of the spans. Parts too short to hold a large payload are not looked into. Every length is
checked against what encloses it before it is believed.
"""

from __future__ import annotations

import os
import re
from itertools import islice
from typing import Any, NamedTuple

from nnconv.converter.onnx import proto
from nnconv.converter.wire_format import LENGTH, VARINT, Malformed, fields, length_delimited, varint
from nnconv.schemas.errors import InputError, SourceSpan
from nnconv.schemas.files import map_file

LARGE = 512  # bytes; a shorter payload stays in the skeleton
MAX_DEPTH = 64
# A parsed node takes some 270 bytes, however short it is. One that names an operator, an input and
# a result of its own, as each of so many must, takes 13 in the file.
SHORTEST_NODE = 3
MANY_NODES, SHORTEST_OF_MANY = 1 << 16, 12
# Messages too short to say anything, each of which takes 200 bytes once parsed: attributes, and
# what stands in them or beside them. The pattern also finds some texts and numbers, few of them in
# honest files.
_EMPTY = re.compile(rb"[\x2a\x32\x42\x4a\x52\x5a\x62\x6a\x72\x7a][\0-\3]")
MOST_EMPTY = 1 << 18  # and one more in 32 bytes
# What remains after the payloads are taken out is parsed, at about eight times its size in memory.
MAX_SKELETON = 1 << 30

# Per message the fields that lead to tensors: field number -> message. "elements" are payloads.
_PATHS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph",
                  22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {4: "elements", 9: "elements", 10: "elements"},  # float_data, raw_data, double_data
}  # fmt: skip
_WANTED = {kind: frozenset(paths) for kind, paths in _PATHS.items()}


class Span(NamedTuple):
    """Bytes [start, end) of the file hold the elements that field `number` of a tensor states."""

    number: int
    start: int
    end: int


class Skeleton(NamedTuple):
    """A parsed ModelProto without its large payloads, the payloads' spans, and the bytes they are
    in.
    """

    model: Any
    spans: list[Span]
    data: memoryview
    file: str


def read_skeleton(source: str | os.PathLike[str] | bytes) -> Skeleton:
    """Open a file (or bytes) as an ONNX model; raises InputError for anything that is none."""
    file = "" if isinstance(source, bytes) else os.fspath(source)
    data = memoryview(source) if isinstance(source, bytes) else map_file(file)
    walk = _Walk(data)
    try:
        skeleton = walk.message(0, len(data), "Model", 0)
        parsed = _parse(data if skeleton is None else skeleton)
    except Malformed as error:
        raise InputError(
            f"this is no ONNX model, or it is damaged: {error}", span=SourceSpan(file or "model")
        ) from None
    return Skeleton(parsed, walk.spans, data, file)


def _parse(skeleton: bytes | memoryview) -> Any:
    from google.protobuf.message import DecodeError

    if len(skeleton) > MAX_SKELETON:
        raise Malformed(f"{len(skeleton)} bytes are not weights", 0)
    most = MOST_EMPTY + len(skeleton) // 32
    if len(skeleton) > 2 * most and any(islice(_EMPTY.finditer(skeleton), most, None)):
        raise Malformed(f"more than {most:,} of its parts are empty", 0)
    model = proto.message("ModelProto")
    try:
        model.ParseFromString(bytes(skeleton))
    except DecodeError:
        what = "fields of the wrong type, text that is none, or too deep nesting"
        raise Malformed(what, 0) from None
    if not model.HasField("graph"):
        raise Malformed("it holds no graph", 0)
    return model


class _Walk:
    """Copies a message without its large payloads, noting where they are."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.spans: list[Span] = []
        self.nodes = self.node_bytes = 0

    def message(self, start: int, end: int, kind: str, depth: int) -> bytes | None:
        """The skeleton of the message in [start, end); None when nothing is to be taken out."""
        if depth > MAX_DEPTH:
            raise Malformed("graphs are nested too deeply", start)
        paths = _PATHS[kind]
        parts: list[bytes] = []
        copied = start
        for number, wire_type, tag, value, stop in fields(self.data, start, end, _WANTED[kind]):
            if paths[number] == "Node":
                self._count(tag, stop, stop - value)
            if stop - value < LARGE or wire_type != LENGTH:
                continue
            replaced = self._replacement(number, paths[number], value, stop, depth)
            if replaced is None:
                continue
            parts += (bytes(self.data[copied:tag]), replaced)
            copied = stop
        if not parts:
            return None
        return b"".join((*parts, self.data[copied:end]))

    def _count(self, start: int, end: int, length: int) -> None:
        """Refuse nodes too short to say anything, before any is parsed."""
        self.nodes += 1
        self.node_bytes += end - start
        if length < SHORTEST_NODE:
            raise Malformed("a node has no operator", start)
        if self.nodes > MANY_NODES and self.node_bytes < SHORTEST_OF_MANY * self.nodes:
            raise Malformed(
                f"{self.nodes:,} nodes are too short to name an operator and a result", start
            )

    def _replacement(
        self, number: int, kind: str, start: int, end: int, depth: int
    ) -> bytes | None:
        if kind == "elements":
            self.spans.append(Span(number, start, end))
            return varint(_PAYLOAD << 3 | VARINT) + varint(len(self.spans) - 1)
        inner = self.message(start, end, kind, depth + 1)
        return None if inner is None else length_delimited(number, inner)


_PAYLOAD = 1000  # TensorProto.payload, see tools/onnx_schema.py
