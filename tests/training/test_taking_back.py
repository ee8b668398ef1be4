"""A step that goes wrong is taken back whole, whatever memory the next values were written to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.executor import compile_model
from nnconv.runtime.training import Trainer
from nnconv.runtime.training.solvers import corrections
from nnconv.schemas.errors import MismatchError
from nnconv.schemas.graph import Graph, Model, State
from nnconv.schemas.training import TrainingSpec
from nnconv.schemas.types import DType
from tests.cpu.test_training_steps import lenet, mlp

NETS = {"mlp": mlp, "lenet": lenet}
SIZES = {"mlp": (20,), "lenet": (1, 16, 16)}


def batch(net: str, number: int, samples: int = 37) -> dict[str, Any]:
    random = np.random.default_rng(number)
    return {
        "data": random.standard_normal((samples, *SIZES[net])).astype(np.float32),
        "label": random.integers(0, 10, samples).astype(np.float32),
    }


def facts(trainer: Trainer) -> dict[str, bytes]:
    """All that a step changes, bit for bit."""
    held = {name: array.tobytes() for name, array in trainer.executable.state.items()}
    numbers = (trainer.iteration, trainer.executable.step)
    return held | {"numbers": repr(numbers).encode()}


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("net", NETS)
def test_a_bad_step_leaves_no_trace(net: str, device: str, solver: str) -> None:
    """Neither in what it would have changed nor in the steps after it."""
    one, other = (Trainer(NETS[net](), solver=solver, device=device) for _ in range(2))
    for number in range(3):
        one.step(batch(net, number))
        other.step(batch(net, number))
    before = facts(one)
    bad = batch(net, 3)
    bad["data"][5] = np.nan
    with pytest.raises(MismatchError, match=r"iteration 3: .* is not finite"):
        one.step(bad)
    assert facts(one) == before == facts(other)
    for number in range(3, 6):
        assert one.step(batch(net, number)).loss == other.step(batch(net, number)).loss
    assert facts(one) == facts(other)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_parameters_that_an_update_makes_infinite_are_taken_back(device: str) -> None:
    """The loss and all gradients are finite: only what the parameters become is not."""
    trainer = Trainer(mlp(), solver="sgd", device=device)
    trainer.spec.schedule.base_lr = 0.01
    trainer.step(batch("mlp", 0))
    before = facts(trainer)
    trainer.spec.schedule.base_lr = 3e38
    one = batch("mlp", 1)
    one["data"] *= 1e3
    with pytest.raises(MismatchError, match=r"iteration 1: .* is not finite"):
        trainer.step(one)
    assert facts(trainer) == before


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_large_parameters_are_no_bad_ones(device: str) -> None:
    """The sum of their squares is beyond float32, they are not."""
    model = mlp()
    largest = next(iter(model.graph.parameters.values()))
    assert largest.data is not None
    largest.data = np.full_like(largest.data, 1e20)
    trainer = Trainer(model, solver="sgd", lr=1e-30, device=device)
    given = batch("mlp", 0)
    given["data"][:] = 0
    assert np.isfinite(trainer.step(given).loss)


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_corrections_are_those_of_the_paper(kind: str) -> None:
    spec = TrainingSpec(kind, momentum=0.9, momentum2=0.999)
    for iteration in (0, 1, 9, 999, 100_000):
        b1, b2 = float(np.float32(0.9)), float(np.float32(0.999))
        t = iteration + 1
        first, second = 1 / -np.expm1(t * np.log(b1)), np.sqrt(-np.expm1(t * np.log(b2)))
        got = corrections(spec, iteration)
        np.testing.assert_allclose(got, (first, second, first * second), rtol=2e-7)


def counting() -> Model:
    """A state that grows by its input."""
    graph = Graph("count")
    total = graph.constant(np.zeros(5000, np.float32), DType.FLOAT32, name="total")
    x = graph.add_input("x", DType.FLOAT32, (5000,))
    graph.state.append(State("total", total, total + x))
    graph.outputs = [graph.emit("ReduceSum", total, keepdims=0)]
    return Model(graph=graph)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_recycled_states_live_through_one_run(device: str) -> None:
    run = compile_model(counting(), device=device, mode="train", recycle=True)
    one = {"x": np.ones(5000, np.float32)}
    for number in range(5):
        before = run.live_state
        run.run(one)
        assert (before["total"] == number).all()
        assert (run.state["total"] == number + 1).all()


def test_only_two_arrays_of_a_state_take_turns_on_cpu() -> None:
    run = compile_model(counting(), device="cpu", mode="train", recycle=True)
    one = {"x": np.ones(5000, np.float32)}
    homes = []
    for _ in range(6):
        run.run(one)
        homes.append(run.live_state["total"].ctypes.data)
    assert homes[0::2] == homes[:1] * 3
    assert homes[1::2] == homes[1:2] * 3
    assert homes[0] != homes[1]
