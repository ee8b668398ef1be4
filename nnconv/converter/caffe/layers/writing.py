"""What a writing rule returns: a layer to write, its connections as values, its blobs still
unnamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nnconv.schemas.dims import evaluate_shape
from nnconv.schemas.graph import Node, Value


@dataclass(slots=True)
class Written:
    """A Caffe layer made from nodes. `settings` are fields of LayerParameter; `shapes` says how
    the blobs are to be seen where that differs from the stored values."""

    type: str
    settings: dict[str, Any]
    bottoms: list[Value]
    tops: list[Value]
    blobs: list[Value] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)


def message(
    node: Node,
    kind: str,
    *,
    bottoms: Sequence[Value | None] | None = None,
    tops: Sequence[Value] | None = None,
    blobs: Sequence[Value | None] = (),
    shapes: Sequence[tuple[Any, ...]] = (),
    **settings: Any,
) -> Written:
    """A layer of type `kind` for `node`: unless said otherwise it reads the node's inputs that
    are no blobs and makes its outputs."""
    kept = [blob for blob in blobs if blob is not None]
    if bottoms is None:
        bottoms = [value for value in node.inputs if value not in kept]
    return Written(
        kind,
        settings,
        [value for value in bottoms if value is not None],
        list(node.outputs if tops is None else tops),
        kept,
        list(shapes),
    )


_VIEWS = frozenset({"Unsqueeze", "Squeeze", "Reshape", "Cast", "Identity"})


def stored_behind(value: Value | None) -> Value | None:
    """The stored value that `value` is, seen through nodes that only change its shape or type,
    or None."""
    while value is not None and not value.is_stored:
        node = value.producer
        value = node.input(0) if node is not None and node.op in _VIEWS else None
    return value


def is_fixed(value: Value) -> bool:
    """Whether a value follows from stored ones alone, by nodes of one such input each."""
    return value.is_stored or stored_behind(value) is not None


def sizes_of(value: Value) -> tuple[int, ...] | None:
    """The shape of a value at the sizes that the source states; None where that is not known."""
    if value.shape is None:
        return None
    try:
        return evaluate_shape(value.shape, value.graph.sizes)
    except KeyError:
        return None


def constant(value: Value | None, default: float | None = None) -> float | None:
    """The number that a stored scalar holds; `default` for an omitted input, None where it is
    neither."""
    if value is None:
        return default
    if value.data is None or value.parameter is not None or value.data.size != 1:
        return None
    return float(value.data.reshape(()))
