"""Finds the weights of an ONNX file without parsing or copying them.

The wire format is walked over a memory map, along the few fields that lead to tensors. What comes
out is a skeleton, the same message in which every large payload is replaced by the number of its
span in the file (`TensorProto.payload`, a field of ours), small enough for protobuf to parse, and
the list of the spans. Parts too short to hold a large payload are not looked into. Every length is
checked against what encloses it before it is believed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from nnconv.converter.onnx import proto
from nnconv.schemas.errors import InputError, SourceSpan
from nnconv.schemas.files import map_file

VARINT, FIXED64, LENGTH, _GROUP, _GROUP_END, FIXED32 = range(6)
LARGE = 512  # bytes; a shorter payload stays in the skeleton
MAX_DEPTH = 64
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


class Malformed(Exception):
    """The bytes are not what the wire format allows."""


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
        raise Malformed(f"{len(skeleton)} bytes are not weights")
    model = proto.message("ModelProto")
    try:
        model.ParseFromString(bytes(skeleton))
    except DecodeError:
        raise Malformed(
            "fields of the wrong type, text that is none, or too deep nesting"
        ) from None
    if not model.HasField("graph"):
        raise Malformed("it holds no graph")
    return model


class _Walk:
    """Copies a message without its large payloads, noting where they are."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.spans: list[Span] = []

    def message(self, start: int, end: int, kind: str, depth: int) -> bytes | None:
        """The skeleton of the message in [start, end); None when nothing is to be taken out."""
        if depth > MAX_DEPTH:
            raise Malformed("graphs are nested too deeply")
        paths = _PATHS[kind]
        parts: list[bytes] = []
        copied = start
        for number, tag, value, stop in self._long_fields(start, end):
            inner = paths.get(number)
            if inner is None:
                continue
            replaced = self._replacement(number, inner, value, stop, depth)
            if replaced is None:
                continue
            parts += (bytes(self.data[copied:tag]), replaced)
            copied = stop
        if not parts:
            return None
        return b"".join((*parts, self.data[copied:end]))

    def _replacement(
        self, number: int, kind: str, start: int, end: int, depth: int
    ) -> bytes | None:
        if kind == "elements":
            self.spans.append(Span(number, start, end))
            return varint(_PAYLOAD << 3 | VARINT) + varint(len(self.spans) - 1)
        inner = self.message(start, end, kind, depth + 1)
        return None if inner is None else length_delimited(number, inner)

    def _long_fields(self, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(number, tag, start, end) of the length-delimited fields that are LARGE, in [position,
        end).
        """
        data = self.data
        while position < end:
            tag = position
            key, position = _varint(data, position, end)
            wire_type = key & 7
            if wire_type == LENGTH:
                length, position = _varint(data, position, end)
                if length > end - position:
                    raise Malformed(f"a field at byte {tag} is longer than what it is part of")
                if length >= LARGE:
                    yield key >> 3, tag, position, position + length
                position += length
            elif wire_type == VARINT:
                _, position = _varint(data, position, end)
            elif wire_type in (FIXED32, FIXED64):
                position += 4 if wire_type == FIXED32 else 8
            else:
                raise Malformed(f"no field of ONNX starts as byte {tag} does")
        if position > end:
            raise Malformed("the data ends within a number")


_PAYLOAD = 1000  # TensorProto.payload, see tools/onnx_schema.py


def _varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    """The unsigned value at `position`, and the offset behind it."""
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift >= 70:
            raise Malformed(f"a number before byte {position} is longer than ten bytes")
    raise Malformed("the data ends within a number")


def varint(value: int) -> bytes:
    """`value` as the wire format writes unsigned integers."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def length_delimited(number: int, payload: bytes) -> bytes:
    """A field that holds bytes, text or a message."""
    return varint(number << 3 | LENGTH) + varint(len(payload)) + payload
