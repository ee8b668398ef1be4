"""Losses and accuracy on plain values: a kernel for each element or position, then a fold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.kernels.elementwise import Step, Strided, chain
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.losses import Hits, SoftmaxLoss, SoftmaxLossGrad
from nnconv.runtime.kernels.reduce import Axis
from nnconv.runtime.lowering.claims import Claim, Scope, lowers, sizes
from nnconv.runtime.lowering.fold import Work, fold
from nnconv.runtime.lowering.gradients.conv import plain, plain_reads
from nnconv.runtime.lowering.gradients.losses import (
    divisor,
    label_count,
    label_divisor,
    labels_at,
    scores_and_labels,
)
from nnconv.runtime.lowering.layout import Buffer, Place, is_float

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

_EACH, _ONE = Strided((1,)), Strided((0,))


@dataclass(frozen=True, slots=True)
class _Scores:
    """Scores with a label for each position, and the axes that kernels see."""

    x: Value
    label: Value
    labels: str  # their type
    axis: Axis

    @property
    def short(self) -> Axis:
        """One number a position."""
        return Axis.dense(self.axis.outer, 1, self.axis.inner)

    @property
    def positions(self) -> int:
        return self.axis.outer * self.axis.inner

    def reads(self, *others: Value) -> tuple[Value, ...]:
        return (self.x, *([self.label] if self.labels == "f32" else []), *others)


def _scores(node: Node, scope: Scope) -> _Scores | None:
    found = scores_and_labels(node, scope)
    if found is None:
        return None
    x, label, labels = found
    shape, axis = sizes(x), node.axis % len(sizes(x))
    axes = Axis.dense(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    return _Scores(x, label, labels, axes)


@lowers("nnconv.SoftmaxWithLoss")
def softmax_loss(node: Node, scope: Scope) -> Claim | None:
    found = _scores(node, scope)
    if found is None:
        return None

    def emit(builder: Builder) -> str:
        parts, made = builder.buffer(found.positions), builder.write(node.output)
        kernel = SoftmaxLoss(found.axis, found.short, scope.width, found.labels, node.ignore_label)
        builder.job(kernel, plain(builder, found.x), labels_at(builder, found.label), parts)
        _total(builder, parts, label_divisor(builder, node), made)
        return "softmax loss"

    return Claim((node,), plain_reads(found.reads(), scope), node.output, 1, emit)


@lowers("nnconv.SoftmaxWithLossGrad")
def softmax_loss_grad(node: Node, scope: Scope) -> Claim | None:
    found, dy = _scores(node, scope), node.required(2)
    if found is None or not _is_number(dy):
        return None

    def emit(builder: Builder) -> str:
        axis, made = found.axis, builder.write(node.output)
        kernel = SoftmaxLossGrad(axis, axis, scope.width, found.labels, node.ignore_label)
        x, label = plain(builder, found.x), labels_at(builder, found.label)
        builder.job(kernel, x, label, plain(builder, dy), label_divisor(builder, node), made)
        return "softmax loss gradient"

    return Claim((node,), plain_reads(found.reads(dy), scope), node.output, 1, emit)


@lowers("nnconv.Accuracy")
def accuracy(node: Node, scope: Scope) -> Claim | None:
    found = _scores(node, scope)
    if found is None:
        return None
    share, *others = node.outputs
    wanted = tuple(v for v in others if v.uses or scope.is_result(v))

    def emit(builder: Builder) -> str:
        hit, kind = (builder.buffer(found.positions) for _ in range(2))
        kernel = Hits(
            found.axis, found.short, scope.width, found.labels, node.ignore_label, node.top_k
        )
        builder.job(kernel, plain(builder, found.x), labels_at(builder, found.label), hit, kind)
        _total(builder, hit, label_count(builder, kind, kind.size, -1), builder.write(share))
        for value in wanted:
            _by_class(builder, hit, kind, found.axis.length, builder.write(value))
        return "accuracy"

    return Claim((node,), plain_reads(found.reads(), scope), share, 1, emit, wanted)


def _by_class(builder: Builder, hit: Buffer, kind: Buffer, classes: int, made: Place) -> None:
    """The share of hits among the positions of each class, 0 for a class without any."""
    names = builder.packed(("classes", classes), [], lambda: np.arange(classes, dtype=np.float32))
    shape, position, name = (hit.size, classes), Strided((1, 0)), Strided((0, 1))
    right, seen = builder.buffer(classes), builder.buffer(classes)
    mine = Step("Equal", (0, 1))
    sources = [(kind, position), (names, name)]
    fold(builder, shape, sources, (seen, name), Work((mine,)))
    mine = Step("Equal", (0, 1))
    sources.append((hit, position))
    fold(builder, shape, sources, (right, name), Work((mine, Step("Mul", (2, 3)))))
    steps = [Step("Clip", (1,), (1.0, math.inf)), Step("Div", (0, 2))]
    kernel = chain((classes,), [_EACH, _EACH], [_EACH], steps, [3], builder.scope.width)
    builder.job(kernel, right, seen, made)


@lowers("nnconv.SigmoidCrossEntropyLoss")
def sigmoid_loss(node: Node, scope: Scope) -> Claim | None:
    x, target = node.required(0), node.required(1)
    if not _alike(x, target):
        return None

    def emit(builder: Builder) -> str:
        sources = [(plain(builder, value), _EACH) for value in (x, target)]
        work = Work((_step("SigmoidCrossEntropy", node),), divisor=_target_divisor(builder, node))
        goal = (builder.write(node.output), _ONE)
        fold(builder, (math.prod(sizes(x)),), sources, goal, work)
        return "sigmoid loss"

    return Claim((node,), plain_reads((x, target), scope), node.output, 1, emit)


@lowers("nnconv.SigmoidCrossEntropyLossGrad")
def sigmoid_loss_grad(node: Node, scope: Scope) -> Claim | None:
    x, target, dy = (node.required(place) for place in range(3))
    if not _alike(x, target) or not _is_number(dy):
        return None

    def emit(builder: Builder) -> str:
        steps = [_step("SigmoidCrossEntropyGrad", node), Step("Div", (2, 3)), Step("Mul", (4, 5))]
        shape = (math.prod(sizes(x)),)
        kernel = chain(shape, [_EACH, _EACH, _ONE, _ONE], [_EACH], steps, [6], scope.width)
        read = [plain(builder, value) for value in (x, target, dy)]
        builder.job(kernel, *read, _target_divisor(builder, node), builder.write(node.output))
        return "sigmoid loss gradient"

    return Claim((node,), plain_reads((x, target, dy), scope), node.output, 1, emit)


@lowers("nnconv.EuclideanLoss")
def euclidean_loss(node: Node, scope: Scope) -> Claim | None:
    a, b = node.required(0), node.required(1)
    if not _alike(a, b):
        return None

    def emit(builder: Builder) -> str:
        sources = [(plain(builder, value), _EACH) for value in (a, b)]
        steps = (Step("Sub", (0, 1)), Step("Square", (2,)))
        work = Work(steps, after=Activation("Affine", (0.5 / sizes(a)[0], 0.0)))
        goal = (builder.write(node.output), _ONE)
        fold(builder, (math.prod(sizes(a)),), sources, goal, work)
        return "euclidean loss"

    return Claim((node,), plain_reads((a, b), scope), node.output, 1, emit)


def _total(builder: Builder, parts: Buffer, by: Place | Buffer, made: Place) -> None:
    fold(builder, (parts.size,), [(parts, _EACH)], (made, _ONE), Work(divisor=by))


def _step(name: str, node: Node) -> Step:
    """A step on predictions and targets that may leave some out."""
    ignore = () if node.ignore_label is None else (float(node.ignore_label),)
    return Step(name, (0, 1), ignore)


def _target_divisor(builder: Builder, node: Node) -> Place | Buffer:
    x, target = node.required(0), node.required(1)
    return divisor(builder, node, target, math.prod(sizes(x)), sizes(x)[0])


def _alike(a: Value, b: Value) -> bool:
    """Floats, as many in one as in the other."""
    return is_float(a) and is_float(b) and bool(sizes(a)) and _count(a) == _count(b)


def _count(value: Value) -> int:
    return math.prod(sizes(value))


def _is_number(value: Value) -> bool:
    return is_float(value) and _count(value) == 1
