"""Gradients of imported nets, named as the recorded results of real Caffe name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nnconv.runtime.autodiff import gradients
from nnconv.schemas.graph import Graph, Model, Value
from nnconv.schemas.types import DType
from tests.golden.harness import Array, parameter, part


def first_version(graph: Graph, blob: str) -> Value:
    """The value whose gradient Caffe leaves in a blob: of an in-place chain the first one, since
    backward comes there last."""
    versions = [graph.values[blob]] if blob in graph.values else []
    versions += [value for name, value in graph.values.items() if name.startswith(f"{blob}@")]
    order = {node: place for place, node in enumerate(graph.nodes)}
    return min(versions, key=lambda v: -1 if v.producer is None else order[v.producer])


def differentiate(model: Model, seeds: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """Make the gradients called `wanted` ("diff/BLOB", "pdiff/LAYER/I") the model's outputs; the
    gradients of the blobs in `seeds` become inputs "topdiff/BLOB". Gives the output of each name.
    """
    graph = model.graph
    targets = {}
    for name in wanted:
        kind, _, key = name.partition("/")
        targets[name] = first_version(graph, key) if kind == "diff" else parameter(graph, key)
    of = {
        graph.values[blob]: graph.add_input(
            f"topdiff/{blob}", DType.FLOAT32, graph.values[blob].shape
        )
        for blob in seeds
    }
    found = gradients(graph, of, targets.values(), mode=model.mode)
    graph.outputs = list(found.values())
    return {name: found[value].name for name, value in targets.items()}


def prefixed(arrays: Mapping[str, Array], *groups: str, step: int = 0) -> dict[str, Array]:
    """The arrays of some groups and one step, with the group in their names."""
    return {
        f"{group}/{name}": array
        for group in groups
        for name, array in part(arrays, group, step).items()
    }
