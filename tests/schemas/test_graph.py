"""The graph keeps both sides of every link, whatever is emitted, replaced, renamed or removed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnconv.schemas.errors import InputError, InternalError, UnsupportedError
from nnconv.schemas.graph import Graph, LayerRecord, Loss, State, Value
from nnconv.schemas.types import DType


def chain(length: int = 3) -> tuple[Graph, list[Value]]:
    """x -> relu -> relu ..., the last one an output."""
    graph = Graph("chain")
    values = [graph.add_input("x", DType.FLOAT32, (2, 3))]
    for _ in range(length):
        values.append(graph.emit("Relu", values[-1]))
    graph.outputs = [values[-1]]
    return graph, values


def check_links(graph: Graph) -> None:
    """What every rewrite must leave behind."""
    nodes = list(graph.nodes)
    assert len(nodes) == len(graph)
    for node in nodes:
        assert node.linked
        for index, value in enumerate(node.inputs):
            assert value is None or (node, index) in value.uses
        for index, value in enumerate(node.outputs):
            assert (value.producer, value.index) == (node, index)
            assert graph.values[value.name] is value
    for name, value in graph.values.items():
        assert value.name == name
        for node, index in value.uses:
            assert node.inputs[index] is value
            assert node in nodes


def test_arithmetic_on_values_emits_nodes() -> None:
    graph = Graph()
    x = graph.add_input("x", DType.FLOAT32, (4,))
    y = -(((2 * x + 1) / x - 3) ** 2)
    assert [node.op for node in graph.nodes] == ["Mul", "Add", "Div", "Sub", "Pow", "Neg"]
    assert y.shape == (4,)
    check_links(graph)


def test_attributes_read_as_python_attributes_with_defaults() -> None:
    graph = Graph()
    x = graph.add_input("x", DType.FLOAT32, (1, 3, 4, 4))
    node = graph.emit("LRN", x, size=5, beta=0.75).producer
    assert (node.size, node.beta, node.bias, node.x) == (5, 0.75, 1.0, x)
    assert "beta" not in node.attributes, "what equals the default is left out"
    with pytest.raises(AttributeError, match="neither an attribute nor an input named 'sise'"):
        _ = node.sise


@pytest.mark.parametrize(
    ("op", "attributes", "kind", "message"),
    [
        ("Reul", {}, UnsupportedError, "unknown operator 'Reul'"),
        ("Relu", {"alpha": 1.0}, InputError, "no attribute 'alpha'"),
        ("LeakyRelu", {"alhpa": 1.0}, InputError, "no attribute 'alhpa'"),
    ],
)
def test_a_wrong_call_is_refused_and_leaves_no_trace(
    op: str, attributes: dict[str, float], kind: type[Exception], message: str
) -> None:
    graph, values = chain(1)
    with pytest.raises(kind, match=message):
        graph.emit(op, values[-1], **attributes)  # type: ignore[arg-type]
    assert len(graph) == 1
    check_links(graph)


def test_a_name_that_is_taken_is_refused_and_leaves_no_trace() -> None:
    graph, values = chain(1)
    with pytest.raises(InputError, match="two values are named 'x'"):
        graph.emit("Relu", values[-1], outputs=["x"])
    assert len(graph) == 1
    check_links(graph)


def test_inputs_that_do_not_fit_are_refused_naming_the_layer() -> None:
    graph = Graph()
    a = graph.add_input("a", DType.FLOAT32, (2, 3))
    b = graph.add_input("b", DType.FLOAT32, (4, 5))
    record = LayerRecord("fc6", "InnerProduct")
    with graph.source(record), pytest.raises(InputError, match=r"layer 'fc6' \(InnerProduct\)"):
        graph.emit("MatMul", a, b)
    check_links(graph)


def test_replace_moves_uses_outputs_state_and_losses() -> None:
    graph, (_, first, _, last) = chain()
    stored = graph.add_parameter("w", (2, 3), np.zeros((2, 3), np.float32))
    graph.state = [State("w", stored, last)]
    graph.losses = [Loss(last)]
    other = graph.emit("Sigmoid", first)
    graph.replace(last, other)
    assert graph.outputs == [other]
    assert graph.state[0].write is other
    assert graph.losses[0].value is other
    check_links(graph)


def test_replace_can_hand_the_name_on() -> None:
    graph, values = chain()
    name = values[-1].name
    other = graph.emit("Tanh", values[-2])
    graph.replace(values[-1], other, keep_name=True)
    assert graph.values[name] is other
    check_links(graph)


def test_a_node_that_is_read_cannot_be_removed() -> None:
    graph, values = chain()
    node = values[1].producer
    assert node is not None
    with pytest.raises(InternalError, match="still read by Relu"):
        graph.remove(node)
    check_links(graph)


def test_nodes_may_be_inserted_and_removed_while_they_are_walked() -> None:
    graph, values = chain(5)
    seen = []
    for node in graph.nodes:
        seen.append(node.op)
        if node.op == "Relu":
            with graph.inserting(before=node):
                y = graph.emit("Sigmoid", node.inputs[0])
            graph.replace(node.output, y)
            graph.remove(node)
    assert seen == ["Relu"] * 5
    assert [node.op for node in graph.nodes] == ["Sigmoid"] * 5
    assert values[-1] not in graph.outputs
    check_links(graph)


def test_a_copy_shares_arrays_but_no_links() -> None:
    graph, values = chain()
    data = np.ones((2, 3), np.float32)
    weight = graph.add_parameter("w", (2, 3), data)
    graph.outputs = [graph.emit("Add", values[-1], weight)]
    twin = graph.copy()
    assert str(twin) == str(graph)
    assert twin.values["w"].data is data
    for node in twin.nodes:
        assert node.graph is twin
    check_links(twin)
    twin.replace(twin.outputs[0], twin.values["x"])
    assert graph.outputs[0].producer is not None
    check_links(graph)


@given(st.lists(st.integers(0, 3), max_size=40))
def test_any_sequence_of_rewrites_keeps_the_links(moves: list[int]) -> None:
    graph, _ = chain()
    for number, move in enumerate(moves):
        nodes = list(graph.nodes)
        node = nodes[number % len(nodes)] if nodes else None
        if node is None or move == 0:
            graph.emit("Tanh", graph.inputs[0])
        elif move == 1:
            with graph.inserting(before=node):
                y = graph.emit("Neg", node.inputs[0])
            graph.replace(node.output, y)
        elif move == 2 and not node.output.uses:
            graph.outputs = [v for v in graph.outputs if v is not node.output]
            graph.remove(node)
        else:
            graph.rename(node.output, graph.fresh_name("renamed"))
        check_links(graph)


def test_a_deep_graph_needs_no_recursion() -> None:
    graph, values = chain(20_000)
    for node in list(graph.nodes)[:-1:2]:
        graph.replace(node.output, node.inputs[0] or values[0])
        graph.remove(node)
    assert len(graph) == len(graph.copy()) == 10_000
