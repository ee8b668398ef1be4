"""Places along axes and in windows on an OpenCL device: no host step, the same integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.devices.opencl import OpenCLDevice
from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType
from tests.cpu.test_order import (
    OUTSIDE,
    WINDOWS,
    Array,
    arithmetic,
    few_values,
    in_onnxruntime,
    one_node,
    same,
)


def results(model: Model, feeds: dict[str, Array], device: OpenCLDevice) -> list[Array]:
    executable = compile_model(model, device=device)
    plan: Any = executable.plan({name: array.shape for name, array in feeds.items()})
    assert plan.program.facts["host_steps"] == 0
    executable.run(feeds)  # what comes next lies where this lay
    return [*executable.run(feeds).values()]


@pytest.mark.parametrize(("shape", "axis"), [((3, 300), 1), ((2, 7), 1), ((2, 40, 3), 1)])
@pytest.mark.parametrize("last", [0, 1])
def test_the_place_of_an_extreme(
    shape: tuple[int, ...], axis: int, last: int, device: OpenCLDevice
) -> None:
    x, settings = few_values(shape), {"axis": axis, "select_last_index": last}
    op = ("ArgMax", "ArgMin")[last]
    want = in_onnxruntime(op, x, 1, **settings)
    same(results(one_node(op, x, **settings), {"x": x}, device), want)


@pytest.mark.parametrize(("shape", "axis"), [((3, 300), 1), ((2, 40, 3), 1)])
@pytest.mark.parametrize("largest", [0, 1])
def test_the_first_of_an_order_and_their_places(
    shape: tuple[int, ...], axis: int, largest: int, device: OpenCLDevice
) -> None:
    x = few_values(shape, 1)
    x.reshape(-1)[5::50] = np.nan
    model = one_node("TopK", x, 3, outputs=2, axis=axis, largest=largest)
    want = [*compile_model(model, device="reference").run({"x": x}).values()]
    same(results(model, {"x": x}, device), want)


def test_arithmetic_with_places(device: OpenCLDevice) -> None:
    x = few_values((4, 60), 5)
    model, values, number = arithmetic(x.shape, 3)
    graph = model.graph
    graph.outputs = [values, graph.emit("Cast", number, to=int(DType.FLOAT32)), number]
    order = np.argsort(-x, axis=1, kind="stable")[:, :3]
    whole = (107 - 2 * order)[None]
    want = [np.take_along_axis(x, order, 1), whole.astype(np.float32), whole]
    same(results(model, {"x": x}, device), want)


@pytest.mark.parametrize(("shape", "settings"), WINDOWS[1:])
def test_pooling_says_where_its_maxima_stand(
    shape: tuple[int, ...], settings: dict[str, Any], device: OpenCLDevice
) -> None:
    x = few_values(shape, 8).clip(-9, 9)
    want = in_onnxruntime("MaxPool", x, 2, **settings)
    same(results(one_node("MaxPool", x, outputs=2, **settings), {"x": x}, device), want)


@pytest.mark.parametrize("mode", ["MAX", "AVE"])
@pytest.mark.parametrize(("kernel", "strides", "size"), OUTSIDE[:2])
def test_windows_outside_the_picture_give_what_caffe_gives(
    mode: str, kernel: tuple[int, int], strides: tuple[int, int], size: tuple[int, int],
    device: OpenCLDevice,
) -> None:  # fmt: skip
    x = few_values((2, 3, *size)).clip(-9, 9)
    settings: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "mode": mode}
    model = one_node("nnconv.Pool", x, **settings)
    (want,) = compile_model(model, device="reference").run({"x": x}).values()
    (got,) = results(model, {"x": x}, device)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_the_gradient_of_a_planes_maximum(device: OpenCLDevice) -> None:
    x, graph = few_values((2, 3, 9, 11), 4).clip(-9, 9), Graph("peak")
    source = graph.add_input("x", DType.FLOAT32, x.shape)
    dy = graph.add_input("dy", DType.FLOAT32, (2, 3, 1, 1))
    graph.outputs = [graph.emit("nnconv.GlobalMaxPoolGrad", source, dy)]
    feeds = {"x": x, "dy": np.arange(1, 7, dtype=np.float32).reshape(2, 3, 1, 1)}
    model = Model(graph=graph)
    want = [*compile_model(model, device="reference").run(feeds).values()]
    same(results(model, feeds, device), want)
