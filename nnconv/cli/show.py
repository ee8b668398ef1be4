"""`nnconv show`: what is inside a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

from nnconv.cli import options
from nnconv.cli.options import Shapes, verb
from nnconv.cli.output import say_findings
from nnconv.schemas.errors import InputError, Report, visible

if TYPE_CHECKING:
    from nnconv.api import Model
    from nnconv.api.summary import Row, Summary, Tensor


@verb(
    ("nnconv show zoo:lenet", "layers, shapes, parameters and cost"),
    (
        "nnconv show vgg16.prototxt --input-shape data:8,3,224,224",
        "the same for a batch of eight",
    ),
    ("nnconv show zoo:lenet --plan", "the kernels that would run, with their memory"),
)
@options.MODEL
@options.WEIGHTS
@options.PHASE
@options.SHAPES
@click.option(
    "--all", "everything", is_flag=True, help="Also list what is computed once, from weights."
)
@click.option("--plan", is_flag=True, help="Show the steps that run it on a device instead.")
@options.device("Whose plan: see `nnconv devices`.")
@options.JSON
def show(
    model_file: str,
    weights: str | None,
    phase: str | None,
    shapes: Shapes,
    everything: bool,
    plan: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Show what is inside a model: inputs, outputs, layers with shapes, parameters and cost.

    MODEL is a .nnir, .prototxt, .caffemodel or a zoo:NAME. Cost is counted in multiply-adds (MACs),
    memory as what each layer's result takes; ? where a size is open, --input-shape gives it.
    """
    from nnconv.api import load
    from nnconv.api.summary import summarise

    if everything and (plan or device):
        raise InputError("--all belongs to the list of layers, --plan shows the steps instead")
    report = Report(model_file)
    model = load(model_file, weights, phase=phase, shapes=shapes, report=report)
    if plan or device:
        show_plan(model, device, shapes, report, as_json)
        return
    summary = summarise(model, shapes)
    if as_json:
        from nnconv.cli.output import print_json

        print_json("show", {"model": summary.to_dict(), "problems": report.to_dict()["problems"]})
        return
    say_findings(report)
    print_summary(summary, everything)


def show_plan(
    model: Model,
    device: str | None,
    shapes: Shapes,
    report: Report,
    as_json: bool,
) -> None:
    """Every step with its kernel (tile and layout are in its name), what it makes, and its work."""
    from nnconv.api import compile
    from nnconv.api.shapes import bind_sizes

    bind_sizes(model, shapes)  # names all that is open, and how to give it
    plan = compile(model, device=device).plan(shapes)
    if as_json:
        from nnconv.cli.output import print_json

        print_json("show", {"plan": plan.to_dict(), "problems": report.to_dict()["problems"]})
        return
    say_findings(report)
    click.echo(visible(str(plan)))


def print_summary(summary: Summary, everything: bool) -> None:
    from nnconv.cli.output import count, print_table, size, table

    click.echo(visible(_title(summary)))
    for what, tensors in (("input", summary.inputs), ("output", summary.outputs)):
        for tensor in tensors:
            line = f"  {what} {_describe(tensor)}{_prepared(summary, tensor.name)}"
            click.echo(visible(line))
    click.echo()
    kept = [row for row in summary.rows if everything or not row.constant]
    columns = ["result", "operator", ">shape", ">parameters", ">MACs", ">memory", "layer", "where"]
    cells = [_cells(row) for row in kept]
    if not any(row[-1] for row in cells):  # a binary file has no lines
        columns, cells = columns[:-1], [row[:-1] for row in cells]
    print_table(table(columns, cells))
    click.echo()
    if hidden := len(summary.rows) - len(kept):
        click.echo(f"{hidden} nodes that only prepare parameters are left out (--all lists them)")
    held = "no weights" if summary.missing_weights else f"{size(summary.weights)} of weights"
    line = f"{count(len(summary.rows))} nodes, {count(summary.parameters)} parameters ({held})"
    if summary.macs is not None and summary.activations is not None:
        line += f", {count(summary.macs)} multiply-adds, {size(summary.activations)} of results"
    click.echo(line)
    if summary.open_sizes:
        click.echo(visible(f"open: {', '.join(summary.open_sizes)}; {summary.to_close}"))


def _title(summary: Summary) -> str:
    files = ", ".join(PurePath(file).name for file in summary.files)
    origin = files or summary.format
    source = f", from {origin}" if origin else ""
    labels = f", {summary.labels} labels" if summary.labels else ""
    sizes = ", ".join(f"{name}={size}" for name, size in summary.sizes.items())
    return f"{summary.name or 'model'} ({summary.mode} mode{source}{labels})" + (
        f" at {sizes}" if sizes else ""
    )


def _describe(tensor: Tensor) -> str:
    shape = "?" if tensor.shape is None else "x".join(map(_size, tensor.shape)) or "scalar"
    return f"{tensor.name}: {tensor.dtype} {shape}"


def _prepared(summary: Summary, name: str) -> str:
    """The preprocessing of an input in words, empty where pixels are taken as they are."""
    how: dict[str, Any] = summary.preprocessing.get(name, {})
    words = []
    if how.get("mean_image"):
        words.append(f"minus a {'x'.join(map(str, how['mean_image']))} mean image")
    if how.get("mean"):
        words.append(f"minus {', '.join(f'{number:g}' for number in how['mean'])}")
    if how.get("scale", 1) != 1:
        words.append(f"times {how['scale']:g}")
    return f"  (pixels {', '.join(words)})" if words else ""


def _cells(row: Row) -> list[str]:
    from nnconv.cli.output import count, size

    shape = "?" if row.shape is None else "x".join(map(_size, row.shape)) or "scalar"
    layer = f"{row.layer} ({row.layer_type})" if row.layer else ""
    file, *position = row.where.split(":")
    where = f"{PurePath(file).name}:{position[0]}" if position else ""
    return [
        row.name, row.op, shape, count(row.parameters) if row.parameters else "",
        _figure(row.macs, count) if row.macs != 0 else "", _figure(row.bytes, size), layer, where,
    ]  # fmt: skip


def _size(dim: int | str) -> str:
    """A size as people read it; long formulas (in --json) would push all else out of sight."""
    text = str(dim)
    return text if len(text) <= _LONGEST_FORMULA else "?"


_LONGEST_FORMULA = 30


def _figure(number: int | None, show: Callable[[int], str]) -> str:
    return "?" if number is None else show(number)
