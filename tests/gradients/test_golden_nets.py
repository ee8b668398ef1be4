"""Whole networks with recipe weights: gradients of parameters and inputs, compared with real
Caffe."""

from __future__ import annotations

import numpy as np
import pytest

from nnconv.runtime.autodiff import gradients
from nnconv.runtime.executor import compile_model
from tests.golden.harness import (
    Case,
    covered,
    recipe_inputs,
    recipe_parameters,
    relative_l2,
    sampled,
    set_parameters,
)
from tests.gradients.golden import first_version, parameter

NEAR_TIE = "googlenet_loss"
"""In channel 251 of inception_4d/3x3 two neighbours are both 145.38365 in float32 (in float64 they
differ by 4e-8 of that); a max pooling takes the left one here, in either precision, and the other
one in Caffe, whose products are added in another order. All that lies before feels it."""

GROUPS = ("pdiff/", "diff/")
NETS = [
    case for case in covered("nets") if any(k.startswith("pdiff") for k in case.entry["arrays"])
]


GAP = pytest.mark.xfail(reason="a max pooling decides a near tie otherwise", strict=True)


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.name, marks=[GAP] if c.name == NEAR_TIE else []) for c in NETS],
)
def test_the_gradients_of_a_net_are_those_of_caffe(case: Case) -> None:
    for key, error, ulp in deviations(case):
        assert error <= max(1e-4, 10 * ulp), key


def test_a_near_tie_decided_otherwise_moves_gradients_by_two_percent_at_most() -> None:
    (case,) = [case for case in NETS if case.name == NEAR_TIE]
    assert max(error for _, error, _ in deviations(case)) <= 0.02


def deviations(case: Case) -> list[tuple[str, float, float]]:
    """For every recorded gradient its name, our relative L2 distance from it, and Caffe's own
    when all that goes in moves by an ulp."""
    model = case.model()
    set_parameters(model, recipe_parameters(case, model))
    stored = {key: a for key, a in case.arrays().items() if key.startswith(GROUPS)}
    graph = model.graph
    targets = {
        key: parameter(graph, key[6:])
        if key.startswith("pdiff/")
        else first_version(graph, key[5:])
        for key in stored
    }
    found = gradients(graph, wrt=targets.values())
    graph.outputs = list(found.values())
    results = compile_model(model, device="reference", mode=case.phase).run(recipe_inputs(case))
    distances = []
    for key, reference in stored.items():
        facts = case.entry["arrays"][key]
        got = np.asarray(results[found[targets[key]].name])
        assert list(got.shape) == facts["shape"], key
        seen = sampled(got, facts["sub"]) if "sub" in facts else got
        distances.append((key, float(relative_l2(seen, reference)), float(facts["ulp_rel_l2"])))
    return distances
