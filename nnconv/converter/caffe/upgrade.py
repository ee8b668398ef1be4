"""Upgrades parsed nets and solvers of any age to the present form, as Caffe does on reading.

A net comes out with V2 `layer`s only; `Upgraded.origin` says which message of the source each came
from, so that errors point at the user's file and blobs find their layer. The steps, in Caffe's
order: V0 to V1, old data-transform fields, V1 to V2, `input` fields, BatchNorm's parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from nnconv.converter.caffe.schema import Dialect
from nnconv.converter.caffe.upgrade_v0 import upgrade_v0
from nnconv.schemas.errors import InputError, SourceSpan, UnsupportedError

Path = tuple[str | int, ...]
Locate = Callable[..., SourceSpan | None]

# Where the name is not each word capitalised.
V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "IM2COL": "Im2col",
    "LRN": "LRN",
    "MVN": "MVN",
    "RELU": "ReLU",
    "RELU6": "ReLU6",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "TANH": "TanH",
}
V1_DATA = {
    "DATA": "data_param",
    "IMAGE_DATA": "image_data_param",
    "WINDOW_DATA": "window_data_param",
}
TRANSFORM = ("scale", "mean_file", "crop_size", "mirror")
SOLVER_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}
# The repeated fields of V1 that became fields of `param`.
V1_PARAM = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}


@dataclass(slots=True)
class Upgraded:
    """The upgraded message, and how it came about.

    `origin` has for each layer the path of its source message (("layers", 3), or None for one that
    upgrading made); `needed` is False if nothing had to be done; `complete` is False if something
    could not be carried over, and `complaints` says what.
    """

    message: Message
    origin: list[tuple[str, int] | None] = field(default_factory=list)
    needed: bool = False
    complaints: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not self.complaints


def upgrade_net(message: Message, dialect: Dialect, locate: Locate | None = None) -> Upgraded:
    """The net as Caffe sees it after reading a file; `message` itself stays as it is.

    `locate(*path)` gives the span of a source field for error messages. InputError for what Caffe
    refuses (and for too few input shapes, where Caffe reads beyond the list).
    """
    if dialect.descriptor("LayerParameter").fields_by_name["type"].enum_type is not None:
        hint = "write the net for a later Caffe"
        raise UnsupportedError(f"nets of the dialect {dialect.name!r} are not read", hint=hint)
    net: Any = dialect.new("NetParameter")
    net.CopyFrom(message)
    complaints: list[str] = []
    sources = list(range(len(net.layers)))

    def span(*path: str | int) -> SourceSpan | None:
        return locate(*path) if locate else None

    needed = False
    if any(layer.HasField("layer") for layer in net.layers):

        def refuse(index: int, text: str) -> InputError:
            name = net.layers[index].layer.name
            return InputError(f"layer {name!r}: {text}", span=span("layers", index))

        net, sources = upgrade_v0(net, dialect, refuse, complaints)
        needed = True
    needed |= _move_transform(net)
    old = bool(net.layers)
    if old:
        if net.layer:
            hint = "write all of them as `layer`, with the type in quotes"
            text = "the net has both `layer` and `layers`; Caffe refuses to mix them"
            raise InputError(text, span=span("layers", sources[0]), hint=hint)
        net = _upgrade_v1(net, dialect)
    count = len(net.layer)
    origin: list[tuple[str, int] | None]
    origin = [("layers", i) for i in sources] if old else [("layer", i) for i in range(count)]
    if net.input:
        net = _upgrade_inputs(net, span)
        if len(net.layer) > count:
            origin.insert(0, None)
        needed = True
    needed = _fix_batch_norm(net) or needed or old
    return Upgraded(net, origin, needed, complaints)


def _type_name(layer: Any) -> str:
    """The V1 type of a layer as its enum's name, "" if there is none."""
    if not layer.HasField("type"):
        return ""
    enum = layer.DESCRIPTOR.fields_by_name["type"].enum_type
    name: str = enum.values_by_number[layer.type].name
    return name


def _move_transform(net: Any) -> bool:
    """Moves what once stood in data_param and its like to transform_param.

    If any layer needs it all data layers are touched: they get both messages, empty if need be.
    """
    layers = [(layer, V1_DATA.get(_type_name(layer))) for layer in net.layers]
    data = [(layer, name) for layer, name in layers if name]
    if not any(getattr(layer, name).HasField(old) for layer, name in data for old in TRANSFORM):
        return False
    for layer, name in data:
        source, target = getattr(layer, name), layer.transform_param
        source.SetInParent()
        target.SetInParent()
        for old in TRANSFORM:
            if source.HasField(old):
                setattr(target, old, getattr(source, old))
                source.ClearField(old)
    return True


def _upgrade_v1(net: Any, dialect: Dialect) -> Any:
    result: Any = dialect.new("NetParameter")
    old_layers = list(net.layers)
    shell = type(net)()
    shell.CopyFrom(net)
    shell.ClearField("layers")
    result.CopyFrom(shell)
    for old in old_layers:
        _upgrade_v1_layer(old, result.layer.add())
    return result


def _upgrade_v1_layer(old: Any, new: Any) -> None:
    """Fields of the same name and message keep their place; the type and the param lists change."""
    if old.HasField("type"):
        name = _type_name(old)
        new.type = V1_TYPES.get(name, name.title().replace("_", ""))
    for old_name, new_name in V1_PARAM.items():
        for i, value in enumerate(getattr(old, old_name)):
            while len(new.param) <= i:
                new.param.add()
            setattr(new.param[i], new_name, value)
    places = new.DESCRIPTOR.fields_by_name
    for source, value in old.ListFields():
        place = places.get(source.name)
        moved = source.name == "type" or source.name in V1_PARAM
        if moved or place is None or place.message_type != source.message_type:
            continue
        if source.is_repeated:
            getattr(new, source.name).extend(value)
        elif source.message_type is not None:
            getattr(new, source.name).CopyFrom(value)
        else:
            setattr(new, source.name, value)


def _upgrade_inputs(net: Any, span: Locate) -> Any:
    """`input` with its shapes becomes an Input layer in front; without any shape it just goes."""
    result = type(net)()
    if net.input_shape or net.input_dim:
        _check_inputs(net, span)
        layer = result.layer.add(name="input", type="Input", top=net.input)
        for i in range(len(net.input)):
            shape = layer.input_param.shape.add()
            if net.input_shape:
                shape.CopyFrom(net.input_shape[i])
            else:
                shape.dim.extend(net.input_dim[4 * i : 4 * i + 4])
    result.MergeFrom(net)
    for name in ("input", "input_shape", "input_dim"):
        result.ClearField(name)
    return result


def _check_inputs(net: Any, span: Locate) -> None:
    count = len(net.input)
    if net.input_shape:
        given, wanted, name = len(net.input_shape), count, "input_shape"
    else:
        given, wanted, name = len(net.input_dim), 4 * count, "input_dim"
    if given < wanted:
        text = f"{count} inputs need {wanted} {name}s, the file has {given}"
        raise InputError(text, span=span(name, 0), hint="Caffe would read beyond the list here")


def _fix_batch_norm(net: Any) -> bool:
    """BatchNorm's three blobs are statistics: none may be learned."""
    found = [layer for layer in net.layer if layer.type == "BatchNorm" and len(layer.param) == 3]
    for layer in found:
        for param in layer.param:
            param.lr_mult = 0
            param.decay_mult = 0
    return bool(found)


def upgrade_solver(message: Message, dialect: Dialect, locate: Locate | None = None) -> Upgraded:
    """The solver with its enum `solver_type` as the string `type`; InputError if it has both."""
    solver: Any = dialect.new("SolverParameter")
    solver.CopyFrom(message)
    if not solver.HasField("solver_type"):
        return Upgraded(solver)
    if solver.HasField("type"):
        text = "the solver has both `solver_type` (old) and `type`; Caffe refuses to guess"
        span = locate("solver_type") if locate else None
        raise InputError(text, span=span, hint="remove solver_type")
    enum = solver.DESCRIPTOR.fields_by_name["solver_type"].enum_type
    name = enum.values_by_number[solver.solver_type].name
    solver.type = SOLVER_TYPES.get(name, name)
    solver.ClearField("solver_type")
    return Upgraded(solver, needed=True)
