"""ONNX operators beside the golden ones on an OpenCL device: no host step, the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from nnconv.runtime.devices.opencl import OpenCLDevice
from nnconv.runtime.executor import compile_model
from tests.cpu.test_more_of_onnx import dropping, in_onnxruntime, normalising, numbers
from tests.cpu.test_order import one_node
from tests.opencl.test_order import results


@pytest.mark.parametrize(("shape", "axis"), [((3, 33), 1), ((5, 7, 19), 1)])
@pytest.mark.parametrize("how", [0, 1])
def test_running_sums_and_products(
    shape: tuple[int, ...], axis: int, how: int, device: OpenCLDevice
) -> None:
    op, x = ("CumSum", "CumProd")[how], np.abs(numbers(shape)) + 0.5
    model = one_node(op, x, axis, exclusive=how, reverse=how)
    (want,) = compile_model(model, device="reference").run({"x": x}).values()
    (got,) = results(model, {"x": x}, device)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_dropout_gives_its_mask(device: OpenCLDevice) -> None:
    x, model = numbers((4, 30)) + 10, dropping((4, 30), training=True, masks=1)
    y, mask = results(model, {"x": x}, device)
    assert mask.dtype == bool and 0 < mask.mean() < 1
    np.testing.assert_allclose(y, np.where(mask, x / np.float32(0.7), 0), rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 3), (3, 20, 6, 5)])
def test_normalisation_in_training_moves_its_statistics_on(
    shape: tuple[int, ...], device: OpenCLDevice
) -> None:
    model, feeds = normalising(shape)
    settings = {"training_mode": 1, "momentum": 0.8, "epsilon": 1e-3}
    want = in_onnxruntime("BatchNormalization", feeds, 3, **settings)
    for mine, theirs in zip(results(model, feeds, device), want, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
