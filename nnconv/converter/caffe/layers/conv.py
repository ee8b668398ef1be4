"""Convolution, Deconvolution and Im2col over any number of spatial axes, with Caffe's two ways of
giving sizes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nnconv.converter.caffe.layers.layer import Layer, Sizes, product
from nnconv.converter.caffe.layers.registry import reads, writes
from nnconv.converter.caffe.layers.writing import Written, is_fixed, message
from nnconv.schemas.dims import truncate_div
from nnconv.schemas.graph import Node, Value

MANY = (1, None)
Apply = Callable[[Layer, Value, Value, "Value | None", "Windows"], Value]


@dataclass(frozen=True, slots=True)
class Windows:
    """Kernel, stride, pad and dilation, one number a spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))


@reads("Convolution", bottoms=MANY, tops=MANY)
def read_convolution(layer: Layer, *xs: Value) -> tuple[Value, ...]:
    return _read(layer, xs, _convolve, transposed=False)


@reads("Deconvolution", bottoms=MANY, tops=MANY)
def read_deconvolution(layer: Layer, *xs: Value) -> tuple[Value, ...]:
    return _read(layer, xs, _deconvolve, transposed=True)


@reads("DepthwiseConvolution", "ConvolutionDepthwise", bottoms=MANY, tops=MANY)
def read_depthwise(layer: Layer, *xs: Value) -> tuple[Value, ...]:
    """The forks' kernel for groups of one channel; the maths is Convolution's (the group is
    written)."""
    return _read(layer, xs, _convolve, transposed=False)


def _read(layer: Layer, xs: tuple[Value, ...], apply: Apply, transposed: bool) -> tuple[Value, ...]:
    p = layer.convolution_param
    if len(xs) != len(layer.tops):
        raise layer.error("top", f"{len(xs)} bottoms need {len(xs)} tops, got {len(layer.tops)}")
    if p.engine == "CUDNN":
        raise layer.error("engine", "engine CUDNN needs a GPU build", hint="leave engine out")
    axis = layer.axis(xs[0], p.axis)
    sizes = layer.shape(xs[0])
    layer.need_one_shape(xs)
    windows = _windows(layer, p, len(sizes) - axis - 1)
    channels = _channels(layer, p, sizes[axis])
    first, second = (channels, p.num_output) if transposed else (p.num_output, channels)
    inner = None if second is None else second // p.group
    weights = layer.parameter(0, (first, inner, *windows.kernel), p.weight_filler, exact=True)
    bias = layer.parameter(1, (p.num_output,), p.bias_filler, exact=True) if p.bias_term else None
    _check_output(layer, sizes[axis + 1 :], windows, transposed, bias is not None)
    return tuple(_around(layer, x, axis, weights, bias, windows, apply) for x in xs)


def _windows(layer: Layer, p: Any, count: int) -> Windows:
    """The window sizes; base_conv_layer.cpp, LayerSetUp."""
    kernel = _per_axis(layer, p, "kernel_size", "kernel", count, None)
    stride = _per_axis(layer, p, "stride", "stride", count, 1)
    pad = _per_axis(layer, p, "pad", "pad", count, 0)
    dilation = _repeated(layer, p, "dilation", count, 1)
    for name, numbers in (("kernel", kernel), ("stride", stride)):
        if 0 in numbers:
            field = next(iter(p.stated(f"{name}_h", f"{name}_w", f"{name}_size", name)), "")
            raise layer.error(
                field,
                f"{name} must not be zero, got {_show(numbers)}",
                hint=f"{name}_h and {name}_w go together; an absent one counts as 0",
            )
    return Windows(kernel, stride, pad, dilation)


def _per_axis(
    layer: Layer, p: Any, repeated: str, stem: str, count: int, default: int | None
) -> tuple[int, ...]:
    pair = p.stated(f"{stem}_h", f"{stem}_w")
    if not pair:
        return _repeated(layer, p, repeated, count, default)
    if count != 2:
        raise layer.error(
            pair[0],
            f"{pair[0]} is for 2 spatial axes, here are {count}",
            hint=f"write {repeated} once per axis",
        )
    if p.has(repeated):
        raise layer.error(repeated, f"either {repeated} or {stem}_h and {stem}_w, not both")
    return (getattr(p, f"{stem}_h"), getattr(p, f"{stem}_w"))


def _repeated(layer: Layer, p: Any, field: str, count: int, default: int | None) -> tuple[int, ...]:
    numbers: tuple[int, ...] = getattr(p, field)
    if not numbers and default is not None:
        return (default,) * count
    if len(numbers) not in (1, count):
        raise layer.error(
            field,
            f"{field} must be given once, or once for each of {count} spatial axes; "
            f"got {len(numbers)} values",
        )
    return numbers * count if len(numbers) == 1 else numbers


def _channels(layer: Layer, p: Any, channels: int | None) -> int | None:
    if p.num_output < 1:
        raise layer.error("num_output", f"num_output must be 1 or more, got {p.num_output}")
    if p.group < 1:
        raise layer.error("group", f"group must be 1 or more, got {p.group}")
    if channels is not None and channels % p.group:
        raise layer.error("group", f"{channels} channels cannot be split into {p.group} groups")
    if p.num_output % p.group:
        raise layer.error(
            "group", f"num_output {p.num_output} cannot be split into {p.group} groups"
        )
    return channels


def _check_output(
    layer: Layer, sizes: Sizes, windows: Windows, transposed: bool, bias: bool
) -> None:
    """Refuse what Caffe refuses: a negative output size, and an empty output that has a bias."""
    for size, extent, stride, pad in zip(
        sizes, windows.extent, windows.stride, windows.pad, strict=True
    ):
        if size is None:
            continue
        if transposed:
            out: Any = stride * (size - 1) + extent - 2 * pad
        else:
            out = truncate_div(size + 2 * pad - extent, stride) + 1
        if out < 0 or (out == 0 and bias):
            raise layer.error(
                "kernel_size",
                f"the output size would be {out} (input {size}, kernel extent "
                f"{extent}, pad {pad}, stride {stride})",
                hint="is the input too small for this net?",
            )


def _around(
    layer: Layer,
    x: Value,
    axis: int,
    weights: Value,
    bias: Value | None,
    windows: Windows,
    apply: Apply,
) -> Value:
    """Bring any layout [leading axes, channels, spatial axes] into ONNX's [N, C, spatial] and
    back."""
    if not windows.kernel:  # no spatial axes: a dense layer, said as a window of one
        rank = len(layer.shape(x))
        one = Windows((1,), (1,), (0,), (1,))
        wide = _around(
            layer, layer.unsqueeze(x, [rank]), axis, layer.unsqueeze(weights, [2]), bias, one, apply
        )
        return layer.emit("Squeeze", wide, layer.ints([rank]))
    if axis == 0:
        y = apply(layer, layer.unsqueeze(x, [0]), weights, bias, windows)
        return layer.emit("Squeeze", y, layer.ints([0]))
    if axis == 1:
        return apply(layer, x, weights, bias, windows)
    merged = layer.emit("nnconv.Reshape", x, dims=(-1,), axis=0, num_axes=axis)
    y = apply(layer, merged, weights, bias, windows)
    leading, rest = layer.emit("Shape", x, end=axis), layer.emit("Shape", y, start=1)
    return layer.emit("Reshape", y, layer.emit("Concat", leading, rest, axis=0))


def _convolve(layer: Layer, x: Value, w: Value, b: Value | None, windows: Windows) -> Value:
    return layer.emit("Conv", x, w, b, **_attributes(layer, windows), pads=windows.pad * 2)


def _pad_after(sizes: Sizes, windows: Windows) -> list[int]:
    """The padding behind each axis. Caffe's division truncates, so a kernel that exceeds the padded
    input by less than the stride still gives one output; slices say so only with more padding
    behind, chosen for the source's own size."""
    after = []
    for size, extent, stride, pad in zip(
        sizes, windows.extent, windows.stride, windows.pad, strict=True
    ):
        lack = 0 if size is None else extent - size - 2 * pad
        after.append(pad + (lack if 0 < lack < stride else 0))
    return after


def _deconvolve(layer: Layer, x: Value, w: Value, b: Value | None, windows: Windows) -> Value:
    return layer.emit("ConvTranspose", x, w, b, **_attributes(layer, windows), pads=windows.pad * 2)


def _attributes(layer: Layer, windows: Windows) -> dict[str, Any]:
    group = layer.convolution_param.group
    return {
        "kernel_shape": windows.kernel,
        "strides": windows.stride,
        "dilations": windows.dilation,
        "group": group,
    }


MOST_TAPS = 4096
FAR = 2**31 - 1  # an end behind every size


@reads("Im2col")
def read_im2col(layer: Layer, x: Value) -> Value:
    """Every kernel position as channels of their own, C k... of them: strided slices of the padded
    data, joined behind their channel."""
    p = layer.convolution_param
    axis, sizes = layer.axis(x, p.axis), layer.shape(x)
    if axis + 1 == len(sizes):
        raise layer.error("axis", f"no axes to move over behind axis {axis} of '{x.name}'")
    windows = _windows(layer, p, len(sizes) - axis - 1)
    if product(windows.kernel) > MOST_TAPS:  # type: ignore[operator]
        raise layer.unsupported("kernel_size", f"Im2col with more than {MOST_TAPS} taps")
    _check_output(layer, sizes[axis + 1 :], windows, transposed=False, bias=False)
    axes, after = layer.ints(range(axis + 1, len(sizes))), _pad_after(sizes[axis + 1 :], windows)
    if any(windows.pad) or any(after):
        x = layer.emit("Pad", x, layer.ints([*windows.pad, *after]), layer.number(0.0), axes)
    steps = layer.ints(windows.stride)
    taps = []
    for place in itertools.product(*map(range, windows.kernel)):
        starts = [d * k for d, k in zip(windows.dilation, place, strict=True)]
        behind = [e - 1 - start for e, start in zip(windows.extent, starts, strict=True)]
        ends = layer.ints([-rest if rest else FAR for rest in behind])
        tap = layer.emit("Slice", x, layer.ints(starts), ends, axes, steps)
        taps.append(layer.unsqueeze(tap, [axis + 1]))
    joined = layer.emit("Concat", *taps, axis=axis + 1)
    return layer.emit("nnconv.Flatten", joined, axis=axis, end_axis=axis + 1)


def _show(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))


@writes("Conv", "ConvTranspose")
def write_convolution(node: Node) -> Written | None:
    """One pad a side only, which is all Caffe has."""
    weights, settings = node.required(1), node.arguments()
    if not is_fixed(weights) or weights.shape is None or settings["auto_pad"] != "NOTSET":
        return None
    kernel = tuple(weights.shape[2:])
    pads = settings["pads"] or (0,) * (2 * len(kernel))
    before, after = pads[: len(kernel)], pads[len(kernel) :]
    transposed = node.op == "ConvTranspose"
    odd = transposed and (any(settings["output_padding"] or ()) or settings["output_shape"])
    if before != after or odd or product(kernel) is None:  # type: ignore[arg-type]
        return None
    outputs = weights.shape[1] * node.group if transposed else weights.shape[0]
    param: dict[str, Any] = {"num_output": outputs}
    if node.input(2) is None:
        param["bias_term"] = False
    for name, numbers, default in (
        ("pad", before, 0),
        ("kernel_size", kernel, None),
        ("stride", settings["strides"], 1),
        ("dilation", settings["dilations"], 1),
    ):
        param[name] = _short(numbers, default)
    if node.group != 1:
        param["group"] = node.group
    kind = "Deconvolution" if transposed else "Convolution"
    return message(node, kind, blobs=node.inputs[1:], convolution_param=param)


def _short(numbers: Any, default: int | None) -> list[int]:
    """The shortest way to write one number an axis."""
    sides: list[int] = list(numbers or ())
    if all(side == default for side in sides):
        return []
    return sides[:1] if len(set(sides)) == 1 else sides
