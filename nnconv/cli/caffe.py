"""Verbs for Caffe's files: `caffe2ir` in, `ir2caffe` out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nnconv.cli.base import Command
from nnconv.cli.output import say_findings
from nnconv.cli.shapes import SHAPE_HELP, parse_shapes
from nnconv.schemas.errors import InputError, NnconvError, Report
from nnconv.schemas.files import STREAM

if TYPE_CHECKING:
    from nnconv.schemas.graph import Model

PHASES = click.Choice(["test", "train"], case_sensitive=False)


@click.command(
    cls=Command,
    examples=[
        ("nnconv caffe2ir deploy.prototxt net.caffemodel -o net.nnir", "a net with its weights"),
        (
            "nnconv caffe2ir deploy.prototxt net.caffemodel -o net.nnir --mean 104,117,123 "
            "--labels synset_words.txt",
            "the same, with what turns a picture into its input and numbers into names",
        ),
    ],
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="OUT.nnir", required=True, help="The model to write.")
@click.option("--phase", type=PHASES, help="Which of the net's layers to take.  [default: test]")
@click.option("--mean", metavar="FILE|B,G,R", help="Mean to subtract: a .binaryproto, or numbers.")
@click.option("--scale", type=float, metavar="S", help="Factor on the pixels, after the mean.")
@click.option("--labels", metavar="FILE", help="Names of the classes, one a line.")
@click.option("--input-shape", "shapes", metavar="NAME:N,C,H,W", multiple=True, help=SHAPE_HELP)
@click.option("--strict", is_flag=True, help="Refuse what Caffe refuses (unknown fields, say).")
@click.option("--report", "report_file", metavar="FILE.json", help="Write all findings as JSON.")
def caffe2ir(
    files: tuple[str, ...],
    output: str,
    phase: str | None,
    mean: str | None,
    scale: float | None,
    labels: str | None,
    shapes: tuple[str, ...],
    strict: bool,
    report_file: str | None,
) -> None:
    """Read a Caffe net and its weights, write a .nnir model.

    FILE is a .prototxt, a .caffemodel or both, in any order; a .caffemodel alone holds its net too.
    `-` stands for standard input and output.
    """
    import_model(
        files,
        output,
        report_file,
        "caffe2ir",
        phase=phase,
        mean=parse_mean(mean),
        scale=scale,
        labels=labels,
        strict=strict,
        shapes=parse_shapes(shapes),
    )


@click.command(
    cls=Command,
    examples=[
        ("nnconv ir2caffe net.nnir -o net.prototxt --weights net.caffemodel", "both files"),
        ("nnconv ir2caffe zoo:lenet -o lenet.prototxt --weights lenet.caffemodel", "from the zoo"),
    ],
)
@click.argument("model_file", metavar="MODEL")
@click.option("-o", "--output", metavar="NET.prototxt", required=True, help="The net to write.")
@click.option("--weights", metavar="NET.caffemodel", help="The weights.  [default: beside the net]")
def ir2caffe(model_file: str, output: str, weights: str | None) -> None:
    """Write a model back as a Caffe net and its weights.

    What came from Caffe and was not changed is written as it was: the same layers, names and bytes.
    """
    from nnconv.api.files import checked_target, load, save

    target = checked_target(output)
    second = checked_target(weights) if weights else target.with_suffix(".caffemodel")
    refuse_overwriting([model_file], output, str(second))
    if target.suffix != ".prototxt" or second.suffix != ".caffemodel":
        raise InputError("a Caffe net is a .prototxt and a .caffemodel", hint="-o NET.prototxt")
    model = load(model_file)
    save(model, target, second)
    click.echo(f"{target}, {second}: {summary(model)}")


def import_model(
    files: Sequence[str], output: str, report_file: str | None, verb: str, **options: Any
) -> None:
    """What every `X2ir` does: read the files, write a .nnir, tell what was found on the way."""
    from nnconv.api.files import checked_target, load, save

    target = checked_target(output)
    refuse_overwriting(files, output)
    report_target = checked_target(report_file) if report_file else None
    if target.suffix not in (".nnir", ".nnirtxt") and output != STREAM:
        raise InputError(
            f"{output}: {verb} writes .nnir or .nnirtxt", hint=f"-o {target.stem}.nnir"
        )
    report = Report(" + ".join(files))
    try:
        model = load(files, report=report, **options)
        save(model, target)
    except NnconvError as error:
        if not report.errors:
            report.extend(error)
        raise
    finally:
        if report_target is not None:
            write_report(report, report_target)
    say_findings(report)
    click.echo(f"{output}: {summary(model)}", err=output == STREAM)


def summary(model: Model) -> str:
    """What a model amounts to, in a few words.

    >>> import nnconv
    >>> summary(nnconv.load("zoo:lenet"))
    '9 layers, 9 operators, 431,080 parameters'
    """
    parameters = sum(
        value.data.size for value in model.parameters.values() if value.data is not None
    )
    facts = [f"{len(model.graph)} operators", f"{parameters:,} parameters"]
    if empty := sum(value.data is None for value in model.parameters.values()):
        facts.append(f"{empty} parameters without weights")
    if layers := len(model.graph.layers):
        facts.insert(0, f"{layers} layers")
    return ", ".join(facts)


def parse_mean(text: str | None) -> str | list[float] | None:
    """`104,117,123` as numbers; anything else is a file name."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text


def refuse_overwriting(inputs: Sequence[str], *outputs: str) -> None:
    """Raise InputError when an output is one of the inputs."""
    for output in outputs:
        for source in inputs:
            if Path(output).exists() and Path(source).exists() and Path(output).samefile(source):
                raise InputError(f"{output}: this would overwrite the input")


def write_report(report: Report, target: Path) -> None:
    """All findings of a report as a JSON file."""
    from nnconv.schemas.files import atomic_write

    text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n"
    with atomic_write(target) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
