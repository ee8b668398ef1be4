"""What the gradient operators mean, said in standard operators (see `functions`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnconv.schemas.functions import function, scale_of_sums

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value


@function("nnconv.DropoutGrad")
def dropout_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """A copy in test mode, as Dropout is."""
    return [node.graph.emit("Identity", node.required(1))] if mode == "test" else None


@function("nnconv.BatchNormGrad")
def batch_norm_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """dy / sqrt(variance + epsilon); by the batch's own statistics the terms through them are
    taken off."""
    from nnconv.schemas.types import DType

    graph, x, dy = node.graph, node.required(0), node.required(4)
    variance_sum, factor = node.required(2), node.required(3)
    if x.shape is None:
        return None
    stored = mode == "test" if node.use_global_stats == -1 else bool(node.use_global_stats)
    if stored:
        tall = graph.constant([-1, *(1 for _ in x.shape[2:])], DType.INT64)
        variance = graph.emit("Reshape", variance_sum * scale_of_sums(factor), tall)
        return [dy / graph.emit("Sqrt", variance + node.epsilon)]
    axes = graph.constant([0, *range(2, len(x.shape))], DType.INT64)
    centred = x - graph.emit("ReduceMean", x, axes)
    deviation = graph.emit("Sqrt", graph.emit("ReduceMean", centred * centred, axes) + node.epsilon)
    y = centred / deviation
    inner = dy - graph.emit("ReduceMean", dy, axes) - y * graph.emit("ReduceMean", dy * y, axes)
    return [inner / deviation]
