"""Verbs between formats: the `X2ir` and `ir2X` pairs that need no module of their own, `convert`,
`diff` and `load-weights`."""

from __future__ import annotations

import click

from nnconv.cli import options
from nnconv.cli.files import (
    export_model,
    import_model,
    refuse_overwriting,
    reported,
    summary,
)
from nnconv.cli.options import Shapes, verb
from nnconv.cli.output import say_findings
from nnconv.schemas.errors import InputError, MismatchError, Report


@verb(
    ("nnconv onnx2ir net.onnx -o net.nnir", "a model with its weights"),
    ("nnconv onnx2ir net.onnx -o net.nnir --input-shape data:1,3,224,224", "with sizes of its own"),
)
@click.argument("file", metavar="MODEL.onnx")
@options.output("OUT.nnir")
@options.SHAPES
@options.REPORT
def onnx2ir(file: str, output: str, shapes: Shapes, report_file: str | None) -> None:
    """Read an ONNX model of any opset, write a .nnir model.

    Sizes that the file leaves open stay open; --input-shape says which are meant when nobody asks.
    """
    import_model([file], output, report_file, "onnx2ir", shapes=shapes or None)


@verb(
    ("nnconv yaml2ir lenet.yaml -o lenet.nnir", "a model, with the weights that it names"),
    ("nnconv yaml2ir net.yaml net.state -o net.nnir", "nevermind-neu's model and weights"),
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@options.output("OUT.nnir")
@click.option("--phase", type=options.PHASES, help="train builds the losses too.  [default: test]")
@options.REPORT
def yaml2ir(
    files: tuple[str, ...], output: str, phase: str | None, report_file: str | None
) -> None:
    """Read a model in YAML (ours, or nevermind-neu's), write a .nnir model.

    FILE is the model; weights (.npz, .pb, .safetensors, .state) may come with it.
    """
    import_model(files, output, report_file, "yaml2ir", phase=phase)


@verb(
    ("nnconv ir2onnx net.nnir -o net.onnx", "the lowest opset that says all of it"),
    ("nnconv ir2onnx zoo:lenet -o lenet.onnx --opset 13", "one opset"),
)
@options.MODEL
@options.output("OUT.onnx")
@click.option("--opset", type=options.COUNT, metavar="N", help="The version of ONNX's operators.")
@click.option("--external", is_flag=True, help="Put the weights into a file beside it.")
def ir2onnx(model_file: str, output: str, opset: int | None, external: bool) -> None:
    """Write a model as ONNX, in test mode.

    Without --opset it is the lowest at which every operator means the same, for old readers.
    """
    export_model(model_file, output, ".onnx", opset=opset, external=external)


@verb(
    ("nnconv ir2yaml net.nnir -o net.yaml", "net.yaml, and net.npz with the weights"),
    ("nnconv ir2yaml zoo:lenet -o lenet.yaml --weights lenet.safetensors", "other weights"),
)
@options.MODEL
@options.output("OUT.yaml")
@click.option("--weights", metavar="FILE", help="The weights.  [default: beside it, .npz]")
def ir2yaml(model_file: str, output: str, weights: str | None) -> None:
    """Write a model in YAML, for people to read and change.

    Its weights go to a file of the same folder: .npz, .pb or .safetensors.
    """
    export_model(model_file, output, ".yaml", weights=weights)


def _writes_weights(name: str, help: str, *examples: tuple[str, str]) -> click.Command:
    """The verb `ir2X` that writes a model's weights, and nothing else, as .X."""
    suffix = name.removeprefix("ir2")

    @verb(*examples, name=name, help=help)
    @options.MODEL
    @options.output(f"OUT.{suffix}", "The file to write.")
    def write(model_file: str, output: str) -> None:
        export_model(model_file, output, f".{suffix}")

    made: click.Command = write
    return made


ir2npz = _writes_weights(
    "ir2npz",
    """Write a model's weights as a numpy archive.

    Every parameter under its name, uncompressed; nothing in it needs pickle.
    """,
    ("nnconv ir2npz net.nnir -o net.npz", "what numpy.load reads"),
    ("nnconv ir2npz net.caffemodel -o net.npz", "straight from Caffe"),
)
ir2pb = _writes_weights(
    "ir2pb",
    """Write a model's weights as a protobuf checkpoint.

    The message is Checkpoint in nnconv/schemas/checkpoint.proto; any protobuf tool decodes it.
    """,
    ("nnconv ir2pb net.nnir -o net.pb", "the weights as one protobuf message"),
    ("nnconv ir2pb zoo:lenet -o lenet.pb", "from the zoo"),
)


@verb(
    ("nnconv convert net.prototxt net.caffemodel net.onnx", "Caffe to ONNX"),
    ("nnconv convert net.onnx net.yaml", "ONNX to YAML, weights beside it"),
    ("nnconv convert net.caffemodel net.safetensors", "the weights only"),
)
@click.argument("files", metavar="IN... OUT", nargs=-1, required=True)
@click.option("--no-check", is_flag=True, help="Do not run both sides to compare them.")
@options.PHASE
@options.SHAPES
@options.REPORT
def convert(
    files: tuple[str, ...],
    no_check: bool,
    phase: str | None,
    shapes: Shapes,
    report_file: str | None,
) -> None:
    """Convert from any format to any other; suffixes say which.

    What was written is read back and run against the source on random inputs before it takes its
    place; when they differ, nothing is written.
    """
    from nnconv.api.convert import convert as run

    if len(files) < 2:
        raise InputError("convert needs what to read and what to write", hint="convert IN... OUT")
    *inputs, output = files
    refuse_overwriting(inputs, output)
    report = Report(" + ".join(inputs))
    given = {"phase": phase, "shapes": shapes or None}
    with reported(report, report_file):
        done = run(inputs, output, check=not no_check, report=report, **given)
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


@verb(
    ("nnconv diff old.nnir new.onnx", "two models: nodes and weights"),
    ("nnconv diff a.npz b.safetensors --tolerance 1e-6", "weights, nearly equal is enough"),
)
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@click.option(
    "--tolerance", type=options.Number(least=0), default=0.0, metavar="T",
    help="Weights may differ by this share of their largest.",
)  # fmt: skip
@options.JSON
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


@verb(
    ("nnconv load-weights net.prototxt net.npz -o net.nnir", "by name"),
    (
        "nnconv load-weights net.onnx other.safetensors --map 'features.*=conv*' -o new.nnir",
        "names of the file turned into those of the model",
    ),
    name="load-weights",
)
@options.MODEL
@click.argument("file", metavar="FILE")
@options.output("OUT", "The model to write; without it, only report.", required=False)
@click.option(
    "--map", "renames", metavar="PATTERN=PATTERN", multiple=True,
    help="Names of the file, and what the model calls them; * is any text.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Fail unless every name and shape fits.")
@options.JSON
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
