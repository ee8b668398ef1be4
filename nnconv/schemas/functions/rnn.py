"""What Caffe's recurrences mean, step by step in standard operators (see `functions`).

A body exists once the number of steps is bound, and is not too large: a step is about ten nodes.
Only what hangs on the step before stands in the steps; products over all steps are done at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnconv.schemas.functions.layers import are_bound
from nnconv.schemas.functions.registry import function
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Node, Value

MOST_STEPS = 128
"""More steps are left to the reference kernel."""


def _steps(node: Node) -> int | None:
    """The number of steps, None where it is open or too large to be written out."""
    x = node.required(0)
    if not are_bound(x, *map(node.required, (1, 2, 3))) or not x.shape:
        return None
    count = x.shape[0]
    return count if isinstance(count, int) and 0 < count <= MOST_STEPS else None


def _integers(graph: Graph, values: Sequence[int]) -> Value:
    return graph.constant(list(values), DType.INT64)


def _apart(x: Value, count: int) -> list[Value]:
    """[T, N, D] as T values [1, N, D]."""
    if count == 1:
        return [x]
    return list(x.graph.emit("Split", x, outputs=count, axis=0, num_outputs=count))


def _joined(parts: Sequence[Value]) -> Value:
    if len(parts) == 1:
        return parts[0].graph.emit("Identity", parts[0])  # type: ignore[no-any-return]
    return parts[0].graph.emit("Concat", *parts, axis=0)  # type: ignore[no-any-return]


def _marks(node: Node) -> Value:
    """cont as [T, N, 1]."""
    graph = node.graph
    return graph.emit("Unsqueeze", node.required(1), _integers(graph, [2]))  # type: ignore[no-any-return]


def _gates(x: Value) -> list[Value]:
    return list(x.graph.emit("Split", x, outputs=4, axis=2, num_outputs=4))


@function("nnconv.LSTM")
def lstm(node: Node, mode: str) -> Sequence[Value] | None:
    """c = cont sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c), where i, f, o, g are
    x + R (cont h) (lstm_unit_layer.cpp, lstm_layer.cpp)."""
    if (count := _steps(node)) is None:
        return None
    graph, h, c = node.graph, node.required(3), node.required(4)
    turned = graph.emit("Transpose", node.required(2), perm=(1, 0))
    states, cells = [], []
    for x, mark in zip(_apart(node.required(0), count), _apart(_marks(node), count), strict=True):
        i, f, o, g = _gates(x + graph.emit("MatMul", h * mark, turned))
        i, f, o = (graph.emit("Sigmoid", gate) for gate in (i, f, o))
        c = f * mark * c + i * graph.emit("Tanh", g)
        h = o * graph.emit("Tanh", c)
        states.append(h)
        cells.append(c)
    return [_joined(states), _joined(cells)]


@function("nnconv.RNN")
def rnn(node: Node, mode: str) -> Sequence[Value] | None:
    """h = tanh(x + R (cont h)) (rnn_layer.cpp)."""
    if (count := _steps(node)) is None:
        return None
    graph, h, states = node.graph, node.required(3), []
    turned = graph.emit("Transpose", node.required(2), perm=(1, 0))
    for x, mark in zip(_apart(node.required(0), count), _apart(_marks(node), count), strict=True):
        h = graph.emit("Tanh", x + graph.emit("MatMul", h * mark, turned))
        states.append(h)
    return [_joined(states)]


def _before(start: Value, states: Value, count: int) -> Value:
    """The state that each step begins with."""
    if count == 1:
        return start
    graph = states.graph
    bounds = (_integers(graph, [numbers]) for numbers in (0, count - 1, 0))
    return graph.emit("Concat", start, graph.emit("Slice", states, *bounds), axis=0)  # type: ignore[no-any-return]


def _weights(gates: Value, states: Value) -> Value:
    """dR: the products of gradients and states, summed over steps and items."""
    graph = gates.graph
    flat = [graph.emit("Reshape", value, _integers(graph, [-1, _width(value)]))
            for value in (gates, states)]  # fmt: skip
    return graph.emit("Gemm", *flat, transA=1)  # type: ignore[no-any-return]


def _width(value: Value) -> int:
    width = value.known_shape[-1]
    assert isinstance(width, int), "asked for before shapes were bound"
    return width


@function("nnconv.LSTMGrad")
def lstm_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """From the last step to the first; the gates of all steps are computed again at once."""
    if (count := _steps(node)) is None:
        return None
    graph, weights, marks = node.graph, node.required(2), _marks(node)
    h0, c0, states, cells = (node.required(place) for place in (3, 4, 5, 6))
    kept = _before(h0, states, count) * marks
    turned = graph.emit("Transpose", weights, perm=(1, 0))
    i, f, o, g = _gates(node.required(0) + graph.emit("MatMul", kept, turned))
    i, f, o = (graph.emit("Sigmoid", gate) for gate in (i, f, o))
    g, bent = graph.emit("Tanh", g), graph.emit("Tanh", cells)
    carried = f * marks
    # what a gradient of h gives to c and o, and one of c to the gates
    slopes = [o * (1 - bent * bent), bent * o * (1 - o), g * i * (1 - i),
              _before(c0, cells, count) * carried * (1 - f), i * (1 - g * g)]  # fmt: skip
    parts = [_apart(value, count) for value in (*slopes, carried, marks, *node.inputs[7:])]
    made: list[Value] = []
    dh = dc = None
    for to_c, to_o, to_i, to_f, to_g, carry, mark, own_h, own_c in reversed(
        list(zip(*parts, strict=True))
    ):
        dh = own_h if dh is None else own_h + dh
        dc = own_c + dh * to_c if dc is None else own_c + dh * to_c + dc
        gates = graph.emit("Concat", dc * to_i, dc * to_f, dh * to_o, dc * to_g, axis=2)
        made.append(gates)
        dh, dc = graph.emit("MatMul", gates, weights) * mark, dc * carry
    dx = _joined(made[::-1])
    return [dx, _weights(dx, kept)]


@function("nnconv.RNNGrad")
def rnn_grad(node: Node, mode: str) -> Sequence[Value] | None:
    """From the last step to the first: dx = dh (1 - h^2)."""
    if (count := _steps(node)) is None:
        return None
    graph, weights, marks = node.graph, node.required(2), _marks(node)
    states = node.required(4)
    parts = (_apart(value, count) for value in (1 - states * states, marks, node.required(5)))
    made: list[Value] = []
    dh = None
    for slope, mark, own in reversed(list(zip(*parts, strict=True))):
        made.append((own if dh is None else own + dh) * slope)
        dh = graph.emit("MatMul", made[-1], weights) * mark
    dx = _joined(made[::-1])
    return [dx, _weights(dx, _before(node.required(3), states, count) * marks)]
