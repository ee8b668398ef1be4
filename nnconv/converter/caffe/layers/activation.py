"""Element-wise layers of one bottom: most are one line of a table, read and written from the
same line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nnconv.converter.caffe.layers.layer import Layer
from nnconv.converter.caffe.layers.registry import reads, writes
from nnconv.converter.caffe.layers.writing import Written, constant, is_fixed, message
from nnconv.schemas.graph import Filler, Node, Value
from nnconv.schemas.types import DType

LARGEST = 3.4028234663852886e38
"""The largest float32."""


@dataclass(frozen=True, slots=True)
class Simple:
    """A layer that is one operator; `attributes` maps the operator's to fields of the settings
    message."""

    op: str
    message: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    in_place: bool = True


SIMPLE = {
    "AbsVal": Simple("Abs", in_place=False),
    "BNLL": Simple("Softplus"),
    "Dropout": Simple("nnconv.Dropout", "dropout_param", {"ratio": "dropout_ratio"}),
    "ELU": Simple("Elu", "elu_param", {"alpha": "alpha"}),
    "Sigmoid": Simple("Sigmoid"),
    "Swish": Simple("Swish", "swish_param", {"alpha": "beta"}),
    "TanH": Simple("Tanh"),
}
_TYPES = {simple.op: kind for kind, simple in SIMPLE.items()}


def _read_simple(layer: Layer, x: Value) -> Value:
    simple = SIMPLE[layer.type]
    settings = getattr(layer, simple.message) if simple.message else None
    attributes = {name: getattr(settings, field) for name, field in simple.attributes.items()}
    return layer.emit(simple.op, x, **attributes)


def _write_simple(node: Node) -> Written:
    kind = _TYPES[node.op]
    simple = SIMPLE[kind]
    values = {field: getattr(node, name) for name, field in simple.attributes.items()}
    settings: dict[str, Any] = {simple.message: values} if simple.message else {}
    return message(node, kind, **settings)


for _type, _simple in SIMPLE.items():
    reads(_type, in_place=_simple.in_place)(_read_simple)
    writes(_simple.op)(_write_simple)


@reads("ReLU")
def read_relu(layer: Layer, x: Value) -> Value:
    return _rectified(layer, x, layer.relu_param.negative_slope)


def _rectified(layer: Layer, x: Value, slope: float) -> Value:
    y = layer.emit("LeakyRelu", x, alpha=slope) if slope else layer.emit("Relu", x)
    return y


@writes("Relu", "LeakyRelu")
def write_relu(node: Node) -> Written:
    if node.op == "Relu":
        return message(node, "ReLU")
    return message(node, "ReLU", relu_param={"negative_slope": node.alpha})


@reads("ReLU6")
def read_relu6(layer: Layer, x: Value) -> Value:
    """min(relu(x), 6), from MobileNet-YOLO; its parameter message may be absent from a dialect."""
    slope = next(
        (
            getattr(layer, name).negative_slope
            for name in ("relu6_param", "relu_param")
            if layer.has(name)
        ),
        0.0,
    )
    if slope:
        return layer.emit("Min", _rectified(layer, x, slope), layer.number(6.0))
    return layer.emit("Clip", x, layer.number(0.0), layer.number(6.0))


@reads("PReLU")
def read_prelu(layer: Layer, x: Value) -> Value:
    p = layer.prelu_param
    sizes = layer.shape(x)
    if len(sizes) < 2:
        raise layer.error(
            "bottom", f"PReLU needs 2 axes or more, '{x.name}' has {layer.show(sizes)}"
        )
    layer.legacy_axes(x)
    shape = () if p.channel_shared else (sizes[1],)
    slope = layer.parameter(
        0, shape, p.filler if p.has("filler") else None, Filler(options={"value": 0.25}), exact=True
    )
    y = layer.emit("PRelu", x, layer.unsqueeze(slope, range(1, len(sizes) - 1) if shape else ()))
    return y


@writes("PRelu")
def write_prelu(node: Node) -> Written | None:
    slope, x = node.required(1), node.required(0)
    if not is_fixed(slope) or slope.shape is None or x.shape is None:
        return None
    shape = tuple(size for size in slope.shape if size != 1)
    if len(shape) > 1 or (shape and len(slope.shape) != len(x.shape) - 1):
        return None
    param = {} if shape else {"channel_shared": True}
    return message(node, "PReLU", blobs=[slope], bottoms=[x], shapes=[shape], prelu_param=param)


@reads("Clip")
def read_clip(layer: Layer, x: Value) -> Value:
    low, high = layer.clip_param.min, layer.clip_param.max
    if low <= high:
        return layer.emit("Clip", x, layer.number(low), layer.number(high))
    # crossed bounds: Caffe takes max(low, min(x, high)), ONNX's Clip would take high
    return layer.emit("Max", layer.emit("Min", x, layer.number(high)), layer.number(low))


@writes("Clip")
def write_clip(node: Node) -> Written | None:
    low = constant(node.input(1), -LARGEST)
    high = constant(node.input(2), LARGEST)
    if low is None or high is None or low > high:
        return None
    return message(node, "Clip", bottoms=node.inputs[:1], clip_param={"min": low, "max": high})


@reads("Threshold")
def read_threshold(layer: Layer, x: Value) -> Value:
    above = layer.emit("Greater", x, layer.number(layer.threshold_param.threshold))
    return layer.emit("Cast", above, to=int(DType.FLOAT32))


@reads("Power")
def read_power(layer: Layer, x: Value) -> Value:
    """(shift + scale x)^power, a constant where power * scale is 0 (power_layer.cpp)."""
    p = layer.power_param
    if p.power * p.scale == 0:
        value = 1.0 if p.power == 0 else _power(p.shift, p.power)
        return _filled(layer, x, value)
    y = _affine(layer, x, p.scale, p.shift)
    if p.power != 1:
        y = y**p.power
    return y


def _affine(layer: Layer, x: Value, scale: float, shift: float) -> Value:
    if scale != 1:
        x = x * scale
    return x + shift if shift != 0 else x


def _power(base: float, exponent: float) -> float:
    try:
        result = math.pow(base, exponent)
    except (ValueError, OverflowError):  # C's pow gives nan or inf where Python raises
        return math.nan if base < 0 else math.inf
    return result if abs(result) <= LARGEST else math.copysign(math.inf, result)


def _filled(layer: Layer, x: Value, value: float) -> Value:
    import numpy as np

    tensor = np.array([value], np.float32)
    return layer.emit("ConstantOfShape", layer.emit("Shape", x), value=tensor)


@reads("Exp")
def read_exp(layer: Layer, x: Value) -> Value:
    """base^(scale x + shift) = base^shift e^(scale log(base) x) (exp_layer.cpp, LayerSetUp)."""
    p = layer.exp_param
    log_base = _log_base(layer, p.base)
    inner = p.scale * log_base
    if not math.isfinite(log_base) or abs(inner) > LARGEST:
        raise layer.error("base", f"the logarithm of base {p.base} is not finite")
    y = layer.emit("Exp", x * inner if inner != 1 else x)
    return y * _power(math.exp(log_base), p.shift) if p.shift else y


def _log_base(layer: Layer, base: float) -> float:
    """The natural logarithm of `base`, where -1 stands for e."""
    if base == -1:
        return 1.0
    if base <= 0:
        raise layer.error("base", f"base must be positive, or -1 for e; got {base}")
    return math.log(base)


@reads("Log")
def read_log(layer: Layer, x: Value) -> Value:
    """log_base(scale x + shift)."""
    p = layer.log_param
    log_base = _log_base(layer, p.base)
    if log_base == 0 or not math.isfinite(log_base):
        raise layer.error("base", f"there is no logarithm to base {p.base}")
    y = layer.emit("Log", _affine(layer, x, p.scale, p.shift))
    return y / log_base if log_base != 1 else y


@writes("Exp", "Log")
def write_exponential(node: Node) -> Written:
    return message(node, node.op)


@writes("Pow")
def write_pow(node: Node) -> Written | None:
    power = constant(node.input(1))
    if power is None:
        return None
    return message(node, "Power", bottoms=node.inputs[:1], power_param={"power": power})
