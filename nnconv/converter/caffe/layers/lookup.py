"""Layers that pick rows: Embed by the numbers it is fed, BatchReindex and Filter whole items.

Caffe's indices are floats that are cut to whole numbers.
"""

from __future__ import annotations

from nnconv.converter.caffe.layers.layer import Layer, same_sizes
from nnconv.converter.caffe.layers.registry import reads, writes
from nnconv.converter.caffe.layers.writing import Written, message
from nnconv.schemas.graph import Node, Value
from nnconv.schemas.types import DType


@reads("Embed")
def read_embed(layer: Layer, x: Value) -> Value:
    """Row x of the weights, and the bias; no gradient leads to the numbers."""
    p = layer.embed_param
    for field in ("num_output", "input_dim"):
        if getattr(p, field) < 1:
            raise layer.error(field, f"{field} must be 1 or more, got {getattr(p, field)}")
    weights = layer.parameter(0, (p.input_dim, p.num_output), p.weight_filler)
    bias = layer.parameter(1, (p.num_output,), p.bias_filler) if p.bias_term else None
    y = layer.emit("Gather", weights, _indices(layer, x), axis=0)
    return y if bias is None else y + bias


@reads("BatchReindex", bottoms=2)
def read_batch_reindex(layer: Layer, x: Value, order: Value) -> Value:
    """Item order[i] of x as item i."""
    if not layer.shape(x):
        raise layer.error("bottom", f"'{x.name}' has no items: it is a scalar")
    if len(layer.shape(order)) != 1:
        raise layer.error(
            "bottom", f"the indices '{order.name}' must have one axis, not {layer.show(order)}"
        )
    return layer.emit("Gather", x, _indices(layer, order), axis=0)


def _indices(layer: Layer, x: Value) -> Value:
    return layer.emit("Cast", x, to=int(DType.INT64))


@reads("Filter", bottoms=(2, None), tops=(1, None))
def read_filter(layer: Layer, *bottoms: Value) -> tuple[Value, ...]:
    """The items whose selector, the last bottom, is not 0. Their number is a size of its own,
    which data decide; Caffe starts from all."""
    *xs, selector = bottoms
    if len(layer.tops) != len(xs):
        raise layer.error("top", f"{len(xs)} bottoms to filter need {len(xs)} tops")
    marks = layer.shape(selector)
    if not marks or any(size not in (1, None) for size in marks[1:]):
        raise layer.error(
            "bottom", f"the selector '{selector.name}' must be one number an item, it is "
            f"{layer.show(marks)}"
        )  # fmt: skip
    for x in xs:
        if not same_sizes(layer.shape(x)[:1], marks[:1]):
            raise layer.error(
                "bottom",
                f"'{x.name}' ({layer.show(x)}) and the selector '{selector.name}' "
                f"({layer.show(marks)}) differ in items",
            )
    size = layer.net.counted(marks[0])
    return tuple(layer.emit("nnconv.Select", x, selector, size=size) for x in xs)


@writes("nnconv.Select")
def write_filter(node: Node) -> Written:
    return message(node, "Filter")
