"""The safetensors format: eight bytes of length, a JSON header, then the elements of all tensors.

Arrays are views of the mapped file. The header must describe the data exactly: tensors lie one
behind the other with no gap and no overlap, and end where the file ends.
"""

from __future__ import annotations

import json
import math
import struct
from functools import partial
from pathlib import Path
from typing import Any

from nnconv.converter.checkpoint import flat
from nnconv.converter.located import in_file
from nnconv.schemas.checkpoint import Checkpoint, Header, Lazy, check_number, header
from nnconv.schemas.errors import InputError, UnsupportedError
from nnconv.schemas.files import AnyPath, atomic_write, map_file
from nnconv.schemas.pack import chunks
from nnconv.schemas.types import DType

MOST_HEADER = 100_000_000
METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
_LENGTH = struct.Struct("<Q")

TYPES = {
    "F64": DType.FLOAT64,
    "F32": DType.FLOAT32,
    "F16": DType.FLOAT16,
    "BF16": DType.BFLOAT16,
    "F8_E4M3": DType.FLOAT8E4M3FN,
    "F8_E5M2": DType.FLOAT8E5M2,
    "F8_E8M0": DType.FLOAT8E8M0,
    "C64": DType.COMPLEX64,
    "I64": DType.INT64,
    "I32": DType.INT32,
    "I16": DType.INT16,
    "I8": DType.INT8,
    "U64": DType.UINT64,
    "U32": DType.UINT32,
    "U16": DType.UINT16,
    "U8": DType.UINT8,
    "BOOL": DType.BOOL,
}
_NAMES = {dtype: name for name, dtype in TYPES.items()}


def read_safetensors(path: AnyPath) -> Checkpoint:
    """The checkpoint in a file; one of another program holds parameters and metadata only.

    Raises InputError, with the tensor's name, for a header that does not describe the data.
    """
    data = map_file(path)
    with in_file(path):
        return _read(data)


def _read(data: memoryview) -> Checkpoint:
    entries, payload = _header(data)
    pairs = entries.pop(METADATA, {})
    if not isinstance(pairs, dict) or not all(isinstance(text, str) for text in pairs.values()):
        raise InputError(f"{METADATA} must hold texts by name")
    arrays = _tensors(entries, payload)
    if f"{flat.PREFIX}version" not in pairs:
        return Checkpoint(arrays, metadata=pairs)
    checkpoint = flat.unflatten(arrays)
    flat.restore(checkpoint, pairs)
    return checkpoint


def _header(data: memoryview) -> tuple[dict[str, Any], memoryview]:
    """The header as a dictionary, and the bytes behind it."""
    if len(data) < 8:
        raise InputError("the file is too short for a safetensors file", hint="was it cut short?")
    (length,) = _LENGTH.unpack(data[:8])
    if length > min(MOST_HEADER, len(data) - 8):
        raise InputError(
            f"the header should have {length:,} bytes, {len(data) - 8:,} are left",
            hint="was the file cut short, or is it no safetensors file?",
        )
    text = bytes(data[8 : 8 + length])
    check_number(text.count(b'"data_offsets"'))  # before objects are made of them
    try:
        entries = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise InputError("the header is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise InputError(f"the header is no JSON: {str(error)[:200]}") from None
    if not isinstance(entries, dict):
        raise InputError("the header must be a JSON object")
    return entries, data[8 + length :]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InputError("the header holds a name twice")
    return found


def _tensors(entries: dict[str, Any], payload: memoryview) -> Lazy:
    arrays = Lazy()
    spans = []
    for name, entry in entries.items():
        kind, begin, end = _entry(name, entry, len(payload))
        arrays.add(name, kind, partial(flat.elements_of, payload[begin:end], kind))
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            what = "overlaps the tensor before it" if begin < position else "leaves a gap before it"
            raise InputError(f"tensor '{name}' {what}: it starts at {begin}, not {position}")
        position = end
    if position != len(payload):
        raise InputError(f"the tensors end at byte {position:,} of {len(payload):,}",
                         hint="was the file cut short?")  # fmt: skip
    return arrays


def _entry(name: str, entry: Any, size: int) -> tuple[Header, int, int]:
    """Type, shape and place of a tensor, each checked against the others."""
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise InputError(f"tensor '{name}' needs dtype, shape and data_offsets")
    dtype = TYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise UnsupportedError(f"tensor '{name}' is of the unknown type {entry['dtype']!r:.60}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2 or len(shape) > 64:
        raise InputError(f"tensor '{name}': shape and data_offsets must be lists of sizes")
    begin, end = offsets
    if not begin <= end <= size:
        raise InputError(f"tensor '{name}' lies at bytes {begin} to {end}, the data end at {size}",
                         hint="was the file cut short?")  # fmt: skip
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != end - begin:
        raise InputError(
            f"tensor '{name}' of shape {shape} takes {wanted:,} bytes, {end - begin:,} are given"
        )
    return Header(dtype, tuple(shape)), begin, end


def _naturals(sizes: Any) -> bool:
    return isinstance(sizes, list) and all(type(size) is int and size >= 0 for size in sizes)


def write_safetensors(checkpoint: Checkpoint, path: AnyPath) -> None:
    """Write a checkpoint; the same one gives the same bytes.

    Raises UnsupportedError for an element type that safetensors has no name for.
    """
    tables = flat.flatten(checkpoint)
    kinds = {name: header(arrays, inner) for name, (arrays, inner) in tables.items()}
    # as the format's own library does: wide types first, so that tensors are aligned
    order = sorted(kinds, key=lambda name: (-kinds[name].dtype.itemsize, name))
    entries: dict[str, Any] = {METADATA: flat.metadata(checkpoint)}
    position = 0
    for name in order:
        kind = kinds[name]
        if kind.dtype not in _NAMES:
            raise UnsupportedError(f"'{name}' is {kind.dtype}, which safetensors cannot hold",
                                   hint="a .pb checkpoint holds every type")  # fmt: skip
        if name == METADATA:
            raise UnsupportedError(f"safetensors cannot hold a parameter called '{METADATA}'")
        end = position + math.prod(kind.shape) * kind.dtype.itemsize
        entries[name] = {
            "dtype": _NAMES[kind.dtype],
            "shape": list(kind.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with atomic_write(Path(path)) as file:
        file.write(_LENGTH.pack(len(text)) + text)
        for name in order:
            arrays, inner = tables[name]
            for chunk in chunks(arrays[inner]):
                file.write(chunk)
