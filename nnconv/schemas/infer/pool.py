"""Shapes of pooling: windows rounded down or up, and whole-plane pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.schemas.dims import Dim
from nnconv.schemas.errors import InputError
from nnconv.schemas.infer.registry import Result, infers
from nnconv.schemas.infer.support import need_rank, positions, windows
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node


@infers("MaxPool", "AveragePool", "LpPool")
def pool(node: Node) -> Result:
    """[N, C, spatial] gives [N, C, positions]; MaxPool's second output holds indices (ONNX
    MaxPool-22)."""
    x = node.required(0)
    data = need_rank(x, 2)
    found = windows(node, data[2:], _kernel(node))
    result = (*data[:2], *positions(node, found, "ceil" if node.ceil_mode else "truncated"))
    return [(x.dtype, result), (DType.INT64, result)]


@infers("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(node: Node) -> Result:
    x = node.required(0)
    data = need_rank(x, 2)
    return [(x.dtype, (*data[:2], *(1 for _ in data[2:])))]


@infers("nnconv.Pool")
def caffe_pool(node: Node) -> Result:
    """Pooling as Caffe counts (pooling_layer.cpp, Reshape): where any pad is set, the last window
    of an axis must start inside the data or the padding before it; where none is, windows may lie
    outside."""
    x = node.required(0)
    data = need_rank(x, 3)
    found = windows(node, data[2:], _kernel(node))
    padded = any(window.before or window.after for window in found)
    method = "floor" if node.round_mode == "FLOOR" else "ceil" if padded else "raised"
    return [(x.dtype, (*data[:2], *positions(node, found, method)))]


@infers("nnconv.PyramidPool")
def pyramid_pool(node: Node) -> Result:
    """[N, C, H, W] gives [N, C, bins, bins]."""
    x = node.required(0)
    data = need_rank(x, 4, 4)
    return [(x.dtype, (*data[:2], node.bins, node.bins))]


def _kernel(node: Node) -> tuple[Dim, ...]:
    if not (kernel := node.kernel_shape):
        raise InputError("kernel_shape is missing")
    return tuple(kernel)
