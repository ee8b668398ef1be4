"""The default sizes of a model's free dimensions, for which ONNX has no place: an entry of the
metadata holds them, as JSON. Other programs pass over it; what is no such thing is ignored.
"""

from __future__ import annotations

import json

from nnconv.schemas.dims import names
from nnconv.schemas.errors import Report
from nnconv.schemas.graph import Graph

KEY = "nnconv.sizes"
MOST_TEXT = 1 << 16
LARGEST = (1 << 31) - 1


def written(graph: Graph) -> str:
    """What `KEY` should say of a graph: the sizes that its inputs leave open and that have a
    default; nothing where there are none."""
    free = _free(graph)
    chosen = {name: size for name, size in graph.sizes.items() if name in free}
    return json.dumps(chosen, sort_keys=True) if chosen else ""


def restore(graph: Graph, text: str, report: Report) -> None:
    """Give the open sizes of the inputs the defaults that `text` states; sizes that have one
    already keep it."""
    stated = _parsed(text)
    if stated is None:
        report.note(f"the metadata entry {KEY} is damaged: the sizes have no defaults")
        return
    free = _free(graph)
    for name, size in stated.items():
        if name in free:
            graph.sizes.setdefault(name, size)


def _free(graph: Graph) -> set[str]:
    return {name for value in graph.inputs for dim in value.shape or () for name in names(dim)}


def _parsed(text: str) -> dict[str, int] | None:
    if len(text) > MOST_TEXT:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    sound = isinstance(found, dict) and all(
        type(size) is int and 0 <= size <= LARGEST for size in found.values()
    )
    return found if sound else None
