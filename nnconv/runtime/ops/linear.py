"""Matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.ops.registry import count, kernel
from nnconv.runtime.ops.rules import emit, gradient, integers, reshaped, sum_to
from nnconv.schemas.dims import evaluate
from nnconv.schemas.errors import InputError

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array


def _matmul_macs(node: Node) -> int:
    left = node.required(0)
    return count(node.output) * evaluate(left.known_shape[-1], {}) if count(left) else 0


def _gemm_macs(node: Node) -> int:
    left = node.required(0)
    return (
        count(node.output) * evaluate(left.known_shape[0 if node.transA else 1], {})
        if count(left)
        else 0
    )


@kernel("MatMul", macs=_matmul_macs)
def matmul(a: Array, b: Array) -> Array:
    """a @ b over the last two axes, the others broadcast (numpy.matmul)."""
    return np.asarray(np.matmul(a, b))


@kernel("Gemm", macs=_gemm_macs)
def gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    *,
    alpha: float,
    beta: float,
    transA: int,
    transB: int,
) -> Array:
    """alpha * A B + beta * C, A and B transposed where asked; C broadcasts to the product."""
    left = a.T if transA else a
    right = b.T if transB else b
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        raise InputError(f"cannot multiply {_text(left)} by {_text(right)}")
    y = left @ right
    if alpha != 1:
        y = (alpha * y).astype(a.dtype, copy=False)
    if c is None:
        return y
    return np.asarray(y + (c if beta == 1 else beta * c)).astype(a.dtype, copy=False)


def _text(x: Array) -> str:
    return "x".join(map(str, x.shape))


# --- gradients ------------------------------------------------------------------------------------


@gradient("Gemm")
def d_gemm(node: Node, dy: Value) -> tuple[Value | None, ...]:
    """Y = alpha A B + beta C gives dA = alpha dY B', dB = alpha A' dY, dC = beta dY; A and B as
    the product sees them, the gradients turned as the operands were."""
    a, b, c = node.required(0), node.required(1), node.input(2)
    turned_a, turned_b, alpha = bool(node.transA), bool(node.transB), node.alpha
    if turned_a:
        da = emit("Gemm", b, dy, alpha=alpha, transA=int(turned_b), transB=1)
    else:
        da = emit("Gemm", dy, b, alpha=alpha, transB=int(not turned_b))
    if turned_b:
        db = emit("Gemm", dy, a, alpha=alpha, transA=1, transB=int(turned_a))
    else:
        db = emit("Gemm", a, dy, alpha=alpha, transA=int(not turned_a))
    if c is None:
        return da, db
    return da, db, sum_to(dy if node.beta == 1 else dy * node.beta, c)


@gradient("MatMul")
def d_matmul(node: Node, dy: Value) -> tuple[Value, ...]:
    """dA = dY B', dB = A' dY, over the last two axes, summed where the others were broadcast."""
    a, b = node.required(0), node.required(1)
    left = emit("Unsqueeze", a, integers(a, [0])) if a.rank == 1 else a
    right = emit("Unsqueeze", b, integers(b, [1])) if b.rank == 1 else b
    if b.rank == 1:
        dy = emit("Unsqueeze", dy, integers(dy, [-1]))
    if a.rank == 1:
        dy = emit("Unsqueeze", dy, integers(dy, [-2]))
    da = sum_to(emit("MatMul", dy, _turned(right)), left)
    db = sum_to(emit("MatMul", _turned(left), dy), right)
    return reshaped(da, a) if a.rank == 1 else da, reshaped(db, b) if b.rank == 1 else db


def _turned(x: Value) -> Value:
    """x with its last two axes exchanged."""
    axes = list(range(x.rank))
    return emit("Transpose", x, perm=[*axes[:-2], axes[-1], axes[-2]])
