"""What of the recorded nets runs on the host, on processors and on graphics cards: nothing but what
inputs point at (places of Embed), and what lies behind sizes that they decide."""

from __future__ import annotations

import pytest

from nnconv.runtime.executor import Executable, compile_model
from tests.cpu.planner import KINDS, Planner
from tests.golden.harness import Array, Case, covered, part, set_parameters
from tests.gradients.golden import differentiate, prefixed
from tests.gradients.test_golden_layers import CASES as WITH_GRADIENTS

CASES = [case for folder in ("layers", "fuzz") for case in covered(folder)]

LOOKED_UP = {"Cast", "Gather", "nnconv.GatherGrad"}
COUNTED = LOOKED_UP | {  # sizes behind a Filter are known to a run only
    "nnconv.Select", "NonZero", "Reshape", "ReduceSumSquare", "Mul", "Concat",
}  # fmt: skip
LEFT = {"Embed": LOOKED_UP, "BatchReindex": LOOKED_UP, "Filter": COUNTED}
"""What has no kernel, by layer type."""


def left(case: Case) -> set[str]:
    return set().union(*(LEFT.get(kind, set()) for kind in case.types))


def on_the_host(planner: Planner) -> set[str]:
    return {called.partition(" ")[0] for called in planner.host}


def plan(executable: Executable, known: dict[str, Array]) -> None:
    executable.plan({port.name: known[port.name].shape for port in executable.inputs})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_recorded_net_is_computed_by_kernels(case: Case, kind: str) -> None:
    arrays, model, planner = case.arrays(), case.model(), Planner(kind)
    set_parameters(model, part(arrays, "param"))
    known = part(arrays, "out") | part(arrays, "in")
    wanted = sorted(set(part(arrays, "out")) - {value.name for value in model.inputs})
    plan(compile_model(model, device=planner, mode=case.phase, outputs=wanted), known)
    assert on_the_host(planner) <= left(case)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", WITH_GRADIENTS, ids=str)
def test_gradients_of_a_recorded_net_are_computed_by_kernels(case: Case, kind: str) -> None:
    arrays, model, planner = case.arrays(), case.model(), Planner(kind)
    set_parameters(model, part(arrays, "param"))
    silent = set(case.entry.get("noback_tops", ()))
    seeds = [blob for blob in part(arrays, "topdiff") if blob not in silent]
    if not seeds:  # nothing leads to an output
        return
    differentiate(model, seeds, prefixed(arrays, "diff", "pdiff"))
    known = part(arrays, "out") | part(arrays, "in") | prefixed(arrays, "topdiff")
    plan(compile_model(model, device=planner, mode=case.phase), known)
    assert on_the_host(planner) <= left(case)
