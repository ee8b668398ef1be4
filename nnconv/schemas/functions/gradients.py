"""What the gradient operators mean, said in standard operators.

With these a gradient graph can be written as ONNX. Sizes may stay open, but for those that windows
move over and those of losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnconv.schemas.functions.layers import (
    are_bound,
    in_type_of,
    labels_of,
    normalizer,
    pyramid_windows,
    scale_of_sums,
    viewed,
    whole_number_differs,
)
from nnconv.schemas.functions.registry import function
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.dims import Shape
    from nnconv.schemas.graph import Graph, Node, Value


@function("nnconv.Hook")
def hook(node: Node, mode: str) -> Sequence[Value] | None:
    """Nobody listens outside of training."""
    return [node.graph.emit("Identity", node.required(0))]


@function("nnconv.SumTo")
def sum_to(node: Node, mode: str) -> Sequence[Value] | None:
    """The sum over the axes in front, and over those that are 1 in the result and not before."""
    graph, x, y = node.graph, node.required(0), node.output
    if x.shape is None or y.shape is None:
        return None
    lead = len(x.shape) - len(y.shape)
    pairs = list(zip(x.shape[lead:], y.shape, strict=True))
    if any(before != after and after != 1 for before, after in pairs):
        return None  # sizes that may or may not be 1
    repeated = [axis for axis, (before, after) in enumerate(pairs) if before != after]
    total = x
    if lead:
        total = graph.emit("ReduceSum", x, _integers(graph, list(range(lead))), keepdims=0)
    if repeated:
        total = graph.emit("ReduceSum", total, _integers(graph, repeated), keepdims=1)
    return [graph.emit("Identity", x) if total is x else total]


# --- places ---------------------------------------------------------------------------------------


@function("nnconv.GatherGrad")
def gather_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """dy added up along the first axis, to which the gathered one is brought and back."""
    graph, dy, indices, sizes = node.graph, *(node.required(place) for place in range(3))
    if dy.shape is None or indices.shape is None:
        return None
    picked = len(indices.shape)
    rank = len(dy.shape) - picked + 1
    axis = node.axis % rank
    order = [axis, *(place for place in range(rank) if place != axis)]
    there = [*range(axis, axis + picked), *range(axis), *range(axis + picked, len(dy.shape))]
    back = [order.index(place) for place in range(rank)]
    wanted = graph.emit("Gather", sizes, _integers(graph, order))
    where = graph.emit("Unsqueeze", indices, _integers(graph, [-1]))
    moved = graph.emit("Transpose", dy, perm=there)
    dx = graph.emit("ScatterND", _zeros(wanted, dy.dtype), where, moved, reduction="add")
    return [graph.emit("Transpose", dx, perm=back)]


@function("nnconv.SliceGrad")
def slice_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """dy put to the places that Slice takes of an array that counts its own elements."""
    graph, dy, sizes = node.graph, node.required(0), node.required(1)
    count = graph.emit("ReduceProd", sizes, keepdims=0)
    counting = graph.emit("Range", _integers(graph, 0), count, _integers(graph, 1))
    counted = graph.emit("Reshape", counting, sizes, allowzero=1)
    return [_scattered(graph.emit("Slice", counted, *node.inputs[2:]), dy, sizes)]


def _scattered(places: Value, dy: Value, sizes: Value) -> Value:
    """dy added up in zeros of `sizes`, at places that count through all elements."""
    graph, line = dy.graph, _integers(dy.graph, [-1])
    flat = [graph.emit("Reshape", x, line) for x in (_zeros(sizes, dy.dtype), places, dy)]
    dx = graph.emit("ScatterElements", *flat, reduction="add")
    shaped: Value = graph.emit("Reshape", dx, sizes, allowzero=1)
    return shaped


# --- convolutions and windows ---------------------------------------------------------------------


class _Window:
    """Where windows lie over `sizes` when `counts` of them fit: strides, dilations, pads."""

    def __init__(self, node: Node, kernel: Sequence[int], sizes: Shape, counts: Shape) -> None:
        rank = len(kernel)
        self.kernel = list(kernel)
        self.sizes, self.counts = (_numbers(part) for part in (sizes, counts))
        self.strides = list(node.strides or [1] * rank)
        self.dilations = list(getattr(node, "dilations", None) or [1] * rank)
        reach = zip(self.kernel, self.dilations, strict=True)
        self.reach = [(k - 1) * d + 1 for k, d in reach]
        self.spans = [(count - 1) * stride + reach for count, stride, reach in zip(
            self.counts, self.strides, self.reach, strict=True)]  # fmt: skip
        self.pads = self._pads(getattr(node, "auto_pad", "NOTSET"), list(node.pads or []))

    def _pads(self, how: str, given: list[int]) -> list[int]:
        if not how.startswith("SAME"):
            return given or [0] * (2 * len(self.kernel))
        total = [max(span - size, 0) for span, size in zip(self.spans, self.sizes, strict=True)]
        begins = [(pad + (how == "SAME_LOWER")) // 2 for pad in total]
        return begins + [pad - begin for pad, begin in zip(total, begins, strict=True)]

    @property
    def begins(self) -> list[int]:
        return self.pads[: len(self.kernel)]


def _numbers(dims: Shape) -> list[int]:
    return [dim for dim in dims if isinstance(dim, int)]


@function("nnconv.ConvGradData")
def conv_grad_data(node: Node, mode: str) -> Sequence[Value] | None:
    """ConvTranspose over everything that the windows reach, and of that the data."""
    dy, w, x = node.required(0), node.required(1), node.output
    if not _windows_are_bound(dy, w, x):
        return None
    where = _Window(node, w.known_shape[2:], x.known_shape[2:], dy.known_shape[2:])  # type: ignore[arg-type]
    return [_transposed(dy, w, where, node.group)]


def _transposed(dy: Value, w: Value, where: _Window, group: int) -> Value:
    """What windows give back to the data below them; cells that no window reaches get nothing."""
    graph, spatial = dy.graph, range(2, 2 + len(where.kernel))
    settings: dict[str, Any] = {
        "strides": where.strides,
        "dilations": where.dilations,
        "group": group,
    }
    whole = graph.emit("ConvTranspose", dy, w, kernel_shape=where.kernel, **settings)
    ends = [begin + size for begin, size in zip(where.begins, where.sizes, strict=True)]
    axes = _integers(graph, list(spatial))
    if any(end > span for end, span in zip(ends, where.spans, strict=True)):
        more = [max(end - span, 0) for end, span in zip(ends, where.spans, strict=True)]
        pads = _integers(graph, [0] * len(more) + more)
        whole = graph.emit("Pad", whole, pads, graph.constant(0, dy.dtype), axes)
    if ends == where.spans and not any(where.begins):
        return whole  # type: ignore[no-any-return]
    bounds = (_integers(graph, where.begins), _integers(graph, ends))
    return graph.emit("Slice", whole, *bounds, axes)  # type: ignore[no-any-return]


@function("nnconv.ConvGradWeights")
def conv_grad_weights(node: Node, mode: str) -> Sequence[Value] | None:
    """A convolution of x with dy, in which samples are channels and channels samples, and strides
    and dilations change places."""
    graph, x, dy, w = node.graph, node.required(0), node.required(1), node.output
    if not _windows_are_bound(x, dy, w) or not isinstance(w.known_shape[1], int):
        return None
    where = _Window(node, w.known_shape[2:], x.known_shape[2:], dy.known_shape[2:])  # type: ignore[arg-type]
    turned = graph.emit("Transpose", dy, perm=[1, 0, *range(2, len(dy.known_shape))])
    settings: dict[str, Any] = {
        "strides": where.dilations,
        "dilations": where.strides,
        "pads": where.pads,
    }
    samples = _channels_first(x, node.group, w.known_shape[1])
    dw = graph.emit("Conv", samples, turned, group=node.group, **settings)
    axes = range(2, 2 + len(where.kernel))
    starts = _integers(graph, [0] * len(axes))
    dw = graph.emit("Slice", dw, starts, _integers(graph, where.kernel), _integers(graph, [*axes]))
    return [graph.emit("Transpose", dw, perm=[1, 0, *axes])]


def _channels_first(x: Value, groups: int, channels: int) -> Value:
    """[N, G C, ...] as [C, G N, ...]."""
    graph, rank = x.graph, len(x.known_shape)
    if groups == 1:
        return graph.emit("Transpose", x, perm=[1, 0, *range(2, rank)])  # type: ignore[no-any-return]
    sizes = _numbers(x.known_shape[2:])
    apart = graph.emit("Reshape", x, _integers(graph, [0, groups, channels, *sizes]))
    turned = graph.emit("Transpose", apart, perm=[2, 1, 0, *range(3, rank + 1)])
    joined: Value = graph.emit("Reshape", turned, _integers(graph, [channels, -1, *sizes]))
    return joined


def _windows_are_bound(*values: Value) -> bool:
    """Whether all sizes behind batch and channels are numbers by now."""
    shapes = [value.shape for value in values]
    return all(s is not None and all(isinstance(dim, int) for dim in s[2:]) for s in shapes)


@function("nnconv.MaxPoolGrad")
def max_pool_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """By the indices of MaxPool itself, which count through the whole tensor."""
    graph, x, dy = node.graph, node.required(0), node.required(1)
    settings: dict[str, Any] = node.arguments() | {"storage_order": 0}
    _, places = graph.emit("MaxPool", x, outputs=2, **settings)
    return [_scattered(places, dy, graph.emit("Shape", x))]


@function("nnconv.GlobalMaxPoolGrad")
def global_max_pool_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """dy to the place that ArgMax finds in each plane."""
    graph, x, dy = node.graph, node.required(0), node.required(1)
    planes = graph.emit("Reshape", x, _integers(graph, [0, 0, -1]))
    place = graph.emit("ArgMax", planes, axis=2, keepdims=1)
    share = graph.emit("Reshape", dy, _integers(graph, [0, 0, 1]))
    zeros = _zeros(graph.emit("Shape", planes), dy.dtype)
    dx = graph.emit("ScatterElements", zeros, place, share, axis=2)
    return [graph.emit("Reshape", dx, graph.emit("Shape", x))]


@function("nnconv.AveragePoolGrad")
def average_pool_grad(node: Node, mode: str) -> Sequence[Value] | None:
    dy, x = node.required(0), node.output
    if not _windows_are_bound(dy, x):
        return None
    where = _Window(node, node.kernel_shape, x.known_shape[2:], dy.known_shape[2:])
    counted = [
        _cells(where, axis, where.pads if node.count_include_pad else [0] * len(where.pads))
        for axis in range(len(where.kernel))
    ]
    return _spread_means(dy, where, counted)


@function("nnconv.PoolGrad")
def caffe_pool_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """As Caffe's pooling itself: where MaxPool has the same windows; means over clipped windows."""
    graph, x, dy = node.graph, node.required(0), node.required(1)
    if not _windows_are_bound(x, dy):
        return None
    where = _Window(node, node.kernel_shape, x.known_shape[2:], dy.known_shape[2:])
    counted = [_cells(where, axis, where.pads) for axis in range(len(where.kernel))]
    if any(min(cells) < 1 for cells in counted):
        return None  # windows that lie outside the data
    if node.mode != "MAX":
        return _spread_means(dy, where, counted)
    shared = {"kernel_shape": node.kernel_shape, "strides": node.strides, "pads": node.pads}
    shared["ceil_mode"] = int(node.round_mode == "CEIL")
    dx = graph.emit("nnconv.MaxPoolGrad", x, dy, **shared)
    values = max_pool_grad(dx.producer, mode)
    graph.remove(dx.producer)
    return values


@function("nnconv.PyramidPoolGrad")
def pyramid_pool_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """That of the pooling which the level is."""
    x, dy = node.required(0), node.required(1)
    if (windows := pyramid_windows(node, x)) is None:
        return None
    if node.mode == "MAX":
        return [node.graph.emit("nnconv.MaxPoolGrad", x, dy, **windows)]
    sizes = node.graph.constant(_numbers(x.known_shape), DType.INT64)
    return [node.graph.emit("nnconv.AveragePoolGrad", dy, sizes, count_include_pad=1, **windows)]


def _cells(where: _Window, axis: int, pads: Sequence[int]) -> list[int]:
    """How many cells each window along an axis has between the ends of the padding."""
    first, behind = -pads[axis], where.sizes[axis] + pads[axis + len(where.kernel)]
    stride, dilation = where.strides[axis], where.dilations[axis]
    starts = (i * stride - where.begins[axis] for i in range(where.counts[axis]))
    cells = range(where.kernel[axis])
    return [sum(first <= start + k * dilation < behind for k in cells) for start in starts]


def _spread_means(dy: Value, where: _Window, counted: list[list[int]]) -> Sequence[Value] | None:
    """dy over the number of cells of each window, given back to all cells of the window."""
    import numpy as np

    graph, channels = dy.graph, dy.known_shape[1]
    if not isinstance(channels, int):
        return None
    counts: Any = np.ones(())
    for cells in counted:
        counts = counts[..., None] * np.maximum(cells, 1)
    ones = np.ones((channels, 1, *where.kernel), dy.dtype.numpy)
    share = dy / graph.constant(counts.astype(dy.dtype.numpy))
    return [_transposed(share, graph.constant(ones), where, channels)]


@function("nnconv.LRNGrad")
def lrn_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """dy / s^beta - 2 alpha beta x mean(dy x / s^(beta+1)), s = bias + alpha mean(x^2): means over
    windows of channels, which are means over [size, 1] of [N, 1, C, rest]."""
    x, dy, beta, size = node.required(0), node.required(1), node.beta, node.size
    below, over = (size - 1) // 2, size // 2
    s = node.alpha * _channel_mean(x * x, size, below, over) + node.bias
    near = _channel_mean(dy * x * s ** (-beta - 1), size, over, below)
    return [dy * s**-beta - 2 * node.alpha * beta * x * near]


def _channel_mean(x: Value, size: int, before: int, after: int) -> Value:
    graph = x.graph
    planes = graph.emit("Reshape", x, _integers(graph, [0, 0, -1]))
    planes = graph.emit("Unsqueeze", planes, _integers(graph, [1]))
    settings: dict[str, Any] = {"pads": (before, 0, after, 0), "count_include_pad": 1}
    mean = graph.emit("AveragePool", planes, kernel_shape=(size, 1), **settings)
    shaped: Value = graph.emit("Reshape", mean, graph.emit("Shape", x), allowzero=1)
    return shaped


# --- losses ---------------------------------------------------------------------------------------


@function("nnconv.SoftmaxWithLossGrad")
def softmax_with_loss_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """(softmax(x) - 1[label]) dy / normalizer, 0 where the label is ignored."""
    graph, x, dy = node.graph, node.required(0), node.required(2)
    if not are_bound(x, node.required(1)):
        return None
    axis = node.axis % x.rank
    labels = labels_of(node, axis)
    classes = _numbers(x.known_shape)[axis]
    tall = [classes, *(1 for _ in x.known_shape[axis + 1 :])]
    counting = graph.emit("Reshape", _integers(graph, [*range(classes)]), _integers(graph, tall))
    chosen = graph.emit("Cast", graph.emit("Equal", labels.safe, counting), to=int(x.dtype))
    terms = graph.emit("Softmax", x, axis=axis) - chosen
    outer = math.prod(_numbers(x.known_shape[:axis]))
    return [_shared(node, terms, labels.counted, labels.safe, outer, dy)]


@function("nnconv.SigmoidCrossEntropyLossGrad")
def sigmoid_cross_entropy_loss_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """(sigmoid(x) - target) dy / normalizer, 0 where the target is ignored."""
    graph, x, target, dy = node.graph, *(node.required(place) for place in range(3))
    if not are_bound(x, target) or not x.shape:
        return None
    goal = viewed(target, x.shape)
    counted = None
    if node.ignore_label is not None:
        whole = graph.emit("Cast", goal, to=int(DType.INT64))
        counted = whole_number_differs(whole, node.ignore_label, x.dtype)
    terms = graph.emit("Sigmoid", x) - in_type_of(x, goal)
    return [_shared(node, terms, counted, x, _numbers(x.shape)[0], dy)]


def _shared(
    node: Node, terms: Value, counted: Value | None, each: Value, outer: int, dy: Value
) -> Value:
    """The terms that count, times dy over what the loss was divided by."""
    kept = terms if counted is None else terms * counted
    places = math.prod(_numbers(each.known_shape))
    divisor = normalizer(node, counted, places, outer)
    return kept * (dy / divisor)


# --- small things ---------------------------------------------------------------------------------


def _integers(graph: Graph, values: Sequence[int] | int) -> Value:
    return graph.constant(values, DType.INT64)


def _zeros(sizes: Value, dtype: DType) -> Value:
    import numpy as np

    zeros: Value = sizes.graph.emit("ConstantOfShape", sizes, value=np.zeros(1, dtype.numpy))
    return zeros


@function("nnconv.DropoutGrad")
def dropout_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """A copy in test mode, as Dropout is."""
    return [node.graph.emit("Identity", node.required(1))] if mode == "test" else None


@function("nnconv.BatchNormGrad")
def batch_norm_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """dy / sqrt(variance + epsilon); by the batch's own statistics the terms through them are
    taken off."""
    graph, x, dy = node.graph, node.required(0), node.required(4)
    variance_sum, factor = node.required(2), node.required(3)
    if x.shape is None:
        return None
    stored = mode == "test" if node.use_global_stats == -1 else bool(node.use_global_stats)
    if stored:
        tall = graph.constant([-1, *(1 for _ in x.shape[2:])], DType.INT64)
        variance = graph.emit("Reshape", variance_sum * scale_of_sums(factor), tall)
        return [dy / graph.emit("Sqrt", variance + node.epsilon)]
    axes = graph.constant([0, *range(2, len(x.shape))], DType.INT64)
    centred = x - graph.emit("ReduceMean", x, axes)
    deviation = graph.emit("Sqrt", graph.emit("ReduceMean", centred * centred, axes) + node.epsilon)
    y = centred / deviation
    inner = dy - graph.emit("ReduceMean", dy, axes) - y * graph.emit("ReduceMean", dy * y, axes)
    return [inner / deviation]
