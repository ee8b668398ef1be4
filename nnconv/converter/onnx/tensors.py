"""TensorProto to numpy and back: views of mapped bytes wherever the file holds the elements as they
are.

What a tensor claims (dimensions, type) is compared with the bytes that are there before anything is
made.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnconv.converter.onnx import proto
from nnconv.converter.onnx.external import ExternalFiles
from nnconv.converter.onnx.wire import Skeleton
from nnconv.schemas.errors import InputError, UnsupportedError
from nnconv.schemas.types import DType

Array = np.ndarray[Any, np.dtype[Any]]
MAX_RANK = 64  # numpy's

_RAW = 9
_PACKED = {4: "float_data", 10: "double_data"}
# Which typed field holds the elements of a type when raw_data does not (onnx.proto, TensorProto).
_FIELDS = {
    "float_data": (DType.FLOAT32, DType.COMPLEX64),
    "double_data": (DType.FLOAT64, DType.COMPLEX128),
    "int64_data": (DType.INT64,),
    "uint64_data": (DType.UINT32, DType.UINT64),
}
_FIELD_OF = {dtype: name for name, dtypes in _FIELDS.items() for dtype in dtypes}
# Elements of less than a byte are packed, the first in the low bits.
BITS = {DType.INT4: 4, DType.UINT4: 4, DType.FLOAT4E2M1: 4, DType.INT2: 2, DType.UINT2: 2}


class Tensors:
    """Decodes the tensors of one file."""

    def __init__(self, skeleton: Skeleton, folder: str | None) -> None:
        self.skeleton = skeleton
        self.files = ExternalFiles(folder)

    def array(self, tensor: Any) -> Array:
        """The elements of a TensorProto, a read-only view into the file where possible.

        Raises InputError when dimensions, type and bytes do not belong together.
        """
        dtype, shape = _dtype(tensor), _shape(tensor)
        if tensor.HasField("segment"):
            raise UnsupportedError(f"tensor '{tensor.name}' is split into segments")
        if dtype is DType.STRING:
            return _strings(tensor, shape)
        count = math.prod(shape)
        size = packed_size(count, dtype)
        if tensor.data_location == proto.EXTERNAL:
            return self._viewed(self.files.bytes_of(tensor, size), dtype, shape)
        if tensor.HasField("payload"):
            return self._payload(tensor, dtype, shape, size)
        if tensor.HasField("raw_data"):
            return self._checked(tensor, memoryview(tensor.raw_data), dtype, shape, size)
        return _typed(tensor, dtype, shape, count)

    def _payload(self, tensor: Any, dtype: DType, shape: tuple[int, ...], size: int) -> Array:
        if tensor.payload >= len(self.skeleton.spans) or tensor.HasField("raw_data"):
            raise InputError(f"tensor '{tensor.name}' states its elements twice")
        number, start, end = self.skeleton.spans[tensor.payload]
        if number != _RAW and _FIELD_OF.get(dtype) != _PACKED[number]:
            raise InputError(f"tensor '{tensor.name}' is {dtype}, its elements are of another type")
        return self._checked(tensor, self.skeleton.data[start:end], dtype, shape, size)

    def _checked(
        self, tensor: Any, data: memoryview, dtype: DType, shape: tuple[int, ...], size: int
    ) -> Array:
        if len(data) != size:
            raise InputError(
                f"tensor '{tensor.name}' ({dtype} {_shown(shape)}) takes {size} bytes, "
                f"the file has {len(data)}"
            )
        return self._viewed(data, dtype, shape)

    def _viewed(self, data: memoryview, dtype: DType, shape: tuple[int, ...]) -> Array:
        if dtype in BITS:
            return _unpacked(np.frombuffer(data, np.uint8), dtype, shape)
        if dtype is DType.BOOL:  # any byte but 0 is true; numpy trusts its bytes to be 0 or 1
            truths: Array = np.frombuffer(data, np.uint8) != 0
            return truths.reshape(shape)
        return np.frombuffer(data, dtype.numpy).reshape(shape)


def packed_size(count: int, dtype: DType) -> int:
    """The bytes that `count` elements take in a file."""
    return -(-count * BITS[dtype] // 8) if dtype in BITS else count * dtype.itemsize


def packed(array: Array, dtype: DType) -> Array:
    """The elements as a file holds them: little-endian, contiguous, small ones packed (a copy only
    if needed).
    """
    if dtype not in BITS:
        return np.ascontiguousarray(array)
    bits = BITS[dtype]
    codes = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    per_byte = 8 // bits
    codes = np.pad(codes, (0, -codes.size % per_byte)).reshape(-1, per_byte)
    shifted = codes << (np.arange(per_byte, dtype=np.uint8) * bits)
    joined: Array = np.bitwise_or.reduce(shifted, axis=1)
    return joined.astype(np.uint8)


def _unpacked(data: Array, dtype: DType, shape: tuple[int, ...]) -> Array:
    bits = BITS[dtype]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (data[:, None] >> shifts & ((1 << bits) - 1)).reshape(-1)[: math.prod(shape)]
    if dtype in (DType.INT4, DType.INT2):
        sign = np.uint8(1 << (bits - 1))
        return (
            ((codes ^ sign).view(np.int8) - sign.view(np.int8)).astype(dtype.numpy).reshape(shape)
        )
    if dtype is DType.FLOAT4E2M1:
        return codes.astype(np.uint8).view(dtype.numpy).reshape(shape)
    return codes.astype(dtype.numpy).reshape(shape)


def _dtype(tensor: Any) -> DType:
    try:
        dtype = DType(tensor.data_type)
    except ValueError:
        dtype = DType.UNDEFINED
    if dtype is DType.UNDEFINED:
        raise InputError(f"tensor '{tensor.name}' has no element type {tensor.data_type}")
    return dtype


def _shape(tensor: Any) -> tuple[int, ...]:
    shape = tuple(tensor.dims)
    if len(shape) > MAX_RANK:
        raise InputError(f"tensor '{tensor.name}' has {len(shape)} axes, {MAX_RANK} are possible")
    if any(dim < 0 for dim in shape):
        raise InputError(f"tensor '{tensor.name}' has a negative size: {_shown(shape)}")
    # a size of 0 hides any other from the comparison with the bytes that are there
    if math.prod(dim or 1 for dim in shape) >= 1 << 60:
        raise InputError(f"tensor '{tensor.name}' claims {_shown(shape)} elements")
    return shape


def _typed(tensor: Any, dtype: DType, shape: tuple[int, ...], count: int) -> Array:
    """Elements in the field of their type; halves and small integers stand in int32_data, as their
    bits.
    """
    name = _FIELD_OF.get(dtype, "int32_data")
    elements = getattr(tensor, name)
    paired = dtype in (DType.COMPLEX64, DType.COMPLEX128)
    wanted = count * (1 + paired)
    if dtype in BITS:
        wanted = packed_size(count, dtype)
    if len(elements) != wanted:
        raise InputError(
            f"tensor '{tensor.name}' ({dtype} {_shown(shape)}) needs {wanted} elements in {name}, "
            f"the file has {len(elements)}"
        )
    if name == "int32_data":
        return _from_bits(np.fromiter(elements, np.int32, wanted), dtype, shape)
    stored = {"float_data": np.float32, "double_data": np.float64}.get(name, dtype.numpy)
    if name == "uint64_data":
        return np.fromiter(elements, np.uint64, wanted).astype(dtype.numpy).reshape(shape)
    array = np.fromiter(elements, stored, wanted)
    return (array.view(dtype.numpy) if paired else array).reshape(shape)


def _from_bits(codes: Array, dtype: DType, shape: tuple[int, ...]) -> Array:
    if dtype in BITS:
        return _unpacked(codes.astype(np.uint8), dtype, shape)
    if dtype is DType.BOOL:
        truths: Array = codes != 0
        return truths.reshape(shape)
    if dtype.is_float:
        unsigned = np.uint8 if dtype.itemsize == 1 else np.uint16
        return codes.astype(unsigned).view(dtype.numpy).reshape(shape)
    return codes.astype(dtype.numpy).reshape(shape)


def _strings(tensor: Any, shape: tuple[int, ...]) -> Array:
    if len(tensor.string_data) != math.prod(shape):
        raise InputError(
            f"tensor '{tensor.name}' (string {_shown(shape)}) has "
            f"{len(tensor.string_data)} elements"
        )
    array = np.empty(len(tensor.string_data), object)
    array[:] = [text.decode("utf-8", "surrogateescape") for text in tensor.string_data]
    return array.reshape(shape)


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
