"""nevermind-neu's two YAML files, models and optimizers, as checked settings.

Every value carries its type as a one-key mapping (`size: {Int: 784}`) or a local tag (`size: !Int
784`); that tag decides the type, not YAML's guess. A value with another tag than its key wants is
ignored by nevermind-neu, which keeps its default: here that is a warning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from typing import Any

from nnconv.converter.yaml.compose import Document, Item, Mapping, Scalar, Sequence, read
from nnconv.converter.yaml.fields import Fields, kind
from nnconv.converter.yaml.scalars import resolve
from nnconv.schemas.errors import Report, did_you_mean

INT, FLOAT, STRING = "Int", "Float", "String"
CPU, OPENCL = "mdl_sequential_cpu", "mdl_sequential_ocl"
LARGEST_INT = (1 << 31) - 1
MOST_UNITS = 1 << 24
_LINE = ("sigmoid", "tanh", "relu", "leaky_relu", "raw")
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of layer: its settings with their types, which of them must be there, and the
    activations that nevermind-neu really computes for it."""

    settings: Table[str, str]
    required: tuple[str, ...] = ("size",)
    activations: tuple[str, ...] = ()
    place: str = "middle"
    device: str = CPU
    bias: bool = True


_SIZE = {"size": INT}
_REGULAR = {"l1_regul": FLOAT, "l2_regul": FLOAT}
LAYERS: dict[str, Kind] = {
    "InputLayer": Kind(_SIZE, place="first"),
    "FcLayer": Kind(
        {**_SIZE, "activation": STRING, **_REGULAR, "dropout": FLOAT}, ("size", "activation"), _LINE
    ),
    "EuclideanLossLayer": Kind(
        {**_SIZE, "activation": STRING, **_REGULAR}, ("size", "activation"),
        ("sigmoid", "tanh", "raw"), "last",
    ),
    "SoftmaxLossLayer": Kind(_SIZE, place="last", bias=False),
    "InputLayerOcl": Kind(_SIZE, place="first", device=OPENCL),
    "FcLayerOcl": Kind({**_SIZE, "activation": STRING}, activations=_LINE, device=OPENCL),
    "EuclideanLossLayerOcl": Kind(
        {**_SIZE, "activation": STRING}, activations=_LINE, place="last", device=OPENCL
    ),
    "SoftmaxLossLayerOcl": Kind(_SIZE, place="last", device=OPENCL, bias=False),
}  # fmt: skip
DEFAULT_ACTIVATION = {"FcLayerOcl": "sigmoid", "EuclideanLossLayerOcl": "raw"}

# type of optimizer -> its numbers with their defaults; b1, b2 only the OpenCL form writes
OPTIMIZERS: dict[str, dict[str, float]] = {
    "sgd": {"learning_rate": 0.01, "momentum": 0.8},
    "rmsprop": {"learning_rate": 0.01, "alpha": 0.9, "theta": 1e-8},
    "adagrad": {"learning_rate": 0.01, "theta": 1e-6},
    "adam": {"learning_rate": 3e-4, "theta": 1e-8, "b1": 0.9, "b2": 0.99},
}


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One layer: `name` is its type (layers have no names of their own), `params` as written."""

    name: str
    params: dict[str, Any]
    line: int
    column: int

    @property
    def kind(self) -> Kind:
        return LAYERS[self.name]

    @property
    def size(self) -> int:
        size: int = self.params["size"]
        return size

    @property
    def activation(self) -> str:
        name: str = self.params.get("activation", DEFAULT_ACTIVATION.get(self.name, "raw"))
        return name


@dataclass(slots=True)
class Config:
    mdl_type: str = CPU
    batch_size: int = 1
    layers: list[LayerConfig] = field(default_factory=list)


def read_config(data: bytes | memoryview, file: str, report: Report) -> Config:
    """The model in a configuration file; raises InputError with all problems, each at its place."""
    document = read(data, file, report)
    fields = Fields(document, document.root, "a nevermind-neu model")
    config = Config()
    for key in ("ls", "mdl_type", "batch_size"):
        if key not in fields:
            fields.error(None, f"the key {key} is missing")
    config.mdl_type = fields.text("mdl_type", CPU, (CPU, OPENCL))
    config.batch_size = fields.integer("batch_size", 1, least=1)
    layers = fields.at("ls")
    if isinstance(layers, Sequence):
        for item in layers.items:
            layer = _layer(document, item)
            if layer is not None:
                config.layers.append(layer)
        if not report.errors:
            _check_order(document, layers, config)
    elif layers is not None:
        fields.error(layers, f"ls must be a list of layers, this is {kind(layers)}")
    report.raise_if_errors()
    return config


def read_optimizer(data: bytes | memoryview, file: str, report: Report) -> dict[str, Any]:
    """The settings of an optimizer's file as written, `type` among them; OPTIMIZERS has the
    defaults of those left out. Raises InputError for an unknown or missing type."""
    document = read(data, file, report)
    fields = Fields(document, document.root, "a nevermind-neu optimizer")
    found: dict[str, Any] = {}
    item = fields.at("type")
    name = None if item is None else _value(document, "type", item, STRING)
    if item is None:
        fields.error(None, "the key type is missing", f"type: {{String: {'|'.join(OPTIMIZERS)}}}")
    elif name not in OPTIMIZERS and name is not _MISSING:
        hint = did_you_mean(str(name), OPTIMIZERS) or f"known are {', '.join(OPTIMIZERS)}"
        fields.error(item, f"there is no optimizer '{name}'", hint)
    elif name is not _MISSING:
        found["type"] = name
        found |= _tagged(document, fields, dict.fromkeys(OPTIMIZERS[str(name)], FLOAT))
    report.raise_if_errors()
    return found


def is_optimizer(head: bytes) -> bool:
    """Whether the first bytes of a YAML file are an optimizer's rather than a model's."""
    return b"ls:" not in head and b"mdl_type" not in head


def _layer(document: Document, item: Item) -> LayerConfig | None:
    fields = Fields(document, item, "a layer")
    name = fields.text("name", "", LAYERS)
    settings = fields.mapping("params")
    if "name" not in fields or settings is None:
        fields.error(None, "a layer needs name and params")
        return None
    if not name:
        return None
    layer = LAYERS[name]
    settings.what = name
    params = _tagged(document, settings, layer.settings)
    for key in layer.required:
        if key not in settings:
            settings.error(fields.at("name"), f"{name} needs {key}")
    _check_params(settings, name, params)
    return LayerConfig(name, params, item.line, item.column)


def _check_params(fields: Fields, name: str, params: dict[str, Any]) -> None:
    if "size" not in params:
        if "size" in fields and not fields.document.report.errors:
            fields.error(fields.at("size"), f"{name} needs size as an Int")
    elif not 0 < params["size"] <= MOST_UNITS:
        fields.error(fields.at("size"), f"size must be 1 to {MOST_UNITS}, not {params['size']}")
    activation = params.get("activation")
    known = LAYERS[name].activations
    if activation is not None and activation not in known:
        fields.error(
            fields.at("activation"), f"{name} has no activation '{activation}'",
            f"known are {', '.join(known)}; nevermind-neu would silently use raw",
        )  # fmt: skip
    dropout = params.get("dropout", 0.0)
    if not 0 <= dropout < 1:
        fields.error(fields.at("dropout"), f"dropout must be at least 0 and below 1, not {dropout}")


def _check_order(document: Document, at: Item, config: Config) -> None:
    """An input layer first, a loss layer last, all for the device of the model."""
    last = len(config.layers) - 1
    if last < 1:
        document.error(at, "a model needs an input layer and a loss layer at least")
    for index, layer in enumerate(config.layers):
        where = Scalar(layer.line, layer.column)
        place = "first" if index == 0 else "last" if index == last else "middle"
        if layer.kind.place != place:
            wanted = {"first": "an input layer", "last": "a loss layer", "middle": "a hidden layer"}
            document.error(where, f"{layer.name} stands {place}, where {wanted[place]} belongs")
        if layer.kind.device != config.mdl_type:
            document.error(where, f"{layer.name} does not belong into a {config.mdl_type} model")


def _tagged(document: Document, fields: Fields, wanted: Table[str, str]) -> dict[str, Any]:
    """The settings that have the type wanted; others are reported."""
    found = {}
    for key, (place, item) in fields.pairs.items():
        if key == "type":
            continue
        if key not in wanted:
            hint = did_you_mean(key, wanted) or f"known are {', '.join(wanted)}"
            document.report.warning(f"'{key}' is ignored", document.span(place), hint)
            continue
        value = _value(document, key, item, wanted[key])
        if value is not _MISSING:
            found[key] = value
    return found


def _value(document: Document, key: str, item: Item, wanted: str) -> Any:
    """The value behind a tag, _MISSING after reporting why there is none."""
    tag, scalar = item.tag, item
    if isinstance(item, Mapping) and not tag and len(item.pairs) == 1:
        ((tag, (_, scalar)),) = item.pairs.items()
    if not isinstance(scalar, Scalar) or tag not in (INT, FLOAT, STRING):
        hint = f"{key}: {{{wanted}: ...}}"
        what = f"has the unknown type '{tag}'" if tag else f"has no type, this is {kind(item)}"
        document.error(item, f"{key} {what}", hint)
        return _MISSING
    if tag != wanted:
        document.report.warning(
            f"{key} is ignored: it must be {wanted}, not {tag}", document.span(item)
        )
        return _MISSING
    value = _typed(scalar.text, tag)
    if value is None:
        document.error(scalar, f"'{scalar.text[:60]}' is not of type {tag}")
        return _MISSING
    return value


def _typed(text: str, tag: str) -> Any:
    """A scalar's text as the type that its tag says, None when it is none."""
    if tag == STRING:
        return text
    value = resolve(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if tag == INT:
        return value if isinstance(value, int) and abs(value) <= LARGEST_INT else None
    return float(value) if abs(value) < 3.4e38 and math.isfinite(value) else None
