"""Element types, numbered as ONNX numbers them (onnx.proto, TensorProto.DataType).

The numpy type of a DType is looked up when asked for, so that reading a header imports no numpy.
"""

from __future__ import annotations

import enum
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


class DType(enum.IntEnum):
    """The element type of a value; `DType.FLOAT32.numpy` is its numpy dtype."""

    UNDEFINED = 0
    FLOAT32 = 1
    UINT8 = 2
    INT8 = 3
    UINT16 = 4
    INT16 = 5
    INT32 = 6
    INT64 = 7
    STRING = 8
    BOOL = 9
    FLOAT16 = 10
    FLOAT64 = 11
    UINT32 = 12
    UINT64 = 13
    COMPLEX64 = 14
    COMPLEX128 = 15
    BFLOAT16 = 16
    FLOAT8E4M3FN = 17
    FLOAT8E4M3FNUZ = 18
    FLOAT8E5M2 = 19
    FLOAT8E5M2FNUZ = 20
    UINT4 = 21
    INT4 = 22
    FLOAT4E2M1 = 23
    FLOAT8E8M0 = 24
    UINT2 = 25
    INT2 = 26

    @property
    def numpy(self) -> np.dtype[Any]:
        return _numpy_dtype(self)

    @property
    def itemsize(self) -> int:
        """Bytes an element takes in memory (sub-byte types take one)."""
        return int(self.numpy.itemsize)

    @property
    def is_float(self) -> bool:
        return self in _FLOATS

    @property
    def is_integer(self) -> bool:
        return self in _INTEGERS

    def __str__(self) -> str:
        return self.name.lower()

    @staticmethod
    def of(dtype: Any) -> DType:
        """The DType of anything numpy understands as a dtype; raises KeyError for the rest."""
        return _dtype_of(dtype)


_FLOATS = frozenset(
    {DType.FLOAT32, DType.FLOAT16, DType.FLOAT64, DType.BFLOAT16}
    | {dtype for dtype in DType if dtype.name.startswith(("FLOAT8", "FLOAT4"))}
)
_INTEGERS = frozenset(dtype for dtype in DType if dtype.name.startswith(("INT", "UINT")))

# ml_dtypes names its types as numpy would; only those that differ from ours are listed.
_ML_DTYPES = {
    DType.BFLOAT16: "bfloat16",
    DType.FLOAT8E4M3FN: "float8_e4m3fn",
    DType.FLOAT8E4M3FNUZ: "float8_e4m3fnuz",
    DType.FLOAT8E5M2: "float8_e5m2",
    DType.FLOAT8E5M2FNUZ: "float8_e5m2fnuz",
    DType.FLOAT8E8M0: "float8_e8m0fnu",
    DType.FLOAT4E2M1: "float4_e2m1fn",
    DType.UINT4: "uint4",
    DType.INT4: "int4",
    DType.UINT2: "uint2",
    DType.INT2: "int2",
}
_BY_NUMPY_NAME = {name: dtype for dtype, name in _ML_DTYPES.items()} | {
    "object": DType.STRING,
    "str": DType.STRING,
}


@cache
def _dtype_of(dtype: Any) -> DType:
    import numpy as np

    name = np.dtype(dtype).name
    return _BY_NUMPY_NAME.get(name) or DType[name.upper()]


@cache
def _numpy_dtype(dtype: DType) -> np.dtype[Any]:
    import numpy as np

    if dtype is DType.STRING:
        return np.dtype(object)
    if dtype in _ML_DTYPES:
        import ml_dtypes

        extended: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[dtype]))
        return extended
    return np.dtype(dtype.name.lower())
