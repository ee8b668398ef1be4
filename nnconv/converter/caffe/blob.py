"""A blob: what Caffe calls a tensor of weights, as files hold it.

The rules of its shape are Caffe's: any of the old fields num, channels, height, width makes it a
legacy blob of four axes (what is not given counts as 0); else `shape` says it, and without either
the blob is a scalar. The number of elements stored must be the shape's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import Message

MAX_AXES = 32
LEGACY = ("num", "channels", "length", "height", "width")
# NVIDIA Caffe's raw_data_type, little endian like all of protobuf.
RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2", 3: "<i4", 4: "<u4"}


class BlobError(ValueError):
    """A blob that contradicts itself; the reader that knows the file and layer words the error."""


@dataclass(frozen=True, slots=True)
class Blob:
    """One blob. `array` has the blob's shape and may be a read-only, unaligned view of the file.

    dtype is little-endian float32, float64 (double_data), or what NVIDIA's raw_data says (float16).
    `legacy` blobs have four axes (five in C3D 1.0) where newer ones would have fewer.
    `offset` is where the first element stands in the file, -1 if it does not come from one.
    """

    shape: tuple[int, ...]
    array: np.ndarray[Any, Any]
    legacy: bool = False
    offset: int = -1

    def __post_init__(self) -> None:
        if self.array.shape != self.shape:
            raise BlobError(f"the array is {self.array.shape}, the blob {self.shape}")

    def widened(self) -> Blob:
        """The same values as every Caffe reads them: halves (NVIDIA only) become floats."""
        if self.array.dtype != np.float16:
            return self
        return Blob(self.shape, self.array.astype(np.float32), self.legacy)


def legacy_shape(dims: dict[str, int], names: Sequence[str] = LEGACY) -> tuple[int, ...]:
    """The axes of a blob whose old fields `dims` are given; those of `names` it lacks are 0."""
    return tuple(dims.get(name, 0) for name in names)


def check_shape(shape: tuple[int, ...], elements: int) -> None:
    """BlobError unless a blob of that shape has that many elements."""
    if len(shape) > MAX_AXES:
        raise BlobError(f"has {len(shape)} axes, Caffe allows {MAX_AXES}")
    if any(size < 0 for size in shape):
        raise BlobError(f"has a negative size in its shape {format_shape(shape)}")
    if math.prod(shape) != elements:
        wanted = f"{format_shape(shape)} = {math.prod(shape):,} elements"
        raise BlobError(f"has the shape {wanted}, but {elements:,} are stored")


def format_shape(shape: tuple[int, ...]) -> str:
    """(96, 3, 11, 11) as "96x3x11x11", () as "scalar"."""
    return "x".join(map(str, shape)) or "scalar"


def blob_from_message(message: Message) -> Blob:
    """The blob a BlobProto holds (weights written into a prototxt); BlobError if inconsistent."""
    fields: Any = message
    known = message.DESCRIPTOR.fields_by_name
    names = [name for name in LEGACY if name in known]
    given = {name: getattr(message, name) for name in names if message.HasField(name)}
    shape = legacy_shape(given, names) if given else tuple(fields.shape.dim)
    if "raw_data" in known and message.HasField("raw_data"):
        kind = np.dtype(RAW_TYPES.get(fields.raw_data_type, "V1"))
        flat = np.frombuffer(fields.raw_data, kind, len(fields.raw_data) // kind.itemsize)
    elif len(fields.double_data):
        flat = np.array(fields.double_data, "<f8")
    else:
        flat = np.array(fields.data, "<f4")
    check_shape(shape, flat.size)
    return Blob(shape, flat.reshape(shape), bool(given))
