"""Shapes of reductions, of the largest and smallest elements, and of their positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.schemas.dims import Shape
from nnconv.schemas.errors import InputError
from nnconv.schemas.infer.registry import Result, infers
from nnconv.schemas.infer.support import axes, axis, integers, need_rank, shape, sizes
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node


@infers(
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
def reduction(node: Node) -> Result:
    """The axes given by the second input become 1 or vanish; without any, all do (or, as a no-op,
    none)."""
    x = node.required(0)
    dims = shape(x)
    chosen = node.input(1)
    numbers = axes(integers(chosen), len(dims)) if chosen is not None else ()
    if not numbers and not node.noop_with_empty_axes:
        numbers = tuple(range(len(dims)))
    return [(x.dtype, without(dims, numbers, bool(node.keepdims)))]


@infers("ArgMax", "ArgMin")
def argmax(node: Node) -> Result:
    dims = need_rank(node.required(0), 1)
    return [(DType.INT64, without(dims, (axis(node.axis, len(dims)),), bool(node.keepdims)))]


@infers("TopK")
def topk(node: Node) -> Result:
    """Values and indices: `k` in place of the axis."""
    x = node.required(0)
    dims = need_rank(x, 1)
    place = axis(node.axis, len(dims))
    (k,) = sizes(node.required(1))
    size = dims[place]
    if isinstance(k, int) and isinstance(size, int) and not 0 <= k <= size:
        raise InputError(f"k is {k}, axis {place} has {size} elements")
    result = (*dims[:place], k, *dims[place + 1 :])
    return [(x.dtype, result), (DType.INT64, result)]


def without(dims: Shape, numbers: tuple[int, ...], keep: bool) -> Shape:
    """`dims` with 1 in place of the axes `numbers`, or without them."""
    gone = set(numbers)
    if keep:
        return tuple(1 if number in gone else dim for number, dim in enumerate(dims))
    return tuple(dim for number, dim in enumerate(dims) if number not in gone)
