"""Pooling on blocked values: windows over any number of axes, and whole planes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.runtime.kernels.pool import Pool, global_pool
from nnconv.runtime.lowering.claims import Claim, Read, Scope, lowers, sizes
from nnconv.runtime.lowering.layout import is_float
from nnconv.runtime.lowering.windows import pool_passes, stages

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node


@lowers("MaxPool", "AveragePool", "nnconv.Pool")
def pool(node: Node, scope: Scope) -> Claim | None:
    x, y = node.required(0), node.output
    passes = pool_passes(node, x, y)
    if passes is None or len(node.outputs) > 1:
        return None
    lanes, (average, include_pad) = scope.lanewise(x), averaging(node)

    def emit(builder: Builder) -> str:
        for stage in stages(builder, passes, builder.read(x, lanes), builder.write(y)):
            step = stage.step
            kernel = Pool(stage.x, stage.y, step.window, average, include_pad, step.ends)
            builder.job(kernel, stage.source, stage.goal)
        return "average pool" if average else "max pool"

    return Claim((node,), (Read(x, lanes),), y, lanes, emit)


def averaging(node: Node) -> tuple[bool, bool]:
    """Whether a pool takes the mean, and whether that counts padding; Caffe's divides by what lies
    inside the padded image.
    """
    if node.op == "nnconv.Pool":
        return bool(node.mode == "AVE"), True
    average = node.op == "AveragePool"
    return average, bool(average and node.count_include_pad)


@lowers("GlobalAveragePool", "ReduceMean")
def whole(node: Node, scope: Scope) -> Claim | None:
    """The mean of each channel of an image. (Maxima are reductions: those pass a NaN on.)"""
    x, y = node.required(0), node.output
    if not is_float(x) or not is_float(y) or len(sizes(x)) < 3:
        return None
    if sizes(y) != (*sizes(x)[:2], *[1] * (len(sizes(x)) - 2)):
        return None
    if node.op.startswith("Reduce") and not _over_cells(node, scope):
        return None
    lanes = scope.lanewise(x)

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, lanes), builder.write(y)
        builder.job(global_pool(source.view, made.view, average=True), source, made)
        return "global average"

    return Claim((node,), (Read(x, lanes),), y, lanes, emit)


def _over_cells(node: Node, scope: Scope) -> bool:
    """Whether a reduction is over all axes but samples and channels."""
    axes, rank = scope.constant(node.input(1)), len(sizes(node.required(0)))
    if axes is None:
        return False
    return sorted(int(axis) % rank for axis in axes.reshape(-1)) == list(range(2, rank))
