"""`nnconv finetune`: train a model further on one's own data, and go on with runs that stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from nnconv.cli import options
from nnconv.cli.base import called
from nnconv.cli.options import verb
from nnconv.cli.output import say, say_findings
from nnconv.schemas.errors import InputError, Report

if TYPE_CHECKING:
    from nnconv.api.finetune import Finetuned, Session, Settings
    from nnconv.converter.caffe.solver import CaffeSolver
    from nnconv.runtime.data import Dataset
    from nnconv.schemas.graph import Model

INTERRUPTED = 130


@verb(
    (
        "nnconv finetune zoo:lenet --data letters/ --replace-head auto -o letters.nnir",
        "teach a model new classes, one folder of pictures each",
    ),
    (
        "nnconv finetune net.onnx --data more.npz --freeze 'conv*' --epochs 3 -o net2.onnx",
        "train only the last layers, on arrays",
    ),
    (
        "nnconv finetune --solver-file solver.prototxt --data mnist/ -o lenet.caffemodel",
        "train the net of a Caffe solver as it says",
    ),
    ("nnconv finetune --resume letters.run", "go on where a run was stopped or killed"),
)
@click.argument("model_file", metavar="MODEL", required=False)
@click.option(
    "--data", metavar="DATA",
    help="IDX files, a folder of pictures, a .npz, a .csv or nevermind-neu's data set.",
)  # fmt: skip
@options.output("OUT", "The trained model; the suffix says as what.", required=False)
@options.WEIGHTS
@options.PIXELS
@click.option(
    "--freeze", metavar="PATTERNS", multiple=True, callback=options.names,
    help="Keep parameters or layers called so as they are: 'conv*,ip1'.",
)  # fmt: skip
@click.option(
    "--replace-head", "head", metavar="N",
    help="Give the last layer N fresh outputs; auto: as many as the data has classes.",
)  # fmt: skip
@click.option("--scratch", is_flag=True, help="Start from random weights.")
@options.LOSS
@options.SCORES
@click.option(
    "--solver", metavar="NAME",
    help="How to update: sgd, nesterov, adam, adamw; by default as a .yaml says, else adam.",
)  # fmt: skip
@click.option(
    "--solver-file", metavar="FILE",
    help="Caffe's solver.prototxt: how to update, how long, and its net where MODEL is left out.",
)  # fmt: skip
@click.option(
    "--lr", type=options.Number(least=0), metavar="RATE",
    help="The learning rate, 1e-4 by default.",
)  # fmt: skip
@click.option(
    "--set", "more", metavar="NAME=VALUE", multiple=True,
    help="Another setting of the solver: momentum, weight_decay, policy, gamma, iter_size ...",
)  # fmt: skip
@click.option(
    "--epochs", type=options.Number(above=0), default=5.0, show_default=True,
    help="How often to see every sample.",
)  # fmt: skip
@click.option(
    "--iterations", type=options.Number(int, least=0), default=0, metavar="N",
    help="Updates in all, instead of --epochs.",
)  # fmt: skip
@click.option("--batch", type=options.COUNT, default=32, show_default=True, help="Samples a step.")
@click.option(
    "--val", type=options.Number(least=0), default=0.1, show_default=True,
    help="The share of the samples to validate with.",
)  # fmt: skip
@options.COLUMN
@click.option("--mirror", is_flag=True, help="Turn half of the pictures left to right.")
@click.option(
    "--jitter", type=options.Number(int, least=0), default=0, metavar="PIXELS",
    help="Read pictures so much larger and cut at random.",
)  # fmt: skip
@click.option(
    "--seed", type=options.Number(int, least=0), default=0, show_default=True,
    help="Decides everything that is random.",
)  # fmt: skip
@options.device("Where to train: see `nnconv devices`.")
@click.option(
    "--snapshot", "every", type=options.Number(int, least=0), default=0, metavar="N",
    help="Updates between two checkpoints.",
)  # fmt: skip
@click.option(
    "--report", type=options.COUNT, default=100, show_default=True,
    help="Updates between two reports.",
)  # fmt: skip
@click.option("--run", metavar="FOLDER", help="Where to keep the run; OUT.run by default.")
@click.option("--resume", metavar="RUN", help="Go on with the run in this folder.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
@options.JSON
def finetune(
    model_file: str | None,
    data: str | None,
    output: str | None,
    weights: str | None,
    run: str | None,
    resume: str | None,
    solver_file: str | None,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a model further on your own data.

    MODEL is any model nnconv reads. The run keeps checkpoints and figures in a folder; Ctrl-C saves
    and stops it, and even after a kill --resume ends with the same bits. `nnconv plot RUN` draws
    the curves.
    """
    typed = _typed()
    if resume is not None:
        if more := typed - {"resume", "output", "quiet", "as_json"}:
            raise InputError(
                f"--resume takes everything from the run's folder: {_listed(more)} cannot change",
                hint=f"nnconv finetune --resume {resume}",
            )
        session, target = _resumed(Path(resume), output)
    else:
        _check_given(typed)
        assert data is not None and output is not None
        solver = _solver(solver_file)
        session, target = _begun(model_file, weights, data, output, run, given, solver)
    done = _watched(session, quiet)
    _tell(session, done, target, as_json)


_TWICE = (
    ({"solver", "solver_file"}, "both say how to update"),
    ({"epochs", "iterations"}, "both say how long to train"),
    ({"scratch", "weights"}, "--scratch starts from random weights"),
)


def _typed() -> set[str]:
    """The parameters that the command line names."""
    context = click.get_current_context()
    asked = context.get_parameter_source
    return {name for name in context.params if asked(name) is ParameterSource.COMMANDLINE}


def _check_given(typed: set[str]) -> None:
    """Raise InputError where something is missing, or said twice."""
    needed = {"MODEL": {"model_file", "solver_file"}, "--data DATA": {"data"}, "-o OUT": {"output"}}
    if missing := [name for name, either in needed.items() if not typed & either]:
        hint = "nnconv finetune MODEL --data DATA -o OUT, or --resume RUN"
        what = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        raise InputError(f"nnconv finetune: {what}", hint=hint)
    for pair, why in _TWICE:
        if pair <= typed:
            raise InputError(f"{_listed(pair)}: {why}", hint="leave one away")


def _listed(names: set[str]) -> str:
    """Parameters as they are typed."""
    parameters = click.get_current_context().command.params
    return " and ".join(called(p) for p in parameters if p.name in names)


def _solver(path: str | None) -> CaffeSolver | None:
    from nnconv.api.solver import read_solver

    if path is None:
        return None
    report = Report(path)
    found = read_solver(path, report=report)
    say_findings(report)
    return found


def _begun(
    model_file: str | None, weights: str | None, data: str, output: str, run: str | None,
    given: dict[str, Any], solver: CaffeSolver | None,
) -> tuple[Session, Path]:  # fmt: skip
    """A fresh run, everything checked before its folder is touched."""
    from nnconv.api.datasets import open_data
    from nnconv.api.files import checked_target
    from nnconv.api.finetune import Session, prepare
    from nnconv.cli.files import refuse_overwriting
    from nnconv.converter.formats import writable
    from nnconv.schemas.files import storable

    writable(output)
    target = checked_target(output)
    refuse_overwriting([*filter(None, [model_file]), data], output)
    storable(target)
    folder = Path(run) if run else target.with_suffix(".run")
    dataset = open_data(data, "train", given["label"])
    model = _model(model_file, weights, given, solver, dataset)
    settings = _settings(model, data, given, solver)
    settings = replace(settings, output=_seen_from(folder, target))
    prepared = prepare(
        model, dataset, settings, head=_head(given["head"]), scratch=given["scratch"]
    )
    session = Session(prepared, dataset, settings, folder)
    session.begin()
    return session, target


def _model(
    path: str | None, weights: str | None, given: dict[str, Any], solver: CaffeSolver | None,
    data: Dataset,
) -> Model:  # fmt: skip
    from nnconv.api import load

    pixels = {"scale": given["scale"], "mean": given["mean"]}
    report = Report(path or "")
    if path is not None:
        model = load(path, weights, report=report, labels=given["labels"], **pixels)
    else:
        from nnconv.api.solver import load_net

        assert solver is not None, "there is a MODEL or a solver"
        model = load_net(
            solver, weights, data=data, report=report, labels=given["labels"], **pixels
        )
    say_findings(report)
    return model


def _resumed(folder: Path, output: str | None) -> tuple[Session, Path]:
    from nnconv.api.files import checked_target
    from nnconv.api.finetune import reopen
    from nnconv.cli.files import refuse_overwriting
    from nnconv.converter.formats import writable
    from nnconv.schemas.files import STREAM

    session = reopen(folder)
    kept = session.settings.output or f"..{os.sep}finetuned.nnir"
    if output is None and kept != STREAM:
        output = os.path.relpath(folder.resolve() / kept)
    target = checked_target(output or kept)
    writable(str(target))
    refuse_overwriting([*filter(None, [session.settings.data])], str(target))
    return session, target


def _seen_from(folder: Path, target: Path) -> str:
    """The target's path from a run's folder, which may be moved together with it."""
    from nnconv.schemas.files import STREAM

    if str(target) == STREAM:
        return STREAM
    try:
        return os.path.relpath(target.parent.resolve() / target.name, folder.resolve())
    except ValueError:  # on another drive
        return str(target.absolute())


def _settings(
    model: Model, data: str, given: dict[str, Any], solver_file: CaffeSolver | None
) -> Settings:
    from nnconv.api.finetune import USUAL_RATE, Settings, choose_solver

    names = ("label", "freeze", "loss", "scores", "epochs", "iterations", "batch", "val", "seed",
             "mirror", "jitter", "device", "every", "report")  # fmt: skip
    chosen = {name: given[name] for name in names}
    if solver_file is not None:
        return Settings(**chosen | _as_filed(solver_file, given), data=str(Path(data).absolute()))
    more = _numbers(given["more"])
    if given["lr"] is not None or given["solver"] is not None:
        more["lr"] = USUAL_RATE if given["lr"] is None else given["lr"]
    solver = choose_solver(model, given["solver"], more)
    return Settings(**chosen, **solver, data=str(Path(data).absolute()))


def _as_filed(solver: CaffeSolver, given: dict[str, Any]) -> dict[str, Any]:
    """What a solver file says, except where the command line says something else."""
    from nnconv.api.solver import run_settings

    typed = _typed()
    filed = run_settings(solver)
    if "epochs" in typed:
        typed.add("iterations")
    more = _numbers(given["more"])
    if given["lr"] is not None:
        more["base_lr"] = given["lr"]
    filed["solver_settings"] |= more
    return {name: value for name, value in filed.items() if name not in typed}


def _numbers(pairs: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` as settings: numbers, words, or numbers separated by commas.

    >>> _numbers(["momentum=0.9", "policy=step", "stepvalue=10,20"])
    {'momentum': 0.9, 'policy': 'step', 'stepvalue': (10, 20)}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, given, text = pair.partition("=")
        if not given:
            raise InputError(f"--set {pair}: this is not NAME=VALUE")
        parts = [_number(part) for part in text.split(",")]
        found[name.strip()] = parts[0] if len(parts) == 1 else tuple(parts)
    return found


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()


def _head(text: str | None) -> int | None:
    """How many outputs a new head has; 0 for as many as there are classes."""
    if text is None or text == "auto":
        return None if text is None else 0
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--replace-head {text}: give a number of outputs, or auto")
    return int(text)


def _watched(session: Session, quiet: bool) -> Finetuned:
    from nnconv.cli.display import display

    with display(session.iterations, quiet) as shown, _interruptible(session):
        return session.train([shown])


@contextmanager
def _interruptible(session: Session) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) saves and stops, the second kills."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        say("stopping after this step; once more kills at once")
        session.stop()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _tell(session: Session, done: Finetuned, target: Path, as_json: bool) -> None:
    """Write the model and say how it came out; a run that was stopped leaves its checkpoint."""
    from nnconv.api import save

    outcome, found = done.outcome, done.validation
    if outcome.finished:
        save(done.model, target)
        _say_what_is_lost(done.model, target)
    if as_json:
        from nnconv.cli.output import print_json

        facts = {
            "iteration": outcome.iteration, "iterations": session.iterations,
            "finished": outcome.finished, "loss": outcome.loss,
            "validation": found and {"loss": found.loss, "accuracy": found.accuracy,
                                     "samples": found.samples},
            "output": str(target) if outcome.finished else None, "run": str(session.folder),
        }  # fmt: skip
        print_json("finetune", facts)
    if not outcome.finished:
        say(f"stopped at iteration {outcome.iteration} of {session.iterations}; "
            f"nnconv finetune --resume {session.folder} goes on")  # fmt: skip
        click.get_current_context().exit(INTERRUPTED)
    if not as_json:
        measured = ""
        if found is not None:
            right = "" if found.accuracy is None else f", accuracy {found.accuracy:.2%}"
            measured = f": validation loss {found.loss:.4f}{right}"
        click.echo(f"{target}{measured}")


def _say_what_is_lost(model: Model, target: Path) -> None:
    """Other formats have no place for how pixels are prepared, and results are wrong without."""
    how = next((p for p in model.preprocessing.values() if not p.is_default), None)
    if how is None or target.suffix in (".nnir", ".nnirtxt"):
        return
    given = [f"--scale {how.scale:.9g}"] if how.scale != 1 else []
    if how.mean:
        given.append(f"--mean {','.join(f'{number:g}' for number in how.mean)}")
    elif how.mean_image is not None:
        given.append("--mean MEAN.binaryproto")
    say(f"{target} has no place for the preprocessing of pictures: use it with {' '.join(given)}")
