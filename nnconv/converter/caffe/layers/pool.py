"""Pooling: windows over the two last of four axes, counted up unless round_mode says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnconv.converter.caffe.layers.layer import Layer
from nnconv.converter.caffe.layers.registry import reads, writes
from nnconv.converter.caffe.layers.writing import Written, message
from nnconv.schemas.errors import InputError
from nnconv.schemas.functions.layers import pyramid_side
from nnconv.schemas.graph import Node, Value
from nnconv.schemas.types import DType

OPERATORS = {"MAX": "MaxPool", "AVE": "AveragePool"}
GLOBAL = {"MAX": "GlobalMaxPool", "AVE": "GlobalAveragePool"}


@dataclass(frozen=True, slots=True)
class Window:
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]


@reads("Pooling", tops=(1, 2))
def read_pooling(layer: Layer, x: Value) -> Any:
    p = layer.pooling_param
    if len(layer.tops) > 1 and p.pool != "MAX":
        raise layer.error("top", f"only MAX pooling has a second top, this is {p.pool}")
    layer.need_rank(x, 4)
    stride, pad = _pair(layer, p, "stride"), _pair(layer, p, "pad")
    if p.global_pooling:
        _check_global(layer, p, stride, pad)
        return _global(layer, x)
    window = Window(_kernel(layer, p), stride, pad)
    if p.round_mode == "FLOOR":
        _check_floor(layer, x, window)
    if any(pad) and p.pool not in OPERATORS:
        raise layer.error("pad", f"{p.pool} pooling takes no padding")
    for side, extent in zip(pad, window.kernel, strict=True):
        if side >= extent:
            raise layer.error(
                "pad", f"pad must be smaller than the kernel, got {side} for {extent}"
            )
    if p.pool == "STOCHASTIC":
        return _stochastic(layer, x, window)
    return _windows(layer, x, window)


def _check_floor(layer: Layer, x: Value, window: Window) -> None:
    """Pooling rounds down, ONNX's pools towards zero: of a window that exceeds the padded plane
    Caffe makes nothing, they would make one cell."""
    for size, kernel, pad in zip(layer.shape(x)[2:], window.kernel, window.pad, strict=True):
        if isinstance(size, int) and kernel > size + 2 * pad:
            raise layer.error(
                "kernel_size",
                f"nothing is left of the input (size {size}, kernel {kernel}, pad {pad})",
                hint="is the input too small for this net?",
            )


def _stochastic(layer: Layer, x: Value, window: Window) -> Value:
    """In tests the average weighted by itself, sum(x x) / sum(x), 0 where the sum is not positive
    (pooling_layer.cu, StoPoolForwardTest); the divisors of the two averages cancel."""
    if layer.net.state.phase != "TEST":
        raise layer.unsupported(
            "pool",
            "stochastic pooling is supported for phase TEST only",
            hint="Caffe trains with it on GPUs only; use MAX or AVE",
        )
    attributes = {"kernel_shape": window.kernel, "strides": window.stride, "count_include_pad": 1}
    attributes["ceil_mode"] = int(layer.pooling_param.round_mode == "CEIL")
    squares, total = (layer.emit("AveragePool", v, **attributes) for v in (x * x, x))
    zero = layer.number(0.0)
    positive = layer.emit("Greater", total, zero)
    safe = layer.emit("Where", positive, total, layer.number(1.0))
    return layer.emit("Where", positive, squares / safe, zero)


def _kernel(layer: Layer, p: Any) -> tuple[int, int]:
    both = p.has("kernel_h") and p.has("kernel_w")
    if p.has("kernel_size") == both:
        field = "kernel_size" if both else "pooling_param"
        raise layer.error(field, "give either kernel_size, or kernel_h and kernel_w")
    kernel = (p.kernel_h, p.kernel_w) if both else _twice(layer, p, "kernel_size", 0)
    if 0 in kernel:
        raise layer.error("kernel_h" if both else "kernel_size", "the kernel must not be zero")
    return kernel


def _pair(layer: Layer, p: Any, name: str) -> tuple[int, int]:
    """`stride` or `pad`, given once or as two fields; pooling_layer.cpp wants the two together."""
    sides = p.stated(f"{name}_h", f"{name}_w")
    if sides and (len(sides) == 1 or p.has(name)):
        raise layer.error(sides[0], f"give either {name}, or {name}_h and {name}_w")
    default = 1 if name == "stride" else 0
    pair = _twice(layer, p, name, default)
    if sides:
        pair = getattr(p, f"{name}_h"), getattr(p, f"{name}_w")
    if name == "stride" and 0 in pair:
        raise layer.error(sides[0] if sides else "stride", "stride must not be zero")
    return pair


def _twice(layer: Layer, p: Any, name: str, default: int) -> tuple[int, int]:
    """A setting for both axes. Forks with pooling over any number of axes made the field
    repeated."""
    value = getattr(p, name)
    numbers = value if isinstance(value, tuple) else (value,)
    if len(numbers) > 2:
        raise layer.error(name, f"{name} must be given for two axes, got {len(numbers)} values")
    first, second = (numbers * 2)[:2] if numbers else (default, default)
    return first, second


def _check_global(layer: Layer, p: Any, stride: tuple[int, int], pad: tuple[int, int]) -> None:
    if stated := p.stated("kernel_size", "kernel_h", "kernel_w"):
        raise layer.error(
            stated[0], f"global_pooling takes the whole plane, {stated[0]} must be left out"
        )
    if any(pad) or stride != (1, 1):
        field = (p.stated("pad", "pad_h", "stride", "stride_h") or [""])[0]
        raise layer.error(field, "global_pooling needs pad 0 and stride 1")
    if p.pool == "STOCHASTIC":
        raise layer.unsupported("pool", "stochastic pooling is not supported")


def _global(layer: Layer, x: Value) -> Any:
    y = layer.emit(GLOBAL[layer.pooling_param.pool], x)
    if len(layer.tops) == 1:
        return y
    flat = layer.emit("nnconv.Flatten", x, axis=2)
    place = layer.emit("ArgMax", flat, axis=2, keepdims=1)
    place = layer.emit("Cast", layer.unsqueeze(place, [3]), to=int(DType.FLOAT32))
    return y, place


def _windows(layer: Layer, x: Value, window: Window) -> Any:
    """MaxPool and AveragePool say it exactly, except where no pad is set and the stride exceeds the
    kernel: there Caffe's last window may lie outside the data."""
    p = layer.pooling_param
    attributes: dict[str, Any] = {
        "kernel_shape": window.kernel,
        "strides": window.stride,
        "pads": window.pad * 2,
    }
    if (
        not any(window.pad)
        and any(s > k for s, k in zip(window.stride, window.kernel, strict=True))
        and p.round_mode == "CEIL"
    ):
        if len(layer.tops) > 1:
            raise layer.unsupported("stride", "the mask of windows that may lie outside the data")
        return layer.emit("nnconv.Pool", x, mode=p.pool, round_mode=p.round_mode, **attributes)
    attributes["ceil_mode"] = int(p.round_mode == "CEIL")
    if p.pool == "AVE":
        attributes["count_include_pad"] = 1
    if len(layer.tops) == 1:
        return layer.emit(OPERATORS[p.pool], x, **attributes)
    y, indices = layer.graph.emit("MaxPool", x, outputs=2, **attributes)
    # ONNX counts through the whole tensor, Caffe within the plane
    plane = layer.emit("ReduceProd", layer.emit("Shape", x, start=2), keepdims=0)
    within = layer.emit("Mod", indices, plane, fmod=1)  # which keeps -1, where nothing is largest
    return y, layer.emit("Cast", within, to=int(DType.FLOAT32))


MOST_LEVELS = 16


@reads("SPP")
def read_spp(layer: Layer, x: Value) -> Value:
    """Pooling into 1, 2 x 2, 4 x 4 ... bins, side by side as one vector an image; of a single
    level the plane itself."""
    p = layer.spp_param
    if not 1 <= p.pyramid_height <= MOST_LEVELS:
        raise layer.error(
            "pyramid_height",
            f"pyramid_height must be 1 to {MOST_LEVELS}, got {p.pyramid_height}",
        )
    if p.pool not in OPERATORS:
        raise layer.unsupported("pool", f"{p.pool} pooling in a pyramid")
    layer.need_rank(x, 4)
    levels = []
    for level in range(p.pyramid_height):
        _check_bins(layer, x, 2**level)
        levels.append(layer.emit("nnconv.PyramidPool", x, mode=p.pool, bins=2**level))
    if len(levels) == 1:
        return levels[0]
    return layer.emit("Concat", *(layer.emit("Flatten", part) for part in levels), axis=1)


def _check_bins(layer: Layer, x: Value, bins: int) -> None:
    for extent in layer.shape(x)[2:]:
        try:
            pyramid_side(extent or bins, bins)
        except InputError as error:
            raise layer.error("pyramid_height", error.problems[0].message) from None


@writes("GlobalMaxPool", "GlobalAveragePool")
def write_global(node: Node) -> Written:
    pool = next(name for name, op in GLOBAL.items() if op == node.op)
    return message(node, "Pooling", pooling_param={"pool": pool, "global_pooling": True})


@writes("MaxPool", "AveragePool", "nnconv.Pool")
def write_pool(node: Node) -> Written | None:
    settings = node.arguments()
    kernel = settings["kernel_shape"]
    strides, pads = settings["strides"] or (1, 1), settings["pads"] or (0,) * 4
    if not _writable(node, settings, pads):
        return None
    names = {name: pool for pool, name in OPERATORS.items()}
    param: dict[str, Any] = {"pool": names.get(node.op) or node.mode}
    for stem, numbers in (("kernel", kernel), ("stride", strides), ("pad", pads[:2])):
        default = 0 if stem == "pad" else 1
        if numbers[0] != numbers[1]:
            param |= {f"{stem}_h": numbers[0], f"{stem}_w": numbers[1]}
        elif stem == "kernel" or numbers[0] != default:
            param["kernel_size" if stem == "kernel" else stem] = numbers[0]
    if not settings.get("ceil_mode") and settings.get("round_mode") != "CEIL":
        param["round_mode"] = "FLOOR"
    return message(node, "Pooling", pooling_param=param)


def _writable(node: Node, settings: dict[str, Any], pads: tuple[int, ...]) -> bool:
    if len(settings["kernel_shape"]) != 2 or pads[:2] != pads[2:] or len(node.outputs) > 1:
        return False
    if settings.get("auto_pad", "NOTSET") != "NOTSET" or any(
        d != 1 for d in settings.get("dilations") or ()
    ):
        return False
    return node.op != "AveragePool" or bool(settings["count_include_pad"]) or not any(pads)
