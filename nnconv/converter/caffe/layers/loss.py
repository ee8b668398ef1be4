"""Losses with Caffe's normalisers, Softmax, and Accuracy."""

from __future__ import annotations

from typing import Any

from nnconv.converter.caffe.layers.layer import Layer, product
from nnconv.converter.caffe.layers.registry import reads, writes
from nnconv.converter.caffe.layers.writing import Written, message
from nnconv.schemas.graph import Node, Value


@reads("Softmax")
def read_softmax(layer: Layer, x: Value) -> Value:
    return layer.emit("Softmax", x, axis=layer.axis(x, layer.softmax_param.axis))


@writes("Softmax")
def write_softmax(node: Node) -> Written:
    return message(node, "Softmax", softmax_param={"axis": node.axis})


@reads("SoftmaxWithLoss", bottoms=2, tops=(1, 2), loss=True)
def read_softmax_with_loss(layer: Layer, x: Value, label: Value) -> Value:
    if len(layer.tops) > 1:
        raise layer.error(
            "top",
            "the second top of SoftmaxWithLoss can never be set up in Caffe",
            hint="use a Softmax layer beside it for the probabilities",
        )
    same_batch(layer, x, label)
    axis = layer.axis(x, layer.softmax_param.axis)
    check_labels(layer, x, label, axis)
    return layer.emit(
        "nnconv.SoftmaxWithLoss", x, label, axis=axis, **_normalization(layer, "VALID")
    )


@reads("SigmoidCrossEntropyLoss", bottoms=2, tops=(1, 2), loss=True)
def read_sigmoid_cross_entropy(layer: Layer, x: Value, target: Value) -> Value:
    if len(layer.tops) > 1:
        raise layer.unsupported(
            "top", "the second top of SigmoidCrossEntropyLoss", hint="use a Sigmoid layer beside it"
        )
    same_batch(layer, x, target)
    _same_count(layer, x, target, 0)
    return layer.emit(
        "nnconv.SigmoidCrossEntropyLoss", x, target, **_normalization(layer, "BATCH_SIZE")
    )


@reads("EuclideanLoss", bottoms=2, loss=True)
def read_euclidean(layer: Layer, a: Value, b: Value) -> Value:
    same_batch(layer, a, b)
    _same_count(layer, a, b, 1)
    layer.legacy_axes(a)
    return layer.emit("nnconv.EuclideanLoss", a, b)


@reads("Accuracy", bottoms=2, tops=(1, 2))
def read_accuracy(layer: Layer, x: Value, label: Value) -> Any:
    p = layer.accuracy_param
    axis = layer.axis(x, p.axis)
    check_labels(layer, x, label, axis)
    count, labels = product(layer.shape(x)), product(layer.shape(label))
    if count is not None and labels and p.top_k > count // labels:
        raise layer.error("top_k", f"top_k {p.top_k} exceeds the {count // labels} classes")
    ignore = p.ignore_label if p.has("ignore_label") else None
    return layer.graph.emit(
        "nnconv.Accuracy",
        x,
        label,
        outputs=len(layer.tops),
        axis=axis,
        top_k=p.top_k,
        ignore_label=ignore,
    )


def _normalization(layer: Layer, default: str) -> dict[str, Any]:
    """`normalize` counts only where `normalization` is absent (softmax_loss_layer.cpp,
    LayerSetUp)."""
    p = layer.loss_param
    if p.has("normalization"):
        default = p.normalization
    elif p.has("normalize"):
        default = "VALID" if p.normalize else "BATCH_SIZE"
    ignore = p.ignore_label if p.has("ignore_label") else None
    return {"normalization": default, "ignore_label": ignore}


def same_batch(layer: Layer, x: Value, label: Value) -> None:
    a, b = layer.shape(x), layer.shape(label)
    if not a or not b:
        raise layer.error("bottom", "a loss needs bottoms with a batch axis")
    if a[0] is not None and b[0] is not None and a[0] != b[0]:
        raise layer.error("bottom", f"'{x.name}' has {a[0]} items, '{label.name}' {b[0]}")


def _same_count(layer: Layer, a: Value, b: Value, axis: int) -> None:
    counts = product(layer.shape(a)[axis:]), product(layer.shape(b)[axis:])
    if None not in counts and counts[0] != counts[1]:
        raise layer.error(
            "bottom",
            f"'{a.name}' ({layer.show(a)}) and '{b.name}' ({layer.show(b)}) must have "
            "the same number of elements",
        )


def check_labels(layer: Layer, x: Value, label: Value, axis: int) -> None:
    sizes = layer.shape(x)
    wanted, got = product(sizes[:axis] + sizes[axis + 1 :]), product(layer.shape(label))
    if wanted is not None and got is not None and wanted != got:
        raise layer.error(
            "bottom",
            f"'{x.name}' ({layer.show(sizes)}, classes on axis {axis}) needs {wanted} "
            f"labels, '{label.name}' has {got} ({layer.show(label)})",
        )


@writes("nnconv.SoftmaxWithLoss", "nnconv.SigmoidCrossEntropyLoss", "nnconv.EuclideanLoss")
def write_loss(node: Node) -> Written:
    settings = node.arguments()
    loss: dict[str, Any] = {}
    for name in ("normalization", "ignore_label"):
        if settings.get(name) is not None:
            loss[name] = settings[name]
    extra: dict[str, Any] = {"loss_param": loss} if loss else {}
    if settings.get("axis", 1) != 1:
        extra["softmax_param"] = {"axis": settings["axis"]}
    return message(node, node.op.removeprefix("nnconv."), **extra)


@writes("nnconv.Accuracy")
def write_accuracy(node: Node) -> Written:
    settings = {key: value for key, value in node.arguments().items() if value is not None}
    return message(node, "Accuracy", accuracy_param=settings)
