"""Reductions of whole plans against numpy and ONNX Runtime: any axes, any form, no host."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType
from tests.cpu.test_gradient_kernels import BATCHES, agree, in_lanes, numbers, shapes, single

Array = np.ndarray[Any, Any]
OPERATIONS = [
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp",
]  # fmt: skip


def reduction(op: str, shape: tuple[int, ...], axes: list[int] | None, **settings: Any) -> Model:
    graph = Graph(op)
    x = graph.add_input("x0", DType.FLOAT32, shape)
    told = [] if axes is None else [graph.constant(axes, DType.INT64)]
    graph.outputs = [graph.emit(op, x, *told, **settings)]
    return Model(graph=graph)


def in_onnxruntime(op: str, axes: list[int] | None, x: Array, keepdims: int) -> Array:
    told = (
        [] if axes is None else [helper.make_tensor("axes", TensorProto.INT64, [len(axes)], axes)]
    )
    node = helper.make_node(op, ["x", *(t.name for t in told)], ["y"], keepdims=keepdims)
    given = helper.make_tensor_value_info("x", TensorProto.DOUBLE, x.shape)
    made = helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)
    graph = helper.make_graph([node], "g", [given], [made], told)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: Array = session.run(None, {"x": x.astype("f8")})[0]
    return found


def runs(model: Model, feeds: dict[str, Array]) -> Array:
    """The only result, from kernels alone and equal on one and two threads."""
    one, two = (compile_model(model, device="cpu", threads=threads) for threads in (1, 2))
    names = [step.kernel for step in one.plan(shapes(feeds)).steps]
    assert not [name for name in names if name.startswith("reference:")], names
    (got,), (again,) = one.run(feeds).values(), two.run(feeds).values()
    assert got.tobytes() == again.tobytes()
    return got


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_random_reduction_is_onnxruntimes_in_double_precision(data: st.DataObject) -> None:
    draw = data.draw
    op = draw(st.sampled_from(OPERATIONS))
    extents = st.sampled_from([1, 2, 3, 4, 7, 16, 33])
    shape = tuple(draw(st.lists(extents, min_size=1, max_size=4)))
    rank = len(shape)
    axes = draw(st.none() | st.lists(st.integers(-rank, rank - 1), unique_by=lambda a: a % rank))
    keepdims, noop = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    x = numbers(shape)["x0"]
    x = 1 + np.abs(x) / 8 if "Log" in op else 1 + x / 300 if op == "ReduceProd" else x
    model = reduction(op, shape, axes, keepdims=keepdims, noop_with_empty_axes=noop)
    got = runs(model, {"x0": x})
    axis = tuple(axes) if axes else None
    if axis is None and noop:
        axis, shaped, keepdims = (0,), x[None], 0  # each element is a sum of its own
    else:
        shaped = x
    want = in_onnxruntime(op, None if axis is None else list(axis), shaped, keepdims)
    x = shaped
    added = np.abs(x).astype("f8").sum(axis=axis, keepdims=bool(keepdims))
    assert got.shape == want.shape
    assert (np.abs(got - want) <= 5e-6 * np.maximum(np.abs(want), added)).all()


# Sizes at which a sum is done in pieces, of the length of many and of few elements
LONG: list[tuple[tuple[int, ...], list[int] | None]] = [
    ((200_003,), None), ((3, 70_000), [1]), ((70_001, 3), [0]), ((16, 2, 100, 51), [0, 2, 3]),
    ((2, 40_000, 3), [0, 1]), ((1, 3, 300, 300), [2, 3]),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "axes"), LONG, ids=str)
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMin", "ReduceLogSumExp"])
def test_long_reductions_lose_nothing(
    op: str, shape: tuple[int, ...], axes: list[int] | None
) -> None:
    x = np.random.default_rng(0).uniform(0.5, 1.5, shape).astype("f4")
    got = runs(reduction(op, shape, axes, keepdims=0), {"x0": x})
    wide, axis = x.astype("f8"), None if axes is None else tuple(axes)
    formula: dict[str, Any] = {
        "ReduceSum": np.sum, "ReduceMean": np.mean, "ReduceMin": np.min,
        "ReduceLogSumExp": lambda a, axis: np.log(np.exp(a).sum(axis)),
    }  # fmt: skip
    np.testing.assert_allclose(got, formula[op](wide, axis=axis), rtol=5e-7)


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin", "ReduceSum", "ReduceLogSumExp"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axes", [[0], [1], None])
def test_what_is_no_number_is_handled_as_by_the_reference(
    op: str, bad: float, axes: list[int] | None
) -> None:
    x = numbers((40, 50))["x0"]
    x[3, 7] = bad
    model = reduction(op, x.shape, axes)
    (want,) = compile_model(model, device="reference").run({"x0": x}).values()
    np.testing.assert_allclose(runs(model, {"x0": x}), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("op", ["GlobalMaxPool", "ReduceMax", "MaxPool", "Max", "Min"])
def test_maxima_of_blocks_treat_what_is_no_number_as_the_reference_does(
    op: str, bad: float
) -> None:
    graph = Graph("blocks")
    x = graph.add_input("x0", DType.FLOAT32, (1, 3, 6, 5))
    made = graph.emit("LRN", x, size=3)
    settings: dict[str, Any] = {"MaxPool": {"kernel_shape": (3, 2), "pads": (1, 1, 1, 1)}}.get(
        op, {}
    )
    others = {"ReduceMax": [graph.constant([2, 3], DType.INT64)], "Max": [-x], "Min": [-x]}
    graph.outputs = [graph.emit(op, made, *others.get(op, []), **settings)]
    feeds = numbers((1, 3, 6, 5))
    feeds["x0"][0, 1, 2, 3] = bad
    model = Model(graph=graph)
    (want,) = compile_model(model, device="reference").run(feeds).values()
    np.testing.assert_allclose(runs(model, feeds), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("axes", [[2, 3], [1], [1, 2, 3], [0], [0, 1, 2, 3], [2], [0, 3]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_samples_in_lanes_are_joined_where_they_lie(
    batch: int, axes: list[int], keepdims: int
) -> None:
    graph, x = in_lanes(batch, 5, 3, 4)
    y = graph.emit("ReduceSum", graph.emit("Abs", x), graph.constant(axes, DType.INT64),
                   keepdims=keepdims)  # fmt: skip
    graph.outputs = [y, graph.emit("Neg", y)]
    agree(Model(graph=graph), numbers((batch, 5, 3, 4), (5, 1, 1, 1)), kernel="sum")


@pytest.mark.parametrize("channels", [5, 32, 37])
@pytest.mark.parametrize("axes", [[2, 3], [1], [0, 2, 3], [3], [0]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_blocks_are_joined_where_they_lie(channels: int, axes: list[int], keepdims: int) -> None:
    graph = Graph("blocks")
    x = graph.add_input("x0", DType.FLOAT32, (2, 3, 6, 5))
    weights = graph.constant(numbers((channels, 3, 3, 3))["x0"], DType.FLOAT32)
    made = graph.emit("Abs", graph.emit("Conv", x, weights))
    y = graph.emit("ReduceL2", made, graph.constant(axes, DType.INT64), keepdims=keepdims)
    graph.outputs = [y, graph.emit("Neg", y)]
    agree(Model(graph=graph), numbers((2, 3, 6, 5)), kernel="fold l2")


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 20, 6, 7), (1, 3, 4, 5, 6)])
def test_global_pools_of_plain_values_of_any_rank(op: str, shape: tuple[int, ...]) -> None:
    agree(single(op, shape), numbers(shape), kernel="fold")


@pytest.mark.parametrize(
    ("shape", "goal"),
    [((4, 5), (5,)), ((4, 5), (4, 1)), ((3, 4, 5), (4, 1)), ((3, 4, 5), ()), ((1, 4), (4,)),
     ((2, 3, 4, 5), (1, 3, 1, 5)), ((2, 3), (2, 3))],
)  # fmt: skip
def test_what_was_repeated_is_summed(shape: tuple[int, ...], goal: tuple[int, ...]) -> None:
    graph = Graph("sum")
    x = graph.add_input("x0", DType.FLOAT32, shape)
    told = graph.constant(np.array(goal, np.int64), DType.INT64)
    graph.outputs = [graph.emit("nnconv.SumTo", x, told)]
    agree(Model(graph=graph), numbers(shape), kernel="fold sumto")


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("shape", [(1, 7, 3, 5), (3, 2, 4, 4), (17, 40, 6, 7), (2, 96, 13, 13)])
@pytest.mark.parametrize("lanes", [False, True])
def test_the_gradient_of_lrn(shape: tuple[int, ...], size: int, lanes: bool) -> None:
    graph, x = in_lanes(*shape)
    feeds = numbers(shape, (shape[1], 1, 1, 1))
    if not lanes:
        graph, feeds = Graph("lrn"), numbers(shape)
        x = graph.add_input("x0", DType.FLOAT32, shape)
    dy = graph.add_input("dy", DType.FLOAT32, shape)
    feeds["dy"] = numbers(shape, seed=4)["x0"]
    graph.outputs = [graph.emit("nnconv.LRNGrad", x, dy, size=size, alpha=0.7, beta=0.75, bias=1.5)]
    agree(Model(graph=graph), feeds, kernel="lrn gradient")
