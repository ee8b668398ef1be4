"""The example of fine-tuning, and the recipe of the zoo."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest

import nnconv
from nnconv.api.solver import CaffeSolver, load_net, read_solver, run_settings
from nnconv.runtime import data
from nnconv.schemas.graph import Model
from tests.places import REPOSITORY, shared


def test_few_pictures_are_worth_more_to_a_model_that_knows_a_related_task() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    script = REPOSITORY / "examples" / "finetune_parity.py"
    done = subprocess.run(
        [sys.executable, str(script), str(shared("data", "mnist"))], env=environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = {
        name: float(share) for name, share in re.findall(r"(from \w+): ([\d.]+)%", done.stdout)
    }
    assert set(found) == {"from Caffe", "from ONNX", "from scratch"}
    assert min(found["from Caffe"], found["from ONNX"]) > found["from scratch"] + 3


# -- the zoo's own model

FULL = bool(os.environ.get("NNCONV_FULL"))


@pytest.fixture
def recipe() -> CaffeSolver:
    return read_solver(REPOSITORY / "nnconv" / "zoo" / "recipes" / "lenet_solver.prototxt")


@pytest.fixture(scope="module")
def test_digits() -> data.Dataset:
    return data.open_dataset(shared("data", "mnist"), "test")


def trained(recipe: CaffeSolver, digits: data.Dataset, **settings: Any) -> Model:
    model = load_net(recipe, scale=1 / 256)
    chosen: dict[str, Any] = {**run_settings(recipe), "batch": 64, "val": 0, **settings}
    return nnconv.finetune(model, digits, **chosen).model


def accuracy(model: Model | str, digits: data.Dataset) -> float:
    found = nnconv.evaluate(model, digits).accuracy
    assert found is not None
    return found


def test_the_recipe_trains_the_net_that_ships_as_caffe_did(recipe: CaffeSolver) -> None:
    shipped = nnconv.load("zoo:lenet")
    shapes = [
        {name: value.shape for name, value in model.parameters.items()}
        for model in (load_net(recipe), shipped)
    ]
    assert shapes[0] == shapes[1]
    assert shipped.preprocessing["data"].scale == 1 / 256
    spec, schedule = recipe.spec, recipe.spec.schedule
    assert (spec.solver, schedule.policy, schedule.max_iter) == ("SGD", "inv", 10_000)
    numbers = (spec.momentum, spec.weight_decay, schedule.base_lr, schedule.gamma, schedule.power)
    assert numbers == pytest.approx((0.9, 0.0005, 0.01, 0.0001, 0.75))


def test_the_recipe_learns_digits_in_a_hundred_steps(
    recipe: CaffeSolver, test_digits: data.Dataset
) -> None:
    digits = data.open_dataset(shared("data", "mnist")).read(np.arange(3200))
    model = trained(recipe, data.ArrayDataset(digits), iterations=100)
    assert accuracy(model, data.ArrayDataset(test_digits.read(np.arange(1000)))) > 0.85


@pytest.mark.parametrize("device", ["cpu", "opencl"] if FULL else ["cpu"])
def test_the_recipe_reaches_99_percent(
    device: str, recipe: CaffeSolver, test_digits: data.Dataset
) -> None:
    """The mean of three seeds in a full run (NNCONV_FULL), else the first."""
    digits = data.open_dataset(shared("data", "mnist"))
    found = [
        accuracy(trained(recipe, digits, seed=seed, device=device), test_digits)
        for seed in ((1, 2, 3) if FULL else (1,))
    ]
    assert np.mean(found) >= 0.99


def test_the_shipped_model_is_as_good_as_its_card_says(test_digits: data.Dataset) -> None:
    """In nnconv and in OpenCV, which reads the two files by itself."""
    folder = REPOSITORY / "nnconv" / "zoo" / "models" / "lenet"
    said = re.search(r"accuracy \| ([\d.]+) %", (folder / "MODEL.md").read_text("utf-8"))
    assert said is not None
    card = float(said[1]) / 100
    assert accuracy("zoo:lenet", test_digits) == pytest.approx(card, abs=1e-9)
    net = cv2.dnn.readNetFromCaffe(str(folder / "lenet.prototxt"), str(folder / "lenet.caffemodel"))
    digits = test_digits.read(np.arange(10_000))
    net.setInput(digits["data"].astype(np.float32) / 256)
    right = net.forward().argmax(axis=1) == digits["label"].reshape(-1)
    assert right.mean() == pytest.approx(card, abs=1e-9)
