"""Every layer case that the importer covers, run and compared with real Caffe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.executor import compile_model
from tests.golden.harness import DEVICES, Array, Case, covered, distance, part, set_parameters

NOT_COMPARED = frozenset({"caffe-bug", "random"})
OURS = {"relu__nan_inf"}
"""Caffe multiplies by a slope of 0, so that -inf gives NaN; Relu, as everybody else has it,
gives 0."""

CASES = [case for folder in ("layers", "fuzz") for case in covered(folder)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_layer_computes_what_caffe_computes(case: Case, device: str) -> None:
    arrays = case.arrays()
    model = case.model()
    set_parameters(model, part(arrays, "param"))
    wanted = {name for name in part(arrays, "out") if name not in input_names(model)}
    executable = compile_model(model, **DEVICES[device], mode=case.phase, outputs=sorted(wanted))
    for step in range(case.steps):
        results = executable.run(inputs(model, arrays, step))
        check(case, "out", part(arrays, "out", step), results, wanted)
        check(case, "param_after", part(arrays, "param_after", step), executable.state, None)


def input_names(model: Any) -> set[str]:
    return {value.name for value in model.inputs}


def inputs(model: Any, arrays: dict[str, Array], step: int) -> dict[str, Array]:
    """What Caffe was fed; its DummyData layers, inputs here, are among its outputs."""
    known = part(arrays, "out", step) | part(arrays, "in", step)
    return {name: known[name] for name in input_names(model)}


def check(case: Case, group: str, references: dict[str, Array], got: Any, names: Any) -> None:
    for name, reference in references.items():
        if names is not None and name not in names:
            continue
        result = np.asarray(got[name])
        limit = case.tolerance(group)
        assert result.shape == reference.shape, name
        if limit is not None and not case.flags & NOT_COMPARED and case.name not in OURS:
            assert distance(result, reference) <= limit, f"{group}/{name}"
