"""The Trainer: runs training steps over batches, watches for bad values, hands out snapshots.

It owns one Executable of the step graph, whose state is everything that training changes; the
user's model is copied and stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.runtime.executor import compile_model
from nnconv.runtime.ops.hooks import Hook
from nnconv.runtime.ops.registry import subject
from nnconv.runtime.training.losses import add_loss
from nnconv.runtime.training.schedule import Rate
from nnconv.runtime.training.snapshot import Snapshot
from nnconv.runtime.training.solvers import SOLVERS, corrections
from nnconv.runtime.training.step import (
    CORRECTIONS,
    LAST,
    LOSS,
    RATE,
    SQUARES,
    build_step,
    history,
)
from nnconv.schemas.errors import InputError, MismatchError
from nnconv.schemas.graph import Model
from nnconv.schemas.training import TrainingSpec

if TYPE_CHECKING:
    from nnconv.runtime.executor import Executable
    from nnconv.schemas.graph import Node
    from nnconv.schemas.types import Array

Batch = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """One iteration: its number (from 0), the rate it used, and its loss, the mean of its passes.

    `losses` are the model's single losses, unweighted; `outputs` what else was asked for, of the
    last pass.
    """

    iteration: int
    rate: float
    loss: float
    losses: Mapping[str, float] = field(default_factory=dict)
    outputs: Mapping[str, Array] = field(default_factory=dict)


class Trainer:
    """Trains a model: `loss` names one (`cross_entropy`, `euclidean`, `sigmoid_cross_entropy`;
    None: the model's own) of the output `loss_on` (None: the only one), `solver` is a TrainingSpec
    or a name with its `settings` as keywords.

    `on_gradient(name, array)` is called where a parameter's gradient is final, the sum over the
    batches of an iteration, before clipping and decay; it may change the array in place. `outputs`
    names values to be returned from every step. Raises InputError for a model without losses,
    parameters or weights, UnsupportedError for an operator without gradient.

    >>> trainer = Trainer(model, loss="cross_entropy", solver="sgd", lr=0.01)   # doctest: +SKIP
    >>> trainer.step({"data": pictures, "label": classes}).loss                 # doctest: +SKIP
    """

    def __init__(
        self,
        model: Model,
        *,
        loss: str | None = None,
        loss_on: str | None = None,
        solver: str | TrainingSpec = "sgd",
        device: str | None = None,
        threads: int | None = None,
        precision: str = "f32",
        on_gradient: Callable[[str, Array], None] | None = None,
        outputs: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        if isinstance(solver, TrainingSpec) and settings:
            raise InputError(f"a TrainingSpec is complete: {', '.join(settings)} cannot be added")
        self.spec = (
            solver if isinstance(solver, TrainingSpec) else TrainingSpec.named(solver, **settings)
        )
        self.rate = Rate(self.spec.schedule)
        self.iteration = 0
        self._model = _copy(model)
        graph = model.graph.copy()
        if loss is not None:
            add_loss(graph, loss, loss_on)
        self._is_last = False
        self._hook = Hook(self._pass_on(on_gradient)) if on_gradient is not None else None
        self._step = build_step(graph, self.spec, self._hook, outputs)
        self._trained = Model(graph, name=model.name, mode="train")
        self._options: dict[str, Any] = {"device": device, "threads": threads}
        self._options |= {"precision": precision, "mode": "train", "seed": self.spec.seed}
        # what an iteration of several passes started from must outlive more runs than one
        self.executable: Executable = compile_model(
            self._trained, **self._options, recycle=self.spec.iter_size == 1
        )
        own = {RATE, LAST, *CORRECTIONS}
        self._ports = tuple(port for port in self.executable.inputs if port.name not in own)
        known = {LOSS, SQUARES, *self._step.losses}
        self._others = [p.name for p in self.executable.outputs if p.name not in known]
        self._corrected = SOLVERS[self.spec.solver].corrected

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What a batch must hold: name, type and shape of each."""
        return self._ports

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of what is trained, in the model's order."""
        return self._step.parameters

    @property
    def model(self) -> Model:
        """The model with the weights and statistics of now."""
        for name, array in self.executable.state.items():
            value = self._model.graph.values.get(name)
            if value is not None and value.is_stored:
                value.data = array.astype(value.dtype.numpy, copy=False)
        return self._model

    # --- training ---------------------------------------------------------------------------------

    def step(self, *batches: Batch) -> Progress:
        """One iteration over one batch (over `iter_size` of them), and its update.

        Raises MismatchError when a loss or a parameter is no longer finite; the parameters are then
        those of before the step.
        """
        if len(batches) != self.spec.iter_size:
            raise InputError(
                f"an iteration takes {self.spec.iter_size} batches, got {len(batches)}"
            )
        before, passes = self.executable.live_state, self.executable.step
        rate = self.rate.at(self.iteration)
        results = []
        for number, batch in enumerate(batches, 1):
            self._is_last = number == len(batches)
            feeds = self._feeds(batch, rate)
            results.append(result := self.executable.run(feeds))
            if not math.isfinite(result[LOSS]) or (self._is_last and not self._is_sound(result)):
                self._stop(before, passes, batches[:number], rate)
        self.iteration += 1
        return self._progress(results, rate)

    def fit(
        self,
        batches: Iterable[Batch],
        *,
        epochs: int = 1,
        iterations: int | None = None,
        on_step: Callable[[Progress], bool | None] | None = None,
    ) -> list[float]:
        """Train over `batches`, `epochs` times, or until `iterations` are done; the losses, one an
        iteration.

        `on_step` is told of each iteration, and stops the training by returning True. Batches left
        over at the end of an epoch, fewer than iter_size, wait for those of the next.
        """
        losses: list[float] = []
        waiting: list[Batch] = []
        limit = iterations if iterations is not None else self.spec.max_iter or None
        for _ in range(epochs):
            for batch in batches:
                if limit is not None and self.iteration >= limit:
                    return losses
                waiting.append(batch)
                if len(waiting) < self.spec.iter_size:
                    continue
                progress = self.step(*waiting)
                waiting.clear()
                losses.append(progress.loss)
                if on_step is not None and on_step(progress):
                    return losses
        return losses

    # --- snapshots --------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Everything needed to go on from here, as copies."""
        state = self.executable.state
        count = SOLVERS[self.spec.solver].histories
        histories = tuple(
            {name: state[history(index, name)] for name in self.parameters}
            for index in range(count)
        )
        own = {*self.parameters, *(name for name in state if _is_solvers(name))}
        return Snapshot(
            self.iteration, self.rate.current_step, self.executable.step,
            {name: state[name] for name in self.parameters}, histories,
            {name: array for name, array in state.items() if name not in own},
        )  # fmt: skip

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot; raises InputError when it is of another model or solver."""
        count = SOLVERS[self.spec.solver].histories
        if len(snapshot.histories) != count:
            raise InputError(
                f"{self.spec.solver} keeps {count} histories, the snapshot holds "
                f"{len(snapshot.histories)}",
                hint="was it made with another solver?",
            )
        arrays: dict[str, Any] = {**snapshot.parameters, **snapshot.state}
        for index, held in enumerate(snapshot.histories):
            arrays |= {history(index, name): array for name, array in held.items()}
        self.executable.state = arrays
        self.executable.step = snapshot.passes
        self.iteration = snapshot.iteration
        self.rate.current_step = snapshot.current_step

    # --- inside -----------------------------------------------------------------------------------

    def _feeds(self, batch: Batch, rate: float) -> dict[str, Any]:
        """What the step takes of a batch; a batch may hold more."""
        feeds = {port.name: batch[port.name] for port in self._ports if port.name in batch}
        feeds[RATE] = np.array(rate, np.float32)
        if self._corrected:
            values = corrections(self.spec, self.iteration)
            feeds |= zip(CORRECTIONS, values, strict=True)
        if self.spec.iter_size > 1:
            feeds[LAST] = np.array(self._is_last, np.float32)
        return feeds

    def _progress(self, results: list[dict[str, Array]], rate: float) -> Progress:
        def mean(name: str) -> float:
            return sum([_number(result[name]) for result in results]) / len(results)

        parts = {name: mean(name) for name in self._step.losses}
        others = {name: results[-1][name] for name in self._others}
        return Progress(self.iteration - 1, rate, mean(LOSS), parts, others)

    def _pass_on(self, function: Callable[[str, Array], None]) -> Callable[[str, Array], None]:
        def on_gradient(name: str, array: Array) -> None:
            if self._is_last:
                function(name, array)

        return on_gradient

    def _is_sound(self, result: Mapping[str, Array]) -> bool:
        """Whether all parameters are finite; they may be where the sum of their squares is not."""
        if math.isfinite(result[SQUARES]):
            return True
        state = self.executable.live_state
        return all(np.isfinite(state[name]).all() for name in self.parameters)

    def _stop(
        self, before: Mapping[str, Array], passes: int, batches: Sequence[Batch], rate: float
    ) -> None:
        """Take the iteration back and raise the error that names the first bad value."""
        self.executable.state = before
        self.executable.step = passes
        where = self._first_bad(before, passes, batches, rate)
        self._is_last = False
        raise MismatchError(
            f"iteration {self.iteration}: {where}",
            hint="the parameters are those of before; a lower rate or clip_gradients may help",
        )

    def _first_bad(
        self, before: Mapping[str, Array], passes: int, batches: Sequence[Batch], rate: float
    ) -> str:
        """The same passes again with every value shown, up to the first that is not finite."""
        executable = compile_model(self._trained, **self._options, outputs="all")
        executable.state = before
        executable.step = passes
        makers = {v.name: node for node in self._trained.graph.nodes for v in node.outputs}
        for batch in batches:
            for name, array in executable.run(self._feeds(batch, rate)).items():
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    return f"'{name}' of {_maker(makers[name])} is not finite"
        return "a parameter is not finite after the update"


def _number(loss: Array) -> float:
    return float(loss) if loss.ndim == 0 else float(loss.sum(dtype=np.float64))


def _maker(node: Node) -> str:
    return subject(node) if node.layer is not None else (node.name or subject(node))


def _is_solvers(name: str) -> bool:
    return name.startswith(("history/", "sum/"))


def _copy(model: Model) -> Model:
    """The same model over a graph of its own."""
    twin = Model(model.graph.copy(), name=model.name, mode=model.mode)
    twin.preprocessing, twin.labels = dict(model.preprocessing), model.labels
    twin.source, twin.metadata = model.source, dict(model.metadata)
    return twin
