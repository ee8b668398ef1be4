"""How verbs read and write models: everything checked first, findings told, nothing overwritten
that was given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nnconv.cli.output import say_findings
from nnconv.schemas.errors import InputError, NnconvError, Report
from nnconv.schemas.files import STREAM

if TYPE_CHECKING:
    from nnconv.schemas.graph import Model


def open_model(path: str, weights: str | None = None, **options: Any) -> Model:
    """The model of a verb that looks at one or runs it; warnings are told."""
    from nnconv.api.files import load

    report = Report(path)
    model = load(path, weights, report=report, **options)
    say_findings(report)
    return model


def import_model(
    files: Sequence[str], output: str, report_file: str | None, verb: str, **options: Any
) -> None:
    """What every `X2ir` does: read the files, write a .nnir, tell what was found on the way."""
    from nnconv.api.files import checked_target, load, save

    target = checked_target(output)
    refuse_overwriting(files, output)
    if target.suffix not in (".nnir", ".nnirtxt") and output != STREAM:
        raise InputError(
            f"{output}: {verb} writes .nnir or .nnirtxt", hint=f"-o {target.stem}.nnir"
        )
    report = Report(" + ".join(files))
    with reported(report, report_file):
        model = load(files, report=report, **options)
        save(model, target)
    say_findings(report)
    click.echo(f"{output}: {summary(model)}", err=output == STREAM)


def export_model(
    model_file: str, output: str, suffix: str, weights: str | None = None, **options: Any
) -> None:
    """What every `ir2X` to one file does: read any model, write it in the format of `suffix`."""
    from nnconv.api.files import checked_target, load, save

    target = checked_target(output)
    if target.suffix != suffix:
        raise InputError(f"{output}: this verb writes {suffix}", hint=f"-o OUT{suffix}")
    refuse_overwriting([model_file], output, *([weights] if weights else []))
    report = Report(model_file)
    model = load(model_file, report=report)
    given = {key: value for key, value in options.items() if value not in (None, False)}
    save(model, target, weights, report=report, **given)
    say_findings(report)
    click.echo(f"{output}: {summary(model)}")


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


def refuse_overwriting(inputs: Sequence[str], *outputs: str) -> None:
    """Raise InputError when an output is one of the inputs."""
    for output in outputs:
        for source in inputs:
            if Path(output).exists() and Path(source).exists() and Path(output).samefile(source):
                raise InputError(f"{output}: this would overwrite the input")


@contextmanager
def reported(report: Report, file: str | None) -> Iterator[None]:
    """All findings of a report as a JSON file, also where the block ends in an error."""
    from nnconv.api.files import checked_target

    target = checked_target(file) if file else None
    try:
        yield
    except NnconvError as error:
        if not report.errors:
            report.extend(error)
        _write_report(report, target)
        raise
    _write_report(report, target)


def _write_report(report: Report, target: Path | None) -> None:
    if target is None:
        return
    from nnconv.schemas.files import atomic_write

    text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n"
    with atomic_write(target) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
