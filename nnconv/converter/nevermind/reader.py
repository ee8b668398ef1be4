"""Builds a Model from nevermind-neu's files: a model, and its optimizer and weights where given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from nnconv.converter.nevermind.config import (
    Config,
    LayerConfig,
    is_optimizer,
    read_config,
    read_optimizer,
)
from nnconv.converter.yaml.values import as_json
from nnconv.schemas.dims import Symbolic
from nnconv.schemas.errors import InputError, MismatchError, Report, SourceSpan
from nnconv.schemas.files import AnyPath, map_file
from nnconv.schemas.graph import Filler, Graph, LayerRecord, Model, Parameter, Source, Value
from nnconv.schemas.types import DType

INPUT = "input"
METADATA = "nevermind"
"""The metadata key of what has no other place: batch size, regularisation, optimizer, as JSON."""

ACTIVATIONS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "raw": None,
}
# fresh weights and biases (FcLayer and the loss layers alike)
_START = Filler("uniform", {"min": -0.1, "max": 0.1})


def import_nevermind(
    paths: Sequence[AnyPath], *, phase: str | None = None, report: Report | None = None
) -> Model:
    """The model of a configuration file; an optimizer's file may come with it, in any order.

    Raises InputError with all problems, each with line and column.
    """
    notes = report if report is not None else Report(", ".join(map(str, paths)))
    configs = [path for path in paths if not is_optimizer(bytes(map_file(path)[:4096]))]
    optimizers = [path for path in paths if path not in configs]
    if len(configs) != 1 or len(optimizers) > 1:
        raise InputError(
            f"one nevermind-neu model is needed, {len(configs)} are given",
            span=SourceSpan(os.fspath(paths[0])),
            hint="give its configuration (ls, mdl_type, batch_size), and its optimizer if you like",
        )
    file = os.fspath(configs[0])
    config = read_config(map_file(file), file, notes)
    model = Model(_graph(config, file), name=os.path.splitext(os.path.basename(file))[0])  # noqa: PTH119, PTH122
    kept: dict[str, Any] = {"mdl_type": config.mdl_type, "batch_size": config.batch_size}
    kept["layers"] = [{"name": layer.name, "params": layer.params} for layer in config.layers]
    if optimizers:
        place = os.fspath(optimizers[0])
        kept["optimizer"] = read_optimizer(map_file(place), place, notes)
    if any(layer.params.get("dropout") for layer in config.layers):
        notes.warning(
            "dropout is left out: it is for training (nevermind-neu applies it in tests too)",
            SourceSpan(file),
        )
    model.metadata[METADATA] = as_json(kept)
    model.mode = phase or "test"
    model.source = Source("nevermind", config.mdl_type, tuple(map(str, paths)))
    return model


def _graph(config: Config, file: str) -> Graph:
    """Gemm and activation for each layer; the Softmax loss layer has no bias, and gives the
    probabilities."""
    graph = Graph()
    graph.sizes = {"N": config.batch_size}
    shape = (Symbolic.name("N"), config.layers[0].size)
    x = graph.add_input(INPUT, DType.FLOAT32, shape)
    for position, layer in enumerate(config.layers[1:], 1):
        name = f"layer{position}"
        record = LayerRecord(
            name, layer.name, span=SourceSpan(file, layer.line, layer.column, name)
        )
        graph.layers.append(record)
        with graph.source(record):
            x = _layer(graph, name, layer, x, record)
    graph.outputs = [x]
    return graph


def _layer(graph: Graph, name: str, layer: LayerConfig, x: Value, record: LayerRecord) -> Value:
    width = x.known_shape[1]
    assert isinstance(width, int)
    names = [f"{name}/0"] + ([f"{name}/1"] if layer.kind.bias else [])
    record.parameters = tuple(names)
    shapes = [(layer.size, width), (layer.size,)]
    stored = [
        graph.add_parameter(own, shape, parameter=Parameter(filler=_START))
        for own, shape in zip(names, shapes, strict=False)
    ]
    softmax = not layer.kind.bias
    activation = ("Softmax", {"axis": 1}) if softmax else ACTIVATIONS[layer.activation]
    outputs = [name if activation is None else f"{name}:linear"]
    y: Value = graph.emit("Gemm", x, *stored, outputs=outputs, transB=1)
    if activation is not None:
        op, attributes = activation
        y = graph.emit(op, y, outputs=[name], **attributes)
    return y


def check_complete(model: Model, layers: str, file: str) -> None:
    """Raise MismatchError when a state has not one entry for each layer of the model."""
    wanted = len(model.graph.layers) + 1
    if layers != str(wanted):
        raise MismatchError(
            f"the state has {layers} layers, the model {wanted}",
            span=SourceSpan(file),
            hint="does it belong to another model?",
        )
