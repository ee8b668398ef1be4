"""How a model is trained: the solver, its rate over time, and what is done to gradients before it.

Readers of solver files fill a TrainingSpec, the Trainer obeys it. Names and meanings are Caffe's
(CAFFE.md section 10), with AdamW, the cosine policy and warm-up added.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from nnconv.schemas.errors import InputError, did_you_mean

SOLVERS = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam", "AdamW")
POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid", "cosine")
REGULARIZERS = ("L2", "L1")


@dataclass(slots=True)
class Schedule:
    """The rate at each iteration: `policy` over `base_lr`, reached linearly in `warmup` iterations
    from `warmup_start` times that."""

    base_lr: float = 0.01
    policy: str = "fixed"
    gamma: float = 0.1
    power: float = 1.0
    stepsize: int = 1
    stepvalue: tuple[int, ...] = ()
    max_iter: int = 0
    min_lr: float = 0.0
    warmup: int = 0
    warmup_start: float = 0.0

    def __post_init__(self) -> None:
        _one_of("lr_policy", self.policy, POLICIES)
        if self.policy in ("step", "sigmoid") and self.stepsize <= 0:
            raise InputError(f"lr_policy {self.policy} needs a stepsize above 0")
        if self.policy in ("poly", "cosine") and self.max_iter <= 0:
            raise InputError(f"lr_policy {self.policy} needs max_iter")
        growing = ("step", "exp", "inv", "multistep", "sigmoid")
        if self.policy in growing and self.gamma < 0:
            raise InputError(f"gamma must be 0 or more, got {self.gamma}")


@dataclass(slots=True)
class TrainingSpec:
    """All that a training step needs to know besides the model.

    `momentum2`, `delta` and `rms_decay` belong to the solvers that use them. The gradients of
    `iter_size` batches are summed before an update; `clip_gradients` bounds their common L2 norm (0
    or less: off). Weight decay is added to gradients (AdamW: taken off the weights).
    """

    solver: str = "SGD"
    schedule: Schedule = field(default_factory=Schedule)
    momentum: float = 0.0
    momentum2: float = 0.999
    delta: float = 1e-8
    rms_decay: float = 0.99
    weight_decay: float = 0.0
    regularization: str = "L2"
    clip_gradients: float = -1.0
    iter_size: int = 1
    max_iter: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("solver", self.solver, SOLVERS)
        _one_of("regularization_type", self.regularization, REGULARIZERS)
        if self.iter_size < 1:
            raise InputError(f"iter_size must be 1 or more, got {self.iter_size}")
        if self.momentum and self.solver in ("AdaGrad", "RMSProp"):
            raise InputError(f"{self.solver} takes no momentum", hint="Caffe refuses it too")
        if self.solver == "RMSProp" and not 0 <= self.rms_decay < 1:
            raise InputError(f"rms_decay must be from 0 to below 1, got {self.rms_decay}")

    @classmethod
    def named(cls, solver: str, **settings: Any) -> TrainingSpec:
        """A spec from keywords: `TrainingSpec.named("adam", lr=1e-4, weight_decay=5e-4)`.

        `lr` and `policy` and the other fields of a Schedule may be given beside the spec's own; the
        usual momenta are assumed (0.9 for Adam and AdamW, else 0).
        """
        names = {name.lower(): name for name in SOLVERS}
        if solver.lower() not in names:
            _one_of("solver", solver, SOLVERS)
        if "lr" in settings:
            settings["base_lr"] = settings.pop("lr")
        scheduled = {f.name for f in fields(Schedule)}
        own = {f.name for f in fields(cls)} - {"solver", "schedule"}
        for name in settings:
            if name not in scheduled | own:
                raise InputError(
                    f"a solver has no setting '{name}'", hint=did_you_mean(name, scheduled | own)
                )
        kind = names[solver.lower()]
        if kind.startswith("Adam"):
            settings.setdefault("momentum", 0.9)
        schedule = Schedule(**{k: v for k, v in settings.items() if k in scheduled})
        return cls(kind, schedule, **{k: v for k, v in settings.items() if k in own})


def _one_of(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        hint = did_you_mean(given, known) or f"known are {', '.join(known)}"
        raise InputError(f"{what} '{given}' is not known", hint=hint)
