"""Arrays in files: .npy and .npz, read without trusting them and written without leaving halves.

Nothing is unpickled. The header of an array is checked against what is wanted, and against the
bytes that are really there, before memory is taken for it.
"""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy

from nnconv.schemas.errors import InputError, did_you_mean
from nnconv.schemas.files import atomic_write

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

Check = Callable[[tuple[int, ...], "np.dtype[np.generic]"], None]
"""Called with the shape and dtype a header states; raises InputError to refuse the array."""

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# what numpy and zipfile raise over damaged headers and streams
_DAMAGED = (
    ValueError, TypeError, SyntaxError, OverflowError, EOFError, struct.error, zlib.error,
    tokenize.TokenError, zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, KeyError,
)  # fmt: skip


def array_names(path: Path) -> list[str]:
    """The names of the arrays in an .npz, in order; [""] for an .npy."""
    if not _is_archive(path):
        return [""]
    with _archive(path) as archive:
        return [_key(entry) for entry in archive.namelist() if entry.endswith(".npy")]


def load_array(path: Path, name: str = "", check: Check | None = None) -> Array:
    """One array of an .npz (the array `name`), or the array of an .npy.

    Raises InputError for a file that is damaged, holds Python objects, or states a size it does not
    have, and whatever `check` raises.
    """
    try:
        if not _is_archive(path):
            with path.open("rb") as file:
                return _read(file, path.stat().st_size, str(path), check)
        with _archive(path) as archive:
            entry = archive.getinfo(_entry(path, name, archive.namelist()))
            with archive.open(entry) as stream:
                return _read(stream, entry.file_size, f"{path}: {_key(entry.filename)}", check)
    except _DAMAGED as error:
        raise InputError(f"{path}: this is not a sound numpy file ({error})") from None


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an .npz (uncompressed); the same arrays give the same bytes."""
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # its date is fixed: 1980
            with archive.open(entry, "w", force_zip64=True) as stream:
                npy.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)


def _read(file: IO[bytes], size: int, what: str, check: Check | None) -> Array:
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise InputError(f"{what}: version {version} of the .npy format is not known")
    shape, fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise InputError(f"{what}: holds Python objects, which nnconv never loads")
    if min(shape, default=0) < 0:
        raise InputError(f"{what}: the header states the shape {shape}")
    wanted = math.prod(shape) * dtype.itemsize
    if file.tell() + wanted != size:
        there = size - file.tell()
        raise InputError(f"{what}: the header states {wanted:,} bytes of data, there are {there:,}")
    if check is not None:
        check(shape, dtype)
    array = np.frombuffer(_exactly(file, wanted), dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise InputError(f"the data ends after {len(data):,} of {count:,} bytes")
    return data


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"{path}: this is not a sound .npz ({error})") from None


def _key(entry: str) -> str:
    return entry.removesuffix(".npy")


def _entry(path: Path, name: str, entries: list[str]) -> str:
    """The entry that holds the array `name`; the only one when there is just one."""
    if f"{name}.npy" in entries:
        return f"{name}.npy"
    if len(entries) == 1:
        return entries[0]
    names = [_key(entry) for entry in entries]
    hint = did_you_mean(name, names) or f"it holds {', '.join(names[:10])}"
    raise InputError(f"{path}: holds no array named '{name}'", hint=hint)


def is_array_file(path: str | os.PathLike[str]) -> bool:
    return os.fspath(path).lower().endswith((".npy", ".npz"))
