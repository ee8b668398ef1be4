"""`nnconv finetune`: train a model further on one's own data, and go on with runs that stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from nnconv.cli.base import Command
from nnconv.cli.output import say, say_findings
from nnconv.schemas.errors import InputError, Report

if TYPE_CHECKING:
    from nnconv.api.finetune import Finetuned, Session, Settings
    from nnconv.converter.caffe.solver import CaffeSolver
    from nnconv.runtime.data import Dataset
    from nnconv.schemas.graph import Model

INTERRUPTED = 130


@click.command(
    cls=Command,
    examples=[
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
    ],
)
@click.argument("model_file", metavar="MODEL", required=False)
@click.option(
    "--data", metavar="DATA",
    help="IDX files, a folder of pictures, a .npz, a .csv or nevermind-neu's data set.",
)  # fmt: skip
@click.option("-o", "--output", metavar="OUT", help="The trained model; the suffix says as what.")
@click.option("--weights", metavar="FILE", help="The .caffemodel of a .prototxt.")
@click.option("--scale", type=float, metavar="X", help="Pixels are multiplied by this.")
@click.option("--mean", metavar="MEAN", help="A .binaryproto, or numbers: 104,117,123.")
@click.option("--labels", metavar="FILE", help="The classes' names, one a line.")
@click.option(
    "--freeze", metavar="PATTERN", multiple=True,
    help="Keep parameters or layers called so as they are, e.g. 'conv*'.",
)  # fmt: skip
@click.option(
    "--replace-head", "head", metavar="N",
    help="Give the last layer N fresh outputs; auto: as many as the data has classes.",
)  # fmt: skip
@click.option("--scratch", is_flag=True, help="Start from random weights.")
@click.option("--loss", metavar="NAME", help="The loss, where the model does not say it.")
@click.option(
    "--solver", metavar="NAME",
    help="How to update: sgd, nesterov, adam, adamw; by default as a .yaml says, else adam.",
)  # fmt: skip
@click.option(
    "--solver-file", metavar="FILE",
    help="Caffe's solver.prototxt: how to update, how long, and its net where MODEL is left out.",
)  # fmt: skip
@click.option(
    "--lr", type=click.FloatRange(min=0), metavar="RATE",
    help="The learning rate, 1e-4 by default.",
)  # fmt: skip
@click.option(
    "--set", "more", metavar="NAME=VALUE", multiple=True,
    help="Another setting of the solver: momentum, weight_decay, policy, gamma, iter_size ...",
)  # fmt: skip
@click.option("--epochs", default=5.0, show_default=True, help="How often to see every sample.")
@click.option("--iterations", default=0, metavar="N", help="Updates in all, instead of --epochs.")
@click.option("--batch", default=32, show_default=True, help="Samples a step.")
@click.option(
    "--val", default=0.1, show_default=True, help="The share of the samples to validate with."
)
@click.option("--label", metavar="COLUMN", help="The label column of a CSV.")
@click.option("--mirror", is_flag=True, help="Turn half of the pictures left to right.")
@click.option(
    "--jitter", default=0, metavar="PIXELS",
    help="Read pictures so much larger and cut at random.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Decides everything that is random.")
@click.option("--device", metavar="NAME", help="Where to train: see `nnconv devices`.")
@click.option(
    "--snapshot", "every", default=0, metavar="N", help="Updates between two checkpoints."
)
@click.option("--report", default=100, show_default=True, help="Updates between two reports.")
@click.option("--run", metavar="FOLDER", help="Where to keep the run; OUT.run by default.")
@click.option("--resume", metavar="RUN", help="Go on with the run in this folder.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
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
    **options: Any,
) -> None:
    """Train a model further on your own data.

    MODEL is any model nnconv reads. The run keeps checkpoints and figures in a folder; Ctrl-C saves
    and stops it, and even after a kill --resume ends with the same bits. `nnconv plot RUN` draws
    the curves.
    """
    if resume is not None:
        if model_file or data or solver_file:
            raise click.UsageError("--resume takes model, data and solver from the run's folder")
        session, target = _resumed(Path(resume), output)
    else:
        if not (model_file or solver_file) or not data or not output:
            raise click.UsageError("give MODEL, --data and -o OUT (or --resume RUN)")
        solver = _solver(solver_file)
        session, target = _begun(model_file, weights, data, output, run, options, solver)
    done = _watched(session, quiet)
    _tell(session, done, target, as_json)


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
    options: dict[str, Any], solver: CaffeSolver | None,
) -> tuple[Session, Path]:  # fmt: skip
    """A fresh run, everything checked before its folder is touched."""
    from nnconv.api.datasets import open_data
    from nnconv.api.files import checked_target
    from nnconv.api.finetune import Session, prepare
    from nnconv.cli.caffe import refuse_overwriting
    from nnconv.converter.formats import writable

    writable(output)
    target = checked_target(output)
    refuse_overwriting([*filter(None, [model_file]), data], output)
    folder = Path(run) if run else target.with_suffix(".run")
    dataset = open_data(data, "train", options["label"])
    model = _model(model_file, weights, options, solver, dataset)
    settings = _settings(model, data, options, solver)
    prepared = prepare(
        model, dataset, settings, head=_head(options["head"]), scratch=options["scratch"]
    )
    prepared.metadata["finetuned"] = target.name
    session = Session(prepared, dataset, settings, folder)
    session.begin()
    return session, target


def _model(
    path: str | None, weights: str | None, options: dict[str, Any], solver: CaffeSolver | None,
    data: Dataset,
) -> Model:  # fmt: skip
    from nnconv.api import load
    from nnconv.cli.caffe import parse_mean

    pixels = {"scale": options["scale"], "mean": parse_mean(options["mean"])}
    report = Report(path or "")
    if path is not None:
        model = load(path, weights, report=report, labels=options["labels"], **pixels)
    else:
        from nnconv.api.solver import load_net

        assert solver is not None, "there is a MODEL or a solver"
        given = {"report": report, "labels": options["labels"], **pixels}
        model = load_net(solver, weights, data=data, **given)
    say_findings(report)
    return model


def _resumed(folder: Path, output: str | None) -> tuple[Session, Path]:
    from nnconv.api.files import checked_target
    from nnconv.api.finetune import reopen

    session = reopen(folder)
    name = output or str(folder.parent / session.base.metadata.get("finetuned", "finetuned.nnir"))
    return session, checked_target(name)


def _settings(
    model: Model, data: str, options: dict[str, Any], solver_file: CaffeSolver | None
) -> Settings:
    from nnconv.api.finetune import USUAL_RATE, Settings, choose_solver

    names = ("label", "freeze", "loss", "epochs", "iterations", "batch", "val", "seed", "mirror",
             "jitter", "device", "every", "report")  # fmt: skip
    chosen = {name: options[name] for name in names}
    if solver_file is not None:
        return Settings(**chosen | _as_filed(solver_file, options), data=str(Path(data).absolute()))
    more = _numbers(options["more"])
    if options["lr"] is not None or options["solver"] is not None:
        more["lr"] = USUAL_RATE if options["lr"] is None else options["lr"]
    solver = choose_solver(model, options["solver"], more)
    return Settings(**chosen, **solver, data=str(Path(data).absolute()))


def _as_filed(solver: CaffeSolver, options: dict[str, Any]) -> dict[str, Any]:
    """What a solver file says, except where the command line says something else."""
    from nnconv.api.solver import run_settings

    if options["solver"] is not None:
        raise click.UsageError("--solver and --solver-file say the same thing")
    asked = click.get_current_context().get_parameter_source
    typed = {name for name in options if asked(name) is ParameterSource.COMMANDLINE}
    filed = run_settings(solver)
    if "epochs" in typed:
        typed.add("iterations")
    more = _numbers(options["more"])
    if options["lr"] is not None:
        more["base_lr"] = options["lr"]
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
    options = [f"--scale {how.scale:.9g}"] if how.scale != 1 else []
    if how.mean:
        options.append(f"--mean {','.join(f'{number:g}' for number in how.mean)}")
    elif how.mean_image is not None:
        options.append("--mean MEAN.binaryproto")
    say(f"{target} has no place for the preprocessing of pictures: use it with {' '.join(options)}")
