"""Reads solver files: what Caffe's `caffe train -solver` is given, as a TrainingSpec.

A file says more than how to update: which net, from which weights, how long, what to print and
keep. All of it is checked as Caffe checks it; what nothing here obeys is named in the report.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nnconv.converter.caffe.prototxt import print_message
from nnconv.converter.caffe.text import Parsed, parse
from nnconv.converter.caffe.upgrade import upgrade_solver
from nnconv.schemas.errors import InputError, Report
from nnconv.schemas.files import map_file
from nnconv.schemas.training import Schedule, TrainingSpec

_Made = TypeVar("_Made", Schedule, TrainingSpec)

_NETS = ("net", "net_param", "train_net", "train_net_param")
_UNUSED = {
    "test_net": "validation uses the trained net itself",
    "test_net_param": "validation uses the trained net itself",
    "test_state": "validation uses the trained net itself",
    "test_iter": "validation sees every sample that is set aside",
    "test_interval": "validation comes after every epoch",
    "test_compute_loss": "the loss is always computed",
    "test_initialization": "there is no validation before the first update",
    "average_loss": "the loss shown is the mean since the last report",
    "snapshot_prefix": "checkpoints go to the folder of the run",
    "snapshot_format": "checkpoints have one format",
    "snapshot_diff": "gradients are not kept",
    "snapshot_after_train": "a run always ends with a checkpoint",
    "solver_mode": "the device is chosen when training starts",
    "device_id": "the device is chosen when training starts",
    "debug_info": "nothing is printed layer by layer",
    "layer_wise_reduce": "one machine trains",
}
"""What files say and nothing obeys, and what happens instead."""
_MISSED = (
    "test_net",
    "test_net_param",
    "test_state",
    "test_iter",
    "test_interval",
    "snapshot_diff",
)
"""Those of them that somebody may wait for; the others make no difference to anybody."""


@dataclass(frozen=True, slots=True)
class CaffeSolver:
    """A solver file. `net` is the path of the training net as the file has it, or the net itself as
    prototxt (bytes), None where the file names none; `weights` are files to start from.

    `display` and `snapshot` are the updates between two reports and two snapshots, 0 for none;
    `level` and `stages` select layers of the net. `spec.max_iter` is the length of the run.
    """

    file: str
    spec: TrainingSpec
    net: str | bytes | None
    weights: tuple[str, ...] = ()
    display: int = 0
    snapshot: int = 0
    level: int = 0
    stages: tuple[str, ...] = ()

    def find(self, name: str) -> Path:
        """A file that the solver names: Caffe looks in the current folder, this one first beside
        the solver."""
        beside = Path(self.file).parent / name
        return beside if beside.exists() else Path(name)


def read_solver(
    source: str | os.PathLike[str] | bytes, *, strict: bool = False, report: Report | None = None
) -> CaffeSolver:
    """The solver in a prototxt (a path, or its bytes), of any age.

    What training here does not obey is named in `report`. Raises InputError, with line and column,
    for what Caffe refuses: two nets, both `type` and `solver_type`, a policy without what it needs.
    """
    file = "solver" if isinstance(source, bytes) else os.fspath(source)
    report = report if report is not None else Report(file)
    text = source if isinstance(source, bytes) else bytes(map_file(source))
    parsed = parse(text, "SolverParameter", file=file, strict=strict, report=report)
    solver: Any = upgrade_solver(parsed.message, parsed.dialect, parsed.span).message
    for name, instead in _UNUSED.items():
        if any(known.name == name for known, _ in solver.ListFields()):
            say = report.warning if name in _MISSED else report.note
            say(f"{name} is not obeyed: {instead}", parsed.span(name))
    state = solver.train_state
    return CaffeSolver(
        file, _spec(solver, parsed), _net(solver, parsed), _weights(solver), solver.display,
        solver.snapshot, state.level, tuple(state.stage),
    )  # fmt: skip


def _net(solver: Any, parsed: Parsed) -> str | bytes | None:
    given = [name for name in _NETS if solver.HasField(name)]
    if len(given) > 1:
        raise InputError(
            f"the solver has {' and '.join(given)}: Caffe takes exactly one training net",
            span=parsed.span(given[1]),
        )
    if not given:
        return None
    found = getattr(solver, given[0])
    return found if isinstance(found, str) else print_message(found).encode()


def _weights(solver: Any) -> tuple[str, ...]:
    """Each entry may name several files apart by commas."""
    return tuple(name for entry in solver.weights for name in entry.split(",") if name)


def _spec(p: Any, parsed: Parsed) -> TrainingSpec:
    if not p.lr_policy:
        hint = 'lr_policy: "fixed" keeps base_lr; Caffe refuses an empty policy at the first update'
        raise InputError("the solver has no lr_policy", span=parsed.span(), hint=hint)
    if not p.HasField("base_lr"):
        raise InputError("the solver has no base_lr", span=parsed.span())
    schedule = _checked(parsed, lambda: Schedule(
        p.base_lr, p.lr_policy, p.gamma, p.power, p.stepsize, tuple(p.stepvalue), p.max_iter
    ))  # fmt: skip
    return _checked(parsed, lambda: TrainingSpec(
        p.type, schedule, p.momentum, p.momentum2, p.delta, p.rms_decay, p.weight_decay,
        p.regularization_type, p.clip_gradients, p.iter_size, p.max_iter,
        seed=max(p.random_seed, 0),
    ))  # fmt: skip


def _checked(parsed: Parsed, make: Callable[[], _Made]) -> _Made:
    """What `make` makes; an error gets the place of the first field that it names."""
    try:
        return make()
    except InputError as error:
        problem = error.problems[0]
        fields: Any = parsed.message.DESCRIPTOR.fields_by_name
        words = ("type" if word == "solver" else word for word in problem.message.split())
        named = next((word.strip(",:") for word in words if word.strip(",:") in fields), None)
        span = parsed.span() if named is None else parsed.span(named)
        raise InputError(problem.message, span=span, hint=problem.hint) from None
