"""Pooling in a training step: the forward pass remembers which element won, the gradient reads it.

So the gradient needs no input. Pooling without a memory runs on samples in lanes as it does on
blocks (pool.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.samples import dense_like
from nnconv.runtime.kernels.samples_pool import (
    SampleAveragePoolGrad,
    SampleMaxPool,
    SampleMaxPoolGrad,
)
from nnconv.runtime.lowering.claims import Claim, Read, Scope, any_empty, image, lowers, sizes
from nnconv.runtime.lowering.layout import Place, is_float
from nnconv.runtime.ops.windows import geometry

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

_GRADIENTS = {"MaxPool": "nnconv.MaxPoolGrad", "nnconv.Pool": "nnconv.PoolGrad"}
FORWARD = {gradient: op for op, gradient in _GRADIENTS.items()}


def pool_window(node: Node, x: Value, y: Value) -> tuple[Window, tuple[int, int]] | None:
    """Where the windows of a pool or its gradient lie on images x and y, and the padding at the
    bottom and right; None where kernels do not follow.
    """
    source, made = image(x), image(y)
    if source is None or made is None:
        return None
    settings = node.arguments()
    where = geometry(
        source[2:], node.kernel_shape, node.strides, node.pads, settings.get("dilations"),
        settings.get("auto_pad", "NOTSET"),
    )  # fmt: skip
    kernel, stride, dilation, pad = ((int(a), int(b)) for a, b in where[:4])
    window = Window(kernel, stride, dilation, pad)
    if min(*where.begins, *where.ends) < 0 or dilation != (1, 1) or any_empty(window, source, made):
        return None
    return window, (int(where.ends[0]), int(where.ends[1]))


def remembered(pool: Node) -> bool:
    """Whether a node pools by maximum and its gradient is wanted too."""
    if pool.op not in _GRADIENTS or len(pool.outputs) > 1 or not is_maximum(pool):
        return False
    if pool_window(pool, pool.required(0), pool.output) is None:
        return False
    return any(pools_like(reader, pool) for reader in pool.required(0).consumers)


def is_maximum(node: Node) -> bool:
    return node.op in ("MaxPool", "nnconv.MaxPoolGrad") or bool(node.mode == "MAX")


def pools_like(gradient: Node, pool: Node) -> bool:
    """Whether a node is the gradient of a pool."""
    same = gradient.op == _GRADIENTS[pool.op] and gradient.required(0) is pool.required(0)
    return same and gradient.arguments() == pool.arguments()


def argmax_place(builder: Builder, pool: Node) -> Place:
    """Where the pool notes what won."""
    if pool not in builder.remembered:
        array = dense_like(builder.write(pool.output).array)
        samples = sizes(pool.output)[0]
        builder.remembered[pool] = Place(builder.buffer(array.size), array, samples)
    return builder.remembered[pool]


@lowers("MaxPool", "nnconv.Pool")
def max_pool(node: Node, scope: Scope) -> Claim | None:
    """A pool whose gradient is wanted."""
    x, y, lanes = node.required(0), node.output, -scope.width
    found = pool_window(node, x, y)
    if found is None or not remembered(node):
        return None

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, lanes), builder.write(y)
        kernel = SampleMaxPool(source.view, made.view, found[0])
        builder.job(kernel, source, made, argmax_place(builder, node))
        return "sample max pool"

    return Claim((node,), (Read(x, lanes),), y, lanes, emit)


@lowers("nnconv.MaxPoolGrad", "nnconv.PoolGrad")
def max_pool_grad(node: Node, scope: Scope) -> Claim | None:
    """By what the forward pool remembers; without one in the graph, the reference kernel's."""
    x, dy, lanes = node.required(0), node.required(1), -scope.width
    found = pool_window(node, x, dy)
    if found is None or not is_float(x) or not is_maximum(node):
        return average_pool_grad(node, scope) if node.op == "nnconv.PoolGrad" else None
    pools = [r for r in x.consumers if r.op == FORWARD[node.op] and pools_like(node, r)]
    pool = next((r for r in pools if r in scope.taken and scope.natural(r.output) < 0), None)
    if pool is None:
        return None

    def emit(builder: Builder) -> str:
        slope, made = builder.read(dy, lanes), builder.write(node.output)
        kernel = SampleMaxPoolGrad(slope.view, made.view, found[0])
        builder.job(kernel, slope, builder.remembered[pool], made)
        return "sample max pool gradient"

    return Claim((node,), (Read(dy, lanes),), node.output, lanes, emit)


@lowers("nnconv.AveragePoolGrad")
def average_pool_grad(node: Node, scope: Scope) -> Claim | None:
    """The gradient of either average; Caffe's divides by what lies inside the padded image."""
    dy = node.required(1 if node.op == "nnconv.PoolGrad" else 0)
    found = pool_window(node, node.output, dy)
    if found is None or (node.op == "nnconv.PoolGrad" and is_maximum(node)):
        return None
    lanes, padded = -scope.width, node.op == "nnconv.PoolGrad" or bool(node.count_include_pad)

    def emit(builder: Builder) -> str:
        slope, made = builder.read(dy, lanes), builder.write(node.output)
        kernel = SampleAveragePoolGrad(slope.view, made.view, found[0], padded, found[1])
        builder.job(kernel, slope, made)
        return "sample average pool gradient"

    return Claim((node,), (Read(dy, lanes),), node.output, lanes, emit)
