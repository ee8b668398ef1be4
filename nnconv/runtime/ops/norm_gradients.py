"""Gradients of normalisations, the softmax family and dropout.

Rare ones are differentiated through a body of simpler operators, which also makes their second
order work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.ops.norm import (
    channel_window,
    dropped,
    lrn_scale,
    per_channel,
    statistics,
    stored_statistics,
)
from nnconv.runtime.ops.registry import count, each_input, kernel
from nnconv.runtime.ops.rules import (
    emit,
    gradient,
    integers,
    last_axes,
    reshaped,
    through,
    where,
)
from nnconv.schemas.errors import UnsupportedError
from nnconv.schemas.functions.layers import centred_and_deviation, mvn_axes
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array


def _lrn_macs(node: Node) -> int:
    return 2 * count(node.output) * (int(node.size) + 2)


@kernel("nnconv.LRNGrad", macs=_lrn_macs)
def lrn_grad(x: Array, dy: Array, *, size: int, alpha: float, beta: float, bias: float) -> Array:
    """dx = dy / s^beta - 2 alpha beta / size * x * window(dy * x / s^(beta+1)), where the window
    is the forward one mirrored (they differ for even sizes)."""
    s = lrn_scale(x, size, alpha, bias)
    near = channel_window(dy * x * s ** (-beta - 1), before=size // 2, after=(size - 1) // 2)
    return np.asarray(dy * s**-beta - 2 * alpha * beta / size * x * near)


@gradient("LRN")
def d_lrn(node: Node, dy: Value) -> Value:
    return emit("nnconv.LRNGrad", node.required(0), dy, **node.arguments())


@kernel("nnconv.BatchNormGrad", macs=each_input)
def caffe_batch_norm_grad(
    x: Array,
    mean_sum: Array,
    variance_sum: Array,
    factor: Array,
    dy: Array,
    *,
    epsilon: float,
    use_global_stats: int,
) -> Array:
    """dx = dy / sqrt(variance + epsilon) by stored statistics; by the batch's own, which depend on
    x, (dy - mean(dy) - y mean(dy y)) / sqrt(variance + epsilon) (batch_norm_layer.cpp)."""
    if use_global_stats not in (0, 1):
        raise UnsupportedError("nnconv.BatchNormGrad must be bound to a mode before it can run")
    if use_global_stats:
        _, variance = stored_statistics(x, mean_sum, variance_sum, factor)
        dx = dy / per_channel(np.sqrt(variance + epsilon), x)
        return np.asarray(dx, x.dtype)
    mean, variance = statistics(x)
    deviation = per_channel(np.sqrt(variance + epsilon), x)
    y = (x - per_channel(mean, x)) / deviation
    axes = (0, *range(2, x.ndim))
    common = dy.mean(axis=axes, dtype=np.float64, keepdims=True)
    shared = (dy * y).mean(axis=axes, keepdims=True)
    return np.asarray((dy - common - y * shared) / deviation, x.dtype)


@gradient("nnconv.BatchNorm")
def d_caffe_batch_norm(node: Node, dy: Value | None, *states: Value | None) -> Value | None:
    """The statistics handed on to the next run lead to no loss."""
    if dy is None:
        return None
    settings = {"epsilon": node.epsilon, "use_global_stats": node.use_global_stats}
    return emit("nnconv.BatchNormGrad", *node.inputs[:4], dy, **settings)


@gradient("nnconv.MVN")
def d_mvn(node: Node, dy: Value) -> Value:
    """dx = (dy - mean(dy) - y mean(dy y)) / (deviation + eps), or dy - mean(dy) where the variance
    stays. As in mvn_layer.cpp the last factor leaves out (deviation + eps) / deviation, so that a
    constant plane gets zeros and not 0/0."""
    axes = integers(dy, mvn_axes(node))
    spread_out = dy - emit("ReduceMean", dy, axes)
    centred, deviation = centred_and_deviation(node)
    if deviation is None:
        return spread_out
    y = centred / deviation
    return (spread_out - y * emit("ReduceMean", dy * y, axes)) / deviation


@gradient("BatchNormalization")
def d_batch_normalization(
    node: Node, dy: Value | None, *states: Value | None
) -> tuple[Value | None, ...] | None:
    """By the batch's statistics in training mode, by the given ones otherwise; by channel."""
    if dy is None:
        return None
    x, scale, _, mean, variance = (node.required(place) for place in range(5))
    axes = integers(x, [0, *range(2, x.rank)])
    tall = integers(x, [-1, *(1 for _ in range(x.rank - 2))])
    if node.training_mode:
        centred = x - emit("ReduceMean", x, axes)
        inverse = (emit("ReduceMean", centred * centred, axes) + node.epsilon) ** -0.5
    else:
        centred = x - emit("Reshape", mean, tall)
        inverse = emit("Reshape", (variance + node.epsilon) ** -0.5, tall)
    y = centred * inverse
    dscale = emit("ReduceSum", dy * y, axes, keepdims=0)
    dbias = emit("ReduceSum", dy, axes, keepdims=0)
    slope = emit("Reshape", scale, tall) * inverse
    if node.training_mode:
        inner = dy - emit("ReduceMean", dy, axes) - y * emit("ReduceMean", dy * y, axes)
        return slope * inner, dscale, dbias
    dmean = emit("ReduceSum", -dy * slope, axes, keepdims=0)
    dvariance = -0.5 * (dscale * scale / (variance + node.epsilon))
    return dy * slope, dscale, dbias, dmean, dvariance


def _standardised(x: Value, axes: Value, epsilon: float) -> Value:
    """(x - mean) / sqrt(variance + epsilon) over `axes`."""
    centred = x - emit("ReduceMean", x, axes)
    return centred * (emit("ReduceMean", centred * centred, axes) + epsilon) ** -0.5


@through("InstanceNormalization")
def instance_normalization(node: Node) -> list[Value]:
    x = node.required(0)
    tall = integers(x, [-1, *(1 for _ in range(x.rank - 2))])
    scale, bias = (emit("Reshape", node.required(place), tall) for place in (1, 2))
    return [_standardised(x, last_axes(x, 2), node.epsilon) * scale + bias]


@through("GroupNormalization")
def group_normalization(node: Node) -> list[Value]:
    x = node.required(0)
    tall = integers(x, [-1, *(1 for _ in range(x.rank - 2))])
    scale, bias = (emit("Reshape", node.required(place), tall) for place in (1, 2))
    groups = emit("Reshape", x, integers(x, [0, node.num_groups, -1]))
    return [reshaped(_standardised(groups, integers(x, [2]), node.epsilon), x) * scale + bias]


@through("LayerNormalization")
def layer_normalization(node: Node) -> list[Value]:
    """All three results, of which the mean and inverse deviation are seldom differentiated."""
    x, scale, bias = node.required(0), node.required(1), node.input(2)
    axes = last_axes(x, node.axis)
    mean = emit("ReduceMean", x, axes)
    centred = x - mean
    inverse = (emit("ReduceMean", centred * centred, axes) + node.epsilon) ** -0.5
    y = centred * inverse * scale
    return [y if bias is None else y + bias, mean, inverse]


@through("RMSNormalization")
def rms_normalization(node: Node) -> list[Value]:
    x = node.required(0)
    square = emit("ReduceMean", x * x, last_axes(x, node.axis))
    return [x * (square + node.epsilon) ** -0.5 * node.required(1)]


@through("MeanVarianceNormalization")
def mean_variance_normalization(node: Node) -> list[Value]:
    x = node.required(0)
    axes = integers(x, list(node.axes))
    centred = x - emit("ReduceMean", x, axes)
    return [centred / (emit("Sqrt", emit("ReduceMean", centred * centred, axes)) + 1e-9)]


@through("LpNormalization")
def lp_normalization(node: Node) -> list[Value]:
    x = node.required(0)
    norm = emit("ReduceL1" if node.p == 1 else "ReduceL2", x, integers(x, [node.axis]))
    return [x / norm]


@gradient("Softmax")
def d_softmax(node: Node, dy: Value) -> Value:
    """dx = y (dy - sum of dy y along the axis)."""
    y = node.output
    axis = integers(y, [node.axis])
    return y * (dy - emit("ReduceSum", dy * y, axis))


@gradient("LogSoftmax")
def d_log_softmax(node: Node, dy: Value) -> Value:
    """dx = dy - softmax(x) * sum of dy along the axis."""
    y = node.output
    return dy - emit("Exp", y) * emit("ReduceSum", dy, integers(y, [node.axis]))


# --- dropout --------------------------------------------------------------------------------------


@kernel("nnconv.DropoutGrad")
def caffe_dropout_grad(y: Array, dy: Array, *, ratio: float, seed: int, step: int) -> Array:
    """dy by the mask that made y: that of the same seed and step."""
    return dropped(dy, ratio, seed, step)


@gradient("nnconv.Dropout")
def d_caffe_dropout(node: Node, dy: Value) -> Value:
    return emit("nnconv.DropoutGrad", node.output, dy, ratio=node.ratio, seed=node.seed)


@gradient("nnconv.DropoutGrad")
def d_caffe_dropout_grad(node: Node, ddx: Value) -> tuple[None, Value]:
    again = {"ratio": node.ratio, "seed": node.seed}
    return None, emit("nnconv.DropoutGrad", node.required(0), ddx, **again)


@gradient("Dropout")
def d_dropout(node: Node, dy: Value | None, unused: Value | None = None) -> Value | None:
    """By the mask, output 1, which the node is made to give where it did not."""
    if dy is None:
        return None
    training, ratio = node.input(2), node.input(1)
    if training is None:
        return dy
    if len(node.outputs) < 2:
        _ask_for_mask(node)
    share = dy.graph.constant(0.5, dy.dtype) if ratio is None else emit("CastLike", ratio, dy)
    kept = where(node.outputs[1], dy / (1 - share), 0.0)
    return where(training, kept, dy)


def _ask_for_mask(node: Node) -> None:
    mask = node.graph.add_value(
        node.graph.fresh_name(f"{node.output.name}:mask"), DType.BOOL, node.output.shape
    )
    mask.producer, mask.index = node, 1
    node.outputs.append(mask)
