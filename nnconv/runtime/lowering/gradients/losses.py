"""The rest of a training step with samples in lanes: losses, sums over samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.kernels.elementwise import Step, Strided
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.groups.loss import GroupLabelCount
from nnconv.runtime.kernels.groups.vector import item_count
from nnconv.runtime.kernels.samples.conv import SampleSum
from nnconv.runtime.kernels.samples.loss import SampleLoss, SampleLossGrad
from nnconv.runtime.lowering.claims import Claim, Read, Scope, lowers, sizes
from nnconv.runtime.lowering.fold import Work, fold
from nnconv.runtime.lowering.gradients.conv import plain, plain_reads
from nnconv.runtime.lowering.layout import Buffer, Operand, Place, is_float

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value


@dataclass(frozen=True, slots=True)
class ChannelSum:
    """Nodes that add up a value to one number a channel."""

    nodes: tuple[Node, ...]
    result: Value


@lowers("ReduceSum")
def bias_gradient(node: Node, scope: Scope) -> Claim | None:
    """The sum over all axes but the channels', of what has samples in lanes. What a pool's gradient
    spreads is summed before it is spread.
    """
    x = node.required(0)
    found = channel_sum(x, scope, node)
    if x.producer is not None and x.producer.op == "nnconv.MaxPoolGrad" and scope.natural(x) < 0:
        x = x.producer.required(1)
    if scope.natural(x) >= 0 or found is None:
        return None

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, -scope.width), builder.write(found.result)
        builder.job(SampleSum(source.view, sizes(x)[0]), source, made)
        return "sample sum"

    return Claim(found.nodes, (Read(x, -scope.width),), found.result, 1, emit)


def channel_sum(value: Value, scope: Scope, first: Node | None = None) -> ChannelSum | None:
    """Sums in a row over all axes but the channels', by `first` or the only reader."""
    if not is_float(value):
        return None
    shape = sizes(value)
    axes: list[int | None] = list(range(len(shape)))
    nodes: list[Node] = []
    node = first or only_next(value, scope)
    while node is not None and node.op == "ReduceSum":
        given = scope.constant(node.input(1))
        if given is None or not is_float(node.output):
            return None
        gone = {int(axis) % len(axes) for axis in given.reshape(-1)}
        axes = [None if i in gone else axis for i, axis in enumerate(axes)]
        if not node.keepdims:
            axes = [axis for i, axis in enumerate(axes) if i not in gone]
        nodes.append(node)
        left = {axis for axis in axes if axis is not None and (axis == 1 or shape[axis] > 1)}
        if left == {1}:
            return ChannelSum(tuple(nodes), node.output)
        node = only_next(node.output, scope)
    return None


def only_next(value: Value, scope: Scope) -> Node | None:
    """The node that alone reads a value which nobody outside needs, whether taken or not."""
    alone = len(value.uses) == 1 and not scope.is_result(value)
    return value.consumers[0] if alone else None


@lowers("nnconv.SoftmaxWithLoss")
def softmax_loss(node: Node, scope: Scope) -> Claim | None:
    found = _by_sample(node, scope)
    if found is None:
        return None
    x, label, labels = found
    lanes = -scope.width

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, lanes), builder.write(node.output)
        array = source.view
        parts = builder.buffer(array.batch * array.pixels * array.lanes)
        kernel = SampleLoss(array, sizes(x)[0], labels, node.ignore_label)
        builder.job(kernel, source, labels_at(builder, label), parts)
        work = Work(divisor=label_divisor(builder, node))
        fold(builder, (parts.size,), [(parts, Strided((1,)))], (made, Strided((0,))), work)
        return "sample softmax loss"

    reads = (Read(x, lanes), *plain_reads((label,) if labels == "f32" else (), scope))
    return Claim((node,), reads, node.output, 1, emit)


@lowers("nnconv.SoftmaxWithLossGrad")
def softmax_loss_grad(node: Node, scope: Scope) -> Claim | None:
    found, dy = _by_sample(node, scope), node.required(2)
    if found is None or not is_float(dy) or math.prod(sizes(dy)) != 1:
        return None
    x, label, labels = found
    lanes = -scope.width

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, lanes), builder.write(node.output)
        divisor = label_divisor(builder, node)
        kernel = SampleLossGrad(source.view, sizes(x)[0], labels, node.ignore_label, made.view)
        operands = (source, labels_at(builder, label), plain(builder, dy), divisor, made)
        builder.job(kernel, *operands)
        return "sample softmax loss gradient"

    others = (label, dy) if labels == "f32" else (dy,)
    return Claim((node,), (Read(x, lanes), *plain_reads(others, scope)), node.output, lanes, emit)


def scores_and_labels(node: Node, scope: Scope) -> tuple[Value, Value, str] | None:
    """(scores, labels, the labels' type) where there is a label for each position."""
    x, label = node.required(0), node.required(1)
    if not is_float(x) or not sizes(x):
        return None
    labels = scope.label_type(label)
    positions = math.prod(sizes(x)) // sizes(x)[node.axis % len(sizes(x))]
    if labels is None or math.prod(sizes(label)) != positions:
        return None
    return x, label, labels


def _by_sample(node: Node, scope: Scope) -> tuple[Value, Value, str] | None:
    """The same where lanes are samples and classes the axis behind them."""
    found = scores_and_labels(node, scope)
    if found is None or scope.natural(found[0]) >= 0:
        return None
    rank = len(sizes(found[0]))
    return found if 2 <= rank <= 4 and node.axis % rank == 1 else None


def labels_at(builder: Builder, label: Value) -> Place | Operand:
    return plain(builder, label) if is_float(label) else Operand(builder.host(label))


def label_divisor(builder: Builder, node: Node) -> Place | Buffer:
    """What a loss over labels is divided by, as a number in memory (loss_layer.cpp,
    GetNormalizer).
    """
    x, label = node.required(0), node.required(1)
    batch = math.prod(sizes(x)[: node.axis % len(sizes(x))])
    return divisor(builder, node, label, math.prod(sizes(label)), batch)


def divisor(builder: Builder, node: Node, label: Value, full: int, batch: int) -> Place | Buffer:
    if node.normalization == "VALID" and node.ignore_label is not None:
        labels = builder.scope.label_type(label) or "f32"
        return label_count(builder, labels_at(builder, label), full, node.ignore_label, labels)
    number = {"FULL": full, "VALID": full, "BATCH_SIZE": batch, "NONE": 1}[node.normalization]
    data = np.full(1, max(1, number), np.float32)
    return builder.packed(("divisor", number), [], lambda: data)


def label_count(
    builder: Builder, label: Place | Operand | Buffer, length: int, ignore: int, labels: str = "f32"
) -> Buffer:
    """How many labels are not `ignore`, at least 1."""
    made = builder.buffer(1)
    if groups := builder.target.groups:
        width = item_count(length, groups.items)
        builder.job(GroupLabelCount(length, ignore, width, labels), label, made)
        return made
    counted = (Step("Counted", (0,), (float(ignore),)),)
    work = Work(counted, after=Activation("Clip", (1.0, math.inf)), types=(labels,))
    fold(builder, (length,), [(label, Strided((1,)))], (made, Strided((0,))), work)
    return made
