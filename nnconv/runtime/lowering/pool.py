"""Pooling on blocked values: windows, and whole planes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.pool import Pool, global_pool
from nnconv.runtime.lowering.claims import Claim, Read, Scope, any_empty, image, lowers
from nnconv.runtime.ops.windows import geometry

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node

_MOST_ELEMENTS = (1 << 31) - 1  # of a window: kernels count them in 32 bits


Pooling = tuple[Window, bool, bool, tuple[int, int]]
"""Windows, whether their mean is taken, whether it counts padding, and the padding behind."""


@lowers("MaxPool", "AveragePool", "nnconv.Pool")
def pool(node: Node, scope: Scope) -> Claim | None:
    found, lanes = pooling(node), scope.lanewise(node.required(0))
    if found is None:
        return None

    def emit(builder: Builder) -> str:
        source, made = builder.read(node.required(0), lanes), builder.write(node.output)
        kernel = Pool(source.view, made.view, *found)
        builder.job(kernel, source, made)
        return "average pool" if kernel.average else "max pool"

    return Claim((node,), (Read(node.required(0), lanes),), node.output, lanes, emit)


def pooling(node: Node) -> Pooling | None:
    """What a pool computes; None where kernels do not follow. Caffe's average divides by what lies
    inside the padded image.
    """
    x, y = image(node.required(0)), image(node.output)
    if x is None or y is None or len(node.outputs) > 1:
        return None
    caffe = node.op == "nnconv.Pool"
    average = node.mode == "AVE" if caffe else node.op == "AveragePool"
    include_pad = caffe or bool(average and node.count_include_pad)
    where = geometry(
        x[2:], node.kernel_shape, node.strides, node.pads, None if caffe else node.dilations,
        "NOTSET" if caffe else node.auto_pad,
    )  # fmt: skip
    pairs = ((int(a), int(b)) for a, b in where[:4])
    window = Window(*pairs)
    if math.prod(window.size) > _MOST_ELEMENTS:
        return None
    if min(*where.begins, *where.ends) < 0 or any_empty(window, x, y):
        return None
    return window, average, include_pad, (int(where.ends[0]), int(where.ends[1]))


@lowers("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")
def whole(node: Node, scope: Scope) -> Claim | None:
    """The mean or maximum of each plane."""
    x, y, lanes = image(node.required(0)), image(node.output), scope.lanewise(node.required(0))
    if x is None or y is None or y != (*x[:2], 1, 1):
        return None
    if node.op.startswith("Reduce") and not _over_planes(node, scope):
        return None
    average = node.op in ("GlobalAveragePool", "ReduceMean")

    def emit(builder: Builder) -> str:
        source, made = builder.read(node.required(0), lanes), builder.write(node.output)
        builder.job(global_pool(source.view, made.view, average), source, made)
        return "global average" if average else "global maximum"

    return Claim((node,), (Read(node.required(0), lanes),), node.output, lanes, emit)


def _over_planes(node: Node, scope: Scope) -> bool:
    axes = scope.constant(node.input(1))
    return axes is not None and sorted(int(axis) % 4 for axis in axes.reshape(-1)) == [2, 3]
