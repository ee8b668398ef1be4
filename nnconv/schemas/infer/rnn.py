"""Shapes of recurrent layers: RNN, GRU and LSTM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.schemas.dims import Dim
from nnconv.schemas.infer.registry import Result, infers
from nnconv.schemas.infer.support import need_rank

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node


@infers("RNN", "GRU", "LSTM")
def recurrent(node: Node) -> Result:
    """Y is T x D x N x H for D directions, Y_h and Y_c D x N x H; layout 1 has the batch first."""
    x = node.required(0)
    first, second, _ = need_rank(x, 3, 3)
    time, batch = (second, first) if node.layout else (first, second)
    hidden = need_rank(node.required(2), 3, 3)[2]
    directions: Dim = 2 if node.direction == "bidirectional" else 1
    if node.layout:
        every, last = (batch, time, directions, hidden), (batch, directions, hidden)
    else:
        every, last = (time, directions, batch, hidden), (directions, batch, hidden)
    return [(x.dtype, every), (x.dtype, last), (x.dtype, last)]
