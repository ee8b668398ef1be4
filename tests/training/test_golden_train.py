"""Training runs of real Caffe repeated step by step: parameters after 1, 2, 10 and 50 updates,
rates, losses, first gradients and histories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.converter.caffe.layers import READERS
from nnconv.runtime.training import Trainer
from nnconv.runtime.training.solvers import SOLVERS
from tests.golden.harness import Array, Case, relative_l2, sampled
from tests.training.golden import RUNS, Run, is_covered, parameter

COVERED = [case for case in RUNS if is_covered(case, READERS)]
UPDATES = (1, 2, 10, 50)


def is_large(case: Case) -> bool:
    """LeNet on real digits: after 10 updates its runs part by themselves (golden/README.md)."""
    return bool(case.entry["feed"] == "mnist")


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("case", COVERED, ids=str)
def test_a_run_of_caffe_is_repeated(case: Case, device: str) -> None:
    run = Run(case)
    trainer = Trainer(run.model, solver=run.spec, device=device)
    yardstick = case.entry["ulp_yardstick"]
    passes = 0
    while trainer.iteration < (10 if is_large(case) else 50):
        batches = [run.batch(passes + k) for k in range(run.spec.iter_size)]
        passes += len(batches)
        progress = trainer.step(*batches)
        number = progress.iteration
        rates = run.arrays["lr"]  # Caffe's poly subtracts in float32
        assert progress.rate == pytest.approx(rates[number], rel=1e-6, abs=1e-7 * float(rates[0]))
        wanted = run.arrays["loss"][number]
        noise = yardstick["loss_max_abs_to_10" if number < 10 else "loss_max_abs"]
        assert abs(progress.loss - wanted) <= max(1e-6 * abs(wanted), 10 * noise)
        if trainer.iteration in UPDATES:
            limit = max(1e-6, 10 * yardstick["param_rel_l2"][str(trainer.iteration)])
            for facts in case.entry["params"]:
                got, reference = run.compared(trainer, facts["key"])
                assert relative_l2(got, reference) <= limit, f"{facts['key']} after {number + 1}"


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("case", COVERED, ids=str)
def test_the_first_gradients_are_those_of_caffe(case: Case, device: str) -> None:
    run = Run(case)
    seen: dict[str, Array] = {}
    if run.spec.iter_size > 1:  # the record is of one pass
        run.spec.iter_size = 1
    trainer = Trainer(
        run.model,
        solver=run.spec,
        device=device,
        on_gradient=seen.setdefault,  # type: ignore[arg-type]
    )
    trainer.step(run.batch(0))
    largest = max(np.linalg.norm(gradient) for gradient in seen.values())
    for key, reference in stored(run, "grad0/").items():
        name = parameter(run.model.graph, key).name
        if name in seen:  # a frozen parameter has none here
            got = taken(seen[name], reference)
            bound = 1e-5 * max(float(np.linalg.norm(reference)), 1e-2 * float(largest))
            assert np.linalg.norm(got - reference) <= bound, key


PLAIN = [case for case in COVERED if "frozen" not in case.name and not case.name.startswith("bn_")]


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_histories_are_those_of_caffe(case: Case) -> None:
    """In the order of the parameters, all of the first kind, then all of the second."""
    run = Run(case)
    trainer = Trainer(run.model, solver=run.spec, device="reference")
    for number in range(2):
        passes = range(number * run.spec.iter_size, (number + 1) * run.spec.iter_size)
        trainer.step(*map(run.batch, passes))
    snapshot = trainer.snapshot()
    assert len(snapshot.histories) == SOLVERS[run.spec.solver].histories
    ours = [array for held in snapshot.histories for array in held.values()]
    theirs = stored(run, "hist2/")
    assert len(ours) == len(theirs)
    limit = max(1e-5, 10 * case.entry["ulp_yardstick"]["param_rel_l2"]["2"])
    for place, array in enumerate(ours):
        reference = theirs[str(place)]
        assert relative_l2(taken(array, reference), reference) <= limit, place


def stored(run: Run, prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): a for k, a in run.arrays.items() if k.startswith(prefix)}


def taken(array: Array, reference: Array) -> Array:
    """All of an array, or those elements that a record keeps of a large one."""
    got = array if array.size == reference.size else sampled(array, reference.size)
    return got.reshape(reference.shape)
