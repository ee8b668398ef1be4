"""Every layer case and random net of real Caffe that the importer covers: gradients of blobs and
parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.devices.base import Device
from nnconv.runtime.executor import compile_model
from tests.golden.harness import Array, Case, covered, distance, part, set_parameters
from tests.gradients.golden import differentiate, prefixed

NOT_COMPARED = frozenset({"caffe-bug", "random"})
IN_PLACE = "in place Caffe's backward reads what forward has overwritten; ours is the derivative"
OURS = {
    "bnll__inplace_quirk": IN_PLACE,
    "clip__inplace_quirk": IN_PLACE,
    "log__inplace_quirk": IN_PLACE,
    "power__inplace_linear_quirk": IN_PLACE,
    "power__inplace_square_quirk": IN_PLACE,
    "lstm__frac_cont": "Caffe takes cont * sigmoid for a sigmoid; ours is the derivative",
    "power__zero_base": "Caffe takes y/x, NaN at x = 0; ours is the derivative",
    "eltwise__prod_unstable_zero": "Caffe takes y/x, NaN at x = 0; ours is the stable product",
}
"""Where the derivative is right and Caffe is not; nothing that was trained can depend on these."""

OVERWRITTEN = {("fuzz_0073", "diff/b7")}
"""What Caffe has written over: Reshape shares the gradient of its bottom, on which the BatchNorm
before it works in place."""

CASES = [
    case for folder in ("layers", "fuzz") for case in covered(folder) if case.entry.get("backward")
]


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_those_of_caffe(case: Case, device: str) -> None:
    assert_gradients(case, device)


def assert_gradients(case: Case, device: str | Device) -> None:
    arrays = case.arrays()
    model = case.model()
    set_parameters(model, part(arrays, "param"))
    silent = set(case.entry.get("noback_tops", ()))
    seeds = [blob for blob in part(arrays, "topdiff") if blob not in silent]
    wanted = prefixed(arrays, "diff", "pdiff")
    if not seeds:  # Silence: nothing leads to an output, so Caffe clears what it could write
        assert not any(array.any() for array in prefixed(arrays, "diff", "pdiff").values())
        return
    names = differentiate(model, seeds, wanted)
    executable = compile_model(model, device=device, mode=case.phase)
    for step in range(case.steps):
        results = executable.run(feeds(executable, arrays, step))
        for name, reference in prefixed(arrays, "diff", "pdiff", step=step).items():
            check(case, name, np.asarray(results[names[name]]), reference)


def feeds(executable: Any, arrays: dict[str, Array], step: int) -> dict[str, Array]:
    """What Caffe was fed; its DummyData layers, inputs here, are among its outputs."""
    known = part(arrays, "out", step) | part(arrays, "in", step)
    known |= prefixed(arrays, "topdiff", step=step)
    return {port.name: known[port.name] for port in executable.inputs}


def check(case: Case, name: str, got: Array, reference: Array) -> None:
    assert got.shape == reference.shape, name
    limit = case.tolerance(name.partition("/")[0])
    ours = case.name in OURS or (case.name, name) in OVERWRITTEN
    if limit is not None and not case.flags & NOT_COMPARED and not ours:
        assert distance(got, reference) <= max(limit, 1e-4), name
