"""A sound model passes; each way of breaking one is found and named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from nnconv.schemas.graph import Loss, Model, Preprocessing
from nnconv.schemas.types import DType
from nnconv.schemas.validate import validate
from tests.schemas.sample import sample


def test_a_sound_model_has_nothing_to_report() -> None:
    report = validate(sample())
    assert report.ok and not report.problems


def conv(model: Model) -> dict[str, object]:
    return next(node for node in model.graph.nodes if node.op == "Conv").attributes


def first(model: Model, op: str):  # type: ignore[no-untyped-def]
    return next(node for node in model.graph.nodes if node.op == op)


BREAKS: dict[str, tuple[Callable[[Model], object], str]] = {
    "attribute of another type": (lambda m: conv(m).update(strides=2.5), "should be of type ints"),
    "attribute nobody knows": (lambda m: conv(m).update(stride=(2, 2)), "no attribute 'stride'"),
    "required attribute": (
        lambda m: (
            first(m, "Clip").__setattr__("op", "Cast")
            or first(m, "Cast").inputs.__delitem__(slice(1, None))
        ),
        "needs the attribute",
    ),
    "input missing": (lambda m: first(m, "Conv").set_input(0, None), "input X is missing"),
    "used before made": (
        lambda m: first(m, "Conv").set_input(0, m.graph.values["scores"]),
        "used before it is made",
    ),
    "types differ": (
        lambda m: setattr(m.graph.values["conv/1"], "dtype", DType.FLOAT64),
        "must agree",
    ),
    "type not allowed": (
        lambda m: setattr(m.graph.values["data"], "dtype", DType.BOOL),
        "cannot be bool",
    ),
    "data differs": (
        lambda m: setattr(m.graph.values["table"], "data", np.zeros(3)),
        "another kind",
    ),
    "state shape": (lambda m: setattr(m.graph.state[0].write, "shape", (7,)), "next run is 7"),
    "state type": (lambda m: setattr(m.graph.state[0].write, "dtype", DType.INT32), "is int32"),
    "state twice": (lambda m: m.graph.state.append(m.graph.state[0]), "2 states are called"),
    "state start": (
        lambda m: setattr(m.graph.state[0], "read", m.graph.values["scores"]),
        "no start",
    ),
    "output": (
        lambda m: m.graph.outputs.append(sample().graph.values["scores"]),
        "made by no node",
    ),
    "loss": (
        lambda m: m.graph.losses.append(Loss(sample().graph.values["loss"])),
        "made by no node",
    ),
    "layer parameter": (
        lambda m: setattr(m.graph.layers[0], "parameters", ("gone",)),
        "does not exist",
    ),
    "preprocessing": (lambda m: m.preprocessing.update(other=Preprocessing()), "no input"),
    "too many outputs": (
        lambda m: first(m, "Clip").outputs.append(m.graph.values["x"]),
        "outputs at most",
    ),
}


@pytest.mark.parametrize(("change", "words"), BREAKS.values(), ids=BREAKS)
def test_what_is_broken_is_named(change: Callable[[Model], object], words: str) -> None:
    model = sample()
    change(model)
    report = validate(model)
    assert not report.ok
    assert any(words in problem.message for problem in report.errors), str(report)


def test_problems_name_the_source_layer() -> None:
    model = sample()
    conv(model)["strides"] = "two"
    (problem,) = validate(model).errors
    assert problem.message.startswith("layer 'conv' (Convolution)") and problem.span is not None
    assert (problem.span.file, problem.span.line) == ("net.prototxt", 3)


def test_a_size_without_a_default_is_a_warning() -> None:
    model = sample()
    del model.graph.sizes["H"]
    report = validate(model)
    assert report.ok and [problem.severity for problem in report] == ["warning"]
