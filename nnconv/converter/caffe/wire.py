"""Reads and writes binary Caffe nets without ever parsing or copying the weights.

protobuf would need a second and twice the memory for a 268 MB caffemodel. Here the wire format is
walked over a memory map: the walk follows the few fields that lead to blobs (NetParameter > layer >
blobs > data), hands the payload out as numpy views, and copies everything else into a small message
(the skeleton), which protobuf then parses with the schema of the dialect that fits it best.

Every length is checked against what encloses it before anything is allocated or believed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from google.protobuf.message import Message

from nnconv.converter.caffe import schema
from nnconv.converter.caffe.blob import (
    LEGACY,
    RAW_TYPES,
    Blob,
    BlobError,
    check_shape,
    legacy_shape,
)
from nnconv.converter.caffe.schema import Dialect
from nnconv.converter.caffe.skeleton import parse_skeleton
from nnconv.converter.wire_format import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    Field,
    Malformed,
    Source,
    fields,
    length_delimited,
    read_varint,
    varint,
)
from nnconv.schemas.errors import InputError, Report, SourceSpan
from nnconv.schemas.files import map_file

MAX_LAYERS = 1 << 17
MAX_BLOBS = 1 << 17
# Payloads come in one piece, or one a float; anything much finer is made up to exhaust memory.
MAX_PIECES = 1 << 16
_DIMS = frozenset({1})  # of BlobShape


@dataclass(slots=True)
class WireNet:
    """A binary net: `message` holds all but the blobs, `blobs` those of each source layer.

    A layer is named by the path of its message: ("layer", 3), or ("layers", 3) in old files.
    """

    message: Message
    dialect: Dialect
    file: str = ""
    blobs: dict[tuple[str, int], list[Blob]] = field(default_factory=dict)

    def blobs_of(self, path: tuple[str, int] | None) -> list[Blob]:
        """The blobs of one source layer; none for a layer that has none or that upgrading made."""
        return self.blobs.get(path, []) if path else []


# Blobs


class _Payload(NamedTuple):
    """Elements in the file: `length` of them from `offset`, `stride` bytes apart."""

    offset: int
    length: int
    stride: int


@dataclass(slots=True)
class _Layout:
    """The numbers of BlobProto's fields in a dialect; what is not here is skipped."""

    elements: dict[int, str]
    legacy: dict[int, str]
    shape: int
    raw_type: int
    raw: int

    @property
    def numbers(self) -> frozenset[int]:
        return frozenset({*self.elements, *self.legacy, self.shape, self.raw_type, self.raw})

    @classmethod
    def of(cls, dialect: Dialect) -> _Layout:
        names = dialect.descriptor("BlobProto").fields_by_name

        def number(name: str, default: int) -> int:
            return names[name].number if name in names else default

        # NVIDIA's fields are read whatever the dialect: no other fork's 10 and 12 have these types.
        return cls(
            {names["data"].number: "<f4", number("double_data", -1): "<f8"},
            {names[name].number: name for name in LEGACY if name in names},
            number("shape", -1),
            number("raw_data_type", 10),
            number("raw_data", 12),
        )


class _BlobReader:
    """Collects what one BlobProto says, piece by piece, and makes the Blob."""

    def __init__(self, data: Source, layout: _Layout) -> None:
        self.data = data
        self.layout = layout
        self.dims: list[int] = []
        self.legacy: dict[str, int] = {}
        self.pieces: dict[str, list[_Payload]] = {"<f4": [], "<f8": []}
        self.raw: _Payload | None = None
        self.raw_type = 0

    def read(self, start: int, end: int) -> Blob:
        layout, wanted = self.layout, self.layout.numbers
        items, count = fields(self.data, start, end, wanted), 0
        while (item := next(items, None)) is not None:
            count += 1
            if count > MAX_PIECES:
                message = f"a blob is scattered over more than {MAX_PIECES:,} pieces"
                raise Malformed(message, item.tag)
            if item.number in layout.elements:
                behind = self._elements(item, layout.elements[item.number], end)
                if behind > item.end:
                    items = fields(self.data, behind, end, wanted)
            elif item.number in layout.legacy and item.wire_type == VARINT:
                self.legacy[layout.legacy[item.number]] = self._signed(item)
            elif item.number == layout.shape and item.wire_type == LENGTH:
                self._shape(item)
            elif item.number == layout.raw_type and item.wire_type == VARINT:
                self.raw_type = self._signed(item)
            elif item.number == layout.raw and item.wire_type == LENGTH:
                self.raw = _Payload(item.start, item.end - item.start, 1)
        return self._blob()

    def _signed(self, item: Field) -> int:
        value, _ = read_varint(self.data, item.start, item.end)
        return value - (1 << 64) if value >> 63 else value

    def _shape(self, shape: Field) -> None:
        for count, item in enumerate(fields(self.data, shape.start, shape.end, _DIMS)):
            if item.number == 1 and item.wire_type == VARINT:
                self.dims.append(self._signed(item))
            elif item.number == 1 and item.wire_type == LENGTH:
                position = item.start
                while position < item.end and len(self.dims) <= 64:
                    value, position = read_varint(self.data, position, item.end)
                    self.dims.append(value - (1 << 64) if value >> 63 else value)
            if len(self.dims) > 64 or count > 64:
                raise Malformed("a blob has more than 64 axes", shape.tag)

    def _elements(self, item: Field, dtype: str, end: int) -> int:
        """Notes a packed run, or a run of single elements; the offset behind it."""
        size = int(dtype[-1])
        pieces = self.pieces[dtype]
        if item.wire_type == LENGTH:
            length = item.end - item.start
            if length % size:
                raise Malformed(f"{length:,} bytes are no whole number of elements", item.tag)
            pieces.append(_Payload(item.start, length // size, size))
            return item.end
        if item.wire_type != (FIXED32 if size == 4 else FIXED64):
            return item.end
        stride = item.end - item.tag
        count = _run_length(self.data, item, stride, end)
        pieces.append(_Payload(item.start, count, stride))
        return item.tag + count * stride

    def _blob(self) -> Blob:
        names = tuple(self.layout.legacy.values())
        shape = legacy_shape(self.legacy, names) if self.legacy else tuple(self.dims)
        if self.raw is not None:
            dtype, pieces = self._raw()
        else:
            dtype = "<f8" if any(piece.length for piece in self.pieces["<f8"]) else "<f4"
            pieces = [piece for piece in self.pieces[dtype] if piece.length]
        check_shape(shape, sum(piece.length for piece in pieces))
        views = [_view(self.data, piece, dtype) for piece in pieces]
        if not views:
            flat: np.ndarray[Any, Any] = np.empty(0, dtype)
        else:
            flat = views[0] if len(views) == 1 else np.concatenate(views)
        offset = pieces[0].offset if pieces else -1
        return Blob(shape, flat.reshape(shape), bool(self.legacy), offset)

    def _raw(self) -> tuple[str, list[_Payload]]:
        assert self.raw is not None
        dtype = RAW_TYPES.get(self.raw_type)
        if dtype is None:
            raise BlobError(f"has the unknown raw_data_type {self.raw_type}")
        size = int(dtype[-1])
        if self.raw.length % size:
            raise BlobError(f"has {self.raw.length:,} bytes of raw_data, no multiple of {size}")
        count = self.raw.length // size
        return dtype, [_Payload(self.raw.offset, count, size)] if count else []


def _view(data: Source, piece: _Payload, dtype: str) -> np.ndarray[Any, Any]:
    return np.ndarray((piece.length,), dtype, data, piece.offset, (piece.stride,))


def _run_length(data: Source, first: Field, stride: int, end: int) -> int:
    """How many equally tagged elements follow each other from `first` on (old, unpacked blobs)."""
    width = first.start - first.tag
    tag = bytes(data[first.tag : first.start])
    longest = (end - first.tag) // stride
    count, block = 1, 64
    while count < longest:
        block = min(block * 4, 1 << 18, longest - count)
        position = first.tag + count * stride
        records = np.ndarray((block, width), np.uint8, data, position, (stride, 1))
        wrong = (records != np.frombuffer(tag, np.uint8)).any(axis=1)
        if wrong.any():
            return count + int(wrong.argmax())
        count += block
    return count


# Nets


class _Numbers(NamedTuple):
    """Where blobs are in a layer message: their field, and the field of a nested V0 layer."""

    blobs: int
    nested: int = -1
    nested_blobs: int = -1


def _layer_fields(dialect: Dialect) -> dict[int, tuple[str, _Numbers]]:
    """The fields of NetParameter that hold layers, by number."""
    net: Any = dialect.descriptor("NetParameter").fields_by_name
    found = {}
    for name in ("layer", "layers"):
        inner = net[name].message_type.fields_by_name
        numbers = _Numbers(inner["blobs"].number)
        if "layer" in inner:
            nested = inner["layer"].message_type.fields_by_name["blobs"].number
            numbers = _Numbers(inner["blobs"].number, inner["layer"].number, nested)
        found[net[name].number] = (name, numbers)
    return found


class _NetReader:
    """Walks one net: splits it into skeleton and blobs."""

    def __init__(self, data: Source, file: str, dialect: Dialect, report: Report) -> None:
        self.data = data
        self.file = file
        self.report = report
        self.layout = _Layout.of(dialect)
        self.layer_fields = _layer_fields(dialect)
        self.skeleton = bytearray()
        self.blobs: dict[tuple[str, int], list[Blob]] = {}
        self.counts = {"layer": 0, "layers": 0}
        self.blob_count = 0
        self.title = ("", -1), ""
        self.hints: set[tuple[str, str]] = set()
        self.errors = Report(file)

    def walk(self) -> None:
        """Raises InputError for a file that is cut short or malformed, or for wrong blobs."""
        copied = 0
        try:
            for item in fields(self.data, 0, len(self.data), frozenset(self.layer_fields)):
                if item.wire_type != LENGTH:
                    continue
                self.skeleton += self.data[copied : item.tag]
                copied = item.end
                self._layer(item)
        except Malformed as error:
            raise self._refusal(error) from None
        self.skeleton += self.data[copied:]
        self.report.problems.extend(self.errors)
        self.errors.raise_if_errors()

    def _layer(self, item: Field) -> None:
        name, numbers = self.layer_fields[item.number]
        path = name, self.counts[name]
        self.counts[name] += 1
        if self.counts[name] > MAX_LAYERS:
            raise Malformed(f"more than {MAX_LAYERS:,} layers", item.tag)
        blobs: list[Blob] = []
        try:
            body = self._without_blobs(item, numbers, blobs, path)
        except Malformed as error:
            where = f"{self._layer_title(path, item)}: {error.message}"
            raise Malformed(where, error.offset) from None
        if blobs:
            self.blobs[path] = blobs
        self.skeleton += length_delimited(item.number, body)

    def _without_blobs(
        self, layer: Field, numbers: _Numbers, blobs: list[Blob], path: tuple[str, int]
    ) -> bytes:
        """The bytes of a layer less its blobs, which are appended to `blobs`."""
        body, copied = bytearray(), layer.start
        wanted = frozenset({numbers.blobs, numbers.nested})
        for item in fields(self.data, layer.start, layer.end, wanted):
            if item.wire_type != LENGTH:
                continue
            body += self.data[copied : item.tag]
            copied = item.end
            if item.number == numbers.blobs:
                self._blob(item, blobs, path, layer)
            else:
                inner = _Numbers(numbers.nested_blobs)
                nested = self._without_blobs(item, inner, blobs, path)
                body += length_delimited(item.number, nested)
        return bytes(body + self.data[copied : layer.end])

    def _blob(self, item: Field, blobs: list[Blob], path: tuple[str, int], layer: Field) -> None:
        self.blob_count += 1
        if self.blob_count > MAX_BLOBS:
            raise Malformed(f"more than {MAX_BLOBS:,} blobs", item.tag)
        reader = _BlobReader(self.data, self.layout)
        try:
            blobs.append(reader.read(item.start, item.end))
            if reader.raw is not None:
                self.hints.add(("BlobProto", "raw_data"))
        except BlobError as error:
            title = self._layer_title(path, layer)
            message = f"{title}: blob {len(blobs)} {error} (byte {item.tag:,})"
            self.errors.error(message, SourceSpan(self.file))
            blobs.append(Blob((0,), np.empty(0, "<f4")))
            if len(self.errors.problems) >= 100:
                self.errors.raise_if_errors()

    def _layer_title(self, path: tuple[str, int], layer: Field) -> str:
        if self.title[0] != path:
            name = _peek_name(self.data, layer, path[0])
            self.title = path, f"layer {name!r}" if name else f"layer {path[1]}"
        return self.title[1]

    def _refusal(self, error: Malformed) -> InputError:
        """The error of a broken file: cut short if what breaks it reaches beyond the file's end."""
        size = len(self.data)
        message = f"byte {error.offset:,}: {error.message}"
        hint = "is this a caffemodel? If it is, copy or download it again"
        done = sum(self.counts.values())
        if done and error.message.startswith("field"):
            message = (
                f"the file is cut short after {done} layers: of its {size:,} bytes, at {message}"
            )
            hint = "copy or download it again"
        return InputError(message, span=SourceSpan(self.file), hint=hint)


def _peek_name(data: Source, layer: Field, kind: str) -> str:
    """The name of a layer for an error message, as far as it can be read."""
    number = 1 if kind == "layer" else 4
    try:
        for item in fields(data, layer.start, layer.end, frozenset({number})):
            if item.wire_type == LENGTH:
                end = min(item.end, item.start + 200)
                return bytes(data[item.start : end]).decode("utf-8", "backslashreplace")
    except Malformed:
        pass
    return ""


def read_net(
    source: str | os.PathLike[str] | bytes | memoryview,
    *,
    report: Report,
    dialect: Dialect | None = None,
    file: str = "",
) -> WireNet:
    """The net in a binary file (mapped) or in bytes. An empty file is an empty net, as in Caffe.

    Without a `dialect` the one that leaves fewest fields unknown is used. Raises InputError for a
    file that is missing, cut short, malformed, or whose blobs contradict their shapes.
    """
    if isinstance(source, bytes | memoryview):
        data = memoryview(source).cast("B")
    else:
        data, file = map_file(source), file or os.fspath(source)
    reader = _NetReader(data, file, dialect or schema.dialect(), report)
    reader.walk()
    skeleton = bytes(reader.skeleton)
    message, chosen = parse_skeleton(skeleton, dialect, report, file, sorted(reader.hints))
    if data and not message.ListFields():
        hint = "nothing in it is what a caffemodel holds"
        raise InputError("this is not a caffemodel", span=SourceSpan(file), hint=hint)
    return WireNet(message, chosen, file, reader.blobs)


def read_blob_file(
    path: str | os.PathLike[str], dialect: Dialect | None = None, most: int | None = None
) -> Blob:
    """The blob in a .binaryproto file (a mean image). InputError if it is none, or the file has
    more than `most` bytes."""
    data, file = map_file(path), os.fspath(path)
    if most is not None and len(data) > most:
        text = f"{len(data):,} bytes are too many, {most:,} may be read"
        raise InputError(text, span=SourceSpan(file))
    reader = _BlobReader(data, _Layout.of(dialect or schema.dialect()))
    hint = "a .binaryproto holds one BlobProto, as compute_image_mean writes it"
    try:
        return reader.read(0, len(data))
    except Malformed as error:
        message = f"byte {error.offset:,}: {error.message}"
        raise InputError(message, span=SourceSpan(file), hint=hint) from None
    except BlobError as error:
        raise InputError(f"the blob {error}", span=SourceSpan(file), hint=hint) from None


# Writing


def write_net(file: BinaryIO, message: Message, blobs_per_layer: Sequence[Sequence[Blob]]) -> None:
    """Writes a net of V2 layers with their blobs as Caffe would, never holding the weights twice.

    `message` is a NetParameter whose layers have no blobs of their own; `blobs_per_layer` has one
    list for each of them. Blobs are written as packed floats (float64 as doubles, float16 as
    NVIDIA's raw_data) with `shape`, or with the four old fields where `Blob.legacy`.
    """
    layers: Any = message.layer  # type: ignore[attr-defined]
    outer = type(message)()
    outer.CopyFrom(message)
    outer.ClearField("layer")
    number = message.DESCRIPTOR.fields_by_name["layer"].number
    before, after = _split(outer.SerializeToString(deterministic=True), number)
    file.write(before)
    for layer, blobs in zip(layers, blobs_per_layer, strict=True):
        _write_layer(file, number, layer, blobs)
    file.write(after)


def _write_layer(file: BinaryIO, number: int, layer: Message, blobs: Sequence[Blob]) -> None:
    blob_number = layer.DESCRIPTOR.fields_by_name["blobs"].number
    before, after = _split(layer.SerializeToString(deterministic=True), blob_number)
    heads = [_blob_head_and_tail(blob) for blob in blobs]
    sizes = [
        len(head) + _payload_size(blob) + len(tail)
        for blob, (head, tail) in zip(blobs, heads, strict=True)
    ]
    tags = [varint(blob_number << 3 | LENGTH) + varint(size) for size in sizes]
    length = len(before) + len(after) + sum(sizes) + sum(map(len, tags))
    file.write(varint(number << 3 | LENGTH) + varint(length) + before)
    for blob, tag, (head, tail) in zip(blobs, tags, heads, strict=True):
        file.write(tag + head)
        _write_elements(file, blob)
        file.write(tail)
    file.write(after)


def _split(serialized: bytes, number: int) -> tuple[bytes, bytes]:
    """A serialised message cut where a field of that number belongs."""
    for item in fields(memoryview(serialized), 0, len(serialized)):
        if item.number > number:
            return serialized[: item.tag], serialized[item.tag :]
    return serialized, b""


class _Storage(NamedTuple):
    """How BlobProto holds elements of a type: the field, and what must be said before it."""

    field: int
    dtype: np.dtype[Any]
    before: bytes = b""


_FLOATS = _Storage(5, np.dtype("<f4"))
_STORAGE = {
    np.dtype(np.float64): _Storage(8, np.dtype("<f8")),
    np.dtype(np.float16): _Storage(12, np.dtype("<f2"), varint(10 << 3) + varint(2)),
}


def _storage(blob: Blob) -> _Storage:
    return _STORAGE.get(blob.array.dtype.newbyteorder("="), _FLOATS)


def _payload_size(blob: Blob) -> int:
    return math.prod(blob.shape) * _storage(blob).dtype.itemsize


def _blob_head_and_tail(blob: Blob) -> tuple[bytes, bytes]:
    """What stands before and behind the elements: fields in the order of their numbers, which are
    1 to 4 for legacy sizes and 7 for the shape."""
    size, storage = _payload_size(blob), _storage(blob)
    tag = storage.before + varint(storage.field << 3 | LENGTH) + varint(size) if size else b""
    if blob.legacy:
        sizes = b"".join(varint(i << 3) + varint(dim) for i, dim in enumerate(blob.shape, 1))
        return sizes + tag, b""
    dims = b"".join(map(varint, blob.shape))
    shape = length_delimited(7, length_delimited(1, dims) if dims else b"")
    return (shape + tag, b"") if storage.field > 7 else (tag, shape)


CHUNK = 1 << 20


def _write_elements(file: BinaryIO, blob: Blob) -> None:
    """The elements in order; contiguous arrays of the right type go out as they lie in memory."""
    dtype, flat = _storage(blob).dtype, blob.array.reshape(-1)
    if flat.dtype == dtype and flat.flags.c_contiguous:
        file.write(flat.view(np.uint8).data if flat.size else b"")
        return
    for start in range(0, flat.size, CHUNK):
        file.write(np.ascontiguousarray(flat[start : start + CHUNK], dtype).tobytes())
