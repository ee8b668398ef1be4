"""numpy's .npz: a zip archive with one .npy for each array.

Nothing is ever unpickled. A header says how many bytes follow, and must agree with the archive
before an array is made; stored arrays are views of the mapped file. What is ours carries the
archive's comment, and escapes names that would lead out of a folder.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import tokenize
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote

import numpy as np
from numpy.lib import format as npy

from nnconv.converter.checkpoint import flat
from nnconv.converter.checkpoint.zip import Entry, read_archive, unpack
from nnconv.converter.located import in_file
from nnconv.schemas.checkpoint import Checkpoint, Header, Lazy, header
from nnconv.schemas.errors import InputError, UnsupportedError
from nnconv.schemas.files import AnyPath, atomic_write, map_file
from nnconv.schemas.pack import chunks
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

COMMENT = b"nnconv checkpoint 1"
METADATA = "nnconv:metadata"
MOST_HEADER = 16 << 10
_MAGIC = b"\x93NUMPY"
_PREAMBLE = {(1, 0): "<H", (2, 0): "<I"}
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# A header as numpy writes it, for which its own parser (Python's, 40 us) is not needed.
_SIZE = rb"[0-9]{1,19}"
_PLAIN = re.compile(
    rb"\{'descr': '([<>|][biuf][1248])', 'fortran_order': (True|False), "
    rb"'shape': \((|%b,|%b(?:, %b)+)\), \} *\n" % (_SIZE, _SIZE, _SIZE)
)
# what numpy's parser of headers raises over damaged ones
_DAMAGED = (ValueError, TypeError, SyntaxError, OverflowError, KeyError, AttributeError,
            MemoryError, RecursionError, struct.error, tokenize.TokenError)  # fmt: skip


def read_npz(path: AnyPath) -> Checkpoint:
    """The arrays of an .npz as a checkpoint; one of another program holds parameters only.

    Raises InputError for an archive that is damaged, holds Python objects, states sizes it does not
    have, or unpacks beyond reason.
    """
    data = map_file(path)
    with in_file(path):
        return _read(data)


def _read(data: memoryview) -> Checkpoint:
    entries, comment = read_archive(data)
    ours = comment == COMMENT
    arrays, pairs = Lazy(), {}
    for entry in entries:
        if not entry.name.endswith(".npy"):
            continue
        name = entry.name.removesuffix(".npy")
        if ours and name == quote(METADATA, safe=_SAFE):
            pairs = _pairs(entry)
            continue
        name = unquote(name, errors="strict") if ours else name
        if name in arrays.headers:
            raise InputError(f"the archive holds the name '{name}' twice")
        head = _header(entry)
        arrays.add(name, head.kind, _loader(entry, head))
    if not ours:
        return Checkpoint(arrays)
    checkpoint = flat.unflatten(arrays)
    flat.restore(checkpoint, pairs)
    return checkpoint


class _Head(NamedTuple):
    """What an .npy says of itself: where its elements start, what they are, and, as the file has
    them, in which byte order and whether columns come first."""

    start: int
    kind: Header
    stored: np.dtype[Any]
    fortran: bool


def _header(entry: Entry) -> _Head:
    start, dtype, shape, fortran = _parsed(entry)
    if dtype.hasobject:
        raise InputError(
            f"'{entry.name}' holds Python objects, which nnconv never loads",
            hint="save it as an array of numbers; loading objects would run code",
        )
    if len(shape) > 64 or min(shape, default=0) < 0:
        raise InputError(f"'{entry.name}' states the shape {str(shape)[:100]}")
    wanted = math.prod(shape) * dtype.itemsize
    if start + wanted != entry.size:
        raise InputError(
            f"'{entry.name}' of shape {list(shape)} takes {wanted:,} bytes, "
            f"{entry.size - start:,} are there"
        )
    try:
        return _Head(start, Header(DType.of(dtype), shape), dtype, fortran)
    except KeyError:
        raise InputError(f"'{entry.name}' has elements of type {dtype}, not numbers") from None


def _parsed(entry: Entry) -> tuple[int, np.dtype[Any], tuple[int, ...], bool]:
    head = bytes(unpack(entry, MOST_HEADER))
    version = tuple(head[6:8])
    if not head.startswith(_MAGIC) or version not in _READERS:
        raise InputError(f"'{entry.name}' is no numpy array of version 1 or 2")
    stream = io.BytesIO(head)
    stream.seek(8)
    preamble = _PREAMBLE[version]
    try:
        (length,) = struct.unpack_from(preamble, head, 8)
        start = 8 + struct.calcsize(preamble) + length
        if (plain := _PLAIN.fullmatch(head, start - length, start)) is not None:
            sizes = tuple(map(int, re.findall(_SIZE, plain[3])))
            return start, np.dtype(plain[1].decode()), sizes, plain[2] == b"True"
        shape, fortran, dtype = _READERS[version](stream, max_header_size=MOST_HEADER)
    except _DAMAGED as error:
        text = str(error).partition("\n")[0][:200]
        raise InputError(f"the header of '{entry.name}' is damaged: {text}") from None
    if not all(type(size) is int for size in shape):
        raise InputError(f"'{entry.name}' states the shape {str(shape)[:100]}")
    return start, dtype, shape, bool(fortran)


def _loader(entry: Entry, head: _Head) -> Callable[[], Array]:
    def load() -> Array:
        flat_array = np.frombuffer(unpack(entry)[head.start :], head.stored)
        array = flat_array.reshape(head.kind.shape, order="F" if head.fortran else "C")
        return array.astype(head.kind.dtype.numpy, copy=False)

    return load


def _pairs(entry: Entry) -> dict[str, str]:
    head = _header(entry)
    if head.kind.dtype is not DType.UINT8:
        raise InputError("the metadata of the archive are damaged")
    try:
        pairs = json.loads(bytes(unpack(entry)[head.start :]))
    except (ValueError, RecursionError):
        pairs = None
    if not isinstance(pairs, dict) or not all(isinstance(text, str) for text in pairs.values()):
        raise InputError("the metadata of the archive are damaged")
    return pairs


_SAFE = "".join(chr(code) for code in range(33, 127) if chr(code) not in "%\\") + " "


def entry_name(name: str) -> str:
    """The name of an array's entry: bytes that are awkward, and steps that lead out of a folder, as
    %XX.

    >>> entry_name("conv1/0"), entry_name("../up"), entry_name("/abs")
    ('conv1/0.npy', '%2E%2E/up.npy', '%2Fabs.npy')
    """
    text = quote(name, safe=_SAFE)
    steps = ["%2E%2E" if step == ".." else step for step in text.split("/")]
    text = "/".join(steps)
    if text.startswith("/"):
        text = "%2F" + text[1:]
    if re.match(r"[A-Za-z]:", text):
        text = text[0] + "%3A" + text[2:]
    return f"{text}.npy"


def write_npz(checkpoint: Checkpoint, path: AnyPath) -> None:
    """Write a checkpoint uncompressed; the same one gives the same bytes.

    Raises UnsupportedError for an element type that numpy alone cannot read back.
    """
    tables = flat.flatten(checkpoint)
    for name, (arrays, inner) in tables.items():
        dtype = header(arrays, inner).dtype
        if dtype.numpy.isbuiltin != 1 or dtype is DType.STRING:
            raise UnsupportedError(f"'{name}' is {dtype}, which .npz cannot hold",
                                   hint="write .safetensors or .pb")  # fmt: skip
    with atomic_write(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        archive.comment = COMMENT
        for name, (arrays, inner) in tables.items():
            _write(archive, entry_name(name), arrays[inner])
        text = json.dumps(flat.metadata(checkpoint), ensure_ascii=False).encode()
        _write(archive, entry_name(METADATA), np.frombuffer(text, np.uint8))


def _write(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    entry = zipfile.ZipInfo(name)  # its date is fixed: 1980
    entry.file_size = array.nbytes
    little = array.dtype.newbyteorder("<")
    with archive.open(entry, "w", force_zip64=True) as stream:
        about = {"descr": npy.dtype_to_descr(little), "fortran_order": False, "shape": array.shape}
        npy.write_array_header_1_0(stream, about)
        for chunk in chunks(array):
            stream.write(chunk)
