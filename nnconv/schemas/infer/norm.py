"""Shapes of normalisations: those of the data, with parameters that must fit its channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.schemas.infer.registry import Result, infers
from nnconv.schemas.infer.support import agree, axis, broadcast, need_rank, same, shape
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node

infers("LRN", "MeanVarianceNormalization", "LpNormalization")(same)


@infers("BatchNormalization")
def batch_normalization(node: Node) -> Result:
    """X [N, C, ...] with scale, B, mean, variance [C] each (ONNX BatchNormalization-15)."""
    _per_channel(node, (1, 2, 3, 4))
    return same(node) + [(value.dtype, value.shape) for value in map(node.required, (3, 4))]


@infers("nnconv.BatchNorm")
def caffe_batch_norm(node: Node) -> Result:
    """X [N, C, ...] with sums of mean and variance [C], their factor [1], and these three for the
    next run."""
    need_rank(node.required(0), 2)
    _per_channel(node, (1, 2))
    need_rank(node.required(3), 0, 1)
    return same(node) + [(value.dtype, value.shape) for value in map(node.required, (1, 2, 3))]


@infers("InstanceNormalization", "GroupNormalization")
def instance_normalization(node: Node) -> Result:
    """X [N, C, ...] with scale and bias [C] each."""
    need_rank(node.required(0), 2)
    _per_channel(node, (1, 2))
    return same(node)


@infers("LayerNormalization", "RMSNormalization")
def layer_normalization(node: Node) -> Result:
    """Y is like X; the mean and inverse deviation have 1 in place of the axes from `axis` on."""
    x = node.required(0)
    dims = need_rank(x, 1)
    first = axis(node.axis, len(dims))
    for value in node.inputs[1:]:
        if value is not None and value.shape is not None:
            broadcast(dims[first:], value.shape)
    reduced = dims[:first] + (1,) * (len(dims) - first)
    stash = DType(node.stash_type)
    return [(x.dtype, dims), (stash, reduced), (stash, reduced)]


def _per_channel(node: Node, positions: tuple[int, ...]) -> None:
    """Raise InputError unless the inputs at `positions` have one number a channel of the first."""
    x = node.required(0)
    dims = shape(x)
    channels = dims[1] if len(dims) > 1 else 1
    for value in map(node.required, positions):
        if value.shape is not None:
            (count,) = need_rank(value, 1, 1)
            agree(count, channels, f"'{value.name}' and the channels of '{x.name}' differ")
