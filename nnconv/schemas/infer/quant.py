"""Shapes of quantised arithmetic: elements change their type, not their places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.schemas.infer.registry import Result, infers
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node


@infers("QuantizeLinear")
def quantize(node: Node) -> Result:
    """The zero point's type, else `output_dtype`, else uint8 (ONNX QuantizeLinear-25)."""
    x, zero = node.required(0), node.input(2)
    dtype = zero.dtype if zero is not None else DType(node.output_dtype or DType.UINT8)
    return [(dtype, x.shape)]


@infers("DequantizeLinear")
def dequantize(node: Node) -> Result:
    """The type is `output_dtype`, else that of the scale (ONNX DequantizeLinear-25)."""
    return [(DType(node.output_dtype or node.required(1).dtype), node.required(0).shape)]


@infers("DynamicQuantizeLinear")
def dynamic_quantize(node: Node) -> Result:
    return [(DType.UINT8, node.required(0).shape), (DType.FLOAT32, ()), (DType.UINT8, ())]
