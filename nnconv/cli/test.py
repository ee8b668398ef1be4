"""`nnconv test`: how good a model is on data whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nnconv.cli.base import Command
from nnconv.cli.output import say_findings
from nnconv.schemas.errors import Report

if TYPE_CHECKING:
    from nnconv.api.evaluate import Evaluation

WIDEST = 20  # classes that a confusion matrix is printed for


@click.command(
    cls=Command,
    examples=[
        ("nnconv test zoo:lenet --data mnist/", "accuracy and confusion on the digits"),
        ("nnconv test net.onnx --data val/ --top 5 --json", "top-5 on a folder of folders"),
    ],
)
@click.argument("model_file", metavar="MODEL")
@click.option("--data", required=True, metavar="DATA", help="IDX, folder of pictures, .npz, .csv.")
@click.option("--weights", metavar="FILE", help="The .caffemodel of a .prototxt.")
@click.option("--scale", type=float, metavar="X", help="Pixels are multiplied by this.")
@click.option("--mean", metavar="MEAN", help="A .binaryproto, or numbers: 104,117,123.")
@click.option("--labels", metavar="FILE", help="The classes' names, one a line.")
@click.option("--loss", metavar="NAME", help="The loss, where the model does not say it.")
@click.option("--label", metavar="COLUMN", help="The label column of a CSV.")
@click.option(
    "--part", type=click.Choice(["test", "train"]), default="test", show_default=True,
    help="Which part, where DATA holds both.",
)  # fmt: skip
@click.option("--top", type=click.IntRange(min=1), multiple=True, metavar="K", help="Also top-K.")
@click.option("--batch", default=100, show_default=True, help="Samples at once.")
@click.option("--device", metavar="NAME", help="Where to run: see `nnconv devices`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def test(
    model_file: str,
    data: str,
    weights: str | None,
    scale: float | None,
    mean: str | None,
    labels: str | None,
    loss: str | None,
    label: str | None,
    part: str,
    top: tuple[int, ...],
    batch: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Measure a model on data: accuracy, loss, top-k, confusion."""
    from nnconv.api import load
    from nnconv.api.evaluate import evaluate
    from nnconv.cli.caffe import parse_mean

    report = Report(model_file)
    model = load(
        model_file, weights, scale=scale, mean=parse_mean(mean), labels=labels, report=report
    )
    say_findings(report)
    found = evaluate(
        model, Path(data), device=device, batch=batch, loss=loss, top=(1, *(top or (5,))),
        part=part, label=label,
    )  # fmt: skip
    if as_json:
        from nnconv.cli.output import print_json

        print_json("test", {"model": model_file, "data": data, **found.to_dict()})
    else:
        show(found)


def show(found: Evaluation) -> None:
    """The figures, and the confusion matrix where it fits a terminal."""
    from nnconv.cli.output import count, print_table, table

    click.echo(f"{count(found.samples)} samples, loss {found.loss:.4f}")
    for k, share in found.top.items():
        name = "accuracy" if k == 1 else f"top-{k}"
        click.echo(f"{name} {share:.2%}")
    if found.confusion is None:
        return
    kept = [i for i, n in enumerate(found.confusion.sum(axis=1).tolist()) if n]
    if not 1 < len(kept) <= WIDEST:
        return
    names = [found.name(i) for i in kept]
    rows = [
        [found.name(i), *(str(n) if n else "." for n in found.confusion[i, kept].tolist())]
        for i in kept
    ]
    click.echo()
    print_table(table(["true \\ taken for", *(f">{name}" for name in names)], rows))
