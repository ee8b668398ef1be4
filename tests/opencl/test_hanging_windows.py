"""Windows that hang over the padded input, and those that hold no number, on an OpenCL device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.autodiff import gradients
from nnconv.runtime.devices.opencl import OpenCLDevice
from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Model
from nnconv.schemas.types import DType
from tests.cpu.test_hanging_windows import (
    CONVOLUTIONS,
    LEAST,
    POOLS,
    caffes_mask,
    convolution,
    maxima,
    pooled,
    with_nothing,
    written_out,
)
from tests.cpu.test_order import in_onnxruntime, one_node


@pytest.mark.parametrize("case", CONVOLUTIONS[:-1], ids=str)
def test_a_hanging_convolution_and_its_gradients(case: Any, device: OpenCLDevice) -> None:
    graph, y, moving, feeds = convolution(case, stored=False)
    want = written_out(feeds["x"], feeds["w"], *case[2:])
    sizes: tuple[int, ...] = want.shape
    feeds["dy"] = np.random.default_rng(4).standard_normal(sizes).astype(np.float32)
    slope = graph.add_input("dy", DType.FLOAT32, sizes)
    graph.outputs = [y, *gradients(graph, {y: slope}, moving).values()]
    model = Model(graph=graph)
    got, *slopes = compile_model(model, device=device).run(feeds).values()
    _, *others = compile_model(model, device="reference").run(feeds).values()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
    for mine, theirs in zip(slopes, others, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_a_hanging_pool(case: Any, op: str, device: OpenCLDevice) -> None:
    x = np.random.default_rng(5).standard_normal(case[0]).astype(np.float32)
    (want,) = in_onnxruntime(op, x, 1, **case[1])
    (got,) = compile_model(one_node(op, x, **case[1]), device=device).run({"x": x}).values()
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("op", ["MaxPool", "nnconv.Pool"])
def test_windows_of_no_number_have_caffes_maximum(
    op: str, with_gradient: bool, device: OpenCLDevice
) -> None:
    x = with_nothing((18, 5, 6, 4))
    model, feeds = pooled(op, with_gradient, x)
    best, *more = compile_model(model, device=device).run(feeds).values()
    np.testing.assert_array_equal(best, maxima(x, 2))
    for dx in more:
        assert dx.sum() == (maxima(x, 2) > LEAST).sum()
        assert not dx[~(x > LEAST)].any()


def test_the_mask_of_a_window_of_no_number_is_minus_1(device: OpenCLDevice) -> None:
    x = with_nothing((18, 1, 6, 4))
    model, feeds = caffes_mask("plain", x)
    best, mask = compile_model(model, device=device).run(feeds).values()
    np.testing.assert_array_equal(best, maxima(x, 2))
    np.testing.assert_array_equal(mask == -1, maxima(x, 2) == LEAST)
