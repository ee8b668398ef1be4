"""Whole networks with recipe weights: imported, run, and compared with real Caffe."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from nnconv.converter.caffe.reader import import_caffe
from nnconv.converter.caffe.writer import export_caffe
from nnconv.runtime.executor import compile_model
from nnconv.schemas.dims import evaluate_shape
from nnconv.schemas.graph import Model
from tests.golden.harness import (
    DEVICES,
    Case,
    covered,
    recipe_input,
    recipe_inputs,
    recipe_parameters,
    relative_l2,
    sampled,
    set_parameters,
)

NETS = covered("nets")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", NETS, ids=str)
def test_a_net_computes_what_caffe_computes(case: Case, device: str) -> None:
    model = case.model()
    set_parameters(model, recipe_parameters(case, model))
    stored = case.arrays()
    wanted = [key[4:] for key in stored if key.startswith("out/")]
    results = compile_model(model, **DEVICES[device], mode=case.phase, outputs=wanted).run(
        recipe_inputs(case)
    )
    for name in wanted:
        facts = case.entry["arrays"][f"out/{name}"]
        got = np.asarray(results[name])
        assert list(got.shape) == facts["shape"], name
        if "sub" in facts:
            got = sampled(got, facts["sub"])
        limit = max(1e-5, 10 * facts["ulp_rel_l2"])
        assert relative_l2(got, stored[f"out/{name}"]) <= limit, name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", NETS, ids=str)
def test_a_doubled_batch_gives_what_caffe_gave_twice(case: Case, device: str) -> None:
    """Every net at a second size, from the same import: losses are means, batch statistics and
    Accuracy do not change either, so the record of the single batch tells all."""
    model = case.model()
    set_parameters(model, recipe_parameters(case, model))
    stored = case.arrays()
    wanted = [key[4:] for key in stored if key.startswith("out/")]
    inputs = {
        name: np.concatenate([x, x], batch_axis(model, name))
        for name, x in recipe_inputs(case).items()
    }
    results = compile_model(model, **DEVICES[device], mode=case.phase, outputs=wanted).run(inputs)
    for name in wanted:
        facts = case.entry["arrays"][f"out/{name}"]
        got = np.asarray(results[name])
        pairs = zip(got.shape, facts["shape"], strict=True)
        doubled = [axis for axis, (size, before) in enumerate(pairs) if size != before]
        for half in np.split(got, 2, doubled[0]) if doubled else [got]:
            assert list(half.shape) == facts["shape"], name
            seen = sampled(half, facts["sub"]) if "sub" in facts else half
            limit = max(1e-5, 10 * facts["ulp_rel_l2"])
            assert relative_l2(seen, stored[f"out/{name}"]) <= limit, name


def batch_axis(model: Model, name: str) -> int:
    """Where an input counts items: in sequences behind the steps."""
    return [str(size) for size in model.graph.values[name].known_shape].index("N")


SECOND_SIZES = {
    "lenet": {"N": 3},
    "cifar10_quick": {"N": 5},
    "cifar10_full": {"N": 5},
    "squeezenet_v11": {"H": 160, "W": 99},
    "resnet18": {"N": 3},
    "mobilenet_v1": {"N": 3},
    "fcn8s": {"H": 56, "W": 40},
}
"""Another size for free names of a net; N, H and W of all inputs that share them change
together."""


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SECOND_SIZES)
def test_a_net_runs_at_another_size_from_the_same_import(
    name: str, device: str, tmp_path: Path
) -> None:
    """The oracle is OpenCV, which is given the net written for the other size; its convolutions are
    Winograd's where they can be, hence the tolerance."""
    (case,) = [case for case in NETS if case.name == name]
    model = case.model()
    set_parameters(model, recipe_parameters(case, model))
    (value,) = model.inputs
    sizes = model.graph.sizes | SECOND_SIZES[name]
    assert sizes != model.graph.sizes
    shape = evaluate_shape(value.known_shape, sizes)
    picture = recipe_input("unit", f"second/{name}", shape)
    results = compile_model(model, **DEVICES[device], mode="test").run({value.name: picture})

    resized = import_caffe(case.prototxt, shapes={value.name: shape})
    set_parameters(resized, model.weights)
    export_caffe(resized, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    oracle = cv2.dnn.readNetFromCaffe(
        str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel")
    )
    oracle.setInput(picture)
    for output in model.outputs:
        reference = np.asarray(oracle.forward(output.name))
        got = np.asarray(results[output.name])
        assert got.shape == evaluate_shape(output.known_shape, sizes) == reference.shape
        assert relative_l2(got, reference) <= 1e-4
