"""Real Caffe's results on an OpenCL device, in both of its forms: one case a layer type and two
nets in every run, all of them with NNCONV_FULL=1 (a kernel takes PoCL about half a second when it
is new).
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from nnconv.runtime.devices.opencl import OpenCLDevice
from nnconv.runtime.executor import compile_model
from tests.golden.harness import (
    Case,
    covered,
    part,
    recipe_inputs,
    recipe_parameters,
    relative_l2,
    sampled,
    set_parameters,
)
from tests.golden.test_layers_forward import check, input_names, inputs

ALL = bool(os.environ.get("NNCONV_FULL"))
TOLERANCE = 1e-4
SAMPLED_NETS = ("lenet", "cifar10_quick")


def layers() -> list[Case]:
    known = [case for folder in ("layers", "fuzz") for case in covered(folder)]
    first: dict[frozenset[str], Case] = {}
    for case in known:
        if len(case.types) == 1:
            first.setdefault(case.types, case)
    return known if ALL else list(first.values())


def nets() -> list[Case]:
    return [case for case in covered("nets") if ALL or case.name in SAMPLED_NETS]


@pytest.mark.parametrize("case", layers(), ids=str)
def test_a_layer_computes_what_caffe_computes(case: Case, device: OpenCLDevice) -> None:
    arrays = case.arrays()
    model = case.model()
    set_parameters(model, part(arrays, "param"))
    wanted = {name for name in part(arrays, "out") if name not in input_names(model)}
    executable = compile_model(model, device=device, mode=case.phase, outputs=sorted(wanted))
    for step in range(case.steps):
        results = executable.run(inputs(model, arrays, step))
        check(case, "out", part(arrays, "out", step), results, wanted)
        check(case, "param_after", part(arrays, "param_after", step), executable.state, None)


@pytest.mark.parametrize("case", nets(), ids=str)
def test_a_net_computes_what_caffe_computes(case: Case, device: OpenCLDevice) -> None:
    model = case.model()
    set_parameters(model, recipe_parameters(case, model))
    stored = case.arrays()
    wanted = [key[4:] for key in stored if key.startswith("out/")]
    executable = compile_model(model, device=device, mode=case.phase, outputs=wanted)
    results = executable.run(recipe_inputs(case))
    for name in wanted:
        facts = case.entry["arrays"][f"out/{name}"]
        got = np.asarray(results[name])
        seen = sampled(got, facts["sub"]) if "sub" in facts else got
        assert list(got.shape) == facts["shape"], name
        assert relative_l2(seen, stored[f"out/{name}"]) <= TOLERANCE, name
