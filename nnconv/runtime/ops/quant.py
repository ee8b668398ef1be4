"""Quantised arithmetic: integers that stand for (q - zero_point) * scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.ops.registry import each_output, kernel
from nnconv.schemas.errors import InputError
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.types import Array


@kernel("QuantizeLinear")
def quantize(
    x: Array, scale: Array, zero: Array | None = None, *, axis: int, output_dtype: int
) -> Array:
    """round(x / scale) + zero_point, half to even, held within the range of the integer type."""
    dtype = DType(output_dtype or DType.UINT8).numpy if zero is None else zero.dtype
    if dtype.kind not in "iu":
        raise InputError(f"quantising to {dtype} is not possible here")
    rounded = np.rint(x / _along(scale, x, axis))
    if zero is not None:
        rounded = rounded + _along(zero, x, axis).astype(np.float32)
    limits = np.iinfo(dtype)
    held: Array = np.clip(np.nan_to_num(rounded), limits.min, limits.max)
    return held.astype(dtype)


@kernel("DequantizeLinear")
def dequantize(
    x: Array, scale: Array, zero: Array | None = None, *, axis: int, output_dtype: int
) -> Array:
    """(x - zero_point) * scale, in the type of the scale or `output_dtype`."""
    wide = x.astype(np.int64) if x.dtype.kind in "iu" else x.astype(np.float32)
    if zero is not None:
        wide = wide - _along(zero, x, axis).astype(wide.dtype)
    dtype = DType(output_dtype).numpy if output_dtype else scale.dtype
    result: Array = wide.astype(scale.dtype) * _along(scale, x, axis)
    return result.astype(dtype, copy=False)


@kernel("DynamicQuantizeLinear", macs=each_output)
def dynamic_quantize(x: Array) -> tuple[Array, Array, Array]:
    """To uint8 by a scale that lets 0 and all of x fit (ONNX DynamicQuantizeLinear-11).

    For zeros alone the scale is 1, as in ONNX Runtime; the specification's formula gives 0 / 0.
    """
    low, high = np.minimum(x.min(initial=0), 0), np.maximum(x.max(initial=0), 0)
    scale = np.asarray((high - low) / np.float32(255) or 1, np.float32)
    zero = np.asarray(np.clip(np.rint(-low / scale), 0, 255), np.uint8)
    y = np.clip(np.rint(x / scale) + np.float32(zero), 0, 255).astype(np.uint8)
    return y, scale, zero


@kernel("MatMulInteger")
def matmul_integer(
    a: Array, b: Array, a_zero: Array | None = None, b_zero: Array | None = None
) -> Array:
    """(a - a_zero) @ (b - b_zero) in int32; a zero point is one number, or one a row (column)."""
    left, right = a.astype(np.int32), b.astype(np.int32)
    if a_zero is not None:
        column = a_zero.astype(np.int32)
        left = left - (column[:, None] if column.ndim == 1 and column.size > 1 else column)
    if b_zero is not None:
        right = right - b_zero.astype(np.int32)
    product: Array = np.matmul(left, right)
    return product


def _along(numbers: Array, x: Array, axis: int) -> Array:
    """One number, or one for each place on `axis`, made to broadcast with x."""
    if numbers.ndim == 0 or numbers.size == 1:
        return numbers.reshape(())
    shape = [1] * x.ndim
    shape[axis] = -1
    return numbers.reshape(shape)
