"""Shapes of the gradient operators: those of the operand whose gradient they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.schemas.dims import Shape
from nnconv.schemas.infer.registry import Result, Unknown, infers
from nnconv.schemas.infer.support import broadcast, shape, sizes
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value

_LIKE_FIRST = (
    "MaxPoolGrad", "GlobalMaxPoolGrad", "PoolGrad", "PyramidPoolGrad", "LRNGrad", "BatchNormGrad",
    "DropoutGrad",
    "SoftmaxWithLossGrad", "SigmoidCrossEntropyLossGrad", "Hook",
)  # fmt: skip
_STATED = {"SumTo": 1, "ConvGradData": 2, "ConvGradWeights": 2, "AveragePoolGrad": 1,
           "GatherGrad": 2, "SliceGrad": 1}  # fmt: skip
"""At which input an operator is told the shape of its result."""


@infers(*(f"nnconv.{name}" for name in _LIKE_FIRST))
def like_first(node: Node) -> Result:
    x = node.required(0)
    return [(x.dtype, x.shape)]


@infers(*(f"nnconv.{name}" for name in _STATED))
def as_stated(node: Node) -> Result:
    """The shape that an input holds, as far as it is known."""
    wanted = node.required(_STATED[node.op.removeprefix("nnconv.")])
    dtype = node.required(0).dtype
    try:
        stated = sizes(wanted)
    except Unknown:
        return [(dtype, _open(wanted))]
    if node.op == "nnconv.SumTo" and (x := node.required(0)).shape is not None:
        broadcast(shape(x), stated)
    return [(dtype, stated)]


def _open(wanted: Value) -> Shape | None:
    """A scalar's shape is known by its length alone."""
    return () if wanted.dtype is DType.INT64 and wanted.shape == (0,) else None
