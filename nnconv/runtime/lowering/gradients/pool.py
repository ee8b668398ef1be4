"""Pooling in a training step: the forward pass remembers which element won, the gradient reads it.

So the gradient needs no input. Pooling without a memory runs on samples in lanes as it does on
blocks (pool.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.samples.pool import (
    SampleAveragePoolGrad,
    SampleMaxPool,
    SampleMaxPoolGrad,
    SamplePeakGrad,
)
from nnconv.runtime.lowering.claims import Claim, Read, Scope, image, lowers, sizes
from nnconv.runtime.lowering.layout import Operand, Place, is_float
from nnconv.runtime.lowering.windows import Pass, Stage, pool_passes, stages

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

_GRADIENTS = {"MaxPool": "nnconv.MaxPoolGrad", "nnconv.Pool": "nnconv.PoolGrad"}
FORWARD = {gradient: op for op, gradient in _GRADIENTS.items()}


def pool_window(node: Node, x: Value, y: Value) -> tuple[Window, tuple[int, int]] | None:
    """Where the windows of a pool or its gradient lie on images x and y, and the padding at the
    bottom and right; None where kernels do not follow.
    """
    passes = pool_passes(node, x, y) if image(x) else None
    return (passes[0].window, passes[0].ends) if passes else None


def remembered(pool: Node) -> bool:
    """Whether a node pools by maximum and its gradient is wanted too."""
    if pool.op not in _GRADIENTS or len(pool.outputs) > 1 or not is_maximum(pool):
        return False
    if pool_passes(pool, pool.required(0), pool.output) is None:
        return False
    return any(pools_like(reader, pool) for reader in pool.required(0).consumers)


def is_maximum(node: Node) -> bool:
    return node.op in ("MaxPool", "nnconv.MaxPoolGrad") or bool(node.mode == "MAX")


def pools_like(gradient: Node, pool: Node) -> bool:
    """Whether a node is the gradient of a pool."""
    same = gradient.op == _GRADIENTS[pool.op] and gradient.required(0) is pool.required(0)
    return same and gradient.arguments() == pool.arguments()


def argmax_place(builder: Builder, pool: Node) -> Place:
    """Where the pool notes what won, pass after pass."""
    if pool not in builder.remembered:
        made = builder.write(pool.output)
        builder.remembered[pool] = _notes(builder, _passes(pool), made)
    return builder.remembered[pool]


def _passes(pool: Node) -> list[Pass]:
    found = pool_passes(pool, pool.required(0), pool.output)
    assert found is not None
    return found


def _notes(builder: Builder, passes: Sequence[Pass], made: Place) -> Place:
    """Memory for what won in each pass."""
    array = made.array
    cells = sum(step.made for step in passes)
    dense = Array.dense(array.batch, array.blocks * array.lanes, 1, cells, array.lanes)
    return Place(builder.buffer(dense.size), dense, made.samples)


def _note(notes: Place, passes: Sequence[Pass], number: int) -> Operand:
    """Where those of one pass start."""
    array = notes.array
    cells = sum(step.made for step in passes[:number])
    return notes.at(array.batch * array.blocks * cells * array.lanes)


def _pool(
    builder: Builder, passes: Sequence[Pass], source: Place, made: Place, notes: Place
) -> None:  # fmt: skip
    for number, stage in enumerate(stages(builder, passes, source, made)):
        kernel = SampleMaxPool(stage.x, stage.y, stage.step.window)
        builder.job(kernel, stage.source, stage.goal, _note(notes, passes, number))


@lowers("MaxPool", "nnconv.Pool")
def max_pool(node: Node, scope: Scope) -> Claim | None:
    """A pool whose gradient is wanted."""
    x, y, lanes = node.required(0), node.output, -scope.width
    if not remembered(node):
        return None
    passes = _passes(node)

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, lanes), builder.write(y)
        _pool(builder, passes, source, made, argmax_place(builder, node))
        return "sample max pool"

    return Claim((node,), (Read(x, lanes),), y, lanes, emit)


@lowers("nnconv.MaxPoolGrad", "nnconv.PoolGrad")
def max_pool_grad(node: Node, scope: Scope) -> Claim | None:
    """By what the forward pool remembers; without one in the graph, by pooling once more."""
    x, dy, lanes = node.required(0), node.required(1), -scope.width
    if not is_maximum(node):
        return average_pool_grad(node, scope)
    passes = pool_passes(node, x, dy)
    if passes is None:
        return None
    pools = [r for r in x.consumers if r.op == FORWARD[node.op] and pools_like(node, r)]
    pool = next((r for r in pools if r in scope.taken and remembered(r)), None)

    def emit(builder: Builder) -> str:
        slope, made = builder.read(dy, lanes), builder.write(node.output)
        if pool:
            notes = builder.remembered[pool]
        else:
            again = replace(slope, buffer=builder.buffer(slope.array.size))
            notes = _notes(builder, passes, slope)
            _pool(builder, passes, builder.read(x, lanes), again, notes)
        for number, stage in _backwards(builder, passes, slope, made):
            kernel = SampleMaxPoolGrad(stage.y, stage.x, stage.step.window)
            note = _note(notes, passes, number)
            builder.job(kernel, stage.goal, note, stage.source)
        return "sample max pool gradient"

    reads = [Read(dy, lanes), *([] if pool else [Read(x, lanes)])]
    return Claim((node,), tuple(reads), node.output, lanes, emit)


def _backwards(
    builder: Builder, passes: Sequence[Pass], slope: Place, made: Place
) -> list[tuple[int, Stage]]:
    """The passes from the last to the first, with their numbers; gradients flow from `goal` to
    `source`."""
    return list(enumerate(stages(builder, passes, made, slope)))[::-1]


@lowers("nnconv.AveragePoolGrad")
def average_pool_grad(node: Node, scope: Scope) -> Claim | None:
    """The gradient of either average; Caffe's divides by what lies inside the padded image."""
    caffe = node.op == "nnconv.PoolGrad"
    dy, lanes = node.required(1 if caffe else 0), -scope.width
    passes = pool_passes(node, node.output, dy)
    if passes is None:
        return None
    padded = caffe or bool(node.count_include_pad)

    def emit(builder: Builder) -> str:
        slope, made = builder.read(dy, lanes), builder.write(node.output)
        for _, stage in _backwards(builder, passes, slope, made):
            step = stage.step
            kernel = SampleAveragePoolGrad(stage.y, stage.x, step.window, padded, step.ends)
            builder.job(kernel, stage.goal, stage.source)
        return "sample average pool gradient"

    return Claim((node,), (Read(dy, lanes),), node.output, lanes, emit)


@lowers("nnconv.GlobalMaxPoolGrad")
def global_max_pool_grad(node: Node, scope: Scope) -> Claim | None:
    """To the first of the largest of each plane, which is looked for once more."""
    x, dy, dx = node.required(0), node.required(1), node.output
    if not is_float(x) or not is_float(dy) or len(sizes(x)) < 3:
        return None
    lanes = scope.lanewise(x)

    def emit(builder: Builder) -> str:
        source, slope, made = builder.read(x, lanes), builder.read(dy, lanes), builder.write(dx)
        kernel = SamplePeakGrad(source.view, slope.view, made.view)
        builder.job(kernel, source, slope, made)
        return "global maximum gradient"

    return Claim((node,), (Read(x, lanes), Read(dy, lanes)), dx, lanes, emit)
