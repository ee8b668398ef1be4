"""Shapes of matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.schemas.dims import Shape
from nnconv.schemas.errors import InputError
from nnconv.schemas.infer.registry import Result, infers
from nnconv.schemas.infer.support import broadcast, differ, need_rank, show
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node


@infers("Gemm")
def gemm(node: Node) -> Result:
    """A [M, K] (or its transpose) times B [K, N] (or its), plus C of any shape that broadcasts to
    [M, N]."""
    a, b = (need_rank(node.required(index), 2, 2) for index in (0, 1))
    m, k = a[::-1] if node.transA else a
    inner, n = b[::-1] if node.transB else b
    if differ(k, inner):
        raise InputError(
            f"cannot multiply {show((m, k))} by {show((inner, n))}: {k} against {inner}"
        )
    if (
        (c := node.input(2)) is not None
        and c.shape is not None
        and differs(broadcast(c.shape, (m, n)), (m, n))
    ):
        raise InputError(f"C is {show(c.shape)} and does not broadcast to {show((m, n))}")
    return [(node.required(0).dtype, (m, n))]


@infers("MatMul")
def matmul(node: Node) -> Result:
    return [(node.required(0).dtype, _product(node))]


@infers("MatMulInteger")
def matmul_integer(node: Node) -> Result:
    return [(DType.INT32, _product(node))]


def _product(node: Node) -> Shape:
    """numpy.matmul's rule: a vector gets an axis that is dropped again, leading axes broadcast."""
    a, b = (need_rank(node.required(index), 1) for index in (0, 1))
    left = (1, *a) if len(a) == 1 else a
    right = (*b, 1) if len(b) == 1 else b
    if differ(left[-1], right[-2]):
        raise InputError(f"cannot multiply {show(a)} by {show(b)}: {left[-1]} against {right[-2]}")
    rows = left[-2:-1] if len(a) > 1 else ()
    columns = right[-1:] if len(b) > 1 else ()
    return broadcast(left[:-2], right[:-2]) + rows + columns


def differs(a: Shape, b: Shape) -> bool:
    return len(a) != len(b) or any(map(differ, a, b))
