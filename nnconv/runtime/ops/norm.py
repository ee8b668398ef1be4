"""Normalisations, the softmax family, and dropout.

Means and variances are summed in float64 whatever the dtype: they run over long axes, and numpy
adds pairwise only along the innermost one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.ops.registry import count, each_input, kernel
from nnconv.runtime.random import threshold, uniform_words
from nnconv.schemas.errors import InputError, UnsupportedError
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node
    from nnconv.schemas.types import Array


def _lrn_macs(node: Node) -> int:
    return count(node.output) * (int(node.size) + 2)


def channel_window(x: Array, before: int, after: int) -> Array:
    """For each channel the sum over the channels from `before` below to `after` above it."""
    channels = x.shape[1]
    wide = np.pad(x, [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2))
    total = wide[:, :channels].copy()
    for shift in range(1, before + after + 1):
        total += wide[:, shift : shift + channels]
    return total


@kernel("LRN", macs=_lrn_macs)
def lrn(x: Array, *, size: int, alpha: float, beta: float, bias: float) -> Array:
    """y = x / s^beta, s = bias + alpha/size * sum of x^2 over `size` channels (LRN-13; Krizhevsky
    2012, 3.3).

    The window is centred; of an even size it reaches one further up. x [N,C,*any].
    """
    return np.asarray(x * lrn_scale(x, size, alpha, bias) ** -beta)


def lrn_scale(x: Array, size: int, alpha: float, bias: float) -> Array:
    """s = bias + alpha/size * sum of x^2 over the window of each channel."""
    squares = channel_window(x * x, before=(size - 1) // 2, after=size // 2)
    return np.asarray(bias + alpha / size * squares)


@kernel("BatchNormalization", macs=each_input)
def batch_normalization(
    x: Array,
    scale: Array,
    b: Array,
    mean: Array,
    variance: Array,
    *,
    epsilon: float,
    momentum: float,
    training_mode: int,
) -> tuple[Array, ...]:
    """y = scale * (x - mean) / sqrt(variance + epsilon) + b, by channel (BatchNormalization-15).

    In training mode by the batch's own (biased) statistics; the running ones are outputs 1 and 2.
    """
    if not training_mode:
        return (_normalise(x, mean, variance, epsilon, scale, b),)
    batch_mean, batch_variance = statistics(x)
    y = _normalise(x, batch_mean, batch_variance, epsilon, scale, b)
    running = (
        (old * momentum + new * (1 - momentum)).astype(old.dtype)
        for old, new in ((mean, batch_mean), (variance, batch_variance))
    )
    return (y, *running)


def per_channel(values: Array, x: Array) -> Array:
    return values.reshape(-1, *(1,) * (x.ndim - 2))


def _normalise(
    x: Array, mean: Array, variance: Array, epsilon: float, scale: Array, b: Array
) -> Array:
    slope = scale / np.sqrt(variance + epsilon)
    y = (x - per_channel(mean, x)) * per_channel(slope, x) + per_channel(b, x)
    return np.asarray(y, x.dtype)


def statistics(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance by channel, in float64, in two passes."""
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axis=axes, dtype=np.float64)
    deviation = x - per_channel(mean, x)
    return mean, (deviation * deviation).mean(axis=axes)


@kernel("nnconv.BatchNorm", macs=each_input)
def caffe_batch_norm(
    x: Array,
    mean_sum: Array,
    variance_sum: Array,
    factor: Array,
    *,
    epsilon: float,
    moving_average_fraction: float,
    use_global_stats: int,
) -> tuple[Array, Array, Array, Array]:
    """Caffe's BatchNorm (batch_norm_layer.cpp), no scale or bias: y = (x - mean) / sqrt(variance +
    epsilon).

    The state holds decaying sums and their weight `factor`. With global statistics mean and
    variance are the sums over that weight (0 while it is 0); else they are the batch's, and the
    state moves on: factor' = f*factor + 1, mean' = f*mean_sum + mean, variance' = f*variance_sum +
    m/(m-1) * variance with m values a channel. Outputs: y and the three next states.
    """
    if use_global_stats not in (0, 1):
        raise UnsupportedError("nnconv.BatchNorm must be bound to a mode before it can run")
    if use_global_stats:
        mean, variance = stored_statistics(x, mean_sum, variance_sum, factor)
        return _standardise(x, mean, variance, epsilon), mean_sum, variance_sum, factor
    mean, variance = statistics(x)
    samples = x.size // max(x.shape[1], 1)
    unbiased = variance * (samples / (samples - 1) if samples > 1 else 1)
    fraction = moving_average_fraction
    moved = ((mean_sum, mean), (variance_sum, unbiased), (factor, 1))
    states = [np.asarray(fraction * old + new).astype(old.dtype) for old, new in moved]
    return _standardise(x, mean, variance, epsilon), states[0], states[1], states[2]


def stored_statistics(
    x: Array, mean_sum: Array, variance_sum: Array, factor: Array
) -> tuple[Array, Array]:
    """Mean and variance from decaying sums and their weight; 0 while that is 0."""
    weight = float(factor.reshape(-1)[0])
    scale = x.dtype.type(1 / weight if weight else 0.0)
    return mean_sum * scale, variance_sum * scale


def _standardise(x: Array, mean: Array, variance: Array, epsilon: float) -> Array:
    y = (x - per_channel(mean, x)) / per_channel(np.sqrt(variance + epsilon), x)
    return y.astype(x.dtype, copy=False)


@kernel("InstanceNormalization", macs=each_input)
def instance_normalization(x: Array, scale: Array, b: Array, *, epsilon: float) -> Array:
    """Each channel of each item by its own mean and variance, then scale and b by channel."""
    y = _by_moments(x, tuple(range(2, x.ndim)), epsilon)[0]
    return np.asarray(y * per_channel(scale, x) + per_channel(b, x), x.dtype)


@kernel("GroupNormalization", macs=each_input)
def group_normalization(
    x: Array, scale: Array, bias: Array, *, epsilon: float, num_groups: int, stash_type: int = 1
) -> Array:
    """Groups of channels, each by its own mean and variance; then scale and bias by channel."""
    if num_groups < 1 or x.shape[1] % num_groups:
        raise InputError(f"{x.shape[1]} channels do not split into {num_groups} groups")
    grouped = x.reshape(x.shape[0], num_groups, -1)
    y = _by_moments(grouped, (2,), epsilon)[0].reshape(x.shape)
    return np.asarray(y * per_channel(scale, x) + per_channel(bias, x), x.dtype)


@kernel("LayerNormalization", macs=each_input)
def layer_normalization(
    x: Array,
    scale: Array,
    b: Array | None = None,
    *,
    axis: int,
    epsilon: float,
    stash_type: int = 1,
) -> tuple[Array, Array, Array]:
    """y = scale * (x - mean) / sqrt(variance + epsilon) + b over the axes from `axis` on."""
    y, mean, inverse = _by_moments(x, tuple(range(axis % x.ndim, x.ndim)), epsilon)
    y = y * scale if b is None else y * scale + b
    stash = DType(stash_type).numpy
    return y.astype(x.dtype, copy=False), mean.astype(stash), inverse.astype(stash)


@kernel("RMSNormalization", macs=each_input)
def rms_normalization(
    x: Array, scale: Array, *, axis: int, epsilon: float, stash_type: int = 1
) -> Array:
    """y = scale * x / sqrt(mean(x^2) + epsilon) over the axes from `axis` to the end."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    wide = x.astype(np.float64)
    square = (wide * wide).mean(axis=axes, keepdims=True)
    return np.asarray(wide / np.sqrt(square + epsilon) * scale).astype(x.dtype)


@kernel("MeanVarianceNormalization", macs=each_input)
def mean_variance_normalization(x: Array, *, axes: Sequence[int]) -> Array:
    """(x - mean) / (sqrt(variance) + 1e-9); the 1e-9 is fixed by the operator's body (MVN-13)."""
    wide = x.astype(np.float64)
    deviation = wide - wide.mean(axis=tuple(axes), keepdims=True)
    spread = np.sqrt((deviation * deviation).mean(axis=tuple(axes), keepdims=True))
    return np.asarray(deviation / (spread + 1e-9)).astype(x.dtype)


def _by_moments(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """x normalised over `axes`, its mean, and its inverse deviation, all in float64."""
    mean = x.mean(axis=axes, dtype=np.float64, keepdims=True)
    deviation = x - mean
    inverse = 1 / np.sqrt((deviation * deviation).mean(axis=axes, keepdims=True) + epsilon)
    return deviation * inverse, mean, inverse


@kernel("LpNormalization", macs=each_input)
def lp_normalization(x: Array, *, axis: int, p: int) -> Array:
    """x / (sum of |x|^p along `axis`)^(1/p); 0 where that norm is 0."""
    norm = (
        np.abs(x).sum(axis, keepdims=True) if p == 1 else np.sqrt((x * x).sum(axis, keepdims=True))
    )
    return np.asarray(np.where(norm == 0, 0, x / norm)).astype(x.dtype)


@kernel("Softmax", macs=each_input)
def softmax(x: Array, *, axis: int) -> Array:
    """e^(x - max) / sum of e^(x - max) along `axis`."""
    powers = np.exp(x - x.max(axis=axis, keepdims=True, initial=_floor(x)))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


@kernel("LogSoftmax", macs=each_input)
def log_softmax(x: Array, *, axis: int) -> Array:
    """x - max - log(sum of e^(x - max)) along `axis`."""
    shifted = x - x.max(axis=axis, keepdims=True, initial=_floor(x))
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


def _floor(x: Array) -> float:
    """What no element lies below; gives the maximum of an empty axis a value."""
    return float(np.finfo(x.dtype).min) if x.dtype.kind == "f" else -np.inf


@kernel("Hardmax", macs=each_input)
def hardmax(x: Array, *, axis: int) -> Array:
    """1 at the first largest element along `axis`, 0 elsewhere."""
    y = np.zeros_like(x)
    np.put_along_axis(y, np.expand_dims(x.argmax(axis), axis), x.dtype.type(1), axis)
    return y


@kernel("nnconv.Dropout")
def caffe_dropout(x: Array, *, ratio: float, seed: int, step: int) -> Array:
    """y = x * mask / (1 - ratio), each element kept with probability 1 - ratio (dropout_layer.cpp).

    An element is dropped where its random word is below ratio * 2^32; the words depend on (seed,
    step, element) alone, so that every device drops the same ones.
    """
    return dropped(x, ratio, seed, step)


def dropped(x: Array, ratio: float, seed: int, step: int) -> Array:
    """x by the mask of (seed, step), scaled by 1 / (1 - ratio)."""
    if not 0 <= ratio < 1:
        raise InputError(f"the dropout ratio must be in [0, 1), got {ratio}")
    keep = uniform_words(x.size, seed, step) >= np.uint64(threshold(ratio))
    return np.asarray(x * (keep.reshape(x.shape) * x.dtype.type(1 / (1 - ratio))))


@kernel("Dropout")
def dropout(
    x: Array,
    ratio: Array | None = None,
    training: Array | None = None,
    *,
    seed: int | None,
    step: int,
) -> tuple[Array, Array]:
    """ONNX Dropout-22: the identity unless `training` is true; the mask is output 1."""
    share = 0.5 if ratio is None else float(ratio)
    if training is None or not bool(training) or share == 0:
        return x, np.ones(x.shape, bool)
    keep = uniform_words(x.size, seed or 0, step) >= np.uint64(threshold(share))
    keep = keep.reshape(x.shape)
    return x * (keep * x.dtype.type(1 / (1 - share))), keep
