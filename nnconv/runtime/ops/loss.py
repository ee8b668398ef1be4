"""Losses and measures, summed in float64; scalars come out as 0-d arrays of the input's dtype.

Labels may be floats that hold integers, as Caffe's are; they are truncated towards zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.ops.norm import log_softmax, softmax
from nnconv.runtime.ops.registry import each_input, kernel
from nnconv.runtime.ops.rules import (
    emit,
    flat,
    gradient,
    integers,
    number,
    reshaped,
    size_of,
    through,
    where,
)
from nnconv.schemas.errors import InputError
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array

_SMALLEST = float(np.finfo(np.float32).tiny)  # Caffe's FLT_MIN, 2^-126


def _normalizer(normalization: str, full: int, valid: int, batch: int) -> float:
    """What Caffe's losses divide by, never less than 1 (loss_layer.cpp, GetNormalizer)."""
    table = {"FULL": full, "VALID": valid, "BATCH_SIZE": batch, "NONE": 1}
    if normalization not in table:
        raise InputError(f"normalization must be one of {', '.join(table)}, got '{normalization}'")
    return max(1.0, table[normalization])


def _classes_last(x: Array, label: Array, axis: int) -> tuple[Array, Array, tuple[int, ...]]:
    """Scores as [positions, classes], labels as [positions], and the shape before `axis`."""
    axis %= x.ndim
    scores = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    if label.size != scores.shape[0]:
        raise InputError(f"{label.size} labels for {scores.shape[0]} predictions")
    return scores, label.reshape(-1).astype(np.int64), x.shape[:axis]


def _checked(labels: Array, counted: Array, classes: int) -> Array:
    """Labels with those not counted set to 0; raises InputError when one is no class."""
    kept = np.where(counted, labels, 0)
    if kept.size and not (kept.min() >= 0 and kept.max() < classes):
        wrong = kept[(kept < 0) | (kept >= classes)][0]
        raise InputError(f"label {wrong} is outside the {classes} classes")
    return kept


@kernel("nnconv.SoftmaxWithLoss", macs=each_input)
def softmax_with_loss(
    x: Array, label: Array, *, normalization: str, axis: int, ignore_label: int | None
) -> Array:
    """-sum of log(max(softmax(x)[label], FLT_MIN)) / normalizer (softmax_loss_layer.cpp)."""
    scores, labels, outer = _classes_last(x, label, axis)
    counted = np.ones(labels.shape, bool) if ignore_label is None else labels != ignore_label
    labels = _checked(labels, counted, scores.shape[1])
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True, initial=-np.inf)
    chosen = shifted[np.arange(len(labels)), labels] - np.log(np.exp(shifted).sum(axis=1))
    total = -np.maximum(chosen, math.log(_SMALLEST))[counted].sum()
    divisor = _normalizer(normalization, len(labels), int(counted.sum()), math.prod(outer))
    return np.asarray(total / divisor, x.dtype)


@kernel("nnconv.SigmoidCrossEntropyLoss", macs=each_input)
def sigmoid_cross_entropy_loss(
    x: Array, target: Array, *, normalization: str, ignore_label: int | None
) -> Array:
    """-sum of x(t - [x>=0]) - log(1 + e^(x - 2x[x>=0])) / normalizer
    (sigmoid_cross_entropy_loss_layer.cpp).
    """
    if x.size != target.size:
        raise InputError(f"{target.size} targets for {x.size} predictions")
    wide, goal = x.astype(np.float64), target.reshape(x.shape)
    terms = wide * (goal - (wide >= 0)) - np.log1p(np.exp(-np.abs(wide)))
    counted = np.ones(x.shape, bool) if ignore_label is None else np.trunc(goal) != ignore_label
    divisor = _normalizer(normalization, x.size, int(counted.sum()), x.shape[0])
    return np.asarray(-terms[counted].sum() / divisor, x.dtype)


@kernel("nnconv.EuclideanLoss", macs=each_input)
def euclidean_loss(a: Array, b: Array) -> Array:
    """sum of (a - b)^2 / (2 N), N = shape[0] (euclidean_loss_layer.cpp)."""
    if a.size != b.size:
        raise InputError(f"{a.size} values to compare with {b.size}")
    difference = a.astype(np.float64) - b.reshape(a.shape)
    return np.asarray((difference * difference).sum() / (2 * a.shape[0]), a.dtype)


@kernel("nnconv.Accuracy", macs=each_input)
def accuracy(
    x: Array, label: Array, *, axis: int, top_k: int, ignore_label: int | None
) -> tuple[Array, Array]:
    """The share of positions whose true class is among the `top_k` highest scores
    (accuracy_layer.cpp).

    Scores equal to that of the true class count against it. Nothing counted gives 0, and so does a
    class that does not occur. Outputs: the share (0-d), and the share by class [C].
    """
    scores, labels, _ = _classes_last(x, label, axis)
    counted = np.ones(labels.shape, bool) if ignore_label is None else labels != ignore_label
    labels = _checked(labels, counted, scores.shape[1])
    mine = scores[np.arange(len(labels)), labels]
    correct = ((scores >= mine[:, None]).sum(axis=1) - 1 < top_k) & counted
    classes = scores.shape[1]
    seen = np.bincount(labels[counted], minlength=classes)
    right = np.bincount(labels[correct], minlength=classes)
    total = int(counted.sum())
    share = correct.sum() / total if total else 0.0
    return np.asarray(share, x.dtype), (right / np.maximum(seen, 1)).astype(x.dtype)


@kernel("SoftmaxCrossEntropyLoss", macs=each_input)
def softmax_cross_entropy_loss(
    scores: Array,
    labels: Array,
    weights: Array | None = None,
    *,
    ignore_index: int | None,
    reduction: str,
) -> tuple[Array, Array]:
    """The negative log likelihood of log_softmax over axis 1; output 1 is that log_softmax."""
    logs = log_softmax(scores, axis=1)
    loss = negative_log_likelihood_loss(
        logs, labels, weights, ignore_index=ignore_index, reduction=reduction
    )
    return loss, logs


@kernel("NegativeLogLikelihoodLoss", macs=each_input)
def negative_log_likelihood_loss(
    logs: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int | None,
    reduction: str,
) -> Array:
    """-weight[t] * logs[n, t, ...]; "mean" divides by the sum of the weights used (ONNX
    NLLLoss-22).
    """
    counted = np.ones(target.shape, bool) if ignore_index is None else target != ignore_index
    labels = _checked(target.astype(np.int64), counted, logs.shape[1])
    chosen = np.take_along_axis(logs, labels[:, None], axis=1)[:, 0]
    share = counted * (weight[labels] if weight is not None else logs.dtype.type(1))
    loss = -chosen * share
    if reduction == "none":
        return np.asarray(loss, logs.dtype)
    total = loss.sum(dtype=np.float64)
    return np.asarray(total if reduction == "sum" else total / share.sum(), logs.dtype)


# --- gradients ------------------------------------------------------------------------------------


@kernel("nnconv.SoftmaxWithLossGrad", macs=each_input)
def softmax_with_loss_grad(
    x: Array,
    label: Array,
    dy: Array,
    *,
    normalization: str,
    axis: int,
    ignore_label: int | None,
) -> Array:
    """dx = (softmax(x) - 1[label]) dy / normalizer, 0 where the label is ignored. The floor of the
    forward logarithm is not felt (softmax_loss_layer.cpp, Backward_cpu)."""
    scores, labels, outer = _classes_last(x, label, axis)
    counted = np.ones(labels.shape, bool) if ignore_label is None else labels != ignore_label
    labels = _checked(labels, counted, scores.shape[1])
    shares = softmax(scores.astype(np.float64), axis=1)
    shares[np.arange(len(labels)), labels] -= 1
    divisor = _normalizer(normalization, len(labels), int(counted.sum()), math.prod(outer))
    shares *= counted[:, None] * (float(dy.reshape(())) / divisor)
    place = axis % x.ndim
    last = (*x.shape[:place], *x.shape[place + 1 :], x.shape[place])
    return np.asarray(np.moveaxis(shares.reshape(last), -1, place), x.dtype)


@gradient("nnconv.SoftmaxWithLoss")
def d_softmax_with_loss(node: Node, dy: Value) -> Value:
    x, label = node.required(0), node.required(1)
    return emit("nnconv.SoftmaxWithLossGrad", x, label, dy, **node.arguments())


@kernel("nnconv.SigmoidCrossEntropyLossGrad", macs=each_input)
def sigmoid_cross_entropy_loss_grad(
    x: Array, target: Array, dy: Array, *, normalization: str, ignore_label: int | None
) -> Array:
    """dx = (sigmoid(x) - target) dy / normalizer, 0 where the target is ignored."""
    goal = target.reshape(x.shape)
    counted = np.ones(x.shape, bool) if ignore_label is None else np.trunc(goal) != ignore_label
    divisor = _normalizer(normalization, x.size, int(counted.sum()), x.shape[0])
    shares = 0.5 * np.tanh(0.5 * x.astype(np.float64)) + 0.5 - goal
    return np.asarray(shares * counted * (float(dy.reshape(())) / divisor), x.dtype)


@gradient("nnconv.SigmoidCrossEntropyLoss")
def d_sigmoid_cross_entropy_loss(node: Node, dy: Value) -> Value:
    """The targets have no gradient in Caffe, and none here."""
    x, target = node.required(0), node.required(1)
    return emit("nnconv.SigmoidCrossEntropyLossGrad", x, target, dy, **node.arguments())


@through("nnconv.SoftmaxWithLossGrad")
def softmax_with_loss_grad_body(node: Node) -> list[Value]:
    x, label, dy = (node.required(place) for place in range(3))
    axis = node.axis % x.rank
    column = emit("ReduceSum", x, integers(x, [axis]))  # as many places as there are labels
    labels = emit("Cast", reshaped(label, column), to=int(DType.INT64))
    classes = emit(
        "Range", integers(x, 0), emit("Gather", emit("Shape", x), integers(x, axis)), integers(x, 1)
    )
    classes = emit("Reshape", classes, integers(x, [-1, *(1 for _ in range(axis + 1, x.rank))]))
    chosen = emit("Cast", emit("Equal", labels, classes), to=int(x.dtype))
    counted = _counted(labels, node.ignore_label, x)
    terms = (emit("Softmax", x, axis=axis) - chosen) * counted
    return [terms * (dy / _divisor(node, counted, column, size_of(x, range(axis))))]


@through("nnconv.SigmoidCrossEntropyLossGrad")
def sigmoid_cross_entropy_loss_grad_body(node: Node) -> list[Value]:
    x, target, dy = (node.required(place) for place in range(3))
    goal = reshaped(target, x)
    goal = emit("Cast", goal, to=int(x.dtype))
    counted = _counted(emit("Cast", goal, to=int(DType.INT64)), node.ignore_label, x)
    terms = (emit("Sigmoid", x) - goal) * counted
    return [terms * (dy / _divisor(node, counted, x, size_of(x, [0])))]


def _counted(labels: Value, ignored: int | None, x: Value) -> Value:
    """1 where a label counts, 0 where it is the ignored one, in x's type."""
    never = emit("Equal", labels, labels if ignored is None else integers(labels, ignored))
    kept = never if ignored is None else emit("Not", never)
    return emit("Cast", kept, to=int(x.dtype))


def _divisor(node: Node, counted: Value, full: Value, batch: Value) -> Value:
    """`_normalizer` as nodes."""
    match node.normalization:
        case "VALID":
            divisor = emit("ReduceSum", counted, keepdims=0)
        case "FULL":
            divisor = size_of(full)
        case "BATCH_SIZE":
            divisor = batch
        case _:
            divisor = number(counted, 1)
    return emit("Max", divisor, number(counted, 1))


@gradient("nnconv.EuclideanLoss")
def d_euclidean_loss(node: Node, dy: Value) -> tuple[Value, Value]:
    """da = dy (a - b) / N, db = -da."""
    a, b = node.required(0), node.required(1)
    da = (a - reshaped(b, a)) * (dy / size_of(a, [0]))
    return da, reshaped(-da, b)


@through("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy_body(node: Node) -> list[Value]:
    logs = emit("LogSoftmax", node.required(0), axis=1)
    settings = {"ignore_index": node.ignore_index, "reduction": node.reduction}
    loss = emit("NegativeLogLikelihoodLoss", logs, *node.inputs[1:], **settings)
    return [loss, logs]


@through("NegativeLogLikelihoodLoss")
def negative_log_likelihood_body(node: Node) -> list[Value]:
    """Chosen by GatherElements, weighted, those ignored set to 0."""
    logs, target, weight = node.required(0), node.required(1), node.input(2)
    index = emit("Cast", target, to=int(DType.INT64))
    counted = number(logs, 1)
    if node.ignore_index is not None:
        ignored = emit("Equal", index, integers(logs, node.ignore_index))
        index = emit("Where", ignored, integers(logs, 0), index)
        counted = where(ignored, number(logs, 0), 1.0)
    place = integers(logs, [1])
    chosen = emit("GatherElements", logs, emit("Unsqueeze", index, place), axis=1)
    share = counted if weight is None else counted * emit("Gather", weight, index)
    loss = -emit("Squeeze", chosen, place) * share
    if node.reduction == "none":
        return [loss]
    total = emit("ReduceSum", loss, keepdims=0)
    if node.reduction == "sum":
        return [total]
    spread_share = emit("Expand", share, emit("Shape", loss))
    return [total / emit("ReduceSum", spread_share, keepdims=0)]


flat("nnconv.Accuracy")
