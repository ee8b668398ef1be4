"""Training runs of real Caffe on an OpenCL device, in both of its forms: two runs each time, all of
them with NNCONV_FULL=1.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from nnconv.converter.caffe.layers import READERS
from nnconv.runtime.training import Trainer
from tests.golden.harness import Case, relative_l2
from tests.training.golden import RUNS, Run, is_covered

SAMPLED = 2
COVERED = [case for case in RUNS if is_covered(case, READERS)]
CASES = COVERED if os.environ.get("NNCONV_FULL") else COVERED[:SAMPLED]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_of_caffe_is_repeated(case: Case, device: Any) -> None:
    """Parameters after 1, 2 and 10 updates within the rule of golden/README.md, as on cpu."""
    run = Run(case)
    trainer = Trainer(run.model, solver=run.spec, device=device)
    yardstick = case.entry["ulp_yardstick"]["param_rel_l2"]
    passes = 0
    while trainer.iteration < 10:
        batches = [run.batch(passes + k) for k in range(run.spec.iter_size)]
        passes += len(batches)
        trainer.step(*batches)
        if (done := trainer.iteration) in (1, 2, 10):
            for facts in case.entry["params"]:
                got, reference = run.compared(trainer, facts["key"])
                limit = max(1e-6, 10 * yardstick[str(done)])
                assert relative_l2(got, reference) <= limit, f"{facts['key']} after {done}"
