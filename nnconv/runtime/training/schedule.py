"""The learning rate at each iteration: one line a policy (CAFFE.md section 10)."""

from __future__ import annotations

import math
from collections.abc import Callable

from nnconv.schemas.training import Schedule

Policy = Callable[[Schedule, int], float]

POLICIES: dict[str, Policy] = {
    "fixed": lambda s, i: s.base_lr,
    "step": lambda s, i: s.base_lr * s.gamma ** (i // s.stepsize),
    "exp": lambda s, i: s.base_lr * s.gamma**i,
    "inv": lambda s, i: s.base_lr * (1 + s.gamma * i) ** -s.power,
    "poly": lambda s, i: s.base_lr * (1 - min(i, s.max_iter) / s.max_iter) ** s.power,
    "sigmoid": lambda s, i: s.base_lr / (1 + math.exp(-s.gamma * (i - s.stepsize))),
    "cosine": lambda s, i: (
        s.min_lr
        + (s.base_lr - s.min_lr) * (1 + math.cos(math.pi * min(i, s.max_iter) / s.max_iter)) / 2
    ),
}


class Rate:
    """The rate of a schedule, asked iteration by iteration.

    `current_step` is the number of steps that multistep has taken: Caffe takes at most one an
    iteration, and saves it in a snapshot.
    """

    def __init__(self, schedule: Schedule, current_step: int = 0) -> None:
        self.schedule = schedule
        self.current_step = current_step

    def at(self, iteration: int) -> float:
        s = self.schedule
        if s.policy == "multistep":
            rate = self._multistep(iteration)
        else:
            if s.policy == "step":
                self.current_step = iteration // s.stepsize
            rate = POLICIES[s.policy](s, iteration)
        if iteration < s.warmup:
            rate *= s.warmup_start + (1 - s.warmup_start) * (iteration + 1) / s.warmup
        return rate

    def _multistep(self, iteration: int) -> float:
        s = self.schedule
        if self.current_step < len(s.stepvalue) and iteration >= s.stepvalue[self.current_step]:
            self.current_step += 1
        return s.base_lr * s.gamma**self.current_step
