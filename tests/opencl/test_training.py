"""Training on an OpenCL device: states stay on it, and come to the host when somebody asks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

import nnconv
from nnconv.runtime.devices.opencl import OpenCLDevice
from nnconv.runtime.devices.opencl.platform import Place
from nnconv.runtime.devices.pair import PairDevice
from nnconv.runtime.devices.reference import ReferenceDevice
from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Graph, Model, State
from nnconv.schemas.types import DType
from tests.opencl.test_plans import same_kernels


def counting() -> Model:
    """total = total / 2 + x"""
    graph = Graph("count")
    total = graph.constant(np.zeros(5, np.float32), DType.FLOAT32, name="total")
    x = graph.add_input("x", DType.FLOAT32, (5,))
    graph.state.append(State("total", total, total * 0.5 + x))
    graph.outputs = [graph.emit("Relu", x)]
    return Model(graph=graph)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_state_goes_on_from_where_the_last_run_left_it(
    device: OpenCLDevice, in_place: bool
) -> None:
    run = compile_model(counting(), device=device, mode="train", in_place=in_place)
    given = np.arange(5, dtype=np.float32)
    for wanted in (1.0, 1.5, 1.75):
        run.run({"x": given})
        assert np.array_equal(run.state["total"], wanted * given)
    run.state = {"total": np.full(5, 8.0, np.float32)}
    run.run({"x": given})
    assert np.array_equal(run.state["total"], 4 + given)
    kernels = [step.kernel for step in run.plan({"x": (5,)}).steps if step.nodes]
    assert all(kernel.startswith("opencl:") for kernel in kernels)


def test_states_are_not_transferred_and_what_was_looked_at_stays_what_it_was(
    place: Place,
) -> None:
    device = OpenCLDevice(replace(place, walks=False))
    run = compile_model(counting(), device=device, mode="train")
    given = np.arange(5, dtype=np.float32)
    seen = []
    for _ in range(6):
        run.run({"x": given})
        seen.append(run.live_state["total"])
    for number, each in enumerate(seen):
        assert np.allclose(np.asarray(each), (2 - 0.5**number) * given)
    facts = run.plan({"x": (5,)}).facts
    assert facts["bytes_resident"] == facts["bytes_to_device"] == facts["bytes_to_host"] == 20


def test_buffers_of_states_are_used_in_turn(place: Place) -> None:
    device = OpenCLDevice(replace(place, walks=False))
    run = compile_model(counting(), device=device, mode="train")
    used = set()
    for _ in range(20):
        run.run({"x": np.ones(5, np.float32)})
        state: Any = run.live_state["total"]
        used.add(state.memory.int_ptr)
        del state
    assert len(used) == 2


def test_a_pair_trains_as_its_first_device_does(place: Place) -> None:
    device = PairDevice(OpenCLDevice(replace(place, walks=False)), ReferenceDevice())
    run = compile_model(counting(), device=device, mode="train")
    for _ in range(3):
        run.run({"x": np.ones(5, np.float32)})
    assert np.array_equal(run.state["total"], np.full(5, 1.75, np.float32))


def test_steps_of_lenet_are_those_of_the_cpu_device(device: OpenCLDevice) -> None:
    random = np.random.default_rng(1)  # no maximum so near a tie that rounding decides it
    batch = {
        "data": random.random((16, 1, 28, 28), np.float32),
        "label": random.integers(0, 10, 16).astype(np.float32),
    }
    model = nnconv.load("zoo:lenet")
    trainers: list[Any] = [
        nnconv.Trainer(model, loss="cross_entropy", device=each, lr=0.01, momentum=0.9)
        for each in cast("tuple[str, ...]", ("cpu", device))
    ]
    losses = [[trainer.step(batch).loss for trainer in trainers] for _ in range(3)]
    states = [trainer.executable.state for trainer in trainers]
    limit = 0.0 if same_kernels(device.place) else 1e-4
    for ours, theirs in losses:
        assert abs(ours - theirs) <= limit * ours
    for name, array in states[0].items():
        assert np.abs(states[1][name] - array).max() <= limit * np.abs(array).max(), name
