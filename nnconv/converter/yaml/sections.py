"""The parts of a model file around its layers: inputs with their pictures, stored values, losses,
solver."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

from nnconv.converter.yaml.compose import Item, Mapping, Scalar, Sequence
from nnconv.converter.yaml.fields import Fields, kind, number
from nnconv.converter.yaml.values import (
    read_array,
    read_filler,
    read_shape,
    read_sizes,
    read_type,
)
from nnconv.schemas.dims import names
from nnconv.schemas.errors import NnconvError
from nnconv.schemas.graph import Graph, Parameter, Preprocessing
from nnconv.schemas.training import Schedule, TrainingSpec
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Model

TRAINING = "training"
"""The metadata key of losses and solver, as JSON."""

PICTURE = ("scale", "mean", "channels", "crop")

LOSSES = {
    "cross_entropy": "nnconv.SoftmaxWithLoss",
    "sigmoid_cross_entropy": "nnconv.SigmoidCrossEntropyLoss",
    "euclidean": "nnconv.EuclideanLoss",
}


def read_inputs(fields: Fields, model: Model) -> None:
    """`input: {NAME: SHAPE, scale: ...}` for one, `inputs: {NAME: SHAPE or mapping}` for more."""
    single, several = fields.mapping("input"), fields.mapping("inputs")
    if single is not None:
        _read_single(single, model)
    if several is not None:
        for name, (key, item) in several.pairs.items():
            several.asked.add(name)
            if isinstance(item, Mapping):
                _read_input(several, key, Fields(fields.document, item, f"input '{name}'"), model)
            else:
                shape = read_shape(several, item)
                model.graph.add_input(name, DType.FLOAT32, shape)


def _read_single(fields: Fields, model: Model) -> None:
    named = [
        (key, item)
        for name, (key, item) in fields.pairs.items()
        if isinstance(item, Sequence) and name != "mean"
    ]
    if len(named) != 1:
        fields.error(
            None, "'input' holds one name with its shape", "input: {data: [N, 3, 224, 224]}"
        )
        return
    key, item = named[0]
    fields.asked.add(key.text)
    dtype = read_type(fields)
    model.graph.add_input(key.text, dtype, read_shape(fields, item))
    _read_picture(fields, key.text, model)
    fields.finish()


def _read_input(outer: Fields, key: Scalar, fields: Fields, model: Model) -> None:
    item = fields.at("shape")
    shape = None
    if item is None:
        outer.error(key, f"input '{key.text}' has no shape", "shape: [N, 3]")
    else:
        shape = read_shape(fields, item)
    model.graph.add_input(key.text, read_type(fields), shape)
    _read_picture(fields, key.text, model)
    fields.finish()


def _read_picture(fields: Fields, name: str, model: Model) -> None:
    """How a picture becomes this input; nothing when no key says so."""
    if not any(key in fields for key in PICTURE):
        return
    made = Preprocessing(
        channels=fields.text("channels", "BGR", ("BGR", "RGB")),
        scale=fields.number("scale", 1.0),
        crop=fields.integer("crop", 0, least=0),
    )
    mean = fields.at("mean")
    if isinstance(mean, Sequence):
        numbers = [number(part) for part in mean.items]
        made.mean = tuple(float(part) for part in numbers if part is not None)
        if len(made.mean) != len(numbers):
            fields.error(mean, "mean is one number for each channel")
    elif mean is not None:
        fields.error(mean, f"mean is one number for each channel, this is {kind(mean)}")
    model.preprocessing[name] = made


def read_default_sizes(fields: Fields, graph: Graph) -> None:
    """`sizes: {N: 8}`: what the free names of the inputs' shapes are unless someone asks otherwise;
    1 where nothing is said."""
    given = fields.mapping("sizes")
    stated = (
        {} if given is None else {name: given.integer(name, 1, least=0) for name in given.pairs}
    )
    free = sorted(set().union(*(names(dim) for v in graph.inputs for dim in v.shape or ())))
    graph.sizes = dict.fromkeys(free, 1) | stated


def read_stored(fields: Fields, graph: Graph) -> dict[str, Item]:
    """`parameters` and `constants`; returns those whose elements the weights file holds."""
    elsewhere: dict[str, Item] = {}
    parameters = fields.mapping("parameters")
    for name, (_, item) in (parameters.pairs if parameters else {}).items():
        assert parameters is not None
        _read_parameter(parameters, name, item, graph)
    constants = fields.mapping("constants")
    for name, (key, item) in (constants.pairs if constants else {}).items():
        assert constants is not None
        if name in graph.values:
            constants.error(key, f"'{name}' is the name of an input or parameter already")
            continue
        try:
            if _read_constant(constants, name, item, graph):
                elsewhere[name] = key
        except NnconvError as error:
            constants.error(item, f"constant '{name}': {error.problems[0].message}")
    return elsewhere


def _read_parameter(fields: Fields, name: str, item: Item, graph: Graph) -> None:
    setting, dtype = Parameter(), DType.FLOAT32
    shape_at: Item | None = item
    if isinstance(item, Mapping):
        inner = Fields(fields.document, item, f"parameter '{name}'")
        shape_at = inner.at("shape")
        dtype = read_type(inner)
        setting = Parameter(
            inner.number("lr_mult", 1.0), inner.number("decay_mult", 1.0), read_filler(inner)
        )
        inner.finish()
    if shape_at is None:
        fields.error(item, f"parameter '{name}' has no shape", "shape: [64, 3, 3, 3]")
        return
    shape = read_sizes(fields, shape_at)
    if name in graph.values:
        fields.error(item, f"'{name}' is the name of an input already")
    else:
        graph.add_parameter(name, shape, parameter=setting, dtype=dtype)


def _read_constant(fields: Fields, name: str, item: Item, graph: Graph) -> bool:
    """One constant; True when only its type and shape stand here."""
    if not isinstance(item, Mapping):
        graph.constant(read_array(fields, name, None, None), name=name)
        return False
    inner = Fields(fields.document, item, f"constant '{name}'")
    dtype = read_type(inner) if "type" in inner else None
    shape = inner.at("shape")
    sizes = None if shape is None else read_sizes(inner, shape)
    if inner.flag("stored"):
        graph.add_value(name, dtype or DType.FLOAT32, sizes or ())
        inner.finish()
        return True
    graph.constant(read_array(inner, "value", dtype, sizes), name=name)
    inner.finish()
    return False


def read_solver(fields: Fields) -> dict[str, Any]:
    """The solver's settings by name, as `TrainingSpec.named` takes them; {} without a solver."""
    inner = fields.mapping("solver", "the solver")
    if inner is None:
        return {}
    found: dict[str, Any] = {"type": inner.text("type", "sgd")}
    for name, usual in _solver_settings().items():
        if name in inner:
            found[name] = _setting(inner, name, usual)
    inner.asked.update(_solver_settings())
    inner.finish()
    try:
        _spec(found)
    except NnconvError as error:
        inner.error(None, error.problems[0].message, error.problems[0].hint)
    return found


def training_spec(model: Model) -> TrainingSpec | None:
    """What the model's file says about its solver, None when it says nothing."""
    kept = json.loads(model.metadata.get(TRAINING, "{}"))
    solver = kept.get("solver")
    return _spec(solver) if solver else None


def _spec(settings: dict[str, Any]) -> TrainingSpec:
    rest = {key: value for key, value in settings.items() if key != "type"}
    if "stepvalue" in rest:
        rest["stepvalue"] = tuple(rest["stepvalue"])
    return TrainingSpec.named(settings["type"], **rest)


def _solver_settings() -> dict[str, Any]:
    """The settings that a solver takes, each with its default, whose type tells its own."""
    found: dict[str, Any] = {"lr": 0.01}
    for part in (Schedule(), TrainingSpec()):
        for item in dataclasses.fields(part):
            found.setdefault(item.name, getattr(part, item.name))
    del found["solver"], found["schedule"], found["base_lr"]
    return found


def _setting(fields: Fields, name: str, usual: Any) -> Any:
    if isinstance(usual, str):
        return fields.text(name, usual)
    if isinstance(usual, tuple):
        return [_count(fields, part) for part in fields.items(name)]
    if isinstance(usual, int):
        return fields.integer(name, usual, least=0)
    value = fields.number(name, usual)
    if not math.isfinite(value):
        fields.error(fields.at(name), f"{name} must be a finite number")
    return float(value)


def _count(fields: Fields, item: Item) -> int:
    value = item.value if isinstance(item, Scalar) else None
    if type(value) is int and value >= 0:
        return value
    fields.error(item, f"this must be a whole number of at least 0, not {kind(item)}")
    return 0


def read_losses(fields: Fields) -> list[dict[str, Any]]:
    """`loss: cross_entropy`, a mapping {type, input, label, weight}, or a list of these.

    Each comes back as a mapping with all four keys; an empty `input` means the last layer.
    """
    item = fields.at("loss")
    if item is None:
        return []
    parts = item.items if isinstance(item, Sequence) else [item]
    return [found for part in parts if (found := _read_loss(fields, part)) is not None]


def _read_loss(fields: Fields, item: Item) -> dict[str, Any] | None:
    loss = {"type": "", "input": "", "label": "label", "weight": 1.0}
    if isinstance(item, Mapping):
        inner = Fields(fields.document, item, "the loss")
        loss["type"] = inner.text("type", "", LOSSES)
        loss["input"], loss["label"] = inner.text("input"), inner.text("label", "label")
        loss["weight"] = inner.number("weight", 1.0)
        inner.finish()
        if "type" not in inner:
            inner.error(None, "the loss has no type", f"known are {', '.join(LOSSES)}")
    elif isinstance(item, Scalar):
        lone = Fields(fields.document, Mapping(item.line, item.column), "loss")
        lone.pairs = {"loss": (item, item)}
        loss["type"] = lone.text("loss", "", LOSSES)
    else:
        fields.error(item, f"a loss is a word or a mapping, this is {kind(item)}")
    return loss if loss["type"] else None
