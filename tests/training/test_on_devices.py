"""The Trainer's promises on every device: hooks, bad values, snapshots, whoever computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nnconv
from nnconv.runtime.training import Trainer
from nnconv.schemas.errors import MismatchError
from nnconv.schemas.graph import Graph, Loss, Model
from nnconv.schemas.types import DType

Array = Any
DEVICES = ["reference", "cpu"]
SOLVERS: dict[str, dict[str, Any]] = {
    "sgd": {"solver": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3},
    "nesterov": {"solver": "nesterov", "lr": 0.05, "momentum": 0.9},
    "adam": {"solver": "adam", "lr": 0.01},
}


def net() -> Model:
    """A convolution, a pool, two dense layers, Dropout and the logarithm of a mean of squares,
    whose gradients are final one after the other."""
    random = np.random.default_rng(1)
    graph = Graph("net")

    def weights(name: str, *shape: int) -> Any:
        return graph.add_parameter(name, shape, 0.3 * random.standard_normal(shape).astype("f4"))

    x = graph.add_input("data", DType.FLOAT32, (6, 2, 8, 8))
    y = graph.emit("Conv", x, weights("conv/0", 4, 2, 3, 3), weights("conv/1", 4), outputs=["conv"])
    y = graph.emit("MaxPool", graph.emit("Relu", y), kernel_shape=(2, 2), strides=(2, 2))
    y = graph.emit("Gemm", graph.emit("Flatten", y), weights("ip1/0", 5, 36), transB=1)
    y = graph.emit("nnconv.Dropout", graph.emit("Relu", y, outputs=["ip1"]), ratio=0.4)
    y = graph.emit("Gemm", y, weights("ip2/0", 3, 5), transB=1, outputs=["scores"])
    graph.losses = [Loss(graph.emit("ReduceMean", y * y, keepdims=0, outputs=["loss"]))]
    graph.outputs = [y]
    return Model(graph)


def batch(number: int) -> dict[str, Array]:
    return {"data": np.random.default_rng(number).standard_normal((6, 2, 8, 8)).astype("f4")}


def held(trainer: Trainer) -> dict[str, Array]:
    """All that training changes, as copies."""
    snapshot = trainer.snapshot()
    arrays = {name: np.array(array) for name, array in snapshot.parameters.items()}
    for index, history in enumerate(snapshot.histories):
        arrays |= {f"{index}/{name}": np.array(array) for name, array in history.items()}
    return arrays


def assert_equal(a: dict[str, Array], b: dict[str, Array]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("device", DEVICES)
def test_hooks_come_in_the_order_in_which_gradients_are_final(device: str) -> None:
    seen: list[tuple[str, Array]] = []
    trainer = Trainer(
        net(), device=device, on_gradient=lambda name, a: seen.append((name, np.array(a)))
    )
    trainer.step(batch(0))
    order = [name for name, _ in seen]
    assert sorted(order) == sorted(trainer.parameters)
    assert [name.partition("/")[0] for name in order] == ["ip2", "ip1", "conv", "conv"]


def test_hooks_are_given_the_same_gradients_on_every_device() -> None:
    found: list[dict[str, Array]] = []
    for device in DEVICES:
        seen: dict[str, Array] = {}
        Trainer(net(), device=device, on_gradient=seen.__setitem__).step(batch(0))
        found.append({name: np.array(array) for name, array in seen.items()})
    for name, wanted in found[0].items():
        np.testing.assert_allclose(found[1][name], wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("device", DEVICES)
def test_what_a_hook_changes_is_what_the_update_sees(device: str) -> None:
    def double(name: str, gradient: Array) -> None:
        gradient *= 2

    hooked = Trainer(net(), device=device, solver="sgd", lr=0.1, on_gradient=double)
    plain = Trainer(net(), device=device, solver="sgd", lr=0.2)
    hooked.step(batch(0)), plain.step(batch(0))
    for name in plain.parameters:
        np.testing.assert_allclose(
            held(hooked)[name], held(plain)[name], rtol=1e-5, atol=1e-7, err_msg=name
        )


@pytest.mark.parametrize("passes", [1, 2, 3])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_bad_value_is_named_and_its_iteration_taken_back(
    device: str, solver: str, passes: int
) -> None:
    """The bad value comes in the last pass of the third iteration."""
    trainer = Trainer(net(), device=device, iter_size=passes, **SOLVERS[solver])
    twin = Trainer(net(), device=device, iter_size=passes, **SOLVERS[solver])
    batches = [[batch(10 * i + k) for k in range(passes)] for i in range(4)]
    for each in batches[:2]:
        trainer.step(*each), twin.step(*each)
    bad = [dict(one) for one in batches[2]]
    bad[-1]["data"] = np.full_like(bad[-1]["data"], np.inf)
    with pytest.raises(MismatchError, match=r"iteration 2: '\S+' of \w+ '?\S+'? is not finite"):
        trainer.step(*bad)
    assert trainer.iteration == 2
    assert_equal(held(trainer), held(twin))
    for each in batches[2:]:
        trainer.step(*each), twin.step(*each)
    assert_equal(held(trainer), held(twin))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_run_resumed_on_other_threads_is_bit_equal(device: str, solver: str) -> None:
    options: dict[str, Any] = {"device": device, "iter_size": 2, **SOLVERS[solver]}
    whole, first = Trainer(net(), threads=1, **options), Trainer(net(), threads=2, **options)
    second = Trainer(net(), threads=1, **options)
    steps = [(batch(2 * i), batch(2 * i + 1)) for i in range(6)]
    losses = [whole.step(*each).loss for each in steps]
    before = [first.step(*each).loss for each in steps[:3]]
    second.restore(first.snapshot())
    after = [second.step(*each).loss for each in steps[3:]]
    assert before + after == losses
    assert_equal(held(second), held(whole))


@pytest.mark.parametrize("device", DEVICES)
def test_what_was_handed_out_stays_as_it_was(device: str) -> None:
    trainer = Trainer(net(), device=device, **SOLVERS["sgd"])
    trainer.step(batch(0))
    kept = trainer.snapshot()
    model = trainer.model
    copies = held(trainer), {name: np.array(a) for name, a in model.weights.items()}
    for number in range(1, 4):
        trainer.step(batch(number))
    for name, array in kept.parameters.items():
        assert array.tobytes() == copies[0][name].tobytes(), name
    twin = nnconv.Trainer(net(), device=device, **SOLVERS["sgd"])
    twin.restore(kept)
    for number in range(1, 4):
        twin.step(batch(number))
    assert_equal(held(twin), held(trainer))
