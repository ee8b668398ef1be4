"""Losses by name, put onto the output of a model that has none of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnconv.schemas.errors import InputError, did_you_mean
from nnconv.schemas.graph import Loss
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Value


@dataclass(frozen=True, slots=True)
class Named:
    """`op` takes what `after` was applied to, where the output is such a node's; `target` is the
    name of the input that it is compared with, one class number a place or as many numbers."""

    op: str
    after: str
    target: str
    classes: bool = False


LOSSES: dict[str, Named] = {
    "cross_entropy": Named("nnconv.SoftmaxWithLoss", "Softmax", "label", classes=True),
    "euclidean": Named("nnconv.EuclideanLoss", "", "target"),
    "sigmoid_cross_entropy": Named("nnconv.SigmoidCrossEntropyLoss", "Sigmoid", "target"),
}


def add_loss(graph: Graph, name: str, output: str | None = None) -> Value:
    """Add the loss called `name` on `output` (None: the only one), with an input for its target.

    It replaces the graph's losses. Raises InputError for an unknown name and for several outputs
    when none is named.
    """
    if name not in LOSSES:
        hint = did_you_mean(name, LOSSES) or f"known are {', '.join(LOSSES)}"
        raise InputError(f"there is no loss called '{name}'", hint=hint)
    chosen = LOSSES[name]
    y = _output(graph, output)
    axis = 1
    if y.producer is not None and y.producer.op == chosen.after:
        if chosen.classes:
            axis = y.producer.axis % y.rank
        y = y.producer.required(0)
    shape = y.known_shape
    if chosen.classes:
        shape = shape[:axis] + shape[axis + 1 :]
    target = graph.add_input(graph.fresh_name(chosen.target), DType.FLOAT32, shape)
    settings: dict[str, Any] = {"axis": axis} if chosen.classes else {}
    loss: Value = graph.emit(chosen.op, y, target, outputs=[graph.fresh_name("loss")], **settings)
    graph.losses = [Loss(loss)]
    return loss


def _output(graph: Graph, name: str | None) -> Value:
    if name is not None:
        if name not in graph.values:
            hint = did_you_mean(name, graph.values)
            raise InputError(f"there is no value '{name}' in the model", hint=hint)
        return graph.values[name]
    if len(graph.outputs) != 1:
        known = ", ".join(value.name for value in graph.outputs)
        raise InputError(f"which output is the loss of? The model has {known or 'none'}")
    return graph.outputs[0]
