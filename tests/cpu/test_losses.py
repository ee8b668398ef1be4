"""Losses and accuracy of plain values on any axis, against the reference device in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType
from tests.cpu.test_gradient_kernels import agree, numbers, shapes, single

Array = np.ndarray[Any, Any]
NORMALIZATIONS = ["VALID", "FULL", "BATCH_SIZE", "NONE"]
# shape and axis of the classes: lanes along classes, along positions, and both at their ends
SCORES = [((3, 10), 1), ((40, 1000), 1), ((10, 6), 0), ((2, 21, 5, 7), 1), ((2, 3, 4, 33), -1),
          ((5, 19), 0), ((7,), 0)]  # fmt: skip


def over_labels(
    op: str, shape: tuple[int, ...], axis: int, labels: DType, *others: tuple[int, ...],
    outputs: int = 1, **settings: Any,
) -> tuple[Model, dict[str, Array]]:  # fmt: skip
    """A node that reads scores and labels, one of them a class that is ignored where any is."""
    graph, place = Graph(op), axis % len(shape)
    positions = (*shape[:place], *shape[place + 1 :])
    x = graph.add_input("x0", DType.FLOAT32, shape)
    label = graph.add_input("label", labels, positions)
    more = [graph.add_input(f"x{i}", DType.FLOAT32, s) for i, s in enumerate(others, 1)]
    made = graph.emit(op, x, label, *more, axis=axis, outputs=outputs, **settings)
    graph.outputs = [made] if outputs == 1 else list(made)
    drawn = np.random.default_rng(1).integers(0, shape[place], positions)
    feeds = numbers(shape, *others) | {"label": np.asarray(drawn).astype(labels.numpy)}
    return Model(graph=graph), feeds


@pytest.mark.parametrize(("shape", "axis"), SCORES, ids=str)
@pytest.mark.parametrize("ignore", [{}, {"ignore_label": 2}])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("labels", [DType.FLOAT32, DType.INT64, DType.INT32])
def test_softmax_loss_on_any_axis(
    shape: tuple[int, ...], axis: int, ignore: dict[str, int], normalization: str, labels: DType
) -> None:
    settings: dict[str, Any] = {"normalization": normalization, **ignore}
    name = "nnconv.SoftmaxWithLoss"
    agree(*over_labels(name, shape, axis, labels, **settings), kernel="cpu:softmax loss")
    model, feeds = over_labels(f"{name}Grad", shape, axis, labels, (), **settings)
    agree(model, feeds, kernel="cpu:softmax loss gradient")


def test_the_softmax_loss_of_an_image_is_summed_in_pieces() -> None:
    model, feeds = over_labels(
        "nnconv.SoftmaxWithLoss", (2, 5, 200, 230), 1, DType.FLOAT32, normalization="VALID",
        ignore_label=3,
    )  # fmt: skip
    agree(model, feeds, kernel="cpu:softmax loss")


@pytest.mark.parametrize("label", [-1.0, 5.0, 1e20, np.nan])
@pytest.mark.parametrize("shape", [(3, 5), (2, 5, 20)])
def test_a_label_that_is_no_class_makes_loss_and_accuracy_nan(
    label: float, shape: tuple[int, ...]
) -> None:
    for op in ("nnconv.SoftmaxWithLoss", "nnconv.Accuracy"):
        model, feeds = over_labels(op, shape, 1, DType.FLOAT32)
        feeds["label"].reshape(-1)[1] = label
        assert np.isnan(next(iter(compile_model(model, device="cpu").run(feeds).values())))


@pytest.mark.parametrize("label", [-(2**31) - 4, 2**32 + 1, 2**62])
def test_a_large_label_does_not_wrap_into_a_class(label: int) -> None:
    for op in ("nnconv.SoftmaxWithLoss", "nnconv.Accuracy"):
        model, feeds = over_labels(op, (3, 5), 1, DType.INT64)
        feeds["label"][1] = label
        assert np.isnan(next(iter(compile_model(model, device="cpu").run(feeds).values())))


@pytest.mark.parametrize(("shape", "axis"), SCORES, ids=str)
@pytest.mark.parametrize("ignore", [{}, {"ignore_label": 2}])
@pytest.mark.parametrize("top", [1, 3])
@pytest.mark.parametrize("labels", [DType.FLOAT32, DType.INT64])
def test_accuracy_and_that_of_each_class(
    shape: tuple[int, ...], axis: int, ignore: dict[str, int], top: int, labels: DType
) -> None:
    settings: dict[str, Any] = {"top_k": top, **ignore}
    model, feeds = over_labels("nnconv.Accuracy", shape, axis, labels, outputs=2, **settings)
    feeds["x0"] = np.round(feeds["x0"])  # many equal scores
    agree(model, feeds, kernel="cpu:accuracy")


def test_an_accuracy_of_nothing_is_nought() -> None:
    model, feeds = over_labels("nnconv.Accuracy", (4, 3), 1, DType.FLOAT32, ignore_label=1)
    feeds["label"][:] = 1
    assert compile_model(model, device="cpu").run(feeds).popitem()[1] == 0


@pytest.mark.parametrize("shape", [(1,), (3, 7), (4, 3, 11, 13), (5, 30_001)])
@pytest.mark.parametrize("ignore", [{}, {"ignore_label": 0}, {"ignore_label": 1}])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_sigmoid_loss_and_its_gradient(
    shape: tuple[int, ...], ignore: dict[str, int], normalization: str
) -> None:
    settings: dict[str, Any] = {"normalization": normalization, **ignore}
    feeds = numbers(shape, shape, ())
    feeds["x0"] *= 20
    feeds["x1"] = np.round(np.abs(feeds["x1"]), 1)  # fractions are whole numbers to `ignore_label`
    gradient = single("nnconv.SigmoidCrossEntropyLossGrad", shape, shape, (), **settings)
    agree(gradient, feeds, kernel="cpu:sigmoid loss gradient")
    feeds.pop("x2")
    loss = single("nnconv.SigmoidCrossEntropyLoss", shape, shape, **settings)
    agree(loss, feeds, kernel="cpu:sigmoid loss")


@pytest.mark.parametrize(("a", "b"), [((3, 4), (3, 4)), ((2, 3, 4), (2, 12)), ((7, 20_011),) * 2])
def test_euclidean_loss(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    agree(single("nnconv.EuclideanLoss", a, b), numbers(a, b), kernel="cpu:euclidean loss")


def test_a_condition_made_a_number_stays_in_the_chain() -> None:
    graph = Graph("threshold")
    x = graph.add_input("x0", DType.FLOAT32, (3, 50))
    low, high = (graph.constant(number, DType.FLOAT32) for number in (-0.5, 0.5))
    above = graph.emit("Greater", x, low)
    inside = graph.emit("And", above, graph.emit("Less", x, high))
    graph.outputs = [
        graph.emit("Cast", above, to=int(DType.FLOAT32)),
        graph.emit("Cast", inside, to=int(DType.FLOAT32)) * x,
    ]
    feeds = numbers((3, 50))
    agree(Model(graph=graph), feeds, kernel="chain greater")
    steps = compile_model(Model(graph=graph), device="cpu").plan(shapes(feeds)).steps
    assert not [step.kernel for step in steps if step.kernel.startswith("reference")]


@pytest.mark.parametrize("exponent", [0.0, 3.0, -2.0, 5.0, -1.0, 17.0])
def test_whole_powers_of_negative_numbers(exponent: float) -> None:
    graph = Graph("power")
    x = graph.add_input("x0", DType.FLOAT32, (3, 50))
    graph.outputs = [graph.emit("Pow", x, graph.constant(exponent, DType.FLOAT32))]
    agree(Model(graph=graph), numbers((3, 50)), kernel="chain")
