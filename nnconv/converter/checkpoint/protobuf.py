"""Our own checkpoint, `.pb`: one Checkpoint message of checkpoint.proto.

The message is walked over the mapped file, so that the elements of tensors are views and files may
exceed what protobuf parses at once; only what is small is parsed by protobuf itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from nnconv.converter.checkpoint.flat import elements_of
from nnconv.converter.located import in_message
from nnconv.converter.wire_format import LENGTH, Field, Malformed, fields, varint, without
from nnconv.schemas import checkpoint_pb2 as pb
from nnconv.schemas.checkpoint import MOST_ARRAYS, Arrays, Checkpoint, Header, Lazy, header
from nnconv.schemas.errors import InputError, SourceSpan, UnsupportedError
from nnconv.schemas.files import AnyPath, atomic_write, map_file
from nnconv.schemas.pack import chunks
from nnconv.schemas.types import DType

FORMAT = "nnck"
MAGIC = b"\x0a\x04nnck"
VERSION = 1
PRODUCER = "nnconv"
MOST_SMALL = 64 << 20
"""Bytes of everything but elements; more is no checkpoint."""
_SMALL = 1 << 12
"""Bytes of a tensor that protobuf reads whole, which takes a third of the time of a walk."""
_PARAMETERS, _STATE, _OPTIMIZER = 6, 7, 8
_TENSORS = frozenset({_PARAMETERS, _STATE, _OPTIMIZER})
_DATA = 5


def read_pb(path: AnyPath) -> Checkpoint:
    """The checkpoint in a `.pb` file; its arrays are views of the mapped file.

    Raises InputError for a file that is damaged or no checkpoint of ours.
    """
    data = map_file(path)
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise InputError(
            "this .pb file is no checkpoint of nnconv",
            span=SourceSpan(str(path)),
            hint="other programs use .pb too",
        )
    with in_message(path, hint="was it cut short?"):
        return _read(data)


def _read(data: memoryview) -> Checkpoint:
    if any(islice(fields(data, 0, len(data), _TENSORS), MOST_ARRAYS, None)):
        raise InputError(
            f"the file holds more than {MOST_ARRAYS:,} arrays", hint="no net has so many"
        )
    small, copied = bytearray(), 0
    parameters, state = Lazy(), Lazy()
    slots: dict[str, Lazy] = {}
    for field in fields(data, 0, len(data), _TENSORS):
        if field.wire_type != LENGTH:
            continue
        if copied < field.tag:
            small += _few(data[copied : field.tag], field.tag)
        copied = field.end
        tensor, elements = _tensor(data, field)
        if field.number == _OPTIMIZER:
            table = slots.setdefault(tensor.slot, Lazy())
        else:
            table = parameters if field.number == _PARAMETERS else state
        _add(table, tensor, elements)
    small += _few(data[copied:], copied)
    message = pb.Checkpoint.FromString(_few(small, copied))
    if message.version > VERSION:
        raise InputError(f"the checkpoint has version {message.version}, a newer nnconv reads it")
    pairs = {pair.key: pair.value for pair in message.metadata}
    return Checkpoint(parameters, state, slots, message.iteration, pairs)


def _few(data: memoryview | bytearray, place: int) -> bytes:
    """The bytes of what should be small."""
    if len(data) > MOST_SMALL:
        raise Malformed("too much that is not weights", place)
    return bytes(data)


def _tensor(data: memoryview, field: Field) -> tuple[pb.Tensor, memoryview]:
    """A tensor, without its elements unless it is small, and these."""
    if field.end - field.start <= _SMALL:
        tensor = pb.Tensor.FromString(bytes(data[field.start : field.end]))
        if tensor.ByteSize() == field.end - field.start:  # no field stands twice
            return tensor, memoryview(tensor.data)
    found = fields(data, field.start, field.end, frozenset({_DATA}))
    parts = [part for part in islice(found, 2) if part.wire_type == LENGTH]
    if len(parts) > 1:
        raise Malformed("a tensor holds its elements twice", parts[1].tag)
    elements = data[parts[0].start : parts[0].end] if parts else data[:0]
    if field.end - field.start - len(elements) > MOST_SMALL:
        raise Malformed("a tensor has too long a name or shape", field.tag)
    return pb.Tensor.FromString(without(data, field.start, field.end, parts)), elements


def _add(table: Lazy, tensor: pb.Tensor, elements: memoryview) -> None:
    name, shape = tensor.name, tuple(tensor.sizes)
    if name in table.headers:
        raise InputError(f"the name '{name}' stands twice in the file")
    dtype, itemsize = _stored(tensor.type)
    if not itemsize or len(shape) > 64:
        raise InputError(f"tensor '{name}' is of no type or shape that a checkpoint holds")
    wanted = math.prod(shape) * itemsize
    if wanted != len(elements):
        raise InputError(
            f"tensor '{name}' of shape {list(shape)} takes {wanted:,} bytes, "
            f"{len(elements):,} are there"
        )
    kind = Header(dtype, shape)
    table.add(name, kind, partial(elements_of, elements, kind))


@lru_cache(100)
def _stored(number: int) -> tuple[DType, int]:
    """An element type, and the bytes of an element; none for one that a checkpoint cannot hold."""
    try:
        dtype = DType(number)
    except ValueError:
        dtype = DType.UNDEFINED
    return dtype, 0 if dtype in (DType.UNDEFINED, DType.STRING) else dtype.itemsize


def write_pb(checkpoint: Checkpoint, path: AnyPath) -> None:
    """Write a checkpoint as one message; the same one gives the same bytes.

    Raises UnsupportedError for arrays of texts.
    """
    head = pb.Checkpoint(
        format=FORMAT, version=VERSION, producer=PRODUCER, iteration=checkpoint.iteration
    )
    for key, text in sorted(checkpoint.metadata.items()):
        head.metadata.add(key=key, value=text)
    with atomic_write(Path(path)) as file:
        file.write(head.SerializeToString(deterministic=True))
        for number, slot, arrays in _tables(checkpoint):
            for name in arrays:
                _write(file, number, slot, name, arrays)


def _tables(checkpoint: Checkpoint) -> Iterator[tuple[int, str, Arrays]]:
    yield _PARAMETERS, "", checkpoint.parameters
    yield _STATE, "", checkpoint.state
    for slot, arrays in sorted(checkpoint.optimizer.items()):
        yield _OPTIMIZER, slot, arrays


def _write(file: BinaryIO, number: int, slot: str, name: str, arrays: Arrays) -> None:
    kind = header(arrays, name)
    if kind.dtype is DType.STRING:
        raise UnsupportedError(f"'{name}' holds texts, a checkpoint holds numbers")
    tensor = pb.Tensor(name=name, slot=slot, type=kind.dtype, sizes=kind.shape)
    small = tensor.SerializeToString(deterministic=True)
    length = math.prod(kind.shape) * kind.dtype.itemsize
    announced = varint(_DATA << 3 | LENGTH) + varint(length) if length else b""
    file.write(varint(number << 3 | LENGTH) + varint(len(small) + len(announced) + length))
    file.write(small + announced)
    if length:
        for chunk in chunks(arrays[name]):
            file.write(chunk)
