"""Formats x models: in -> IR -> out -> in gives equal outputs and bit-equal weights, and what a
format cannot hold is said."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import nnconv as door
from nnconv.api.convert import convert, random_feeds, run, same_bits
from nnconv.converter.formats import FORMATS, read_weights
from nnconv.converter.yaml.reader import import_yaml
from nnconv.schemas.errors import Report
from nnconv.schemas.graph import Model
from tests.places import REPOSITORY, shared

YAML = b"""
name: branches
input: {x: [N, 4, 12, 12]}
sizes: {N: 2}
layers:
  - stem: conv 8 3x3 pad 1
  - relu
  - block:
      repeat: 2
      layers:
        - a: conv 8 3x3 pad 1 no_bias
        - act: leaky_relu 0.1
        - out: {op: add, inputs: [in, act]}
  - pooled: average 2x2 /2
  - wide: {op: conv, inputs: [block], channels: 8, kernel: 2, stride: 2}
  - both: {op: concat, inputs: [pooled, wide]}
  - global_average
  - top: dense 5
  - softmax
"""
GOLDEN = ("lenet", "cifar10_full", "squeezenet_v11", "mnist_autoencoder")
MODELS = ("zoo", "branches", "nevermind", *GOLDEN)
WHOLE = ("nnir", "nnirtxt", "onnx", "yaml", "prototxt", "caffemodel")
WEIGHTS = ("npz", "pb", "safetensors")
# Caffe calls parameters after their layer, and a layer after what it makes
RENAMED = {("nevermind", "prototxt"), ("nevermind", "caffemodel")}
CAFFE = ("prototxt", "caffemodel")
LEFT_OUT = {"onnx": "the labels are not written"}


@cache
def model(name: str) -> Model:
    if name == "zoo":
        return door.load("zoo:lenet")
    if name == "branches":
        made = import_yaml(YAML)
    elif name == "nevermind":
        home = shared("golden", "nevermind")
        return door.load([home / "models/m_4_5_4_3.yaml", home / "state/s_4_5_4_3.pb"])
    else:
        made = door.load(shared("golden", "nets", f"{name}.prototxt"))
    random = np.random.default_rng(7)
    for value in made.parameters.values():
        shape = tuple(int(str(size)) for size in value.known_shape)
        scale = np.sqrt(2 / max(1, int(np.prod(shape[1:]))))
        value.data = (random.standard_normal(shape) * scale).astype(np.float32)
    return made


@cache
def feeds(name: str) -> dict[str, np.ndarray]:
    return random_feeds(model(name))


@cache
def outputs(name: str) -> list[np.ndarray]:
    return run(model(name), feeds(name))


@pytest.mark.parametrize("suffix", WHOLE)
@pytest.mark.parametrize("name", MODELS)
def test_models_mean_the_same_after_a_round_trip(tmp_path: Path, name: str, suffix: str) -> None:
    report, target = Report(), tmp_path / f"m.{suffix}"
    door.save(model(name), target, report=report)
    weights = target.with_suffix(".caffemodel") if suffix == "prototxt" else None
    again = door.load(target, weights)
    if (name, suffix) not in RENAMED:
        assert again.weights.keys() == model(name).weights.keys()
    if suffix not in CAFFE:  # which states one size for each axis
        fixed = "sizes are fixed at" in str(report)
        assert again.graph.sizes == ({} if fixed else model(name).graph.sizes)
    left, right = sorted(model(name).weights.items()), sorted(again.weights.items())
    for (key, array), (_, other) in zip(left, right, strict=True):
        assert same_bits(array, other), key
    for got, wanted in zip(run(again, feeds(name)), outputs(name), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * max(1e-3, float(np.abs(wanted).max())))
    if name == "zoo" and suffix in LEFT_OUT:
        assert LEFT_OUT[suffix] in str(report)


@pytest.mark.parametrize("suffix", WEIGHTS)
@pytest.mark.parametrize("name", MODELS)
def test_weights_come_back_bit_for_bit(tmp_path: Path, name: str, suffix: str) -> None:
    report, target = Report(), tmp_path / f"w.{suffix}"
    door.save(model(name), target, report=report)
    assert "holds weights only" in str(report)
    found = read_weights(target).parameters
    assert found.keys() == model(name).weights.keys()
    assert all(same_bits(array, found[key]) for key, array in model(name).weights.items())


@pytest.mark.parametrize("target", [*WHOLE, *WEIGHTS])
@pytest.mark.parametrize("source", WHOLE)
def test_every_format_converts_to_every_other(tmp_path: Path, source: str, target: str) -> None:
    first = tmp_path / "in" / f"m.{source}"
    first.parent.mkdir()
    door.save(model("zoo"), first)
    files = [first, first.with_suffix(".caffemodel")] if source == "prototxt" else [first]
    done = convert(files, tmp_path / f"out.{target}")
    assert done.difference is not None
    assert done.difference < 1e-5
    assert all(path.exists() for path in done.files)


def test_the_matrix_covers_every_format_that_is_written() -> None:
    written = {form.suffixes[0].lstrip(".") for form in FORMATS if form.writer}
    assert written == {*WHOLE, *WEIGHTS, "state"}  # states hold nevermind-neu's nets only
    documented = (REPOSITORY / "docs/formats.md").read_text("utf-8")
    assert [suffix for suffix in written if f"`.{suffix}`" not in documented] == []
