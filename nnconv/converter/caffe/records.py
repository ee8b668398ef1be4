"""Tells whether the nodes made from a source layer are still what its reading rule emitted.

The fingerprint covers operators, attributes, constants, and how the nodes are connected, by the
names of values. Weights are left out: a trained net is still the same layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from nnconv.schemas.graph import Graph, LayerRecord, Node, Value


def fingerprint(graph: Graph, record: LayerRecord, nodes: Sequence[Node]) -> str:
    """A short digest; equal as long as nothing but weights has changed."""
    digest = hashlib.sha256()
    for name in record.parameters:
        digest.update(_line("parameter", *_parameter(name, graph.values.get(name))))
    for node in nodes:
        attributes = [(key, _shown(value)) for key, value in sorted(node.attributes.items())]
        inputs = [_operand(value) for value in node.inputs]
        digest.update(_line(node.op, attributes, inputs, [value.name for value in node.outputs]))
    return digest.hexdigest()[:16]


def _line(*parts: Any) -> bytes:
    return repr(parts).encode() + b"\n"


def _parameter(name: str, value: Value | None) -> tuple[Any, ...]:
    if value is None or value.parameter is None:
        return (name, None)
    return (name, value.shape, value.parameter.lr_mult, value.parameter.decay_mult)


def _operand(value: Value | None) -> Any:
    """A connection by name; a constant by what it holds, since its name says nothing."""
    if value is None:
        return None
    if value.parameter is None and value.data is not None:
        return (str(value.dtype), value.data.shape, value.data.tobytes())
    return value.name


def _shown(value: Any) -> Any:
    return (str(value.dtype), value.shape, value.tobytes()) if hasattr(value, "tobytes") else value
