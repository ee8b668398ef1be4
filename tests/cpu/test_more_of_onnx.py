"""ONNX operators beside the golden ones, against ONNX Runtime or the reference: no host."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType
from tests.cpu.test_order import Array, one_node, results, same


def numbers(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cumulated(op: str, x: Array, axis: int, **settings: int) -> Array:
    """ONNX Runtime's, which has no CumProd: that is the logarithm's sum of positive numbers."""
    told = helper.make_tensor("axis", TensorProto.INT64, [], [axis])
    node = helper.make_node("CumSum", ["x", "axis"], ["y"], **settings)
    given = helper.make_tensor_value_info("x", TensorProto.DOUBLE, x.shape)
    made = helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)
    graph = helper.make_graph([node], "g", [given], [made], [told])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    wide = x.astype(np.float64)
    found: Array = session.run(None, {"x": np.log(wide) if op == "CumProd" else wide})[0]
    return np.exp(found) if op == "CumProd" else found


RUNNING = [((40,), 0), ((3, 33), 1), ((5, 7, 19), -2), ((2, 3, 4, 5), 0)]


@pytest.mark.parametrize("op", ["CumSum", "CumProd"])
@pytest.mark.parametrize(("shape", "axis"), RUNNING)
@pytest.mark.parametrize(("exclusive", "reverse"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_running_sums_and_products(
    op: str, shape: tuple[int, ...], axis: int, exclusive: int, reverse: int
) -> None:
    x, settings = np.abs(numbers(shape)) + 0.5, {"exclusive": exclusive, "reverse": reverse}
    (got,) = results(one_node(op, x, axis, **settings), {"x": x})
    np.testing.assert_allclose(got, cumulated(op, x, axis, **settings), rtol=1e-5)


def dropping(shape: tuple[int, ...], training: bool, masks: int) -> Model:
    graph = Graph("dropout")
    x = graph.add_input("x", DType.FLOAT32, shape)
    told = graph.constant(0.3, DType.FLOAT32), graph.constant(training, DType.BOOL)
    made = graph.emit("Dropout", x, *told, seed=5, outputs=1 + masks)
    graph.outputs = [*made] if masks else [made]
    return Model(graph=graph)


@pytest.mark.parametrize("shape", [(7,), (4, 20), (2, 3, 5, 6)])
@pytest.mark.parametrize(("training", "masks"), [(True, 0), (True, 1), (False, 1)])
def test_dropout_gives_its_mask(shape: tuple[int, ...], training: bool, masks: int) -> None:
    x, model = numbers(shape) + 10, dropping(shape, training, masks)
    want = [*compile_model(model, device="reference").run({"x": x}).values()]
    got = results(model, {"x": x})
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    same(got[1:], want[1:])
    if masks:
        assert got[1].any() and got[1].all() == (not training)
        np.testing.assert_array_equal(got[0] != 0, got[1])


def in_onnxruntime(op: str, feeds: dict[str, Array], outputs: int, **settings: Any) -> list[Array]:
    """One node whose operands are all float inputs."""
    names = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, [*feeds], names, **settings)
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape)
        for name, x in feeds.items()
    ]  # fmt: skip
    made = [helper.make_empty_tensor_value_info(name) for name in names]
    graph = helper.make_graph([node], "g", given, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: list[Array] = session.run(None, feeds)
    return found


def normalising(shape: tuple[int, ...]) -> tuple[Model, dict[str, Array]]:
    channels = (shape[1],)
    feeds = {"x": 3 * numbers(shape) + 2, "scale": numbers(channels, 1), "b": numbers(channels, 2)}
    feeds |= {"mean": numbers(channels, 3), "var": np.abs(numbers(channels, 4))}
    graph = Graph("normalising")
    values = [graph.add_input(name, DType.FLOAT32, x.shape) for name, x in feeds.items()]
    settings: dict[str, Any] = {"training_mode": 1, "momentum": 0.8, "epsilon": 1e-3}
    graph.outputs = [*graph.emit("BatchNormalization", *values, outputs=3, **settings)]
    return Model(graph=graph), feeds


NORMALISED = [(4, 3), (2, 5, 7), (3, 20, 6, 5), (17, 4, 2, 2), (2, 3, 2, 3, 4)]


@pytest.mark.parametrize("shape", NORMALISED)
def test_normalisation_in_training_moves_its_statistics_on(shape: tuple[int, ...]) -> None:
    model, feeds = normalising(shape)
    settings = {"training_mode": 1, "momentum": 0.8, "epsilon": 1e-3}
    want = in_onnxruntime("BatchNormalization", feeds, 3, **settings)
    for mine, theirs in zip(results(model, feeds), want, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
