"""The loop around the step: reports, validation, checkpoints, stopping; what is done when.

Everything happens between steps and nothing of it touches what is learnt, so a run that is
stopped, killed and resumed takes the same steps on the same batches as one that is left alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnconv.runtime.training.checkpoints import non_finite, to_checkpoint
from nnconv.runtime.training.metrics import Lap, Record, Validation, Watcher
from nnconv.schemas.errors import MismatchError, NnconvError

if TYPE_CHECKING:
    from nnconv.runtime.data import Loader
    from nnconv.runtime.training.snapshot import Snapshot
    from nnconv.runtime.training.trainer import Trainer
    from nnconv.schemas.checkpoint import Checkpoint

# since the last report: the sum of losses and their number, as texts in a checkpoint's metadata
LOSS_SUM, LOSS_COUNT = "loss_sum", "loss_count"

Validate = Callable[[int, float], Validation]
"""Called with iteration and epoch between two steps."""


@dataclass(frozen=True, slots=True)
class Timetable:
    """How many updates to make, and after how many to report, validate and save (0: only at the
    end).
    """

    iterations: int
    report: int = 100
    validate: int = 0
    save: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: `finished` is False when it was stopped before its time. `loss` is the last
    that was reported.
    """

    iteration: int
    finished: bool
    loss: float | None
    validation: Validation | None


class Loop:
    """A run: a trainer, its data, and a timetable.

    `save` keeps a checkpoint in place of the one before (None: none is kept); `watchers` are told
    of every record.
    """

    def __init__(
        self,
        trainer: Trainer,
        loader: Loader,
        timetable: Timetable,
        *,
        validate: Validate | None = None,
        watchers: Sequence[Watcher] = (),
        save: Callable[[Checkpoint], None] | None = None,
    ) -> None:
        self.trainer = trainer
        self.loader = loader
        self.timetable = timetable
        self._validate = validate
        self._keep = save
        self._watchers = watchers
        self._passes = trainer.spec.iter_size
        self._stopping = False
        self._sum, self._count = 0.0, 0
        self._last: Validation | None = None
        self._last_loss: float | None = None
        self._rate = trainer.spec.schedule.base_lr
        self._saved = -1

    def stop(self) -> None:
        """Ask the run to save and stop after the step it is at; safe in a signal handler."""
        self._stopping = True

    def resume(self, snapshot: Snapshot, facts: Mapping[str, str]) -> None:
        """Go on from a snapshot of a run with the same settings; `facts` is the metadata of its
        checkpoint.
        """
        self.trainer.restore(snapshot)
        self._sum, self._count = float(facts.get(LOSS_SUM, 0)), int(facts.get(LOSS_COUNT, 0))
        self._saved = snapshot.iteration

    def run(self) -> Outcome:
        """Train until the timetable's end or until `stop`.

        Raises MismatchError at the first loss or parameter that is not finite, naming layer and
        iteration; the checkpoint then is of just before.
        """
        self._save()
        start = self.trainer.iteration * self._passes
        stream = self.loader.stream(start, max(start, self.timetable.iterations * self._passes))
        clock = _Clock(self.loader.batch * self._passes)
        try:
            while self.trainer.iteration < self.timetable.iterations and not self._stopping:
                self._step([next(stream) for _ in range(self._passes)], clock)
        finally:
            stream.close()
        self._save()
        finished = self.trainer.iteration >= self.timetable.iterations
        return Outcome(self.trainer.iteration, finished, self._last_loss, self._last)

    def _step(self, batches: Sequence[Mapping[str, Any]], clock: _Clock) -> None:
        table = self.timetable
        try:
            progress = self.trainer.step(*batches)
        except MismatchError as error:
            raise self._diverged(error) from None
        self._rate = progress.rate
        clock.steps += 1
        self._sum, self._count = self._sum + progress.loss, self._count + 1
        done = self.trainer.iteration
        if done % table.report == 0 or done == table.iterations:
            self._report(clock)
        if self._validate and (_due(done, table.validate) or done == table.iterations):
            with clock.paused():
                self._last = self._validate(done, self._epoch())
                self._tell(self._last)
        if _due(done, table.save):
            with clock.paused():
                self._save()

    def _report(self, clock: _Clock) -> None:
        self._last_loss = self._sum / self._count
        self._sum, self._count = 0.0, 0
        speed, seconds = clock.lap()
        done, epoch = self.trainer.iteration, self._epoch()
        self._tell(Lap(done, epoch, self._last_loss, self._rate, speed, seconds))

    def _epoch(self) -> float:
        return self.loader.epoch(self.trainer.iteration * self._passes)

    def _tell(self, record: Record) -> None:
        for watcher in self._watchers:
            watcher.saw(record)

    def _save(self) -> None:
        if self._keep is None or self._saved == self.trainer.iteration:
            return
        checkpoint = to_checkpoint(self.trainer.snapshot(), self.trainer.spec.solver)
        if bad := non_finite(checkpoint):
            what = f"'{bad}' is not finite after iteration {checkpoint.iteration - 1}"
            raise MismatchError(what, hint=self._advice())
        checkpoint.metadata |= {LOSS_SUM: repr(self._sum), LOSS_COUNT: str(self._count)}
        self._keep(checkpoint)
        self._saved = checkpoint.iteration

    def _diverged(self, error: NnconvError) -> MismatchError:
        """The trainer has taken the bad step back: what it holds is the last good state."""
        self._save()
        return MismatchError(error.problems[0].message, hint=self._advice())

    def _advice(self) -> str:
        """What to do about a run that diverged."""
        kept = f"; the checkpoint of iteration {self._saved} is kept" if self._saved >= 0 else ""
        return f"the rate was {self._rate:g}: try a tenth of it, or clip gradients{kept}"


def _due(iteration: int, every: int) -> bool:
    return every > 0 and iteration % every == 0


class _Clock:
    """Time spent in steps, without what validation and saving take."""

    def __init__(self, samples: int) -> None:
        self.steps = 0
        self._samples = samples
        self._start = self._lap = time.monotonic()
        self._away = 0.0

    def lap(self) -> tuple[float, float]:
        """Samples a second since the last lap, and seconds since the start."""
        now = time.monotonic()
        busy = now - self._lap - self._away
        speed = self.steps * self._samples / busy if busy > 0 else math.nan
        self.steps, self._lap, self._away = 0, now, 0.0
        return speed, now - self._start

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self._away += time.monotonic() - start
