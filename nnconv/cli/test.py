"""`nnconv test`: how good a model is on data whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nnconv.cli import options
from nnconv.cli.files import open_model
from nnconv.cli.options import verb
from nnconv.cli.output import say

if TYPE_CHECKING:
    from nnconv.api.evaluate import Evaluation

WIDEST = 20  # classes that a confusion matrix is printed for


@verb(
    ("nnconv test zoo:lenet --data mnist/", "accuracy and confusion on the digits"),
    ("nnconv test net.onnx --data val/ --top 5 --json", "top-5 on a folder of folders"),
)
@options.MODEL
@click.option("--data", required=True, metavar="DATA", help="IDX, folder of pictures, .npz, .csv.")
@options.WEIGHTS
@options.PIXELS
@options.LOSS
@options.SCORES
@options.COLUMN
@click.option(
    "--part", type=options.PHASES, default="test", show_default=True,
    help="Which part, where DATA holds both.",
)  # fmt: skip
@click.option("--top", type=options.COUNT, multiple=True, metavar="K", help="Also top-K.")
@click.option(
    "--batch", type=options.COUNT, default=100, show_default=True, help="Samples at once."
)
@options.device()
@options.JSON
def test(
    model_file: str,
    data: str,
    weights: str | None,
    scale: float | None,
    mean: str | list[float] | None,
    labels: str | None,
    loss: str | None,
    scores: str | None,
    label: str | None,
    part: str,
    top: tuple[int, ...],
    batch: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Measure a model on data: accuracy, loss, top-k, confusion."""
    from nnconv.api.evaluate import evaluate

    model = open_model(model_file, weights, scale=scale, mean=mean, labels=labels)
    found = evaluate(
        model, Path(data), device=device, batch=batch, loss=loss, scores=scores,
        top=(1, *(top or (5,))), part=part, label=label,
    )  # fmt: skip
    for k in top:
        if k not in found.top:
            say(f"warning: top-{k} says nothing, the model tells fewer classes apart")
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
