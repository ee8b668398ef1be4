"""Layers that feed a net. All become inputs of the graph, sized as far as the file tells.

Where data come from in training (data bases, lists, HDF5) is the business of the data loaders; the
layer's record keeps every setting for them and for the way back.
"""

from __future__ import annotations

from typing import Any

from nnconv.converter.caffe.fillers import read_filler
from nnconv.converter.caffe.layers.layer import Layer, Sizes
from nnconv.converter.caffe.layers.registry import reads
from nnconv.schemas.graph import Preprocessing, Value


@reads("Input", bottoms=0, tops=(1, None))
def read_input(layer: Layer) -> tuple[Value, ...]:
    shapes = [tuple(shape.dim) for shape in layer.input_param.shape]
    return _inputs(layer, _one_each(layer, "shape", shapes or [()]))


@reads("DummyData", bottoms=0, tops=(1, None))
def read_dummy_data(layer: Layer) -> tuple[Value, ...]:
    """Filled by Caffe, fed here; shapes are `shape`, or the four legacy sizes."""
    p = layer.dummy_data_param
    count = len(layer.tops)
    if len(p.data_filler) not in (0, 1, count):
        raise layer.error(
            "data_filler", f"give no, one or {count} fillers, got {len(p.data_filler)}"
        )
    legacy = p.stated("num", "channels", "height", "width")
    if legacy and p.shape:
        raise layer.error(legacy[0], "give either shape or num, channels, height and width")
    if legacy:
        columns = [
            _one_each(layer, name, list(getattr(p, name)))
            for name in ("num", "channels", "height", "width")
        ]
        shapes: list[Any] = list(zip(*columns, strict=True))
    else:
        shapes = _one_each(layer, "shape", [tuple(shape.dim) for shape in p.shape])
    for filler, shape in zip(
        p.data_filler * count if len(p.data_filler) == 1 else p.data_filler, shapes, strict=False
    ):
        read_filler(layer, filler, shape)
    layer.net.report.note(
        f"{layer.title}: its data are fed as inputs, the fillers are kept for writing", layer.span()
    )
    return _inputs(layer, shapes)


def _one_each(layer: Layer, field: str, given: list[Any]) -> list[Any]:
    """One item a top, from one item for all or one for each."""
    count = len(layer.tops)
    if len(given) not in (1, count):
        raise layer.error(
            field, f"{count} tops need {field} once, or {count} times; got {len(given)}"
        )
    return given * count if len(given) == 1 else given


def _inputs(layer: Layer, shapes: list[Sizes]) -> tuple[Value, ...]:
    for shape in shapes:
        layer.check_sizes(shape)
    return tuple(layer.net.input(top, shape) for top, shape in zip(layer.tops, shapes, strict=True))


@reads("Data", bottoms=0, tops=(1, 2))
def read_data(layer: Layer) -> tuple[Value, ...]:
    p = layer.data_param
    return _pictures(layer, p.batch_size, (None, None), color=None)


@reads("ImageData", bottoms=0, tops=2)
def read_image_data(layer: Layer) -> tuple[Value, ...]:
    p = layer.image_data_param
    if (p.new_height > 0) != (p.new_width > 0):
        raise layer.error(
            "new_height" if p.new_height else "new_width", "new_height and new_width go together"
        )
    return _pictures(
        layer, p.batch_size, (p.new_height or None, p.new_width or None), color=p.is_color
    )


@reads("WindowData", bottoms=0, tops=2)
def read_window_data(layer: Layer) -> tuple[Value, ...]:
    """Windows are warped to the crop size."""
    if not layer.transform_param.crop_size:
        raise layer.error("transform_param", "WindowData needs crop_size")
    return _pictures(layer, layer.window_data_param.batch_size, (None, None), color=True)


@reads("MemoryData", bottoms=0, tops=2)
def read_memory_data(layer: Layer) -> tuple[Value, ...]:
    p = layer.memory_data_param
    sizes = (p.batch_size, p.channels, p.height, p.width)
    if 0 in sizes:
        raise layer.error(
            "memory_data_param", "batch_size, channels, height and width must be 1 or more"
        )
    _preprocessing(layer)
    return _inputs(layer, [sizes, (p.batch_size,)])


@reads("HDF5Data", bottoms=0, tops=(1, None))
def read_hdf5_data(layer: Layer) -> tuple[Value, ...]:
    """The sizes stand in the data files, which nobody opens to convert a net."""
    if layer.has("transform_param"):
        raise layer.error(
            "transform_param", "HDF5Data does not transform data", hint="remove transform_param"
        )
    _note(layer)
    return tuple(
        layer.net.input(top, None, batch=layer.hdf5_data_param.batch_size) for top in layer.tops
    )


def _pictures(
    layer: Layer, batch: int, sizes: tuple[int | None, int | None], color: bool | None
) -> tuple[Value, ...]:
    """Inputs data [batch, C, H, W] and label [batch]."""
    t = layer.transform_param
    _preprocessing(layer)
    if t.crop_size:
        sizes = (t.crop_size, t.crop_size)
    if color is None and (t.force_color or t.force_gray):
        color = t.force_color
    channels = {None: None, True: 3, False: 1}[color]
    if channels is None and len(t.mean_value) > 1:
        channels = len(t.mean_value)
    _note(layer)
    return _inputs(layer, [(batch, channels, *sizes), (batch,)][: len(layer.tops)])


def _note(layer: Layer) -> None:
    layer.net.report.note(
        f"{layer.title}: a data source; here {', '.join(layer.tops)} are inputs to feed",
        layer.span(),
    )


def _preprocessing(layer: Layer) -> None:
    """What transform_param does to a picture, kept for the input it makes."""
    t = layer.transform_param
    if t.has("mean_file") and t.mean_value:
        raise layer.error("mean_value", "give either mean_file or mean_value")
    if t.force_color and t.force_gray:
        raise layer.error("force_gray", "give either force_color or force_gray")
    layer.net.preprocess(
        layer.tops[0],
        Preprocessing(mean=tuple(t.mean_value), scale=t.scale, crop=t.crop_size),
        t.mean_file if t.has("mean_file") else "",
    )
