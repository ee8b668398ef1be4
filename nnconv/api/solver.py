"""Caffe's solver files in the hands of users: their net, and the settings of a run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nnconv.converter.caffe.solver import CaffeSolver, read_solver
from nnconv.runtime.data.datasets import DATA
from nnconv.schemas.errors import InputError, Report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nnconv.api.files import AnyPath
    from nnconv.runtime.data import Dataset
    from nnconv.schemas.graph import Model

__all__ = ["CaffeSolver", "load_net", "read_solver", "run_settings"]


def load_net(
    solver: CaffeSolver,
    weights: AnyPath | None = None,
    *,
    data: Dataset | None = None,
    report: Report | None = None,
    **options: Any,
) -> Model:
    """The net that a solver file trains, with the weights that it starts from (`weights` instead of
    those that it names). What its data layers would find out about sizes is taken from `data`;
    `options` are those of reading a Caffe net: mean, scale, labels.

    Raises InputError where the file names no net, and what reading the net raises.
    """
    if solver.net is None:
        raise InputError(f"{solver.file}: the solver names no net", hint="give MODEL")
    net: AnyPath | bytes = solver.net
    if isinstance(net, str):
        net = solver.find(net)
    start: Sequence[AnyPath]
    start = [weights] if weights is not None else [solver.find(name) for name in solver.weights]
    options |= {"level": solver.level, "stages": solver.stages}
    try:
        return _read(net, start, report, options)
    except InputError:
        sizes = () if data is None else data.shapes.get(DATA, ())
        if not sizes:
            raise
        return _read(net, start, report, options | {"shapes": {DATA: (1, *sizes)}})


def _read(
    net: AnyPath | bytes, weights: Sequence[AnyPath], report: Report | None, options: dict[str, Any]
) -> Model:
    """The net; the report is left alone where it cannot be read."""
    from nnconv.converter.caffe.reader import import_caffe

    findings = Report("" if report is None else report.subject)
    model = import_caffe(net, weights, phase="train", report=findings, **options)
    if report is not None:
        report.problems.extend(findings.problems)
    return model


def run_settings(solver: CaffeSolver) -> dict[str, Any]:
    """A solver file as fields of `finetune.Settings`: the update rule, its rate, the length of the
    run, and the updates between reports and checkpoints."""
    rule = asdict(solver.spec)
    schedule = rule.pop("schedule")
    kind, seed = rule.pop("solver"), rule.pop("seed")
    settings = {**schedule, **rule}
    if not settings["max_iter"]:
        del settings["max_iter"]  # the length of the run then is whatever it comes to
    given = {"seed": seed, "iterations": solver.spec.max_iter, "every": solver.snapshot}
    given["report"] = solver.display
    stated = {name: value for name, value in given.items() if value > 0}
    return {"solver": kind, "solver_settings": settings, **stated}
