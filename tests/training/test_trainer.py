"""The Trainer around the update rules: losses by name, several passes, hooks, bad values,
snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import nnconv
from nnconv.runtime.training import Trainer
from nnconv.schemas.errors import InputError, MismatchError
from nnconv.schemas.graph import Graph, Loss, Model, Parameter
from nnconv.schemas.training import TrainingSpec
from nnconv.schemas.types import DType

Array = Any
ADAM: dict[str, Any] = {"solver": "adam", "lr": 0.01, "weight_decay": 0.01}


def linear(**settings: Any) -> Model:
    """y = x w + b with 4 inputs and 3 outputs, and no loss."""
    random = np.random.default_rng(0)
    graph = Graph("linear")
    x = graph.add_input("x", DType.FLOAT32, (5, 4))
    w = graph.add_parameter("fc/0", (4, 3), random.standard_normal((4, 3)).astype("f4"))
    b = graph.add_parameter("fc/1", (3,), np.zeros(3, "f4"), parameter=Parameter(**settings))
    graph.outputs = [graph.emit("Gemm", x, w, b, outputs=["scores"])]
    return Model(graph)


def with_dropout() -> Model:
    model = linear()
    graph = model.graph
    graph.outputs = [graph.emit("nnconv.Dropout", graph.outputs[0], ratio=0.4)]
    return model


def batch(number: int = 0, target: str = "label") -> dict[str, Array]:
    random = np.random.default_rng(100 + number)
    shown = {"label": random.integers(0, 3, 5), "target": random.standard_normal((5, 3))}
    return {"x": random.standard_normal((5, 4)).astype("f4"), target: shown[target].astype("f4")}


def trainer(model: Model | None = None, loss: str | None = "cross_entropy", **rest: Any) -> Trainer:
    return Trainer(model or linear(), loss=loss, device="reference", **rest)


def weights(one: Trainer) -> dict[str, Array]:
    return {name: np.array(one.executable.state[name]) for name in one.parameters}


def assert_equal(a: dict[str, Array], b: dict[str, Array]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


TORCH: dict[str, Any] = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.01, "eps": 1e-8}),
}


@pytest.mark.parametrize("solver", TORCH)
def test_solvers_agree_with_pytorch(solver: str) -> None:
    make, settings = TORCH[solver]
    ours = trainer(solver=solver, **{k: v for k, v in settings.items() if k != "eps"})
    w, b = (torch.tensor(array, requires_grad=True) for array in weights(ours).values())
    optimizer = make([w, b], **settings)
    for number in range(20):
        fed = batch(number)
        scores = torch.from_numpy(fed["x"]) @ w + b
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(fed["label"]).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert ours.step(fed).loss == pytest.approx(loss.item(), rel=2e-6)
    for mine, theirs in zip(weights(ours).values(), (w, b), strict=True):
        np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("loss", "target", "formula"),
    [
        ("euclidean", "target", lambda y, t: ((y - t) ** 2).sum() / 10),
        ("sigmoid_cross_entropy", "target",
         lambda y, t: (np.log1p(np.exp(-np.abs(y))) + np.maximum(y, 0) - y * t).sum() / 5),
        ("cross_entropy", "label",
         lambda y, t: -(y[range(5), t.astype(int)] - np.log(np.exp(y).sum(1))).mean()),
    ],
)  # fmt: skip
def test_losses_go_by_name(loss: str, target: str, formula: Any) -> None:
    one = trainer(loss=loss)
    fed = batch(target=target)
    scores = fed["x"].astype("f8") @ weights(one)["fc/0"]
    assert one.step(fed).loss == pytest.approx(formula(scores, fed[target]), rel=1e-6)


def test_cross_entropy_is_taken_before_a_softmax() -> None:
    model = linear()
    model.graph.outputs = [model.graph.emit("Softmax", model.graph.outputs[0], axis=1)]
    assert trainer(model).step(batch()).loss == trainer().step(batch()).loss


def test_a_frozen_parameter_stays() -> None:
    one = trainer(linear(lr_mult=0.0), solver="sgd", lr=1.0)
    one.step(batch())
    assert one.parameters == ("fc/0",)
    assert not one.model.graph.values["fc/1"].data.any()  # type: ignore[union-attr]


def test_the_model_given_is_left_as_it_is() -> None:
    model = linear()
    before = np.array(model.weights["fc/0"])
    one = trainer(model, lr=1.0)
    one.step(batch())
    np.testing.assert_array_equal(model.weights["fc/0"], before)
    assert np.abs(one.model.weights["fc/0"] - before).max() > 0.01


@pytest.mark.parametrize("solver", ["sgd", "adam", "adadelta"])
def test_several_passes_are_one_of_their_mean(solver: str) -> None:
    both = {k: np.concatenate([batch(0)[k], batch(1)[k]]) for k in batch()}
    model = linear()
    model.graph.inputs[0].shape = (10, 4)
    model.graph.outputs[0].shape = (10, 3)
    whole, parts = trainer(model, solver=solver), trainer(solver=solver, iter_size=2)
    for _ in range(3):
        one, two = whole.step(both), parts.step(batch(0), batch(1))
        assert two.loss == pytest.approx(one.loss, rel=1e-6)
    for name, array in weights(whole).items():
        np.testing.assert_allclose(weights(parts)[name], array, rtol=2e-5, atol=1e-6)


def test_an_iteration_takes_as_many_batches_as_it_has_passes() -> None:
    with pytest.raises(InputError, match="takes 2 batches, got 1"):
        trainer(iter_size=2).step(batch())


def test_the_hook_sees_each_gradient_once_and_may_change_it() -> None:
    seen: list[tuple[str, Array]] = []

    def halve(name: str, array: Array) -> None:
        seen.append((name, np.array(array)))
        array *= 0.5

    hooked = trainer(iter_size=2, on_gradient=halve, lr=0.2)
    plain = trainer(iter_size=2, lr=0.1)
    start = weights(plain)
    hooked.step(batch(0), batch(1))
    plain.step(batch(0), batch(1))
    assert sorted(name for name, _ in seen) == ["fc/0", "fc/1"]
    for name, gradient in seen:
        moved = start[name] - weights(plain)[name]
        np.testing.assert_allclose(moved, 0.05 * gradient, rtol=1e-4, atol=1e-7)
    for name, array in weights(plain).items():
        np.testing.assert_allclose(weights(hooked)[name], array, rtol=1e-6)


def test_gradients_come_last_layer_first() -> None:
    seen: list[str] = []
    model = linear()
    graph = model.graph
    w = graph.add_parameter("top/0", (3, 3), np.eye(3, dtype="f4"))
    graph.outputs = [graph.emit("MatMul", graph.outputs[0], w)]
    trainer(model, on_gradient=lambda name, array: seen.append(name)).step(batch())
    assert seen[0] == "top/0"


def test_clipping_bounds_the_common_norm() -> None:
    one = trainer(solver="sgd", lr=1.0, clip_gradients=0.01)
    before = weights(one)
    one.step(batch())
    moved = sum(((weights(one)[name] - before[name]) ** 2).sum() for name in before)
    assert np.sqrt(moved) == pytest.approx(0.01, rel=1e-4)


# --- bad values -----------------------------------------------------------------------------------


def test_a_bad_value_stops_the_training_and_is_named() -> None:
    graph = linear().graph
    scores = graph.outputs[0]
    rooted = graph.emit("Sqrt", scores, outputs=["rooted"])
    graph.losses = [Loss(graph.emit("ReduceSum", rooted, keepdims=0))]
    one = trainer(Model(graph), loss=None)
    start = weights(one)
    with pytest.raises(
        MismatchError, match=r"iteration 0: 'rooted' of Sqrt 'rooted' is not finite"
    ):
        one.step(batch())
    assert_equal(weights(one), start)


def test_a_bad_gradient_is_named_too() -> None:
    graph = linear().graph
    root = graph.emit("Sqrt", graph.outputs[0] * 0.0)  # 0, with a slope of 0 times infinity
    graph.losses = [Loss(graph.emit("ReduceSum", root, keepdims=0))]
    with pytest.raises(MismatchError, match=r"iteration 0: .*grad.* is not finite"):
        trainer(Model(graph), loss=None).step(batch())


# --- snapshots ------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd", "nesterov", "adam", "adadelta"])
def test_a_run_resumed_from_a_snapshot_is_bit_equal(solver: str) -> None:
    settings: dict[str, Any] = {"solver": solver, "policy": "multistep", "stepvalue": (2, 3, 4)}
    whole, first, second = (trainer(with_dropout(), **settings) for _ in range(3))
    for number in range(6):
        whole.step(batch(number))
    for number in range(3):
        first.step(batch(number))
    second.restore(first.snapshot())
    for number in range(3, 6):
        second.step(batch(number))
    assert_equal(weights(second), weights(whole))
    assert second.rate.current_step == whole.rate.current_step


def test_a_snapshot_of_another_solver_is_refused() -> None:
    snapshot = trainer(solver="sgd").snapshot()
    with pytest.raises(InputError, match="Adam keeps 2 histories, the snapshot holds 1"):
        trainer(solver="adam").restore(snapshot)


# --- fit and settings -----------------------------------------------------------------------------


def batches() -> Iterator[dict[str, Array]]:
    yield from map(batch, range(4))


def test_fit_runs_over_the_batches_and_stops_when_told() -> None:
    assert len(trainer().fit(list(batches()), epochs=2)) == 8
    assert len(trainer().fit(list(batches()), epochs=2, iterations=5)) == 5
    assert len(trainer().fit(list(batches()), on_step=lambda p: p.iteration == 1)) == 2
    assert len(trainer(iter_size=2).fit(list(batches()))) == 2


def test_fit_lowers_the_loss() -> None:
    losses = trainer(**ADAM).fit(list(batches()), epochs=50)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "sdg"}, "solver 'sdg' is not known"),
        ({"solver": "sgd", "momentun": 0.9}, "no setting 'momentun'"),
        ({"solver": "rmsprop", "momentum": 0.9}, "RMSProp takes no momentum"),
        ({"policy": "poly"}, "needs max_iter"),
        ({"loss": "crossentropy"}, "no loss called 'crossentropy'"),
        ({"loss": None}, "no loss to train"),
        ({"solver": TrainingSpec(), "lr": 1}, "TrainingSpec is complete"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trainer(**settings)


def test_the_door_has_the_trainer() -> None:
    assert nnconv.Trainer is Trainer
