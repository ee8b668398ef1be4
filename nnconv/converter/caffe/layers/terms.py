"""Losses that are said in standard operators: hinge, logistic, infogain, contrastive.

Caffe's labels are floats that are cut to whole numbers; here a label becomes a mask of its classes,
so that nothing is looked up and every step has a kernel. Where Caffe's backward pass is not the
derivative of its forward pass, `nnconv.StopGradient` says what it leaves out.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from nnconv.converter.caffe.layers.layer import Layer, product
from nnconv.converter.caffe.layers.loss import check_labels, same_batch
from nnconv.converter.caffe.layers.registry import reads
from nnconv.converter.caffe.wire import read_blob_file
from nnconv.schemas.errors import InputError
from nnconv.schemas.files import STREAM
from nnconv.schemas.graph import Value
from nnconv.schemas.types import DType

LEAST = 1e-20
"""Caffe takes the logarithm of no smaller probability (kLOG_THRESHOLD)."""
MOST_BYTES = 1 << 28
"""Of a file with an infogain matrix: enough for 8,000 classes."""


@reads("HingeLoss", bottoms=2, loss=True)
def read_hinge(layer: Layer, x: Value, label: Value) -> Value:
    """mean over items of the sum of max(0, 1 + s x), or of its squares; s is -1 for the label's
    class and 1 for the others."""
    flat = _items(layer, x, label)
    sign = layer.emit("Where", _chosen(layer, flat, label), layer.number(-1.0), layer.number(1.0))
    margins = layer.emit("Relu", flat * sign + 1)
    reduce = "ReduceSumSquare" if layer.hinge_loss_param.norm == "L2" else "ReduceSum"
    return _mean(layer, layer.emit(reduce, margins, layer.ints([1]), keepdims=0))


@reads("MultinomialLogisticLoss", bottoms=2, loss=True)
def read_multinomial(layer: Layer, x: Value, label: Value) -> Value:
    """mean over items of -log(max(x[label], LEAST))."""
    flat = _items(layer, x, label)
    shares = layer.emit("Where", _chosen(layer, flat, label), flat, layer.number(0.0))
    share = layer.emit("ReduceSum", shares, layer.ints([1]), keepdims=0)
    return -_mean(layer, layer.emit("Log", _at_least(layer, share, LEAST)))


@reads("InfogainLoss", bottoms=(2, 3), tops=(1, 2), loss=True)
def read_infogain(layer: Layer, x: Value, label: Value, matrix: Value | None = None) -> Any:
    """-sum of H[label, l] log(max(softmax(x)[l], LEAST)) over classes and labels / normalizer."""
    p = layer.loss_param
    if len(layer.tops) > 1 and len(layer.loss_weight) != 2:
        raise layer.error("top", "two tops need two loss weights", hint="loss_weight: [1, 0]")
    if p.has("normalize"):
        raise layer.error("normalize", "InfogainLoss takes normalization, not normalize")
    same_batch(layer, x, label)
    axis = layer.axis(x, layer.infogain_loss_param.axis)
    check_labels(layer, x, label, axis)
    labels = _last(layer, x, label, axis)
    gains = _gains(layer, x, _matrix(layer, x, matrix, axis), labels, axis)
    logs = _at_least(layer, layer.emit("LogSoftmax", x, axis=axis), math.log(LEAST))
    terms = layer.emit("ReduceSum", gains * logs, layer.ints([axis]), keepdims=0)
    loss = -_normalized(layer, x, label, terms, labels, axis)
    return (loss, layer.emit("Softmax", x, axis=axis)) if len(layer.tops) > 1 else loss


@reads("ContrastiveLoss", bottoms=3, loss=True)
def read_contrastive(layer: Layer, a: Value, b: Value, similar: Value) -> Value:
    """mean over pairs of d^2 / 2 where they are similar, else of max(margin - d, 0)^2 / 2; the
    legacy form takes max(margin - d^2, 0) / 2."""
    p = layer.contrastive_loss_param
    same_batch(layer, a, b)
    _check_pairs(layer, a, b, similar)
    between = _flat(layer, a) - _flat(layer, b)
    squares = layer.emit("ReduceSumSquare", between, layer.ints([1]), keepdims=0)
    if p.legacy_version:
        apart = layer.emit("Relu", p.margin - squares)
    else:
        apart = layer.emit("Relu", p.margin - _distance(layer, squares))
        apart = apart * apart
    flags = layer.emit("Abs", layer.emit("Reshape", similar, layer.ints([-1])))
    are_similar = layer.emit("GreaterOrEqual", flags, layer.number(1.0))
    return _mean(layer, layer.emit("Where", are_similar, squares, apart)) / 2


def _distance(layer: Layer, squares: Value) -> Value:
    """sqrt(squares), whose derivative by the difference is difference / (distance + 1e-4): so
    Caffe's backward pass survives pairs that are equal (contrastive_loss_layer.cpp)."""
    still = layer.emit("nnconv.StopGradient", squares)
    root = layer.emit("Sqrt", still)
    return root + (squares - still) / (2 * root + 2e-4)


def _check_pairs(layer: Layer, a: Value, b: Value, similar: Value) -> None:
    """[N, C] or [N, C, 1, 1] twice, and a flag a pair."""
    first, second, flags = (layer.shape(value) for value in (a, b, similar))
    for value, sizes in ((a, first), (b, second)):
        if len(sizes) > 4 or any(size not in (1, None) for size in sizes[2:]):
            raise layer.error(
                "bottom", f"'{value.name}' must be one vector an item, it is {layer.show(sizes)}"
            )
    widths = product(first[1:]), product(second[1:])
    if None not in widths and widths[0] != widths[1]:
        raise layer.error(
            "bottom",
            f"'{a.name}' has vectors of {widths[0]}, '{b.name}' of {widths[1]} numbers",
        )
    items, count = first[0], product(flags)
    if None not in (items, count) and items != count:
        raise layer.error(
            "bottom", f"{items} pairs need {items} flags, '{similar.name}' has {count}"
        )


# --- classes --------------------------------------------------------------------------------------


def _items(layer: Layer, x: Value, label: Value) -> Value:
    """The scores as [N, classes], once there is one label an item."""
    same_batch(layer, x, label)
    layer.legacy_axes(x)
    items, labels = layer.shape(x)[0], product(layer.shape(label))
    if None not in (items, labels) and items != labels:
        raise layer.error(
            "bottom", f"{items} items need {items} labels, '{label.name}' has {labels}"
        )
    return _flat(layer, x)


def _flat(layer: Layer, x: Value) -> Value:
    return x if len(layer.shape(x)) == 2 else layer.emit("Flatten", x)


def _chosen(layer: Layer, flat: Value, label: Value) -> Value:
    """A mask over [N, classes]: true where the label says so."""
    column = layer.emit("Reshape", label, layer.ints([-1, 1]))
    return _mask(layer, flat, 1, _whole(layer, column))


def _mask(layer: Layer, x: Value, axis: int, labels: Value) -> Value:
    """Labels [..., 1] against the numbers of the classes on an axis of x."""
    count = layer.emit("Squeeze", layer.emit("Shape", x, start=axis, end=axis + 1), layer.ints([0]))
    zero, one = (layer.graph.constant(number, DType.INT64) for number in (0, 1))
    classes = layer.emit("Cast", layer.emit("Range", zero, count, one), to=int(DType.FLOAT32))
    return layer.emit("Equal", labels, classes)


def _whole(layer: Layer, x: Value) -> Value:
    """x cut towards zero, as C's cast to int does."""
    below = layer.emit("Less", x, layer.number(0.0))
    return layer.emit("Where", below, layer.emit("Ceil", x), layer.emit("Floor", x))


def _at_least(layer: Layer, x: Value, least: float) -> Value:
    """max(x, least), through which the gradient goes as if nothing had been raised."""
    floor = layer.number(least)
    raised = x - layer.emit("nnconv.StopGradient", x) + floor
    return layer.emit("Where", layer.emit("GreaterOrEqual", x, floor), x, raised)


def _mean(layer: Layer, x: Value) -> Value:
    return layer.emit("ReduceMean", x, keepdims=0)


# --- infogain -------------------------------------------------------------------------------------


def _last(layer: Layer, x: Value, label: Value, axis: int) -> Value:
    """The labels as whole numbers, shaped like x without its class axis and with a 1 behind."""
    rank = len(layer.shape(x))
    parts = [layer.emit("Shape", x, start=start, end=end)
             for start, end in ((0, axis), (axis + 1, rank)) if start < end]  # fmt: skip
    wanted = layer.emit("Concat", *parts, layer.ints([1]), axis=0)
    return _whole(layer, layer.emit("Reshape", label, wanted, allowzero=1))


def _gains(layer: Layer, x: Value, matrix: Value, labels: Value, axis: int) -> Value:
    """H[label], the classes on `axis`: a product of the labels' masks with H."""
    mask = _mask(layer, x, axis, labels)
    hot = layer.emit("Cast", mask, to=int(DType.FLOAT32))
    rows, rank = layer.emit("MatMul", hot, matrix), len(layer.shape(x))
    if axis == rank - 1:
        return rows
    order = [*range(axis), rank - 1, *range(axis, rank - 1)]
    return layer.emit("Transpose", rows, perm=order)


def _matrix(layer: Layer, x: Value, given: Value | None, axis: int) -> Value:
    """H as [K, K]: the third bottom, or what the file named by `source` holds."""
    classes = layer.shape(x)[axis]
    if given is not None:
        count = product(layer.shape(given))
        _check_matrix(layer, classes, count, "bottom")
        size = layer.emit("Shape", x, start=axis, end=axis + 1)
        return layer.emit("Reshape", given, layer.emit("Concat", size, size, axis=0))
    array = _stored_matrix(layer)
    _check_matrix(layer, classes, array.size, "source")
    side = math.isqrt(array.size)
    name = layer.graph.fresh_name(f"{layer.name}:H")
    with np.errstate(over="ignore"):  # a double may be too much for a float, in Caffe too
        single = array.astype(np.float32, copy=False)
    return layer.graph.constant(single.reshape(side, side), name=name)


def _check_matrix(layer: Layer, classes: int | None, count: int | None, field: str) -> None:
    square = count is None or (count > 0 and math.isqrt(count) ** 2 == count)
    if not square or (None not in (classes, count) and classes**2 != count):  # type: ignore[operator]
        wanted = "a square number of" if classes is None else f"{classes} x {classes}"
        raise layer.error(field, f"the infogain matrix needs {wanted} elements, it has {count}")


def _stored_matrix(layer: Layer) -> Any:
    """The blob in the file `source`, which must lie in the net's own folder: the one file that a
    net may name and have opened, because it is part of the net."""
    p = layer.infogain_loss_param
    if not p.has("source"):
        raise layer.error("infogain_loss_param", "the matrix is missing: a third bottom, or source")
    path = _beside_net(layer, p.source)
    try:
        return read_blob_file(path, most=MOST_BYTES).array
    except InputError as error:
        found = error.problems[0]
        hint = found.hint or "compute it as Caffe does: a BlobProto of classes x classes"
        raise layer.error(
            "source", f"{p.source!r} cannot be read: {found.message}", hint=hint
        ) from None


def _beside_net(layer: Layer, source: str) -> Path:
    """The file called `source` in the folder of the net or below it, links followed."""
    if layer.net.source.file in ("", STREAM):
        raise layer.error("source", "a net that is no file has no folder to find source in")
    folder = Path(layer.net.source.file).parent.resolve()
    try:
        path = Path(folder, source).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise layer.error("source", f"{source!r} is no name of a file: {error}") from None
    if not path.is_relative_to(folder):
        raise layer.error("source", f"{source!r} lies outside the folder of the net")
    return path


def _normalized(
    layer: Layer, x: Value, label: Value, terms: Value, labels: Value, axis: int
) -> Value:
    """The sum of the terms over LossLayer::GetNormalizer."""
    p = layer.loss_param
    counted = None
    if p.has("ignore_label"):
        ignored = layer.emit("Equal", labels, layer.number(float(p.ignore_label)))
        kept = layer.emit("Cast", layer.emit("Not", ignored), to=int(DType.FLOAT32))
        counted = layer.emit("Squeeze", kept, layer.ints([-1]))
        terms = terms * counted
    total = layer.emit("ReduceSum", terms, keepdims=0)
    match p.normalization:
        case "NONE":
            return total
        case "VALID" if counted is not None:
            valid = layer.emit("ReduceSum", counted, keepdims=0)
            return total / layer.emit("Max", valid, layer.number(1.0))
        case "BATCH_SIZE":
            sizes = layer.emit("Shape", x, end=axis)
        case _:
            sizes = layer.emit("Shape", label)
    count = layer.emit("ReduceProd", sizes, keepdims=0)
    return total / layer.emit("Cast", count, to=int(DType.FLOAT32))
