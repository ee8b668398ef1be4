"""Operators that only move elements on OpenCL: numpy's elements, on processors and as on cards."""

from __future__ import annotations

import numpy as np
import pytest

from nnconv.runtime.devices.opencl import OpenCLDevice
from nnconv.runtime.executor import compile_model
from tests.cpu.moved import FORMS, random_moves
from tests.cpu.test_moves import CASES


@pytest.mark.parametrize("form", FORMS)
def test_random_moves_end_where_numpy_puts_them(device: OpenCLDevice, form: str) -> None:
    for seed in (1, 2):
        net, model = random_moves(seed, form, layers=5)
        executable = compile_model(model, device=device)
        got = executable.run(net.feeds)
        assert net.wanted
        for name, wanted in net.wanted.items():
            np.testing.assert_array_equal(got[name], wanted, name)
        plan = executable.plan({name: array.shape for name, array in net.feeds.items()})
        assert not [step.kernel for step in plan.steps if step.kernel.startswith("reference:")]


@pytest.mark.parametrize("name", ["backwards", "pad", "deep to wide", "gradient of a slice"])
def test_one_operator_gives_what_the_reference_gives(device: OpenCLDevice, name: str) -> None:
    model, kernel = CASES[name]
    shape = tuple(int(str(dim)) for dim in model.graph.inputs[0].known_shape)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    executable = compile_model(model, device=device)
    (got,) = executable.run({"x": x}).values()
    (wanted,) = compile_model(model, device="reference").run({"x": x}).values()
    np.testing.assert_array_equal(got, wanted)
    assert f"opencl:{kernel}" in [step.kernel for step in executable.plan({"x": shape}).steps]
