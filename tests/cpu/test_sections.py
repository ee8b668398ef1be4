"""Layers done image by image give what they give one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.executor import compile_model
from nnconv.runtime.lowering import sections
from nnconv.schemas.graph import Graph, Model, Value
from nnconv.schemas.types import DType
from tests.cpu.nets import Net, random_model

LAYER_BY_LAYER = 1 << 62


def residual_net(batch: int) -> Model:
    """Two blocks with a residual behind a pool; the first picture's layers read a border."""
    net = Net(9)
    graph = net.graph = Graph("blocks")
    x = graph.add_input("x", DType.FLOAT32, (batch, 20, 17, 13))

    def conv(value: Value, inputs: int, outputs: int, side: int) -> Value:
        weights = net.parameter(outputs, inputs, side, side)
        bias = net.parameter(outputs)
        made: Value = graph.emit("Conv", value, weights, bias, pads=(side // 2,) * 4)
        return made

    value = graph.emit("MaxPool", conv(x, 20, 32, 3), kernel_shape=(2, 2), strides=(1, 1))
    for _ in range(2):
        inside = graph.emit("Relu", conv(value, 32, 24, 1))
        inside = graph.emit("Relu", conv(inside, 24, 24, 3))
        value = graph.emit("Relu", conv(inside, 24, 32, 1) + value)
    graph.outputs = [graph.emit("GlobalAveragePool", conv(value, 32, 40, 5))]
    return Model(graph=graph)


def run(monkeypatch: pytest.MonkeyPatch, model: Model, x: Any, cached: int, **more: Any) -> Any:
    monkeypatch.setattr(sections, "_CACHED_BYTES", cached)
    executable = compile_model(model, device="cpu", **more)
    executable.run({"x": 3 * x + 1})  # what a run leaves behind must not show in the next
    return executable.run({"x": x}), executable.plan().steps


@pytest.mark.parametrize("winograd", [0, 4])
@pytest.mark.parametrize("batch", [2, 5])
def test_residual_blocks_are_done_image_by_image(
    monkeypatch: pytest.MonkeyPatch, batch: int, winograd: int
) -> None:
    model = residual_net(batch)
    x = np.random.default_rng(batch).standard_normal((batch, 20, 17, 13)).astype(np.float32)
    got, steps = run(monkeypatch, model, x, 0, winograd=winograd, threads=2)
    assert sum(step.kernel.endswith("by image") for step in steps) >= 6
    wanted = compile_model(model, device="reference").run({"x": x})
    for name, array in wanted.items():
        assert np.abs(got[name] - array).max() <= 1e-4 * np.abs(array).max()


@pytest.mark.parametrize("seed", range(60))
def test_random_nets_do_not_depend_on_the_order(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    model, x = random_model(seed)
    ours, _ = run(monkeypatch, model, x, 0, winograd=0)
    plain, steps = run(monkeypatch, model, x, LAYER_BY_LAYER, winograd=0)
    assert not any(step.kernel.endswith("by image") for step in steps)
    for name, array in plain.items():
        # tiles of fewer pixels may add up in another order
        scale = np.abs(array).max() or 1
        assert np.abs(ours[name] - array).max() <= 1e-5 * scale or np.isnan(array).any(), name


def test_values_in_between_take_the_memory_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    model = residual_net(64)
    x = np.zeros((64, 20, 17, 13), np.float32)
    arenas = []
    for cached in (0, LAYER_BY_LAYER):
        monkeypatch.setattr(sections, "_CACHED_BYTES", cached)
        arenas.append(compile_model(model, device="cpu").plan({"x": x.shape}).peak_bytes)
    assert arenas[0] < arenas[1] / 2


def test_every_step_is_watched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "_CACHED_BYTES", 0)
    executable = compile_model(residual_net(3), device="cpu")
    seen: list[Any] = []
    x = np.ones((3, 20, 17, 13), np.float32)
    executable.run({"x": x}, watch=lambda step, seconds: seen.append(step))
    assert seen == [step for step in executable.plan().steps if step in seen]
    assert len(seen) == len(executable.plan().steps)
