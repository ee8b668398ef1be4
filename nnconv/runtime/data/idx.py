"""IDX files, as MNIST and its kin use them: a magic number, the sizes, then the elements.

The header is two zero bytes, the element type, the number of axes, and one big-endian 32-bit size
an axis. What it states is compared with the bytes that are there before memory is taken.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from nnconv.runtime.data.datasets import DATA, LABEL, ArrayDataset
from nnconv.schemas.errors import InputError

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST_AXES = 8
DEFLATE_LIMIT = 1040  # no deflate stream expands by more than 1032
# how the files of a part begin in a folder that holds both
PARTS = {"train": ("train",), "test": ("t10k", "test")}


def open_idx(path: Path, part: str = "train", label: str | None = None) -> ArrayDataset:
    """Images and labels from a folder, or from the file of the images; the labels' file lies beside
    it. Images [N,H,W] become one channel, [N,1,H,W].
    """
    if label is not None:
        raise InputError(f"{path}: the labels of IDX files are a file, not a column")
    images = _find_images(path, part) if path.is_dir() else path
    data, labels = read_idx(images), read_idx(_labels_of(images))
    if labels.ndim != 1:
        raise InputError(f"{_labels_of(images)}: labels have one axis, these have {labels.ndim}")
    if data.ndim == 3:
        data = data[:, None]
    return ArrayDataset({DATA: data, LABEL: labels.astype(np.int64)}, name=str(path))


def read_idx(path: Path) -> Array:
    """The array of one IDX file, gzipped or not, in the machine's byte order.

    Raises InputError for a damaged header, and for more or fewer bytes than it states.
    """
    try:
        with path.open("rb") as raw:
            size = path.stat().st_size
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                return _read(raw, path, size)
            with gzip.open(raw) as stream:
                return _read(stream, path, size * DEFLATE_LIMIT)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as an IDX file ({reason})") from None


def _read(stream: IO[bytes] | gzip.GzipFile, path: Path, most: int) -> Array:
    """`most` is how many bytes the file can possibly hold."""
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in DTYPES:
        raise InputError(f"{path}: this is no IDX file (it begins with {head.hex(' ')})")
    axes, dtype = head[3], np.dtype(DTYPES[head[2]])
    if not 1 <= axes <= MOST_AXES:
        raise InputError(f"{path}: the header states {axes} axes")
    sizes = stream.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise InputError(f"{path}: the header ends after {4 + len(sizes)} bytes")
    shape = struct.unpack(f">{axes}I", sizes)
    wanted = math.prod(shape) * dtype.itemsize
    stated = f"the header states {'x'.join(map(str, shape))}, {wanted:,} bytes"
    if 4 + 4 * axes + wanted > most:
        raise InputError(f"{path}: {stated}; the file cannot hold so many")
    data = stream.read(wanted + 1)
    if len(data) != wanted:
        there = "more" if len(data) > wanted else f"{len(data):,}"
        raise InputError(f"{path}: {stated}, there are {there}")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _find_images(folder: Path, part: str) -> Path:
    found = sorted(
        path
        for start in PARTS[part]
        for path in folder.glob(f"{start}*images*idx*")
        if path.is_file()
    )
    if not found:
        raise InputError(f"{folder}: no {PARTS[part][0]}-images-idx3-ubyte for the {part} part")
    return found[0]


def _labels_of(images: Path) -> Path:
    """The labels' file that belongs to a file of images; packed or not, whichever is there."""
    name = images.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    if name == images.name:
        raise InputError(f"{images}: the name must hold 'images', so that its labels can be found")
    plain = images.with_name(name.removesuffix(".gz"))
    for path in (plain, plain.with_name(f"{plain.name}.gz")):
        if path.is_file():
            return path
    raise InputError(f"{images}: its labels, {plain.name}, are missing")
