"""The gradients of a model as a model of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnconv.runtime.autodiff import gradients
from nnconv.schemas.errors import InputError, did_you_mean
from nnconv.schemas.graph import Model

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Value


def gradient_model(
    model: Model, of: Sequence[str] = (), wrt: Sequence[str] = (), mode: str | None = None
) -> Model:
    """A model that computes the values `of` and their gradients, `NAME@grad`, as its outputs.

    `of` names losses or any other values, summed (none: the model's own losses with their weights);
    `wrt` names values (none: all parameters that are not frozen). `mode` is that of the model that
    is made (None: the model's own). The given model is left as it is.

    Raises InputError for unknown names, UnsupportedError, with the path from the loss, for an
    operator that has no gradient.
    """
    graph = model.graph.copy()
    seeds = {_value(graph, name): 1.0 for name in of} if of else None
    found = gradients(graph, seeds, wrt or None, mode=mode or model.mode)
    if not found:
        raise InputError(
            "the model has no parameter to differentiate by", hint="name values: --wrt"
        )
    losses = list(seeds) if seeds else [loss.value for loss in graph.losses]
    graph.outputs = list(dict.fromkeys([*losses, *found.values()]))
    made = Model(graph, name=model.name, mode=mode or model.mode)
    made.preprocessing, made.labels = dict(model.preprocessing), model.labels
    return made


def _value(graph: Graph, name: str) -> Value:
    if name not in graph.values:
        outputs = ", ".join(value.name for value in graph.outputs)
        hint = did_you_mean(name, graph.values) or f"the outputs are {outputs}"
        raise InputError(f"there is no value '{name}' in the model", hint=hint)
    return graph.values[name]
