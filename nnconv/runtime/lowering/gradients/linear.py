"""Dense layers whose weights change from step to step, and their gradients, with samples in lanes.

Products with stored weights belong to linear.py. Which axis of a product counts samples is told by
its form: the forward product and the data gradient keep the samples of their first operand, the
weight gradient (transA) adds them up.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.samples.linear import (
    SampleGemmOptions,
    SampleRows,
    sample_gemm,
    sample_gemm_weights,
)
from nnconv.runtime.lowering.activation import after
from nnconv.runtime.lowering.claims import Claim, Read, Scope, lowers, sizes
from nnconv.runtime.lowering.gradients.conv import plain, plain_reads
from nnconv.runtime.lowering.layout import is_float
from nnconv.runtime.lowering.update import finish, update_at

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value


@lowers("Gemm")
def gemm(node: Node, scope: Scope) -> Claim | None:
    a, b, c = node.required(0), node.required(1), node.input(2)
    if not is_float(a) or not is_float(b) or (c is not None and not is_float(c)):
        return None
    if node.transA:
        return _weights(node, a, b, scope) if c is None and not node.transB else None
    if scope.constant(b) is not None and scope.natural(a) >= 0:
        return None
    if c is not None and sizes(c)[:-1] not in ((), (1,)):
        return None
    return _product(node, a, b, c, scope)


def _product(node: Node, a: Value, b: Value, c: Value | None, scope: Scope) -> Claim:
    """Gemm [+ activation]; C is one number an output, or one for all."""
    lanes = -scope.width
    last, activation = after(node.output, scope)
    nodes = (node, *([last] if last else []))
    y = nodes[-1].output
    inputs, outputs = sizes(a)[1], sizes(y)[1]
    strides = (inputs, 1) if node.transB else (1, outputs)
    options = SampleGemmOptions(
        float(node.alpha), c is not None, float(node.beta),
        1 if c is not None and sizes(c)[-1:] == (outputs,) else 0, activation,
    )  # fmt: skip

    def emit(builder: Builder) -> str:
        source, made = builder.read(a, lanes), builder.write(y)
        kernel = sample_gemm(builder.target, source.view, made.view, strides, options)
        bias = [plain(builder, c)] if c is not None else []
        builder.job(kernel, source, plain(builder, b), *bias, made)
        return f"sample gemm {kernel.rows}x{kernel.images}"

    return Claim(nodes, (Read(a, lanes), *plain_reads((b, c), scope)), y, lanes, emit)


def _weights(node: Node, a: Value, b: Value, scope: Scope) -> Claim | None:
    """A'B, summed over samples: A in the form that it has, B along its features."""
    if scope.constant(a) is not None or scope.constant(b) is not None:
        return None
    natural = scope.natural(a)
    lanes = natural if natural < 0 else 1
    update = update_at(node.output, scope)

    def emit(builder: Builder) -> str:
        left, right = builder.read(a, lanes), builder.read(b, 1)
        samples, features = sizes(a)
        rows = SampleRows(scope.width * features, features, 1)
        if left.samples:
            rows = SampleRows(left.array.image, 1, left.array.block)
        kernel = sample_gemm_weights(
            builder.target, rows, sizes(b)[1], samples, (features, sizes(b)[1]), float(node.alpha)
        )
        label = f"sample gemm weights {kernel.rows}x{kernel.vectors}"
        if update is None:
            builder.job(kernel, left, right, builder.write(node.output))
            return label
        done, made = finish(builder, update, lambda f: replace(kernel, finish=f))
        builder.job(done, left, right, *made)
        return f"{label} and update"

    reads = (Read(a, lanes), Read(b, 1))
    if update is None:
        return Claim((node,), reads, node.output, 1, emit)
    more = tuple(read for read in update.reads(scope) if read.value is not node.output)
    results = update.results
    return Claim((node, *update.nodes), (*reads, *more), results[0], 1, emit, results[1:])
