"""Recurrent layers: RNN and LSTM over sequences [T, N, ...], and LSTMUnit, one step of the latter.

What the gates get from the input is one product over all steps; the recurrence itself is
`nnconv.RNN` or `nnconv.LSTM`, whose number of steps stays open. The state goes on from run to run
as `graph.state`, unless expose_hidden makes it bottoms and tops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnconv.converter.caffe.layers.layer import OPEN_SIZE, Layer, Sizes, product
from nnconv.converter.caffe.layers.registry import reads
from nnconv.schemas.graph import Value

MANY = (2, 5)


@dataclass(frozen=True, slots=True)
class Bottoms:
    """The bottoms by their part; `start` are the states that expose_hidden adds."""

    x: Value
    cont: Value
    static: Value | None
    start: tuple[Value, ...]


@reads("LSTM", bottoms=MANY, tops=(1, 3), in_place=False)
def read_lstm(layer: Layer, *values: Value) -> Any:
    """Blobs W_xc [4H,D], b_c, (W_xc_static), W_hc; gates in the order i, f, o, g."""
    bottoms, hidden = _bottoms(layer, values, ("h", "c"))
    gates = _outside(layer, bottoms, 4 * hidden)
    weights = _weights(layer, (4 * hidden, hidden))
    start = _start(layer, bottoms, ("h", "c"), hidden)
    states, cells = layer.graph.emit("nnconv.LSTM", gates, bottoms.cont, weights, *start, outputs=2)
    return _tops(layer, states, start, (states, cells))


@reads("RNN", bottoms=(2, 4), tops=(1, 2), in_place=False)
def read_rnn(layer: Layer, *values: Value) -> Any:
    """Blobs W_xh [H,D], b_h, (W_xh_static), W_hh, W_ho, b_o; the top is tanh(W_ho h + b_o)."""
    bottoms, hidden = _bottoms(layer, values, ("h",))
    inputs = _outside(layer, bottoms, hidden)
    weights = _weights(layer, (hidden, hidden))
    start = _start(layer, bottoms, ("h",), hidden)
    states = layer.emit("nnconv.RNN", inputs, bottoms.cont, weights, *start)
    outward = _turned(layer, _weights(layer, (hidden, hidden)))
    y = layer.emit("MatMul", states, outward) + _bias(layer, hidden)
    return _tops(layer, layer.emit("Tanh", y), start, (states,))


@reads("LSTMUnit", bottoms=3, tops=2, in_place=False)
def read_lstm_unit(layer: Layer, c: Value, gates: Value, cont: Value) -> tuple[Value, Value]:
    """One step: c [1,N,H], gates [1,N,4H] and cont [1,N] give the next c, and h."""
    for value, rank in ((c, 3), (gates, 3), (cont, 2)):
        layer.need_rank(value, rank)
    batch, hidden = layer.shape(c)[1:]
    _need(layer, c, (1, batch, hidden))
    _need(layer, gates, (1, batch, None if hidden is None else 4 * hidden))
    _need(layer, cont, (1, batch))
    mark = layer.unsqueeze(cont, [2])
    i, f, o, g = layer.graph.emit("Split", gates, outputs=4, axis=2, num_outputs=4)
    i, f, o = (layer.emit("Sigmoid", gate) for gate in (i, f, o))
    cell = f * mark * c + i * layer.emit("Tanh", g)
    return cell, o * layer.emit("Tanh", cell)


def _bottoms(
    layer: Layer, values: tuple[Value, ...], carried: tuple[str, ...]
) -> tuple[Bottoms, int]:
    """The bottoms, checked, and num_output."""
    p, count = layer.recurrent_param, len(carried)
    exposed = count if p.expose_hidden else 0
    if len(values) not in (2 + exposed, 3 + exposed):
        raise layer.error(
            "bottom", f"takes {2 + exposed} or {3 + exposed} bottoms, got {len(values)}"
        )
    if len(layer.tops) != 1 + exposed:
        raise layer.error("top", f"makes {1 + exposed} tops, got {len(layer.tops)}")
    if p.num_output < 1:
        raise layer.error("num_output", f"num_output must be 1 or more, got {p.num_output}")
    x, cont, *rest = values
    sizes = layer.shape(x)
    if len(sizes) < 3:
        raise layer.error(
            "bottom", f"'{x.name}' must be steps x streams x ..., it is {layer.show(sizes)}"
        )
    _need(layer, cont, sizes[:2])
    start = tuple(rest[len(rest) - exposed :])
    for value in start:
        _need(layer, value, (1, sizes[1], p.num_output))
    static = rest[0] if len(rest) > exposed else None
    if static is not None:
        _need(layer, static, (sizes[1], *layer.shape(static)[1:]))
    return Bottoms(x, cont, static, start), p.num_output


def _need(layer: Layer, value: Value, wanted: Sizes) -> None:
    sizes = layer.shape(value)
    pairs = zip(sizes, wanted, strict=False)
    if len(sizes) != len(wanted) or any(None not in (a, b) and a != b for a, b in pairs):
        raise layer.error(
            "bottom", f"'{value.name}' must be {layer.show(wanted)}, it is {layer.show(sizes)}"
        )


def _outside(layer: Layer, bottoms: Bottoms, width: int) -> Value:
    """What comes to the gates from outside, for all steps: W x + b, and the static part."""
    weights = _weights(layer, (width, product(layer.shape(bottoms.x)[2:])))
    x = layer.emit("nnconv.Flatten", bottoms.x, axis=2)
    gates = layer.emit("MatMul", x, _turned(layer, weights)) + _bias(layer, width)
    if bottoms.static is None:
        return gates
    inner = product(layer.shape(bottoms.static)[1:])
    weights = _turned(layer, _weights(layer, (width, inner)))
    flat = layer.emit("Flatten", bottoms.static)
    return gates + layer.emit("MatMul", flat, weights)


def _weights(layer: Layer, shape: Sizes) -> Value:
    return layer.parameter(len(layer.parameters), shape, layer.recurrent_param.weight_filler)


def _bias(layer: Layer, width: int) -> Value:
    return layer.parameter(len(layer.parameters), (width,), layer.recurrent_param.bias_filler)


def _turned(layer: Layer, weights: Value) -> Value:
    return layer.emit("Transpose", weights, perm=(1, 0))


def _start(
    layer: Layer, bottoms: Bottoms, names: tuple[str, ...], hidden: int
) -> tuple[Value, ...]:
    """The states that the first step finds: the bottoms, or what the run before has left."""
    if bottoms.start:
        return bottoms.start
    batch = layer.shape(bottoms.x)[1]
    if batch is None:
        raise layer.error("bottom", f"how many streams '{bottoms.x.name}' has is not known here",
                          hint=OPEN_SIZE)  # fmt: skip
    layer.check_sizes((1, batch, hidden))
    zeros = np.broadcast_to(np.float32(0), (1, batch, hidden))
    return tuple(
        layer.graph.constant(zeros, name=layer.graph.fresh_name(f"{layer.name}:{name}"))
        for name in names
    )


def _tops(
    layer: Layer, y: Value, start: tuple[Value, ...], states: tuple[Value, ...]
) -> Value | tuple[Value, ...]:
    """The sequence, and the last states: tops, from which Caffe takes no gradient, or state."""
    first, end, axis = (layer.ints([number]) for number in (-1, 2**31 - 1, 0))
    last = [layer.emit("Slice", value, first, end, axis) for value in states]
    if layer.recurrent_param.expose_hidden:
        return y, *(layer.emit("nnconv.StopGradient", value) for value in last)
    for before, after in zip(start, last, strict=True):
        layer.net.parameters.update(before, after)
    return y
