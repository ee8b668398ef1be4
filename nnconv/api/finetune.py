"""Fine-tuning from start to end: a model, data and a solver in, a trained model out.

A run lives in a folder: the model it started from, its settings, its latest checkpoint and its
figures. Everything else follows from these, so a run that was killed goes on from its folder alone
and ends with the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nnconv.api.datasets import open_data
from nnconv.api.evaluate import judge
from nnconv.api.feeding import Feed, feed
from nnconv.api.files import AnyPath, load, save
from nnconv.api.heads import Head, freeze, head_of, replace_head
from nnconv.converter.checkpoint.files import read_checkpoint, write_checkpoint
from nnconv.converter.yaml.sections import TRAINING
from nnconv.runtime.data import Dataset, split
from nnconv.runtime.training.checkpoints import (
    FILE,
    find_checkpoint,
    from_checkpoint,
    to_checkpoint,
)
from nnconv.runtime.training.fillers import fill_parameters
from nnconv.runtime.training.loop import Loop, Outcome, Timetable
from nnconv.runtime.training.metrics import FILE as METRICS
from nnconv.runtime.training.metrics import MetricsFile, Validation, Watcher
from nnconv.runtime.training.trainer import Trainer
from nnconv.schemas.errors import InputError
from nnconv.schemas.files import atomic_write
from nnconv.schemas.graph import Model
from nnconv.schemas.training import TrainingSpec

MODEL, SETTINGS = "model.nnir", "run.json"
USUAL_RATE = 1e-4
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides a run besides its model and data; kept in the run's folder.

    `scores` names the output that `loss` is of, where the model has several and no loss of its own.
    `solver_settings` are those of `TrainingSpec.named`; `val` is the share of the samples that is
    set aside; `iterations` the updates of the whole run (0: as many as `epochs` take); `every` the
    updates between two checkpoints (0: an epoch); `output` the file that the trained model is meant
    for, as seen from the run's folder, so that both may be moved together.
    """

    data: str = ""
    label: str | None = None
    loss: str | None = None
    scores: str | None = None
    freeze: tuple[str, ...] = ()
    solver: str = "adam"
    solver_settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: float = 5
    iterations: int = 0
    batch: int = 32
    val: float = 0.1
    seed: int = 0
    mirror: bool = False
    jitter: int = 0
    device: str | None = None
    every: int = 0
    report: int = 100
    output: str = ""

    def __post_init__(self) -> None:
        if not self.epochs > 0:
            raise InputError(f"epochs must be more than 0, got {self.epochs:g}")
        if self.iterations < 0:
            raise InputError(f"iterations must not be negative, got {self.iterations}")
        for what in ("batch", "report"):
            if getattr(self, what) < 1:
                raise InputError(f"{what} must be at least 1, got {getattr(self, what)}")

    def spec(self, iterations: int) -> TrainingSpec:
        """The solver's side of a run of so many updates."""
        settings = {"max_iter": iterations, "seed": self.seed, **self.solver_settings}
        return TrainingSpec.named(self.solver, **settings)


@dataclass(frozen=True, slots=True)
class Finetuned:
    """A run that has ended, or was stopped: the model as it is now, and how it came out."""

    model: Model
    outcome: Outcome

    @property
    def validation(self) -> Validation | None:
        return self.outcome.validation


def finetune(
    model: Model | AnyPath,
    data: Dataset | AnyPath,
    output: AnyPath | None = None,
    *,
    head: int | None = None,
    scratch: bool = False,
    run: AnyPath | None = None,
    watchers: Sequence[Watcher] = (),
    **settings: Any,
) -> Finetuned:
    """Train a model further on data, and write it to `output` where given.

    `head` gives its last layer so many outputs, freshly filled (0: as many as the data has
    classes); `scratch` fills all parameters. `settings` are the fields of Settings; those it does
    not know (lr, momentum, policy ...) go to the solver. `run` is a folder to keep checkpoints and
    figures in. Raises InputError where model, data and settings do not go together, MismatchError
    when training meets values that are not finite.

    >>> import numpy as np, nnconv
    >>> digits = nnconv.data.arrays(data=np.zeros((8, 1, 28, 28), np.float32), label=[1, 2] * 4)
    >>> done = nnconv.finetune("zoo:lenet", digits, epochs=1, batch=4, val=0, device="reference")
    >>> done.outcome.iteration
    2
    """
    known = {setting.name for setting in fields(Settings)}
    own = {key: value for key, value in settings.items() if key in known}
    rest = {**own.pop("solver_settings", {})}
    rest |= {key: value for key, value in settings.items() if key not in known}
    if not isinstance(data, Dataset):
        own["data"] = str(Path(data).absolute())
    start = model if isinstance(model, Model) else load(model)
    chosen = Settings(**own | choose_solver(start, own.get("solver"), rest))
    opened = open_data(data, "train", chosen.label)
    prepared = prepare(start, opened, chosen, head=head, scratch=scratch)
    session = Session(prepared, opened, chosen, None if run is None else Path(run))
    session.begin()
    done = session.train(watchers)
    if output is not None and done.outcome.finished:
        save(done.model, output)
    return done


def choose_solver(model: Model, solver: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The solver's side of Settings: the one asked for; else the model's own recipe, where its file
    has one (YAML's `solver`); else Adam at 1e-4. `settings` come on top.
    """
    recipe = training_of(model).get("solver", {})
    usual: dict[str, Any] = {}
    if solver is None:
        usual = {key: value for key, value in recipe.items() if key != "type"} or {"lr": USUAL_RATE}
    chosen = solver or recipe.get("type", "adam")
    return {"solver": chosen, "solver_settings": {**usual, **settings}}


def training_of(model: Model) -> dict[str, Any]:
    """What the model's file says about training it."""
    try:
        found = json.loads(model.metadata.get(TRAINING, "{}"))
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def prepare(
    model: Model | AnyPath,
    data: Dataset,
    settings: Settings,
    *,
    head: int | None = None,
    scratch: bool = False,
) -> Model:
    """The model that training starts from: with its new head, all parameters filled."""
    loaded = model if isinstance(model, Model) else load(model)
    prepared = _twin(loaded)
    if head is not None:
        outputs = head or len(data.labels)
        if not outputs:
            raise InputError("the data does not say how many classes it has", hint="say a number")
        last = head_of(prepared, settings.loss, settings.scores)
        replace_head(prepared, last, outputs, data.labels, settings.seed)
    every = list(prepared.parameters) if scratch else None
    fill_parameters(prepared.graph, settings.seed, only=every)
    return prepared


class Session:
    """One run, in this process: `begin` or `resume` first, then `train`."""

    def __init__(
        self, base: Model, data: Dataset, settings: Settings, folder: Path | None = None
    ) -> None:
        self.base = base
        self.settings = settings
        self.folder = folder
        self._head: Head = head_of(base, settings.loss, settings.scores)
        everything = feed(base, self._head, data, mirror=settings.mirror, jitter=settings.jitter)
        learnt, self._held_out = split(everything.dataset, settings.val, settings.seed)
        self._trainer, self._feed = self._make_trainer(everything, len(learnt))
        self._loader = self._feed.loader(settings.batch, learnt, seed=settings.seed)
        self._samples = len(learnt)
        self._loop: Loop | None = None
        self._resumed: tuple[Any, Mapping[str, str]] | None = None
        self._stopping = False

    @property
    def iterations(self) -> int:
        """How many updates the whole run makes."""
        return _iterations(self.settings, self._samples, self._trainer.spec.iter_size)

    def begin(self) -> None:
        """Make the run's folder, in place of one that has ended. Raises InputError where it holds a
        run that has not.
        """
        if self.folder is None:
            return
        if not self.folder.parent.is_dir():
            raise InputError(f"{self.folder}: there is no folder {self.folder.parent}")
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder}: this is a file, a run is kept in a folder")
        self._refuse_unfinished(self.folder)
        self.folder.mkdir(exist_ok=True)
        # the settings come last: without them there is no run, whatever else is there
        for name in (SETTINGS, FILE, METRICS):
            (self.folder / name).unlink(missing_ok=True)
        save(self.base, self.folder / MODEL)
        facts = {"version": _VERSION, "iterations": self.iterations, "samples": self._samples}
        text = json.dumps({**facts, "settings": asdict(self.settings)}, indent=2)
        with atomic_write(self.folder / SETTINGS) as file:
            file.write(text.encode() + b"\n")

    def resume(self) -> int:
        """Go on from the folder's checkpoint, where there is one; the iteration it is of."""
        assert self.folder is not None
        _check_samples(self.folder, self._samples)
        for torn in self.folder.glob(".nnconv-*.tmp"):  # of a process that was killed as it wrote
            torn.unlink(missing_ok=True)
        if not (self.folder / FILE).exists():
            MetricsFile(self.folder / METRICS).rewind(-1)
            return 0
        file = find_checkpoint(self.folder)
        found = read_checkpoint(file)
        wanted = to_checkpoint(self._trainer.snapshot(), self._trainer.spec.solver)
        self._resumed = from_checkpoint(found, wanted, file), dict(found.metadata)
        MetricsFile(self.folder / METRICS).rewind(found.iteration)
        return found.iteration

    def stop(self) -> None:
        """End after the step it is at, with a checkpoint; safe in a signal handler."""
        self._stopping = True
        if self._loop is not None:
            self._loop.stop()

    def train(self, watchers: Sequence[Watcher] = ()) -> Finetuned:
        """Take all steps that are left, or those until `stop`."""
        epoch = max(1, round(self._samples / self._per_update()))
        every = self.settings.every or epoch
        table = Timetable(self.iterations, self.settings.report, epoch, every)
        kept: list[Watcher] = [MetricsFile(self.folder / METRICS)] if self.folder else []
        file = self.folder / FILE if self.folder else None
        self._loop = Loop(
            self._trainer, self._loader, table, watchers=[*kept, *watchers],
            validate=self._validate if len(self._held_out) else None,
            save=None if file is None else lambda checkpoint: write_checkpoint(checkpoint, file),
        )  # fmt: skip
        if self._resumed is not None:
            self._loop.resume(*self._resumed)
        if self._stopping:
            self._loop.stop()
        outcome = self._loop.run()
        return Finetuned(self._result(), outcome)

    # --- inside -----------------------------------------------------------------------------------

    def _make_trainer(self, everything: Feed, samples: int) -> tuple[Trainer, Feed]:
        model = _twin(self.base)
        freeze(model, self.settings.freeze)
        passes = int(self.settings.solver_settings.get("iter_size", 1))
        adds_loss = self._head.label is None
        if adds_loss and self.settings.scores is None and len(model.outputs) > 1:
            names = [value.name for value in model.outputs]
            hint = f"say it: --scores {names[0]} (or {', '.join(names[1:])})"
            raise InputError("the model has several outputs: which is trained?", hint=hint)
        trainer = Trainer(
            model,
            loss=self._head.loss if adds_loss else None,
            loss_on=self.settings.scores,
            solver=self.settings.spec(_iterations(self.settings, samples, passes)),
            device=self.settings.device,
        )
        given = set(everything.names.values())
        missing = [port.name for port in trainer.inputs if port.name not in given]
        if not missing:
            return trainer, everything
        # a loss that was added has an input of its own for the truth
        return trainer, everything.with_truth(missing[0])

    def _per_update(self) -> int:
        return self.settings.batch * self._trainer.spec.iter_size

    def _validate(self, iteration: int, epoch: float) -> Validation:
        found = judge(
            self._trainer.model, self._head, self._feed, dataset=self._held_out,
            device=self.settings.device, batch=max(self.settings.batch, 100), top=(1,),
        )  # fmt: skip
        return Validation(iteration, epoch, found.loss, found.accuracy, found.samples)

    def _result(self) -> Model:
        """The model as it was given, with what was learnt; frozen parameters are free again."""
        result, learnt = _twin(self.base), self._trainer.model.graph.values
        for name, value in result.graph.values.items():
            if value.is_stored and name in learnt:
                value.data = learnt[name].data
        return result

    def _refuse_unfinished(self, folder: Path) -> None:
        if not (folder / SETTINGS).exists() or not (folder / FILE).exists():
            return
        done, whole = read_checkpoint(folder / FILE).iteration, _facts(folder)["iterations"]
        if 0 < done < whole:
            hint = f"--resume {folder} goes on with it; remove the folder to start anew"
            raise InputError(f"{folder}: holds a run at iteration {done} of {whole}", hint=hint)


def reopen(folder: AnyPath, data: Dataset | None = None) -> Session:
    """The run in a folder, to be gone on with; `data` where it was not opened from files.

    Raises InputError where the path is no such folder, or what it holds is damaged.
    """
    where = Path(folder)
    if not (where / SETTINGS).exists():
        find_checkpoint(where)  # says what else it is
        raise InputError(f"{folder}: resume takes the run's folder", hint=f"{where.parent}")
    settings = _settings(where)
    if data is None:
        if not settings.data:
            raise InputError(f"{folder}: this run's data was given as arrays; give it again")
        data = open_data(settings.data, "train", settings.label)
    session = Session(load(where / MODEL), data, settings, where)
    session.resume()
    return session


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((folder / SETTINGS).read_bytes())
        if not isinstance(facts["settings"], dict) or facts["version"] > _VERSION:
            raise ValueError
        return facts | {key: int(facts[key]) for key in ("iterations", "samples")}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{folder / SETTINGS}: these are no settings of a run") from None


def _settings(folder: Path) -> Settings:
    held = _facts(folder)["settings"]
    try:
        if not all(isinstance(held.get(name, ""), str) for name in ("data", "output")):
            raise TypeError("a path must be text")
        return Settings(**{**held, "freeze": tuple(held["freeze"])})
    except (TypeError, KeyError) as error:
        raise InputError(f"{folder / SETTINGS}: these are no settings of a run ({error})") from None


def _check_samples(folder: Path, samples: int) -> None:
    before = _facts(folder)["samples"]
    if samples != before:
        what = f"the run was begun with {before:,} samples, the data now has {samples:,}"
        raise InputError(f"{folder}: {what}", hint="a run can only go on with the same data")


def _iterations(settings: Settings, samples: int, passes: int) -> int:
    return settings.iterations or max(
        1, round(settings.epochs * samples / (settings.batch * passes))
    )


def _twin(model: Model) -> Model:
    """The same model over a graph of its own."""
    twin = Model(model.graph.copy(), name=model.name, mode=model.mode)
    twin.preprocessing, twin.labels = dict(model.preprocessing), model.labels
    twin.source, twin.metadata = model.source, dict(model.metadata)
    return twin
