"""Training on an OpenCL device: states are written over on it, and come back with every step."""

from __future__ import annotations

from typing import Any

import numpy as np

import nnconv
from nnconv.runtime.devices.opencl_platform import Place
from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Graph, Model, State
from nnconv.schemas.types import DType
from tests.opencl.test_plans import same_kernels


def test_a_state_goes_on_from_where_the_last_run_left_it() -> None:
    graph = Graph("count")
    total = graph.constant(np.zeros(5, np.float32), DType.FLOAT32, name="total")
    x = graph.add_input("x", DType.FLOAT32, (5,))
    graph.state.append(State("total", total, total * 0.5 + x))
    graph.outputs = [graph.emit("Relu", x)]
    run = compile_model(Model(graph=graph), device="opencl", mode="train")
    given = np.arange(5, dtype=np.float32)
    for wanted in (1.0, 1.5, 1.75):
        run.run({"x": given})
        assert np.array_equal(run.state["total"], wanted * given)
    kernels = [step.kernel for step in run.plan({"x": (5,)}).steps if step.nodes]
    assert all(kernel.startswith("opencl:") for kernel in kernels)


def test_steps_of_lenet_are_those_of_the_cpu_device(place: Place) -> None:
    random = np.random.default_rng(0)
    batch = {
        "data": random.random((16, 1, 28, 28), np.float32),
        "label": random.integers(0, 10, 16).astype(np.float32),
    }
    model = nnconv.load("zoo:lenet")
    trainers: list[Any] = [
        nnconv.Trainer(model, loss="cross_entropy", device=device, lr=0.01, momentum=0.9)
        for device in ("cpu", "opencl")
    ]
    losses = [[trainer.step(batch).loss for trainer in trainers] for _ in range(3)]
    states = [trainer.executable.state for trainer in trainers]
    limit = 0.0 if same_kernels(place) else 1e-4
    for ours, theirs in losses:
        assert abs(ours - theirs) <= limit * ours
    for name, array in states[0].items():
        assert np.abs(states[1][name] - array).max() <= limit * np.abs(array).max(), name
