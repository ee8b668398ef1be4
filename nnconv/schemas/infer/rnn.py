"""Shapes of recurrent layers: RNN, GRU and LSTM, and Caffe's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.schemas.dims import Dim
from nnconv.schemas.infer.registry import Result, infers
from nnconv.schemas.infer.support import agree, need_rank

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


@infers("nnconv.LSTM", "nnconv.RNN")
def caffe_recurrent(node: Node) -> Result:
    """A state for each step: [T, N, H], of X [T, N, G H] and R [G H, H]."""
    x = node.required(0)
    time, batch, gates = need_rank(x, 3, 3)
    marks = need_rank(node.required(1), 2, 2)
    wide, hidden = need_rank(node.required(2), 2, 2)
    agree(gates, wide, "gates and recurrent weights differ")
    agree(hidden * (4 if node.op == "nnconv.LSTM" else 1), wide, "recurrent weights")
    for place, own in enumerate((time, batch)):
        agree(marks[place], own, "continuation marks and sequences differ")
    for start in map(node.required, range(3, len(node.inputs))):
        agree(need_rank(start, 3, 3)[1], batch, "a state and the sequences differ")
    return [(x.dtype, (time, batch, hidden))] * 2


@infers("nnconv.LSTMGrad", "nnconv.RNNGrad")
def caffe_recurrent_gradient(node: Node) -> Result:
    return [(value.dtype, value.shape) for value in map(node.required, (0, 2))]
