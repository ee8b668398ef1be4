"""Gradients as graphs: sums, sharing, names, what has no gradient, and size."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest

from nnconv.runtime.autodiff import gradients
from nnconv.runtime.executor import compile_model
from nnconv.schemas.errors import InputError, UnsupportedError
from nnconv.schemas.graph import Graph, Loss, Model, Value
from nnconv.schemas.types import DType


def inputs(*names: str) -> tuple[Graph, list[Value]]:
    graph = Graph("test")
    return graph, [graph.add_input(name, DType.FLOAT32, (3,)) for name in names]


def run(graph: Graph, wanted: list[Value], **feeds: object) -> list[list[float]]:
    graph.outputs = wanted
    results = compile_model(Model(graph), device="reference").run(feeds)
    return [results[value.name].tolist() for value in wanted]


def test_a_value_used_several_times_gets_the_sum_of_its_gradients() -> None:
    graph, (x,) = inputs("x")
    y = x * x + 3 * x + x
    found = gradients(graph, {y: 1.0}, [x])
    assert run(graph, [found[x]], x=[1, 2, 3]) == [[6, 8, 10]]


def test_losses_count_by_their_weight() -> None:
    graph, (x, y) = inputs("x", "y")
    graph.losses = [Loss(x * y, 2.0), Loss(x * x, 0.5), Loss(x * x, 0.0)]
    found = gradients(graph, wrt=["x", "y"])
    assert run(graph, list(found.values()), x=[1, 2, 3], y=[4, 5, 6]) == [[9, 12, 15], [2, 4, 6]]


def test_the_gradient_of_an_output_can_be_given() -> None:
    graph, (x, dy) = inputs("x", "dy")
    found = gradients(graph, {x * x: dy}, [x])
    assert run(graph, [found[x]], x=[1, 2, 3], dy=[1, 0, -1]) == [[2, 0, -6]]


def test_what_leads_to_no_loss_has_zero_gradient() -> None:
    graph, (x, y) = inputs("x", "y")
    found = gradients(graph, {x * 2: 1.0}, [x, y])
    assert run(graph, [found[y]], y=[1, 2, 3]) == [[0, 0, 0]]


def test_the_gradient_of_the_loss_by_itself_is_its_weight() -> None:
    graph, (x,) = inputs("x")
    y = x * 2
    found = gradients(graph, {y: 3.0}, [y])
    assert run(graph, [found[y]]) == [[3, 3, 3]]


def test_gradients_are_named_after_their_values_each_a_result_of_its_own() -> None:
    graph, (x, y) = inputs("x", "y")
    found = gradients(graph, {x + y: 1.0}, [x, y])
    assert [value.name for value in found.values()] == ["x@grad", "y@grad"]
    assert found[x] is not found[y]


def test_only_what_is_asked_for_stays_in_the_graph() -> None:
    graph, (x, y) = inputs("x", "y")
    z = x * y
    gradients(graph, {z: 1.0}, [x])
    assert [node.op for node in graph.nodes] == ["Mul", "ConstantOfShape", "Mul"]


def test_the_third_derivative_is_a_graph_too() -> None:
    graph, (x,) = inputs("x")
    value = x * x * x * x
    for _ in range(3):
        value = gradients(graph, {value: 1.0}, [x])[x]
    assert run(graph, [value], x=[1, 2, 3]) == [[24, 48, 72]]


def test_integers_have_no_gradient() -> None:
    graph, (x,) = inputs("x")
    index = graph.add_input("index", DType.INT64, (2,))
    y = graph.emit("Gather", x, index)
    assert list(gradients(graph, {y: 1.0}, [x])) == [x]
    with pytest.raises(InputError, match="'index' is int64: only floats have gradients"):
        gradients(graph, {y: 1.0}, [index])


def test_nothing_flows_through_a_cast_to_integers() -> None:
    graph, (x,) = inputs("x")
    whole = graph.emit("Cast", graph.emit("Cast", x, to=int(DType.INT64)), to=int(DType.FLOAT32))
    found = gradients(graph, {whole * 2: 1.0}, [x])
    assert run(graph, [found[x]]) == [[0, 0, 0]]


def test_a_missing_rule_is_named_with_the_path_from_the_loss() -> None:
    graph, (x,) = inputs("x")
    inner = graph.emit("Relu", x, name="", outputs=["inner"])
    odd = graph.emit("Compress", inner, graph.constant([True, False, True]), outputs=["odd"])
    loss = graph.emit("Neg", odd, outputs=["loss"])
    with pytest.raises(UnsupportedError) as raised:
        gradients(graph, {loss: 1.0}, [x])
    assert "no gradient is known for Compress" in str(raised.value)
    assert "loss <- odd <- inner <- x" in str(raised.value)


def test_a_missing_rule_off_the_way_does_not_matter() -> None:
    graph, (x, y) = inputs("x", "y")
    other = graph.emit("ReduceSum", graph.emit("Compress", y, graph.constant([True, False, True])))
    assert x in gradients(graph, {x * other: 1.0}, [x])


@pytest.mark.parametrize(
    ("of", "wrt", "message"),
    [(None, ["x"], "no loss"), ({"z": 1.0}, ["nothing"], "no value 'nothing'")],
)
def test_what_is_missing_is_said(of: object, wrt: list[str], message: str) -> None:
    graph, (x,) = inputs("x")
    seeds = None if of is None else {x * x: 1.0}
    with pytest.raises(InputError, match=message):
        gradients(graph, seeds, wrt)


def test_ten_times_the_nodes_are_not_a_hundred_times_the_work() -> None:
    """Counted in calls of functions, Python's and its own, not in seconds."""
    assert calls(5_000) <= 10.5 * calls(500)


def calls(nodes: int) -> int:
    graph, (x,) = inputs("x")
    value = x
    for _ in range(nodes):
        value = graph.emit("Sigmoid", value)
    events: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, argument: events.update([event]))
    try:
        gradients(graph, {value: 1.0}, [x])
    finally:
        sys.setprofile(None)
    return events["call"] + events["c_call"]


def test_dropout_and_its_gradient_drop_the_same_elements() -> None:
    graph = Graph("test")
    x = graph.add_input("x", DType.FLOAT32, (1000,))
    y = graph.emit("nnconv.Dropout", x, ratio=0.3)
    found = gradients(graph, {y: 1.0}, [x])
    graph.outputs = [y, found[x]]
    executable = compile_model(Model(graph), device="reference", mode="train", seed=7)
    for _ in range(2):  # another mask each run, and the same one in both
        result, slope = executable.run({"x": np.ones(1000, np.float32)}).values()
        np.testing.assert_array_equal(result, slope)
        assert 250 < (result == 0).sum() < 350
