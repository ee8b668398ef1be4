"""Caffe's recurrences, where a mark a step says how much of the state before is kept.

x [T,N,G H] is what the gates get from outside, r [G H,H] their weights for the state, cont [T,N].
Devices that compile kernels take the body in standard operators (`schemas/functions/rnn.py`) where
the steps are not too many; this is the meaning, and what runs otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.ops.registry import count, kernel
from nnconv.runtime.ops.rules import emit_several, gradient, zeros_like

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array


def _macs(node: Node) -> int:
    x, r = node.required(0), node.required(2)
    steps = count(x) // max(int(str(r.known_shape[0])), 1)
    return steps * count(r)


def _gradient_macs(node: Node) -> int:
    return 3 * _macs(node)


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * np.tanh(0.5 * x) + 0.5)


@kernel("nnconv.LSTM", macs=_macs, stepwise=True)
def lstm(x: Array, cont: Array, r: Array, h0: Array, c0: Array) -> tuple[Array, Array]:
    """c = cont s(f) c + s(i) tanh(g), h = s(o) tanh(c) with i, f, o, g = x + r (cont h) and s the
    sigmoid (lstm_layer.cpp, lstm_unit_layer.cpp). Gives every h and every c, [T,N,H]."""
    h, c = h0[0], c0[0]
    states, cells = (np.empty((*x.shape[:2], r.shape[1]), x.dtype) for _ in range(2))
    for t, mark in enumerate(cont[:, :, None]):
        i, f, o, g = np.split(x[t] + (mark * h) @ r.T, 4, axis=1)
        c = mark * _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        states[t], cells[t] = h, c
    return states, cells


@kernel("nnconv.RNN", macs=_macs, stepwise=True)
def rnn(x: Array, cont: Array, r: Array, h0: Array) -> Array:
    """h = tanh(x + r (cont h)) (rnn_layer.cpp), every h: [T,N,H]."""
    h, states = h0[0], np.empty((*x.shape[:2], r.shape[1]), x.dtype)
    for t, mark in enumerate(cont[:, :, None]):
        h = states[t] = np.tanh(x[t] + (mark * h) @ r.T)
    return states


# --- gradients ------------------------------------------------------------------------------------


@kernel("nnconv.LSTMGrad", macs=_gradient_macs, stepwise=True)
def lstm_grad(
    x: Array, cont: Array, r: Array, h0: Array, c0: Array, states: Array, cells: Array,
    dh: Array, dc: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """dx and dr, from the last step to the first."""
    marks = cont[:, :, None]
    kept = marks * np.concatenate([h0, states[:-1]])
    i, f, o, g = np.split(x + kept @ r.T, 4, axis=2)
    i, f, o, g = _sigmoid(i), _sigmoid(f), _sigmoid(o), np.tanh(g)
    before, bent = np.concatenate([c0, cells[:-1]]), np.tanh(cells)
    dx, from_h, from_c = np.empty_like(x), np.zeros_like(h0[0]), np.zeros_like(c0[0])
    for t in reversed(range(len(x))):
        to_h = dh[t] + from_h
        to_c = dc[t] + from_c + to_h * o[t] * (1 - bent[t] ** 2)
        inner = (to_c * g[t], to_c * marks[t] * before[t], to_h * bent[t])
        sigmoids = [d * s[t] * (1 - s[t]) for d, s in zip(inner, (i, f, o), strict=True)]
        dx[t] = np.concatenate([*sigmoids, to_c * i[t] * (1 - g[t] ** 2)], axis=1)
        from_h, from_c = marks[t] * (dx[t] @ r), to_c * marks[t] * f[t]
    return dx, np.tensordot(dx, kept, ((0, 1), (0, 1)))


@kernel("nnconv.RNNGrad", macs=_gradient_macs, stepwise=True)
def rnn_grad(
    x: Array, cont: Array, r: Array, h0: Array, states: Array, dh: Array
) -> tuple[Array, Array]:
    """dx = dh (1 - h^2) and dr, from the last step to the first."""
    marks = cont[:, :, None]
    kept = marks * np.concatenate([h0, states[:-1]])
    dx, from_h = np.empty_like(x), np.zeros_like(h0[0])
    for t in reversed(range(len(x))):
        dx[t] = (dh[t] + from_h) * (1 - states[t] ** 2)
        from_h = marks[t] * (dx[t] @ r)
    return dx, np.tensordot(dx, kept, ((0, 1), (0, 1)))


@gradient("nnconv.LSTM")
def d_lstm(node: Node, dh: Value | None, dc: Value | None) -> tuple[Value | None, ...]:
    """Marks and first states get none, as in Caffe."""
    states, cells = node.outputs
    given = (
        zeros_like(states) if dh is None else dh,
        zeros_like(cells) if dc is None else dc,
    )
    dx, dr = emit_several("nnconv.LSTMGrad", *node.inputs, states, cells, *given, outputs=2)
    return dx, None, dr


@gradient("nnconv.RNN")
def d_rnn(node: Node, dh: Value) -> tuple[Value | None, ...]:
    dx, dr = emit_several("nnconv.RNNGrad", *node.inputs, node.output, dh, outputs=2)
    return dx, None, dr
