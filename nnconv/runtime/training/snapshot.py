"""What a training run needs to go on where it stopped, whatever file holds it.

A checkpoint format turns a Snapshot into bytes and back; the Trainer knows no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nnconv.schemas.types import Array


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A training run between two iterations.

    `parameters` are by name; `histories[k]` holds the solver's k-th array of each parameter;
    `state` is whatever else the model keeps across runs (BatchNorm's sums). `passes` counts forward
    passes (it decides what dropout drops), `current_step` the steps of the rate's schedule.
    """

    iteration: int
    current_step: int
    passes: int
    parameters: Mapping[str, Array]
    histories: tuple[Mapping[str, Array], ...] = ()
    state: Mapping[str, Array] = field(default_factory=dict)


class SnapshotWriter(Protocol):
    """Keeps a snapshot somewhere, whole or not at all."""

    def __call__(self, snapshot: Snapshot) -> None: ...
