"""Models that other people trained, run at every recorded size from one import
(models/README.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnconv.converter.caffe.layers import READERS
from nnconv.converter.caffe.reader import import_files
from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Model
from tests.golden.harness import DEVICES, Array
from tests.places import shared


@dataclass(frozen=True)
class Published:
    """A model as published, and what its model.json says of it."""

    folder: Path
    facts: Any

    @property
    def files(self) -> list[Path]:
        """Net and weights; of several nets the one made for deployment."""
        nets = sorted(self.folder.glob("*.prototxt"))
        made = [path for path in nets if path.name == "deploy_made_here.prototxt"]
        return [*self.folder.glob("*.caffemodel*"), *(made or nets)]

    @property
    def covered(self) -> bool:
        return bool(self.facts["layer_types_deploy"].keys() <= READERS.keys())

    def model(self) -> Model:
        return import_files(self.files)

    def __str__(self) -> str:
        return self.folder.name

    def __hash__(self) -> int:
        return hash(self.folder)


@cache
def published() -> list[Published]:
    folders = sorted(path.parent for path in shared("models", "caffe").glob("*/model.json"))
    return [
        Published(path, json.loads((path / "model.json").read_text("utf-8"))) for path in folders
    ]


MODELS = [model for model in published() if model.covered]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("published", MODELS, ids=str)
def test_a_published_model_gives_the_recorded_outputs(published: Published, device: str) -> None:
    assert_recorded(published, DEVICES[device])


def assert_recorded(published: Published, options: Mapping[str, Any]) -> None:
    executable = compile_model(published.model(), **options, outputs=outputs(published))
    for case in published.facts["reference"]["cases"]:
        with np.load(published.folder / case["file"]) as stored:
            arrays = {key: stored[key] for key in stored.files}
        inputs = {key[3:]: array for key, array in arrays.items() if key.startswith("in/")}
        results = executable.run(inputs)
        for name, limits in case["suggested_tolerance"].items():
            assert_near(
                thinned(np.asarray(results[name]), case, name), arrays[f"out/{name}"], limits
            )


def outputs(published: Published) -> list[str]:
    return list(published.facts["reference"]["cases"][0]["suggested_tolerance"])


def thinned(array: Array, case: Any, name: str) -> Array:
    """Every stride-th element, where only those are stored."""
    rule = case.get("subsample", {}).get(f"out/{name}")
    return array.ravel()[:: rule["stride"]] if rule else array


def assert_near(got: Array, reference: Array, limits: Any) -> None:
    assert got.shape == reference.shape
    np.testing.assert_allclose(got, reference, rtol=limits["rtol"], atol=limits["atol"])
