"""Gradients of convolutions, losses and pools on graphics cards.

Gradients of products are products again: products.py has their rule.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.arrays import Array, Matrix
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.groups.loss import RowLoss, RowLossGrad
from nnconv.runtime.kernels.groups.operands import Pixels, Windows
from nnconv.runtime.kernels.groups.order import GroupPeakGrad
from nnconv.runtime.kernels.groups.pool import (
    ElementAveragePoolGrad,
    ElementMaxPoolGrad,
    ElementPool,
)
from nnconv.runtime.kernels.groups.product import Goal, every_product
from nnconv.runtime.kernels.groups.reduce import GroupTotal
from nnconv.runtime.kernels.groups.vector import item_count
from nnconv.runtime.kernels.pool import LOWEST
from nnconv.runtime.kernels.samples.loss import SampleLoss, SampleLossGrad
from nnconv.runtime.lowering.claims import Claim, Scope, sizes
from nnconv.runtime.lowering.gradients.conv import plain, plain_reads
from nnconv.runtime.lowering.gradients.losses import label_divisor, labels_at, scores_and_labels
from nnconv.runtime.lowering.gradients.pool import (
    FORWARD,
    is_maximum,
    pool_window,
    pools_like,
    remembered,
)
from nnconv.runtime.lowering.groups.products import (
    geometry_of,
    groups_of,
    lying_weights,
    multiply,
    of_group,
    on_cards,
)
from nnconv.runtime.lowering.layout import Place, is_float

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value


# -- convolutions


@on_cards("nnconv.ConvGradData")
def conv_grad_data(node: Node, scope: Scope) -> Claim | None:
    dy, weights, dx = node.required(0), node.required(1), node.output
    where = geometry_of(node, dx, weights, dy)
    if where is None:
        return None

    def emit(builder: Builder) -> str:
        slope, made = plain(builder, dy), builder.write(dx)
        groups = where.groups
        factors, held = lying_weights(builder, where, weights, back=True)
        pixels = Pixels(of_group(slope.view, groups), where.window, where.x[2:], back=True)
        products = every_product(
            groups_of(builder), factors, pixels, Goal.pixels(made.view, groups), items=groups
        )
        return f"group conv data {multiply(builder, products, [held, slope, made])}"

    return Claim((node,), plain_reads((dy, weights), scope), dx, 1, emit)


@on_cards("nnconv.ConvGradWeights")
def conv_grad_weights(node: Node, scope: Scope) -> Claim | None:
    x, dy, dw = node.required(0), node.required(1), node.output
    where = geometry_of(node, x, dw, dy)
    if where is None:
        return None

    def emit(builder: Builder) -> str:
        source, slope, made = plain(builder, x), plain(builder, dy), builder.write(dw)
        groups, extent = where.groups, where.y[2:]
        left = Windows(of_group(slope.view, groups), Window(), extent)
        right = Windows(of_group(source.view, groups), where.window, extent)
        goal = Matrix.dense(where.outputs, where.inputs * where.taps, groups)
        products = every_product(groups_of(builder), left, right, Goal.matrix(goal), items=groups)
        return f"group conv weights {multiply(builder, products, [slope, source, made])}"

    return Claim((node,), plain_reads((x, dy), scope), dw, 1, emit)


# -- pooling


@on_cards("MaxPool", "nnconv.Pool")
def max_pool(node: Node, scope: Scope) -> Claim | None:
    """A pool whose gradient is wanted: it notes what won."""
    x, y = node.required(0), node.output
    found = pool_window(node, x, y)
    if found is None or not remembered(node):
        return None

    def emit(builder: Builder) -> str:
        source, made = plain(builder, x), builder.write(y)
        dense = Array.dense(*_image(y))
        won = builder.remembered[node] = Place(builder.buffer(dense.size), dense)
        kernel = ElementPool(source.view, made.view, found[0], lowest=LOWEST, index=True)
        builder.job(kernel, source, made, won)
        return "max pool, remembered"

    return Claim((node,), plain_reads((x,), scope), y, 1, emit)


def _image(value: Value) -> tuple[int, int, int, int]:
    batch, channels, height, width = sizes(value)
    return batch, channels, height, width


@on_cards("nnconv.MaxPoolGrad", "nnconv.PoolGrad")
def max_pool_grad(node: Node, scope: Scope) -> Claim | None:
    """By what the forward pool remembers; without one in the graph, the reference kernel's."""
    x, dy = node.required(0), node.required(1)
    found = pool_window(node, x, dy)
    if found is None or not is_float(x) or not is_maximum(node):
        return average_pool_grad(node, scope) if node.op == "nnconv.PoolGrad" else None
    pools = [r for r in x.consumers if r.op == FORWARD[node.op] and pools_like(node, r)]
    pool = next((r for r in pools if r in scope.taken), None)
    if pool is None:
        return None

    def emit(builder: Builder) -> str:
        slope, made = plain(builder, dy), builder.write(node.output)
        kernel = ElementMaxPoolGrad(slope.view, made.view, found[0])
        builder.job(kernel, slope, builder.remembered[pool], made)
        return "max pool gradient"

    return Claim((node,), plain_reads((dy,), scope), node.output, 1, emit)


@on_cards("nnconv.AveragePoolGrad")
def average_pool_grad(node: Node, scope: Scope) -> Claim | None:
    """The gradient of either average; Caffe's divides by what lies inside the padded image."""
    dy = node.required(1 if node.op == "nnconv.PoolGrad" else 0)
    found = pool_window(node, node.output, dy)
    if found is None or (node.op == "nnconv.PoolGrad" and is_maximum(node)):
        return None
    padded = node.op == "nnconv.PoolGrad" or bool(node.count_include_pad)

    def emit(builder: Builder) -> str:
        slope, made = plain(builder, dy), builder.write(node.output)
        kernel = ElementAveragePoolGrad(slope.view, made.view, found[0], padded, found[1])
        builder.job(kernel, slope, made)
        return "average pool gradient"

    return Claim((node,), plain_reads((dy,), scope), node.output, 1, emit)


@on_cards("nnconv.GlobalMaxPoolGrad")
def global_max_pool_grad(node: Node, scope: Scope) -> Claim | None:
    x, dy, dx = node.required(0), node.required(1), node.output
    if not is_float(x) or not is_float(dy) or len(sizes(x)) < 3:
        return None

    def emit(builder: Builder) -> str:
        source, slope, made = plain(builder, x), plain(builder, dy), builder.write(dx)
        width = item_count(source.view.pixels, groups_of(builder).items)
        kernel = GroupPeakGrad(source.view, slope.view, made.view, width)
        builder.job(kernel, source, slope, made)
        return "group global maximum gradient"

    return Claim((node,), plain_reads((x, dy), scope), dx, 1, emit)


# -- losses


def _labelled_rows(node: Node, scope: Scope) -> tuple[Value, Value, str] | None:
    """Scores, labels and their type, where classes are the axis behind the samples."""
    found = scores_and_labels(node, scope)
    rank = len(sizes(node.required(0)))
    return found if found and 2 <= rank <= 4 and node.axis % rank == 1 else None


@on_cards("nnconv.SoftmaxWithLoss")
def softmax_loss(node: Node, scope: Scope) -> Claim | None:
    found = _labelled_rows(node, scope)
    if found is None:
        return None
    x, label, labels = found

    def emit(builder: Builder) -> str:
        source, made = plain(builder, x), builder.write(node.output)
        rows, length = sizes(x)[:2]
        most = groups_of(builder).items
        parts = builder.buffer(rows * math.prod(sizes(x)[2:]))
        kernel = (
            RowLoss(rows, length, item_count(length, most), labels, node.ignore_label)
            if parts.size == rows
            else SampleLoss(source.view, rows, labels, node.ignore_label)
        )
        builder.job(kernel, source, labels_at(builder, label), parts)
        total = GroupTotal((parts.size,), item_count(parts.size, most), divided=True)
        builder.job(total, parts, label_divisor(builder, node), made)
        return "group softmax loss"

    reads = plain_reads((x, label) if labels == "f32" else (x,), scope)
    return Claim((node,), reads, node.output, 1, emit)


@on_cards("nnconv.SoftmaxWithLossGrad")
def softmax_loss_grad(node: Node, scope: Scope) -> Claim | None:
    found, dy = _labelled_rows(node, scope), node.required(2)
    if found is None or not is_float(dy) or math.prod(sizes(dy)) != 1:
        return None
    x, label, labels = found

    def emit(builder: Builder) -> str:
        source, made = plain(builder, x), builder.write(node.output)
        rows, length = sizes(x)[:2]
        width = item_count(length, groups_of(builder).items)
        kernel = (
            RowLossGrad(rows, length, width, labels, node.ignore_label)
            if math.prod(sizes(x)[2:]) == 1
            else SampleLossGrad(source.view, rows, labels, node.ignore_label, made.view)
        )
        divisor = label_divisor(builder, node)
        builder.job(kernel, source, labels_at(builder, label), plain(builder, dy), divisor, made)
        return "group softmax loss gradient"

    reads = plain_reads((x, label, dy) if labels == "f32" else (x, dy), scope)
    return Claim((node,), reads, node.output, 1, emit)
