"""Which opsets can say a node of the pinned operator set, and mean the same by it.

A node is legal at an older version when that version has the inputs, outputs, attributes and types
that the node uses, and when nothing that it relies on meant something else then. Changes of meaning
that a signature does not show are in the tables here; changes before opset 7 need no table, as
nothing older is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from nnconv.converter.onnx import proto
from nnconv.schemas.graph import Graph, Node
from nnconv.schemas.operators import OPSET, operator

OLDEST = 7
RUNTIME_OPSET = 26
"""The newest opset that ONNX Runtime 1.31 loads."""

# The version from which an operator means what it means now, however it was called.
_MEANS = {
    "Softmax": 13, "LogSoftmax": 13, "Hardmax": 13,  # one axis, not all from it on
    "Max": 8, "Min": 8, "Mean": 8, "Sum": 8,  # broadcasting
    "Resize": 11, "RoiAlign": 16, "GridSample": 20, "GroupNormalization": 21, "Slice": 11,
}  # fmt: skip
# The version from which a string among the attributes may have a value.
_CHOICES = {
    ("Pad", "mode", "wrap"): 19,
    ("Resize", "coordinate_transformation_mode", "half_pixel_symmetric"): 19,
    ("ScatterND", "reduction", "max"): 18,
    ("ScatterND", "reduction", "min"): 18,
    ("ScatterElements", "reduction", "max"): 18,
    ("ScatterElements", "reduction", "min"): 18,
}
_NEGATIVE_AXES = 11  # but for Gather, which always took them


def opsets(node: Node) -> frozenset[int]:
    """The opsets (of the node's domain) at which it may be written."""
    known = proto.versions(node.op)
    ends = [version.since for version in known[1:]] + [OPSET + 1]
    return frozenset(
        opset
        for version, end in zip(known, ends, strict=True)
        if _is_legal(node, version)
        for opset in range(version.since, end)
    )


def attributes_at(node: Node, opset: int) -> dict[str, Any]:
    """What must be written: the node's attributes, and defaults that were not the same then."""
    written = dict(node.attributes)
    version = proto.version_at(node.op, opset)
    for name, spec in operator(node.op).attributes.items():
        if (
            name in written
            or spec.default is None
            or version is None
            or name not in version.attributes
        ):
            continue
        if version.attributes[name][2] != spec.default:
            written[name] = spec.default
    return written


def with_inner(graph: Graph) -> Iterator[Node]:
    """All nodes of a graph and of the graphs in their attributes."""
    waiting = [graph]
    while waiting:
        for node in waiting.pop().nodes:
            yield node
            waiting += inner_graphs(node)


def inner_graphs(node: Node) -> list[Graph]:
    found: list[Graph] = []
    for value in node.attributes.values():
        items: Iterable[Any] = value if isinstance(value, tuple) else (value,)
        found += [item for item in items if isinstance(item, Graph)]
    return found


def _is_legal(node: Node, version: proto.Version) -> bool:
    return (
        not version.deprecated
        and version.since >= _MEANS.get(node.op, 0)
        and _counts_fit(node, version)
        and _attributes_fit(node, version)
        and all(
            version.takes(index, value.dtype)
            for index, value in enumerate(node.inputs)
            if value is not None
        )
        and all(rule(node, version.since) for rule in _RULES.get(node.op, ()))
    )


def _counts_fit(node: Node, version: proto.Version) -> bool:
    count = len(node.inputs)
    if count < version.least_inputs or None in node.inputs[: version.least_inputs]:
        return False
    if version.most_inputs >= 0 and count > version.most_inputs:
        return False
    return version.most_outputs < 0 or len(node.outputs) <= version.most_outputs


def _attributes_fit(node: Node, version: proto.Version) -> bool:
    for name, value in node.attributes.items():
        if name not in version.attributes:
            return False
        if version.since < _CHOICES.get((node.op, name, _plain(value)), 0):
            return False
        counts_back = name in ("axis", "axes") and node.op != "Gather" and _is_negative(value)
        if counts_back and version.since < _first_with_negative_axes(node.op):
            return False
    stated = attributes_at(node, version.since)
    return all(name in stated for name, (_, required, _) in version.attributes.items() if required)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else None


def _is_negative(value: Any) -> bool:
    return any(number < 0 for number in (value if isinstance(value, tuple) else (value,)))


@cache
def _first_with_negative_axes(op: str) -> int:
    """Operators that changed at 11 or 13 to allow them; those that came later always did."""
    changes = [version.since for version in proto.versions(op)]
    return (
        next((since for since in changes if since >= _NEGATIVE_AXES), 0) if changes[0] < 11 else 0
    )


def _per_axis_scale(node: Node, since: int) -> bool:
    scale = node.input(1)
    return since >= 13 or scale is None or scale.shape in ((), (1,))


def _no_mask(node: Node, since: int) -> bool:
    return since >= 10 or len(node.outputs) == 1


def _no_statistics(node: Node, since: int) -> bool:
    return since >= 14 or len(node.outputs) == 1


_RULES: dict[str, tuple[Any, ...]] = {
    "QuantizeLinear": (_per_axis_scale,),
    "DequantizeLinear": (_per_axis_scale,),
    "Dropout": (_no_mask,),
    "BatchNormalization": (_no_statistics,),
}
