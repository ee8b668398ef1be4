"""InnerProduct, and Scale and Bias, which multiply and add along chosen axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnconv.converter.caffe.layers.layer import Layer, Sizes, product
from nnconv.converter.caffe.layers.registry import reads, writes
from nnconv.converter.caffe.layers.writing import Written, constant, is_fixed, message, sizes_of
from nnconv.schemas.graph import Filler, Node, Value


@reads("InnerProduct")
def read_inner_product(layer: Layer, x: Value) -> Value:
    p = layer.inner_product_param
    if p.num_output < 1:
        raise layer.error("num_output", f"num_output must be 1 or more, got {p.num_output}")
    axis = layer.axis(x, p.axis)
    sizes = layer.shape(x)
    inner = product(sizes[axis:])
    shape = (inner, p.num_output) if p.transpose else (p.num_output, inner)
    weights = layer.parameter(0, shape, p.weight_filler)
    bias = layer.parameter(1, (p.num_output,), p.bias_filler) if p.bias_term else None
    if axis == 1:
        flat = layer.emit("Flatten", x) if len(sizes) != 2 else x
        return layer.emit("Gemm", flat, weights, bias, transB=int(not p.transpose))
    flat = layer.emit("nnconv.Flatten", x, axis=axis) if len(sizes) != axis + 1 else x
    turned = weights if p.transpose else layer.emit("Transpose", weights, perm=(1, 0))
    y = layer.emit("MatMul", flat, turned)
    return y if bias is None else y + bias


@writes("Gemm")
def write_gemm(node: Node) -> Written | None:
    """InnerProduct flattens by itself, so a Flatten before it stays a layer of its own and
    changes nothing."""
    weights, bias = node.required(1), node.input(2)
    plain = not node.transA and node.alpha == 1 and (node.beta == 1 or bias is None)
    if not plain or not is_fixed(weights) or weights.shape is None:
        return None
    outputs = weights.shape[0 if node.transB else 1]
    if bias is not None and (not is_fixed(bias) or bias.shape != (outputs,)):
        return None
    param: dict[str, Any] = {"num_output": outputs}
    if bias is None:
        param["bias_term"] = False
    if not node.transB:
        param["transpose"] = True
    return message(node, "InnerProduct", blobs=node.inputs[1:], inner_product_param=param)


@reads("Scale", bottoms=(1, 2))
def read_scale(layer: Layer, x: Value, scale: Value | None = None) -> Value:
    p = layer.scale_param
    axis, shape, factor = _operand(layer, p, x, scale, Filler(options={"value": 1.0}))
    y = x * _aligned(layer, factor, axis, shape, x)
    if not p.bias_term:
        return y
    bias = layer.parameter(0 if scale is not None else 1, shape, p.bias_filler)
    return y + _aligned(layer, bias, axis, shape, x)


@reads("Bias", bottoms=(1, 2))
def read_bias(layer: Layer, x: Value, bias: Value | None = None) -> Value:
    axis, shape, term = _operand(layer, layer.bias_param, x, bias, Filler())
    return x + _aligned(layer, term, axis, shape, x)


def _operand(
    layer: Layer, p: Any, x: Value, given: Value | None, default: Filler
) -> tuple[int, Sizes, Value]:
    """The second factor or term: a bottom, or parameter 0 over the axes that the settings name.
    A scalar bottom goes with any axis, even one that `x` has not (scale_layer.cpp, Reshape)."""
    if given is None and p.num_axes < -1:
        raise layer.error("num_axes", f"num_axes must be -1 or more, got {p.num_axes}")
    sizes = layer.shape(x)
    if given is not None:
        shape = layer.shape(given)
        axis = layer.axis(x, p.axis) if shape else 0
    else:
        axis = layer.axis(x, p.axis)
        end = len(sizes) if p.num_axes == -1 else axis + p.num_axes
        shape = sizes[axis:end]
        if end > len(sizes):
            raise layer.error(
                "num_axes",
                f"{p.num_axes} axes from axis {axis} reach past "
                f"'{x.name}', which is {layer.show(sizes)}",
            )
    if axis + len(shape) > len(sizes):
        raise layer.error(
            "axis",
            f"the second bottom ({layer.show(shape)}) from axis {axis} reaches past "
            f"'{x.name}', which is {layer.show(sizes)}",
        )
    for place, size in enumerate(shape):
        own = sizes[axis + place]
        if own is not None and size is not None and own != size:
            raise layer.error(
                "bottom",
                f"axis {axis + place} of '{x.name}' is {own}, the second bottom has {size} there",
                hint="is `axis` right?",
            )
    if given is None:
        given = layer.parameter(0, shape, p.filler if p.has("filler") else None, default)
    return axis, shape, given


def _aligned(layer: Layer, value: Value, axis: int, sizes: Sizes, x: Value) -> Value:
    """`value` with as many axes of size 1 behind as broadcasting to `x` needs."""
    missing = len(layer.shape(x)) - axis - len(sizes) if sizes else 0
    return layer.unsqueeze(value, range(len(sizes), len(sizes) + missing))


@dataclass(frozen=True, slots=True)
class Broadcast:
    """How Caffe says one element-wise operator: with a number, with a parameter, with an equal
    shape."""

    number: str
    layer: str
    settings: str
    operation: str


BROADCASTS = {
    "Mul": Broadcast("scale", "Scale", "scale_param", "PROD"),
    "Add": Broadcast("shift", "Bias", "bias_param", "SUM"),
}


@writes("Mul", "Add")
def write_broadcast(node: Node) -> Written | None:
    """Power for a number, Scale or Bias for a parameter, Eltwise for two blobs of one shape."""
    left, right = node.required(0), node.required(1)
    forms = BROADCASTS[node.op]
    fixed = is_fixed(left), is_fixed(right)
    if not any(fixed):
        alike = sizes_of(left) is not None and sizes_of(left) == sizes_of(right)
        settings = {"operation": forms.operation}
        return message(node, "Eltwise", eltwise_param=settings) if alike else None
    x, term = (right, left) if fixed[0] else (left, right)
    if is_fixed(x):
        return None
    if (number := constant(term)) is not None:
        return message(node, "Power", bottoms=[x], power_param={forms.number: number})
    return _write_parameter(node, forms, x, term)


def _write_parameter(node: Node, forms: Broadcast, x: Value, term: Value) -> Written | None:
    """The parameter covers the axes from its first to its last one that is not 1."""
    if x.shape is None or term.shape is None:
        return None
    kept = [axis for axis, size in enumerate(term.shape) if size != 1]
    first, last = (kept[0], kept[-1] + 1) if kept else (0, 0)
    axis = len(x.shape) - len(term.shape) + first
    settings: dict[str, Any] = {
        forms.settings: {"num_axes": last - first} | ({"axis": axis} if kept else {})
    }
    shape = tuple(term.shape[first:last])
    return message(node, forms.layer, blobs=[term], bottoms=[x], shapes=[shape], **settings)
