"""`propagate_down: false` keeps gradients from a bottom, as Caffe's own flags say, and is written
again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnconv
from nnconv.converter.caffe.reader import import_caffe
from nnconv.converter.caffe.writer import to_caffe
from nnconv.runtime.autodiff import gradients
from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Model
from tests.caffe.test_writer import forget_layers, through_nnir
from tests.places import shared

NETS = ["propagate_down_false", "propagate_down_one_of_two", "propagate_down_true_on_input"]


def recorded(name: str) -> Any:
    """How Caffe built a net of golden/graph for training."""
    states = json.loads(shared("golden", "graph", f"{name}.json").read_text("utf-8"))["states"]
    return next(state["net"] for state in states if state["phase"] == "TRAIN")


def net(name: str, before: str = "") -> Model:
    text = shared("golden", "graph", f"{name}.prototxt").read_bytes()
    return import_caffe(before.encode() + text, phase="train")


def reached(model: Model) -> set[str]:
    """The layers whose parameters get a gradient from the loss that is not zero."""
    random = np.random.default_rng(4)
    for value in model.parameters.values():
        shape = tuple(int(str(dim)) for dim in value.known_shape)
        value.data = random.standard_normal(shape, np.float32)
    found = gradients(model.graph)
    model.graph.outputs = list(found.values())
    feeds = {value.name: random.standard_normal((2, 4), np.float32) for value in model.inputs}
    results = compile_model(model, device="reference", mode="train").run(feeds)
    return {
        value.name.rpartition("/")[0]
        for value, gradient in found.items()
        if np.any(results[gradient.name])
    }


@pytest.mark.parametrize("name", NETS)
def test_gradients_reach_the_layers_that_need_backward_in_caffe(name: str) -> None:
    with_parameters = {parameter["layer"] for parameter in recorded(name)["params"]}
    wanted = {
        layer["name"]
        for layer in recorded(name)["layers"]
        if layer["need_backward"] and layer["name"] in with_parameters
    }
    assert reached(net(name)) == wanted


def test_force_backward_outvotes_it() -> None:
    assert reached(net("propagate_down_false", "force_backward: true\n")) == {"a", "b"}


def flags(model: Model) -> dict[str, list[bool]]:
    return {
        layer.name: list(layer.propagate_down)
        for layer in to_caffe(model, weights=False).net.layer
        if layer.propagate_down
    }


WANTED = {"propagate_down_false": {"b": [False]}, "propagate_down_one_of_two": {"e": [True, False]}}


@pytest.mark.parametrize("name", WANTED)
def test_it_is_written_again(name: str, tmp_path: Path) -> None:
    assert flags(net(name)) == WANTED[name]
    assert flags(through_nnir(net(name), tmp_path)) == WANTED[name]
    model = net(name)
    forget_layers(model)
    assert flags(model) == WANTED[name]


@pytest.mark.parametrize("suffix", ["nnir", "yaml"])
def test_other_formats_keep_it(suffix: str, tmp_path: Path) -> None:
    model = net("propagate_down_false")
    for value in model.parameters.values():
        value.data = np.ones([int(str(dim)) for dim in value.known_shape], np.float32)
    nnconv.save(model, tmp_path / f"m.{suffix}")
    again = nnconv.load(tmp_path / f"m.{suffix}")
    assert [node.op for node in again.graph.nodes].count("nnconv.StopGradient") == 1
    assert reached(again) == {"b"}
