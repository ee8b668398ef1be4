"""Verbs between formats: the `X2ir` and `ir2X` pairs that need no module of their own, `convert`,
`diff` and `load-weights`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from nnconv.cli.base import Command
from nnconv.cli.caffe import PHASES, import_model, refuse_overwriting, summary, write_report
from nnconv.cli.output import say_findings
from nnconv.schemas.errors import InputError, MismatchError, Report

_REPORT = click.option(
    "--report", "report_file", metavar="FILE.json", help="Write all findings as JSON."
)
_OUT = click.option("-o", "--output", metavar="OUT.nnir", required=True, help="The model to write.")

_SHAPE = click.option(
    "--shape", "shapes", metavar="NAME=1,3,224,224", multiple=True,
    help="Default sizes of an input.",
)  # fmt: skip


@click.command(
    cls=Command,
    examples=[
        ("nnconv onnx2ir net.onnx -o net.nnir", "a model with its weights"),
        ("nnconv onnx2ir net.onnx -o net.nnir --shape data=1,3,224,224", "with sizes of its own"),
    ],
)
@click.argument("file", metavar="MODEL.onnx")
@_OUT
@_SHAPE
@_REPORT
def onnx2ir(file: str, output: str, shapes: tuple[str, ...], report_file: str | None) -> None:
    """Read an ONNX model of any opset, write a .nnir model.

    Sizes that the file leaves open stay open; --shape says which are meant when nobody asks.
    """
    import_model([file], output, report_file, "onnx2ir", shapes=_shapes(shapes) or None)


@click.command(
    cls=Command,
    examples=[
        ("nnconv yaml2ir lenet.yaml -o lenet.nnir", "a model, with the weights that it names"),
        ("nnconv yaml2ir net.yaml net.state -o net.nnir", "nevermind-neu's model and weights"),
    ],
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@_OUT
@click.option("--phase", type=PHASES, help="train builds the losses too.  [default: test]")
@_REPORT
def yaml2ir(
    files: tuple[str, ...], output: str, phase: str | None, report_file: str | None
) -> None:
    """Read a model in YAML (ours, or nevermind-neu's), write a .nnir model.

    FILE is the model; weights (.npz, .pb, .safetensors, .state) may come with it.
    """
    import_model(files, output, report_file, "yaml2ir", phase=phase)


def _shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`NAME=1,3,224,224` (or 1x3x224x224), each."""
    found = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        parts = sizes.replace("x", ",").split(",")
        if not name or not all(part.isdecimal() and len(part) < 13 for part in parts):
            raise InputError(f"--shape {text}: this is no shape", hint="--shape data=1,3,224,224")
        found[name] = tuple(map(int, parts))
    return found


@click.command(
    cls=Command,
    examples=[
        ("nnconv ir2onnx net.nnir -o net.onnx", "the lowest opset that says all of it"),
        ("nnconv ir2onnx zoo:lenet -o lenet.onnx --opset 13", "one opset"),
    ],
)
@click.argument("model_file", metavar="MODEL")
@click.option("-o", "--output", metavar="OUT.onnx", required=True, help="The model to write.")
@click.option("--opset", type=int, metavar="N", help="The version of ONNX's operators.")
@click.option("--external", is_flag=True, help="Put the weights into a file beside it.")
def ir2onnx(model_file: str, output: str, opset: int | None, external: bool) -> None:
    """Write a model as ONNX, in test mode.

    Without --opset it is the lowest at which every operator means the same, for old readers.
    """
    _export(model_file, output, ".onnx", opset=opset, external=external)


@click.command(
    cls=Command,
    examples=[
        ("nnconv ir2yaml net.nnir -o net.yaml", "net.yaml, and net.npz with the weights"),
        ("nnconv ir2yaml zoo:lenet -o lenet.yaml --weights lenet.safetensors", "other weights"),
    ],
)
@click.argument("model_file", metavar="MODEL")
@click.option("-o", "--output", metavar="OUT.yaml", required=True, help="The model to write.")
@click.option("--weights", metavar="FILE", help="The weights.  [default: beside it, .npz]")
def ir2yaml(model_file: str, output: str, weights: str | None) -> None:
    """Write a model in YAML, for people to read and change.

    Its weights go to a file of the same folder: .npz, .pb or .safetensors.
    """
    _export(model_file, output, ".yaml", weights=weights)


@click.command(
    cls=Command,
    examples=[
        ("nnconv ir2npz net.nnir -o net.npz", "what numpy.load reads"),
        ("nnconv ir2npz net.caffemodel -o net.npz", "straight from Caffe"),
    ],
)
@click.argument("model_file", metavar="MODEL")
@click.option("-o", "--output", metavar="OUT.npz", required=True, help="The file to write.")
def ir2npz(model_file: str, output: str) -> None:
    """Write a model's weights as a numpy archive.

    Every parameter under its name, uncompressed; nothing in it needs pickle.
    """
    _export(model_file, output, ".npz")


@click.command(
    cls=Command,
    examples=[
        ("nnconv ir2pb net.nnir -o net.pb", "the weights as one protobuf message"),
        ("nnconv ir2pb zoo:lenet -o lenet.pb", "from the zoo"),
    ],
)
@click.argument("model_file", metavar="MODEL")
@click.option("-o", "--output", metavar="OUT.pb", required=True, help="The file to write.")
def ir2pb(model_file: str, output: str) -> None:
    """Write a model's weights as a protobuf checkpoint.

    The message is Checkpoint in nnconv/schemas/checkpoint.proto; any protobuf tool decodes it.
    """
    _export(model_file, output, ".pb")


def _export(
    model_file: str, output: str, suffix: str, weights: str | None = None, **options: Any
) -> None:
    from nnconv.api.files import checked_target, load, save

    target = checked_target(output)
    if target.suffix != suffix:
        raise InputError(f"{output}: this verb writes {suffix}", hint=f"-o {target.stem}{suffix}")
    refuse_overwriting([model_file], output, *([weights] if weights else []))
    report = Report(model_file)
    model = load(model_file, report=report)
    given = {key: value for key, value in options.items() if value not in (None, False)}
    save(model, target, weights, report=report, **given)
    say_findings(report)
    click.echo(f"{output}: {summary(model)}")


@click.command(
    cls=Command,
    examples=[
        ("nnconv convert net.prototxt net.caffemodel net.onnx", "Caffe to ONNX"),
        ("nnconv convert net.onnx net.yaml", "ONNX to YAML, weights beside it"),
        ("nnconv convert net.caffemodel net.safetensors", "the weights only"),
    ],
)
@click.argument("files", metavar="IN... OUT", nargs=-1, required=True)
@click.option("--no-check", is_flag=True, help="Do not run both sides to compare them.")
@click.option("--phase", type=PHASES, help="Which of a net's layers to take.  [default: test]")
@_SHAPE
@_REPORT
def convert(
    files: tuple[str, ...],
    no_check: bool,
    phase: str | None,
    shapes: tuple[str, ...],
    report_file: str | None,
) -> None:
    """Convert from any format to any other; suffixes say which.

    What was written is read back and run against the source on random inputs before it takes its
    place; when they differ, nothing is written.
    """
    from nnconv.api.convert import convert as run
    from nnconv.api.files import checked_target

    if len(files) < 2:
        raise InputError("convert needs what to read and what to write", hint="convert IN... OUT")
    *inputs, output = files
    target = checked_target(report_file) if report_file else None
    refuse_overwriting(inputs, output)
    report = Report(" + ".join(inputs))
    options = {"phase": phase, "shapes": _shapes(shapes) or None}
    try:
        done = run(inputs, output, check=not no_check, report=report, **options)
    finally:
        if target is not None:
            write_report(report, target)
    say_findings(report)
    for problem in report:
        if problem.severity == "note" and "not written" in problem.message:
            click.echo(str(problem), err=True)
    names = ", ".join(str(file) for file in done.files)
    click.echo(f"{names}: {summary(done.model)}{_verdict(done.difference)}")


def _verdict(difference: float | None) -> str:
    if difference is None:
        return "; not checked"
    return "; outputs equal" if difference == 0 else f"; outputs equal to {difference:.1g}"


@click.command(
    cls=Command,
    examples=[
        ("nnconv diff old.nnir new.onnx", "two models: nodes and weights"),
        ("nnconv diff a.npz b.safetensors --tolerance 1e-6", "weights, nearly equal is enough"),
    ],
)
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@click.option(
    "--tolerance", type=click.FloatRange(min=0), default=0.0, metavar="T",
    help="Weights may differ by this share of their largest.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(left: str, right: str, tolerance: float, as_json: bool) -> None:
    """Show what two models or weight files differ in.

    Nodes and weights go by their names. The exit code is 1 when anything differs.
    """
    from nnconv.api.diff import diff as compare
    from nnconv.cli.output import print_json, print_table, table

    found = compare(left, right, tolerance=tolerance)
    if as_json:
        print_json("diff", {"left": left, "right": right, **found.to_dict()})
    elif found.rows:
        rows = [[row.kind, row.name, row.left, row.right] for row in found.rows]
        print_table(table(["what", "name", left, right], rows))
    counts = " and ".join(f"{count:,} {what}" for what, count in found.compared.items())
    if not found.equal:
        raise MismatchError(f"they differ; {counts} compared")
    if not as_json:
        click.echo(f"no difference: {counts} compared")


@click.command(
    "load-weights",
    cls=Command,
    examples=[
        ("nnconv load-weights net.prototxt net.npz -o net.nnir", "by name"),
        (
            "nnconv load-weights net.onnx other.safetensors --map 'features.*=conv*' -o new.nnir",
            "names of the file turned into those of the model",
        ),
    ],
)
@click.argument("model_file", metavar="MODEL")
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", metavar="OUT", help="The model to write; without it, only report.")
@click.option(
    "--map", "renames", metavar="PATTERN=PATTERN", multiple=True,
    help="Names of the file, and what the model calls them; * is any text.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Fail unless every name and shape fits.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def load_weights(
    model_file: str,
    file: str,
    output: str | None,
    renames: tuple[str, ...],
    strict: bool,
    as_json: bool,
) -> None:
    """Put the weights of a file into a model, by name.

    FILE is a .npz, .pb, .safetensors, .caffemodel, .state, or a model. The report says which names
    matched, which are missing or unexpected, and which have another shape.
    """
    from nnconv.api.files import checked_target, load, save
    from nnconv.cli.output import print_json
    from nnconv.converter.formats import read_weights, writable
    from nnconv.converter.weights import load_weights as fill
    from nnconv.converter.weights import parse_rename

    target = None
    if output is not None:
        target = checked_target(output)
        writable(target)
        refuse_overwriting([model_file, file], output)
    rules = [parse_rename(text) for text in renames]
    model = load(model_file)
    loaded = fill(model, read_weights(file), rules, strict=strict)
    if target is not None:
        save(model, target)
    if as_json:
        print_json("load-weights", {"model": model_file, "file": file, **loaded.to_dict()})
        return
    for problem in loaded.problems():
        click.echo(str(problem), err=True)
    click.echo(
        f"{output or model_file}: {len(loaded.matched)} matched, {len(loaded.missing)} missing, "
        f"{len(loaded.unexpected)} unexpected, {len(loaded.misfits)} mis-shaped"
    )
