"""Upgrades Caffe's oldest nets, where an entry of `layers` wraps a `layer` with any type's fields.

Padding was a layer then, and becomes the `pad` of its consumer. Every typed field has one place for
each layer type it belongs to; on any other type it is dropped with a complaint, as Caffe does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from nnconv.converter.caffe.schema import Dialect
from nnconv.schemas.errors import InputError

TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}

_CONV, _IP, _POOL = "convolution_param", "inner_product_param", "pooling_param"
_WINDOW, _IMAGE = "window_data_param", "image_data_param"
_WEIGHTED = {"conv": _CONV, "innerproduct": _IP}
_SLIDING = {"conv": _CONV, "pool": _POOL}
_DATA = {
    "data": "data_param",
    "hdf5_data": "hdf5_data_param",
    "images": _IMAGE,
    "window_data": _WINDOW,
}

# V0 field -> (its V1 name, the message it goes to for each layer type). In the order of Caffe's
# complaints; shuffle_images is complained of under its new name.
TYPED: dict[str, tuple[str, dict[str, str]]] = {
    "num_output": ("num_output", _WEIGHTED),
    "biasterm": ("bias_term", _WEIGHTED),
    "weight_filler": ("weight_filler", _WEIGHTED),
    "bias_filler": ("bias_filler", _WEIGHTED),
    "pad": ("pad", _SLIDING),
    "kernelsize": ("kernel_size", _SLIDING),
    "group": ("group", {"conv": _CONV}),
    "stride": ("stride", _SLIDING),
    "pool": ("pool", {"pool": _POOL}),
    "dropout_ratio": ("dropout_ratio", {"dropout": "dropout_param"}),
    "local_size": ("local_size", {"lrn": "lrn_param"}),
    "alpha": ("alpha", {"lrn": "lrn_param"}),
    "beta": ("beta", {"lrn": "lrn_param"}),
    "k": ("k", {"lrn": "lrn_param"}),
    "source": ("source", {**_DATA, "infogain_loss": "infogain_loss_param"}),
    "batchsize": ("batch_size", _DATA),
    "rand_skip": ("rand_skip", {"data": "data_param", "images": _IMAGE}),
    "shuffle_images": ("shuffle", {"images": _IMAGE}),
    "new_height": ("new_height", {"images": _IMAGE}),
    "new_width": ("new_width", {"images": _IMAGE}),
    "concat_dim": ("concat_dim", {"concat": "concat_param"}),
    "det_fg_threshold": ("fg_threshold", {"window_data": _WINDOW}),
    "det_bg_threshold": ("bg_threshold", {"window_data": _WINDOW}),
    "det_fg_fraction": ("fg_fraction", {"window_data": _WINDOW}),
    "det_context_pad": ("context_pad", {"window_data": _WINDOW}),
    "det_crop_mode": ("crop_mode", {"window_data": _WINDOW}),
}
COMPLAINED_AS = {"shuffle_images": "shuffle"}
TRANSFORM = {
    "scale": "scale",
    "meanfile": "mean_file",
    "cropsize": "crop_size",
    "mirror": "mirror",
}
# The net-level fields that survive; state, debug_info, input_shape and V2 layers do not, in Caffe.
KEPT = ("name", "input", "input_dim", "force_backward")

Refuse = Callable[[int, str], InputError]


def upgrade_v0(
    net: Any, dialect: Dialect, refuse: Refuse, complaints: list[str]
) -> tuple[Any, list[int]]:
    """A V0 net as a V1 net, and for each of its `layers` the index of the source entry.

    What cannot be carried over is appended to `complaints`; `refuse(index, message)` makes the
    error for a net that Caffe refuses too.
    """
    entries, origin = _without_padding(net, refuse)
    result: Any = dialect.new("NetParameter")
    for name in KEPT:
        _copy_field(net, name, result, name)
    for entry, index in zip(entries, origin, strict=True):
        _upgrade_entry(entry, result.layers.add(), index, refuse, complaints)
    return result, origin


def _without_padding(net: Any, refuse: Refuse) -> tuple[list[Any], list[int]]:
    """Copies of all entries but the padding layers, whose `pad` their consumers get."""
    maker: dict[str, Any] = dict.fromkeys(net.input)
    entries: list[Any] = []
    origin: list[int] = []
    for index, source in enumerate(net.layers):
        entry = type(source)()
        entry.CopyFrom(source)
        for position, bottom in enumerate(source.bottom):
            if bottom not in maker:
                raise refuse(index, f"unknown bottom blob {bottom!r}")
            made_by = maker[bottom]
            if made_by is not None and made_by.layer.type == "padding":
                _check_padding(source, made_by, index, refuse)
                entry.layer.pad = made_by.layer.pad
                entry.bottom[position] = made_by.bottom[0]
        if source.layer.type != "padding":
            entries.append(entry)
            origin.append(index)
        maker.update(dict.fromkeys(source.top, source))
    return entries, origin


def _check_padding(consumer: Any, padding: Any, index: int, refuse: Refuse) -> None:
    if consumer.layer.type not in _SLIDING:
        kind = consumer.layer.type
        raise refuse(index, f"a padding layer feeds a layer of type {kind!r}, not conv or pool")
    if len(consumer.bottom) != 1:
        raise refuse(index, "a padded layer takes a single bottom")
    if len(padding.bottom) != 1 or len(padding.top) != 1:
        raise refuse(index, "a padding layer takes a single bottom and gives a single top")


def _upgrade_entry(
    entry: Any, result: Any, index: int, refuse: Refuse, complaints: list[str]
) -> None:
    result.bottom.extend(entry.bottom)
    result.top.extend(entry.top)
    if not entry.HasField("layer"):
        return
    old = entry.layer
    if old.HasField("type"):
        if old.type not in TYPES:
            raise refuse(index, f"unknown layer type {old.type!r}")
        enum = result.DESCRIPTOR.fields_by_name["type"].enum_type
        result.type = enum.values_by_name[TYPES[old.type]].number
    for name in ("name", "blobs", "blobs_lr", "weight_decay"):
        _copy_field(old, name, result, name)
    for name, new_name in TRANSFORM.items():
        if old.HasField(name):
            setattr(result.transform_param, new_name, getattr(old, name))
    for name, (new_name, places) in TYPED.items():
        if not old.HasField(name):
            continue
        if old.type in places:
            _copy_field(old, name, getattr(result, places[old.type]), new_name)
        else:
            shown = COMPLAINED_AS.get(name, name)
            complaints.append(f"unknown parameter {shown} for layer type {old.type}")
    if old.HasField("hdf5_output_param"):
        if old.type == "hdf5_output":
            result.hdf5_output_param.CopyFrom(old.hdf5_output_param)
        else:
            complaints.append(f"unknown parameter hdf5_output_param for layer type {old.type}")


def _copy_field(source: Any, name: str, target: Any, new_name: str) -> None:
    """Copies one field if it is there, into a field that may be repeated where the old was not."""
    value = getattr(source, name)
    repeated = target.DESCRIPTOR.fields_by_name[new_name].is_repeated
    if source.DESCRIPTOR.fields_by_name[name].is_repeated:
        getattr(target, new_name).extend(value)
    elif not source.HasField(name):
        return
    elif repeated:
        getattr(target, new_name).append(value)
    elif isinstance(value, Message):
        getattr(target, new_name).CopyFrom(value)
    else:
        setattr(target, new_name, value)
