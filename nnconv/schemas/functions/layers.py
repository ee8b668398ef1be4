"""Bodies of layers, as nets have them: shapes, windows, normalisations, losses and the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnconv.schemas.dims import Dim, Shape, size
from nnconv.schemas.errors import InputError
from nnconv.schemas.functions.registry import function
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value

FLT_MIN = 2.0**-126
"""The smallest normal float32; Caffe's SoftmaxWithLoss takes the logarithm of nothing smaller."""


# --- shapes ---------------------------------------------------------------------------------------


@function("nnconv.Flatten")
@function("nnconv.Reshape")
def reshape(node: Node, mode: str) -> Sequence[Value] | None:
    """Reshape to the inferred shape; open sizes are copied (0) where they stay in place, one is
    left (-1)."""
    x, wanted = node.required(0), node.outputs[0].shape
    if x.shape is None or wanted is None:
        return None
    targets = [_target(place, dim, x.shape) for place, dim in enumerate(wanted)]
    if targets.count(-1) > 1 or (0 in wanted and 0 in map(_as_number, targets, wanted)):
        return None
    shape = node.graph.constant(targets, DType.INT64)
    return [node.graph.emit("Reshape", x, shape, allowzero=int(0 in wanted))]


def _target(place: int, dim: Dim, source: Shape) -> int:
    if isinstance(dim, int):
        return dim
    return 0 if place < len(source) and source[place] == dim else -1


def _as_number(target: int, dim: Dim) -> int:
    """1 for a plain size, so that only copied axes remain 0."""
    return 1 if isinstance(dim, int) else target


# --- windows --------------------------------------------------------------------------------------


@function("nnconv.Pool")
def pool(node: Node, mode: str) -> Sequence[Value] | None:
    """MaxPool or AveragePool, where they count windows alike; MAX may pad for those outside the
    data."""
    graph, x, y = node.graph, node.required(0), node.outputs[0]
    if x.shape is None or y.shape is None:
        return None
    shared = {"kernel_shape": node.kernel_shape, "strides": node.strides}
    op, extra = _POOLS[node.mode]
    plain = {**shared, **extra, "pads": node.pads, "ceil_mode": int(node.round_mode == "CEIL")}
    result: Value = graph.emit(op, x, **plain)
    if result.shape == y.shape:
        return [result]
    graph.remove(result.producer)  # type: ignore[arg-type]  # just emitted
    missing = _outside(node, x.shape[2:], y.shape[2:])
    if node.mode != "MAX" or missing is None or any(node.pads or ()):
        return None  # an average over nothing is 0/0, which padding cannot give
    pads = graph.constant([0] * (len(missing) + 4) + missing, DType.INT64)
    lowest = graph.constant(-_LARGEST, x.dtype)  # what Caffe's empty windows give
    return [graph.emit("MaxPool", graph.emit("Pad", x, pads, lowest), **shared)]


_POOLS: dict[str, tuple[str, dict[str, int]]] = {
    "MAX": ("MaxPool", {}),
    "AVE": ("AveragePool", {"count_include_pad": 1}),
}
_LARGEST = (2 - 2.0**-23) * 2.0**127


def _outside(node: Node, sizes: Shape, positions: Shape) -> list[int] | None:
    """How far the last windows reach beyond the data; None while sizes are open."""
    strides = node.strides or (1,) * len(sizes)
    reach = []
    for extent, count, kernel, stride in zip(
        sizes, positions, node.kernel_shape, strides, strict=True
    ):
        if not isinstance(extent, int) or not isinstance(count, int):
            return None
        reach.append(max(0, (count - 1) * stride + kernel - extent))
    return reach


@function("nnconv.PyramidPool")
def pyramid_pool(node: Node, mode: str) -> Sequence[Value] | None:
    """Pooling whose windows are as large as it takes to have bins x bins of them."""
    x = node.required(0)
    if (windows := pyramid_windows(node, x)) is None:
        return None
    op, extra = _POOLS[node.mode]
    return [node.graph.emit(op, x, **(windows | extra))]


def pyramid_windows(node: Node, x: Value) -> dict[str, Any] | None:
    """The attributes of the pooling that a level of a pyramid is; None while sizes are open."""
    if not are_bound(x):
        return None
    extents = [_number(extent) for extent in x.known_shape[2:]]
    kernel, before = zip(*(pyramid_side(extent, node.bins) for extent in extents), strict=True)
    # Caffe pads as much behind and drops the window too many; this is what the others see
    after = (side * node.bins - extent - pad
             for side, extent, pad in zip(kernel, extents, before, strict=True))  # fmt: skip
    return {"kernel_shape": kernel, "strides": kernel, "pads": (*before, *after)}


def pyramid_side(extent: int, bins: int) -> tuple[int, int]:
    """Kernel and pad along an axis (spp_layer.cpp, GetPoolingParam). Raises InputError where the
    pad would be as large as the kernel, which Caffe refuses."""
    kernel = -(-extent // bins)
    pad = (kernel * bins - extent + 1) // 2
    if pad >= kernel:
        raise InputError(f"{extent} cells cannot be cut into {bins} bins: some would be empty")
    return kernel, pad


# --- picking --------------------------------------------------------------------------------------


@function("nnconv.Select")
def select(node: Node, mode: str) -> Sequence[Value] | None:
    """Gather at the places of what is not 0."""
    return [node.graph.emit("Gather", node.required(0), selected(node), axis=0)]


def selected(node: Node) -> Value:
    """The numbers of the items that a Select picks."""
    graph = node.graph
    marks = graph.emit("Reshape", node.required(1), graph.constant([-1], DType.INT64))
    places = graph.emit("NonZero", marks)
    found: Value = graph.emit("Reshape", places, graph.constant([-1], DType.INT64))
    if node.output.shape is not None:
        found.shape = node.output.shape[:1]  # in which the number of items has its name
    return found


# --- behaviour by mode ----------------------------------------------------------------------------


@function("nnconv.Dropout")
def dropout(node: Node, mode: str) -> Sequence[Value] | None:
    """A copy in test mode; the masks of training are nobody else's."""
    return [node.graph.emit("Identity", node.required(0))] if mode == "test" else None


@function("nnconv.StopGradient")
def stop_gradient(node: Node, mode: str) -> Sequence[Value] | None:
    """A copy: what it stops is made before bodies are put in."""
    return [node.graph.emit("Identity", node.required(0))]


@function("nnconv.BatchNorm")
def batch_norm(node: Node, mode: str) -> Sequence[Value] | None:
    """By the stored statistics, or by those of the batch, as mode and use_global_stats say."""
    chosen = node.use_global_stats
    stored = mode == "test" if chosen == -1 else bool(chosen)
    return _by_stored_statistics(node) if stored else _by_batch_statistics(node)


def _by_stored_statistics(node: Node) -> Sequence[Value] | None:
    """mean = mean_sum * s, variance = variance_sum * s with s = 0 while factor is 0, else 1 /
    factor."""
    graph, x = node.graph, node.required(0)
    mean_sum, variance_sum, factor = map(node.required, (1, 2, 3))
    channels = mean_sum.shape[0] if mean_sum.shape else None
    if not isinstance(channels, int):
        return None
    scale = scale_of_sums(factor)
    ones, zeros = (graph.constant([number] * channels, mean_sum.dtype) for number in (1, 0))
    statistics = (mean_sum * scale, variance_sum * scale)
    y = graph.emit("BatchNormalization", x, ones, zeros, *statistics, epsilon=node.epsilon)
    return [y, *(graph.emit("Identity", old) for old in node.inputs[1 : len(node.outputs)])]


def scale_of_sums(factor: Value) -> Value:
    """1 / factor, 0 while nothing has been summed."""
    graph = factor.graph
    empty = graph.emit("Equal", factor, graph.constant(0, factor.dtype))
    scale = 1 / graph.emit("Where", empty, graph.constant(1, factor.dtype), factor)
    scale = graph.emit("Where", empty, graph.constant(0, factor.dtype), scale)
    return scale  # type: ignore[no-any-return]


def _by_batch_statistics(node: Node) -> Sequence[Value] | None:
    """The biased moments of the batch; the sums decay and take in the mean and unbiased
    variance."""
    graph, x = node.graph, node.required(0)
    if x.shape is None or not isinstance(whole := size(x.shape), int):
        return None
    channels = x.shape[1]
    if not isinstance(channels, int) or not channels:
        return None
    axes = graph.constant([0, *range(2, len(x.shape))], DType.INT64)
    centred = x - graph.emit("ReduceMean", x, axes)
    variance = graph.emit("ReduceMean", centred * centred, axes)
    y = centred / graph.emit("Sqrt", variance + node.epsilon)
    samples = whole // channels
    unbiased = samples / (samples - 1) if samples > 1 else 1.0
    flat = graph.constant([channels], DType.INT64)
    mean = graph.emit("Reshape", graph.emit("ReduceMean", x, axes), flat)
    variance = graph.emit("Reshape", variance, flat)
    fraction = node.moving_average_fraction
    mean_sum, variance_sum, factor = map(node.required, (1, 2, 3))
    moved = (
        mean_sum * fraction + mean,
        variance_sum * fraction + variance * unbiased,
        factor * fraction + 1,
    )
    return [y, *moved]


@function("nnconv.MVN")
def mvn(node: Node, mode: str) -> Sequence[Value] | None:
    """(x - mean) / (deviation + eps) over planes, or over all channels; without the division where
    the variance is to stay."""
    centred, deviation = centred_and_deviation(node)
    return [centred if deviation is None else centred / deviation]


def centred_and_deviation(node: Node) -> tuple[Value, Value | None]:
    """x - mean and sqrt(variance) + eps of an MVN, None where that divides nothing."""
    graph, x = node.graph, node.required(0)
    axes = graph.constant(mvn_axes(node), DType.INT64)
    centred: Value = x - graph.emit("ReduceMean", x, axes)
    if not node.normalize_variance:
        return centred, None
    variance = graph.emit("ReduceMean", centred * centred, axes)
    return centred, graph.emit("Sqrt", variance) + node.eps


def mvn_axes(node: Node) -> list[int]:
    return [1, 2, 3] if node.across_channels else [2, 3]


# --- losses ---------------------------------------------------------------------------------------


@function("nnconv.EuclideanLoss")
def euclidean_loss(node: Node, mode: str) -> Sequence[Value] | None:
    """sum of (a - b)^2 / (2 N)."""
    graph, a, b = node.graph, node.required(0), node.required(1)
    if not are_bound(a, b) or not a.shape:
        return None
    total = graph.emit("ReduceSumSquare", a - viewed(b, a.shape), keepdims=0)
    return [total / (2.0 * _number(a.shape[0]))]


@function("nnconv.SoftmaxWithLoss")
def softmax_with_loss(node: Node, mode: str) -> Sequence[Value] | None:
    """-sum of log(max(softmax(x)[label], FLT_MIN)) over the labels that count / normalizer."""
    x, label = node.required(0), node.required(1)
    if not are_bound(x, label):
        return None
    graph, axis = node.graph, node.axis % x.rank
    labels = labels_of(node, axis)
    shares = graph.emit("Softmax", x, axis=axis)
    chosen = graph.emit("GatherElements", shares, labels.safe, axis=axis)
    smallest = graph.constant(FLT_MIN, x.dtype)
    terms = graph.emit("Log", graph.emit("Max", chosen, smallest))
    outer = math.prod(map(_number, x.known_shape[:axis]))
    return [_normalized(node, -terms, labels.counted, outer)]


@function("nnconv.SigmoidCrossEntropyLoss")
def sigmoid_cross_entropy_loss(node: Node, mode: str) -> Sequence[Value] | None:
    """sum of max(x, 0) - x t + log(1 + exp(-|x|)) over the targets that count / normalizer."""
    graph, x, target = node.graph, node.required(0), node.required(1)
    if not are_bound(x, target) or not x.shape:
        return None
    target = viewed(target, x.shape)
    tail = graph.emit("Log", graph.emit("Exp", -graph.emit("Abs", x)) + 1)
    terms = graph.emit("Relu", x) - x * in_type_of(x, target) + tail
    counted = None
    if node.ignore_label is not None:
        counted = whole_number_differs(
            graph.emit("Cast", target, to=int(DType.INT64)), node.ignore_label, x.dtype
        )
    return [_normalized(node, terms, counted, _number(x.shape[0]))]


@function("nnconv.Accuracy")
def accuracy(node: Node, mode: str) -> Sequence[Value] | None:
    """Right where at most top_k scores reach that of the true class; equal scores count against
    it."""
    graph, x = node.graph, node.required(0)
    if not are_bound(x, node.required(1)):
        return None
    axis = node.axis % x.rank
    labels = labels_of(node, axis)
    mine = graph.emit("GatherElements", x, labels.safe, axis=axis)
    reaching = graph.emit("Cast", graph.emit("GreaterOrEqual", x, mine), to=int(x.dtype))
    rank = graph.emit("ReduceSum", reaching, graph.constant([axis], DType.INT64))
    right = graph.emit("LessOrEqual", rank, graph.constant(node.top_k, x.dtype))
    right = graph.emit("Cast", right, to=int(x.dtype))
    counted = labels.counted or graph.constant(_ones(right.known_shape), x.dtype)
    results = [_share(right * counted, counted, None)]
    if len(node.outputs) > 1:
        ends = graph.constant([0, 1], x.dtype)
        depth = graph.constant(x.known_shape[axis], DType.INT64)
        squeezed = graph.emit("Squeeze", labels.safe, graph.constant([axis], DType.INT64))
        of_class = graph.emit("OneHot", squeezed, depth, ends, axis=axis) * counted
        others = [place for place in range(x.rank) if place != axis]
        results.append(_share(of_class * right, of_class, others))
    return results


def _share(part: Value, whole: Value, axes: list[int] | None) -> Value:
    """sum of part / sum of whole, 0 where there is nothing."""
    graph = part.graph
    chosen = None if axes is None else graph.constant(axes, DType.INT64)
    above, below = (graph.emit("ReduceSum", value, chosen, keepdims=0) for value in (part, whole))
    return above / graph.emit("Max", below, graph.constant(1, below.dtype))  # type: ignore[no-any-return]


class Labels:
    """The labels of a node as int64 with 1 in place of the class axis.

    `counted` is 1 where a label counts and 0 where it is to be ignored (None: all count); `safe`
    holds class 0 at the latter.
    """

    def __init__(self, safe: Value, counted: Value | None) -> None:
        self.safe = safe
        self.counted = counted


def labels_of(node: Node, axis: int) -> Labels:
    graph, x = node.graph, node.required(0)
    shape = (*x.known_shape[:axis], 1, *x.known_shape[axis + 1 :])
    labels = graph.emit("Cast", viewed(node.required(1), shape), to=int(DType.INT64))
    if node.ignore_label is None:
        return Labels(labels, None)
    ignored = graph.emit("Equal", labels, graph.constant(node.ignore_label, DType.INT64))
    safe = graph.emit("Where", ignored, graph.constant(0, DType.INT64), labels)
    return Labels(safe, whole_number_differs(labels, node.ignore_label, x.dtype))


def whole_number_differs(labels: Value, ignored: int, dtype: DType) -> Value:
    """1 where a label is not the ignored one, else 0."""
    graph = labels.graph
    same = graph.emit("Equal", labels, graph.constant(ignored, DType.INT64))
    kept: Value = graph.emit("Cast", graph.emit("Not", same), to=int(dtype))
    return kept


def _normalized(node: Node, terms: Value, counted: Value | None, outer: int) -> Value:
    """The sum of the terms that count, divided as LossLayer::GetNormalizer says, by 1 at least."""
    graph = node.graph
    whole = math.prod(map(_number, terms.known_shape))
    divisor = normalizer(node, counted, whole, outer)
    total = graph.emit("ReduceSum", terms if counted is None else terms * counted, keepdims=0)
    return total / divisor  # type: ignore[no-any-return]


def normalizer(node: Node, counted: Value | None, places: int, outer: int) -> Value | float:
    """What a loss over so many places is divided by: 1 at least."""
    divisors = {"FULL": places, "VALID": places, "BATCH_SIZE": outer, "NONE": 1}
    if node.normalization not in divisors:
        known = ", ".join(divisors)
        raise InputError(f"normalization must be one of {known}, got '{node.normalization}'")
    if counted is None or node.normalization != "VALID":
        return float(max(divisors[node.normalization], 1))
    valid = node.graph.emit("ReduceSum", counted, keepdims=0)
    largest: Value = node.graph.emit("Max", valid, node.graph.constant(1, valid.dtype))
    return largest


def viewed(value: Value, shape: Shape) -> Value:
    """`value` with another shape of as many elements."""
    if value.shape == shape:
        return value
    viewed: Value = value.graph.emit(
        "Reshape", value, value.graph.constant(shape, DType.INT64), allowzero=1
    )
    return viewed


def in_type_of(x: Value, target: Value) -> Value:
    """Targets as numbers of x's type: they may come as integers."""
    if target.dtype is x.dtype:
        return target
    cast: Value = x.graph.emit("Cast", target, to=int(x.dtype))
    return cast


def are_bound(*values: Value) -> bool:
    """Whether all sizes are numbers by now."""
    return all(
        value.shape is not None and all(isinstance(dim, int) for dim in value.shape)
        for value in values
    )


def _number(dim: Dim) -> int:
    assert isinstance(dim, int), "asked for before shapes were bound"
    return dim


def _ones(shape: Shape) -> Any:
    import numpy as np

    return np.ones(tuple(map(_number, shape)))
