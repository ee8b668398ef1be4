"""The example of fine-tuning, and the recipe of the zoo."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nnconv
from nnconv.api.finetune import Settings, choose_solver
from nnconv.runtime import data
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


@pytest.fixture
def recipe() -> Path:
    return REPOSITORY / "nnconv" / "zoo" / "recipes" / "lenet.yaml"


def test_the_recipe_is_the_net_that_ships(recipe: Path) -> None:
    ours, shipped = nnconv.load(recipe), nnconv.load("zoo:lenet")
    shapes = [
        {name: value.shape for name, value in model.parameters.items()} for model in (ours, shipped)
    ]
    assert shapes[0] == shapes[1]
    assert ours.preprocessing["data"].scale == shipped.preprocessing["data"].scale


def test_the_recipe_brings_its_solver(recipe: Path) -> None:
    model = nnconv.load(recipe)
    spec = Settings(**choose_solver(model, None, {})).spec(10_000)
    assert (spec.solver, spec.momentum, spec.weight_decay) == ("SGD", 0.9, 0.0005)
    schedule = spec.schedule
    assert (schedule.policy, schedule.base_lr, schedule.gamma) == ("inv", 0.01, 0.0001)
    asked = choose_solver(model, "adam", {"lr": 0.5})
    assert asked == {"solver": "adam", "solver_settings": {"lr": 0.5}}


def test_the_recipe_learns_digits_in_a_hundred_steps(recipe: Path) -> None:
    digits = data.open_dataset(shared("data", "mnist")).read(np.arange(3200))
    done = nnconv.finetune(recipe, data.ArrayDataset(digits), epochs=2, batch=64, val=0, seed=1)
    test_digits = data.open_dataset(shared("data", "mnist"), "test").read(np.arange(1000))
    found = nnconv.evaluate(done.model, data.ArrayDataset(test_digits))
    assert done.outcome.iteration == 100
    assert found.accuracy is not None
    assert found.accuracy > 0.85
