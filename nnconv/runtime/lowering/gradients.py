"""The rest of a training step with samples in lanes: losses, sums over samples, flattening."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.kernels.groups_loss import GroupLabelCount
from nnconv.runtime.kernels.groups_vector import item_count
from nnconv.runtime.kernels.samples_conv import SampleSum
from nnconv.runtime.kernels.samples_loss import LabelCount, LossTotal, SampleLoss, SampleLossGrad
from nnconv.runtime.lowering.claims import Claim, Read, Scope, lowers, sizes
from nnconv.runtime.lowering.gradients_conv import plain, plain_reads
from nnconv.runtime.lowering.layout import Buffer, Operand, Place, dense_array, is_float

if TYPE_CHECKING:
    from nnconv.runtime.kernels.language import Kernel
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value


@lowers("ReduceSum")
def bias_gradient(node: Node, scope: Scope) -> Claim | None:
    """The sum over all axes but the channels', of what has samples in lanes. What a pool's gradient
    spreads is summed before it is spread.
    """
    x, axes = node.required(0), scope.constant(node.input(1))
    if x.producer is not None and x.producer.op == "nnconv.MaxPoolGrad" and scope.natural(x) < 0:
        x = x.producer.required(1)
    if scope.natural(x) >= 0 or axes is None:
        return None
    rank = len(sizes(node.required(0)))
    summed = {int(axis) % rank for axis in axes.reshape(-1)}
    if summed != set(range(rank)) - {1}:
        return None

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, -scope.width), builder.write(node.output)
        builder.job(SampleSum(source.view, sizes(x)[0]), source, made)
        return "sample sum"

    return Claim((node,), (Read(x, -scope.width),), node.output, 1, emit)


@lowers("Flatten", "Reshape")
def flatten(node: Node, scope: Scope) -> Claim | None:
    """The features of each sample under another shape, seen where they lie."""
    x, y = node.required(0), node.output
    lanes = scope.natural(x)
    if lanes >= 0 or not is_float(y) or scope.is_result(y):
        return None
    old, new = sizes(x), sizes(y)
    if not 2 <= len(new) <= 4 or new[0] != old[0]:
        return None

    def emit(builder: Builder) -> str:
        source = builder.read(x, lanes)
        if source.dense:
            array = replace(dense_array(new, lanes), offset=source.array.offset)
            builder.alias(y, Place(source.buffer, array, source.samples))
            return "view"
        return _without_gaps(builder, source, y)

    return Claim((node,), (Read(x, lanes),), y, lanes, emit)


def _without_gaps(builder: Builder, source: Place, y: Value) -> str:
    from nnconv.runtime.kernels.elementwise import Strided
    from nnconv.runtime.kernels.movement import copy

    made, x = builder.write(y), source.view
    shape = (x.batch, x.blocks, x.height, x.width, x.lanes)
    strided = Strided((x.image, x.block, x.row, x.column, 1))
    steps = [math.prod(shape[i + 1 :]) for i in range(5)]
    builder.job(copy(shape, strided, Strided(tuple(steps)), x.lanes), source, made)
    return "copy"


@lowers("nnconv.SoftmaxWithLoss")
def softmax_loss(node: Node, scope: Scope) -> Claim | None:
    found = loss_operands(node, scope)
    if found is None:
        return None
    x, label, labels = found
    lanes = -scope.width

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, lanes), builder.write(node.output)
        target = labels_of(builder, label)
        array = source.view
        parts = builder.buffer(array.batch * array.pixels * array.lanes)
        kernel = SampleLoss(array, sizes(x)[0], labels, node.ignore_label)
        builder.job(kernel, source, target, parts)
        total = LossTotal(parts.size, scope.width)
        builder.job(total, parts, divisor_of(builder, node, x, label, labels), made)
        return "sample softmax loss"

    reads = (Read(x, lanes), *plain_reads((label,) if labels == "f32" else (), scope))
    return Claim((node,), reads, node.output, 1, emit)


@lowers("nnconv.SoftmaxWithLossGrad")
def softmax_loss_grad(node: Node, scope: Scope) -> Claim | None:
    found, dy = loss_operands(node, scope), node.required(2)
    if found is None or not is_float(dy) or math.prod(sizes(dy)) != 1:
        return None
    x, label, labels = found
    lanes = -scope.width

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, lanes), builder.write(node.output)
        divisor = divisor_of(builder, node, x, label, labels)
        kernel = SampleLossGrad(source.view, sizes(x)[0], labels, node.ignore_label, made.view)
        operands = (source, labels_of(builder, label), plain(builder, dy), divisor, made)
        builder.job(kernel, *operands)
        return "sample softmax loss gradient"

    others = (label, dy) if labels == "f32" else (dy,)
    return Claim((node,), (Read(x, lanes), *plain_reads(others, scope)), node.output, lanes, emit)


def loss_operands(node: Node, scope: Scope) -> tuple[Value, Value, str] | None:
    """(scores, labels, the labels' type), where classes are the axis behind the samples."""
    x, label = node.required(0), node.required(1)
    if not is_float(x) or not 2 <= len(sizes(x)) <= 4 or node.axis % len(sizes(x)) != 1:
        return None
    labels = scope.label_type(label)
    shape = sizes(x)
    if labels is None or math.prod(sizes(label)) != shape[0] * math.prod(shape[2:]):
        return None
    return x, label, labels


def labels_of(builder: Builder, label: Value) -> Place | Operand:
    return plain(builder, label) if is_float(label) else Operand(builder.host(label))


def divisor_of(builder: Builder, node: Node, x: Value, label: Value, labels: str) -> Place | Buffer:
    """What the sum is divided by, as a number in memory (loss_layer.cpp, GetNormalizer)."""
    shape = sizes(x)
    full = shape[0] * math.prod(shape[2:])
    if node.normalization == "VALID" and node.ignore_label is not None:
        made = builder.buffer(1)
        kernel: Kernel = LabelCount(full, node.ignore_label, builder.scope.width, labels)
        if groups := builder.target.groups:
            width = item_count(full, groups.items)
            kernel = GroupLabelCount(full, node.ignore_label, width, labels)
        builder.job(kernel, labels_of(builder, label), made)
        return made
    number = {"FULL": full, "VALID": full, "BATCH_SIZE": shape[0], "NONE": 1}[node.normalization]
    data = np.full(1, max(1, number), np.float32)
    return builder.packed(("divisor", number), [], lambda: data)
