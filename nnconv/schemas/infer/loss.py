"""Shapes of losses and of accuracy: scalars, once the labels fit the scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.schemas.dims import Shape, size
from nnconv.schemas.errors import InputError
from nnconv.schemas.infer.registry import Result, Unknown, infers
from nnconv.schemas.infer.support import agree, axis, differ, need_rank, shape, show

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node


@infers("nnconv.SoftmaxWithLoss")
def softmax_with_loss(node: Node) -> Result:
    """One label for each place outside the class axis (softmax_loss_layer.cpp, Reshape)."""
    _labels_fit(node)
    return [(node.required(0).dtype, ())]


@infers("nnconv.Accuracy")
def accuracy(node: Node) -> Result:
    """The share of right answers, and, if asked for, that of each class."""
    dims, place = _labels_fit(node)
    classes = dims[place]
    if isinstance(classes, int) and node.top_k > classes:
        raise InputError(f"top_k is {node.top_k}, there are {classes} classes")
    dtype = node.required(0).dtype
    return [(dtype, ()), (dtype, (classes,))]


@infers("nnconv.SigmoidCrossEntropyLoss")
def sigmoid_cross_entropy_loss(node: Node) -> Result:
    x, target = (shape(node.required(index)) for index in (0, 1))
    agree(
        size(x), size(target), f"scores ({show(x)}) and targets ({show(target)}) differ in number"
    )
    return [(node.required(0).dtype, ())]


@infers("nnconv.EuclideanLoss")
def euclidean_loss(node: Node) -> Result:
    """Both inputs have as many items, and as many numbers an item (euclidean_loss_layer.cpp)."""
    a, b = (need_rank(node.required(index), 1) for index in (0, 1))
    agree(a[0], b[0], f"{show(a)} and {show(b)} differ in items")
    agree(size(a[1:]), size(b[1:]), f"{show(a)} and {show(b)} differ in numbers an item")
    return [(node.required(0).dtype, ())]


@infers("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
def standard_loss(node: Node) -> Result:
    """[N, C, ...] with labels [N, ...]: one number, or with reduction "none" one a label."""
    x = node.required(0)
    dims, labels = need_rank(x, 2), shape(node.required(1))
    wanted = dims[:1] + dims[2:]
    if len(labels) != len(wanted) or any(map(differ, labels, wanted)):
        raise InputError(f"labels should be {show(wanted)}, got {show(labels)}")
    return [(x.dtype, labels if node.reduction == "none" else ()), (x.dtype, dims)]


def _labels_fit(node: Node) -> tuple[Shape, int]:
    """The scores' shape and class axis; raises InputError unless there is a label for each
    answer."""
    dims = need_rank(node.required(0), 1)
    place = axis(node.axis, len(dims))
    labels = node.required(1)
    wanted = size(dims[:place] + dims[place + 1 :])
    if labels.shape is None:
        raise Unknown
    got = size(labels.shape)
    if differ(got, wanted):
        raise InputError(
            f"scores {show(dims)} with classes on axis {place} need {wanted} labels, "
            f"'{labels.name}' has {got} ({show(labels.shape)})"
        )
    return dims, place
