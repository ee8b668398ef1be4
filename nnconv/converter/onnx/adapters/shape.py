"""Operators that move elements: over the years most of their attributes became inputs."""

from __future__ import annotations

from nnconv.converter.onnx.adapters.registry import lifts
from nnconv.converter.onnx.call import Call
from nnconv.schemas.types import DType


@lifts(5, "Reshape")
def reshape(call: Call) -> None:
    call.set_input(1, call.integers(call.take("shape", ())))


@lifts(4, "Concat")
def concat(call: Call) -> None:
    call.attributes.setdefault("axis", 1)


@lifts(10, "Slice")
def slice_bounds(call: Call) -> None:
    starts, ends, axes = (call.take(name) for name in ("starts", "ends", "axes"))
    for index, numbers in enumerate((starts, ends, axes), 1):
        if numbers is not None:
            call.set_input(index, call.integers(numbers))


@lifts(2, "Pad")
def pads(call: Call) -> None:
    call.attributes["pads"] = call.take("paddings", ())


@lifts(11, "Pad")
def pad(call: Call) -> None:
    call.set_input(1, call.integers(call.take("pads", ())))
    if value := call.take("value", 0.0):
        call.set_input(2, call.like(value, call.x()))


@lifts(13, "Squeeze", "Unsqueeze")
def axes(call: Call) -> None:
    if (places := call.take("axes")) is not None:
        call.set_input(1, call.integers(places))


@lifts(2, "Split")
def split(call: Call) -> None:
    """The sizes could be an input already, then an attribute only, then (13) an input again."""
    call.attributes.setdefault("axis", 0)
    if call.input(1) is not None:
        call.attributes["split"] = tuple(call.known(1))
    del call.inputs[1:]


@lifts(13, "Split")
def split_sizes(call: Call) -> None:
    if (sizes := call.take("split")) is not None:
        call.set_input(1, call.integers(sizes))


@lifts(18, "Split")
def split_count(call: Call) -> None:
    """Without sizes, how many parts there are must be said now."""
    if call.input(1) is None:
        call.attributes["num_outputs"] = len(call.outputs)


@lifts(6, "Tile")
def tile(call: Call) -> None:
    """Version 1 repeated one axis, both given as inputs."""
    (tiles,), (axis,) = call.known(1), call.known(2)
    repeats = [1] * call.rank()
    if not -len(repeats) <= int(axis) < len(repeats):
        raise call.unsupported(f"repeats axis {axis} of {len(repeats)}")
    repeats[int(axis)] = int(tiles)
    call.inputs[1:] = [call.integers(repeats)]


@lifts(11, "Scatter")
def scatter(call: Call) -> None:
    call.op = "ScatterElements"


@lifts(7, "Upsample")
def upsample_sides(call: Call) -> None:
    """Version 1 scaled height and width of N x C x H x W."""
    sides = (call.take("height_scale", 1.0), call.take("width_scale", 1.0))
    call.attributes["scales"] = (1.0, 1.0, *sides)


@lifts(9, "Upsample")
def upsample_scales(call: Call) -> None:
    call.set_input(1, call.graph.constant(call.take("scales", ()), DType.FLOAT32))


@lifts(10, "Upsample")
def upsample(call: Call) -> None:
    call.op = "Resize"


@lifts(11, "Resize")
def resize(call: Call) -> None:
    """Before 11 output pixel i was read at i / scale; `nearest` rounded down, or up where it
    shrank.
    """
    scales = call.x(1)
    call.inputs = [call.x(), None, scales]
    call.attributes["coordinate_transformation_mode"] = "asymmetric"
    if call.attributes.get("mode", "nearest") == "nearest":
        call.attributes["nearest_mode"] = _rounding(call, scales.data is not None)


def _rounding(call: Call, stored: bool) -> str:
    factors = call.known(2) if stored else []
    if not any(factor < 1 for factor in factors):
        return "floor"
    if any(factor > 1 for factor in factors):
        raise call.unsupported("enlarges one axis and shrinks another")
    return "ceil"


@lifts(13, "Resize")
def resize_tensorflow(call: Call) -> None:
    """tf_half_pixel_for_nn: (i + 1/2) / scale rounded down, half_pixel's rounded to nearest."""
    if call.attributes.get("coordinate_transformation_mode") != "tf_half_pixel_for_nn":
        return
    if (
        call.attributes.get("mode", "nearest") != "nearest"
        or call.attributes.get("nearest_mode") != "floor"
    ):
        raise call.unsupported("uses tf_half_pixel_for_nn other than with nearest_mode floor")
    call.attributes["coordinate_transformation_mode"] = "half_pixel"
    call.attributes["nearest_mode"] = "round_prefer_ceil"


@lifts(20, "GridSample")
def grid_sample(call: Call) -> None:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = call.take("mode", "bilinear")
    call.attributes["mode"] = names.get(mode, mode)


@lifts(16, "RoiAlign")
def roi_align(call: Call) -> None:
    """Version 10 knew no half-pixel shift; it is the default now."""
    call.attributes["coordinate_transformation_mode"] = "output_half_pixel"
