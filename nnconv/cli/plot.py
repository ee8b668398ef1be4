"""`nnconv plot`: the curves of a training run, in the terminal or as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nnconv.cli import options
from nnconv.cli.options import verb
from nnconv.schemas.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nnconv.cli.braille import Curve

# what is drawn, top to bottom: title, then the (kind, key, legend) of its curves
PANELS = (
    ("loss", (("train", "loss", "training"), ("validation", "loss", "validation"))),
    ("accuracy", (("validation", "accuracy", "validation"),)),
    ("learning rate", (("train", "lr", "rate"),)),
)
SUFFIXES = (".svg", ".png", ".pdf")


@verb(
    ("nnconv plot digits.run", "the curves, in the terminal"),
    ("nnconv plot digits.run -o loss.svg", "as a picture (needs matplotlib)"),
)
@click.argument("run", metavar="RUN")
@options.output("FILE", "Draw into a .svg, .png or .pdf file.", required=False)
@options.JSON
def plot(run: str, output: str | None, as_json: bool) -> None:
    """Show the curves of a training run, or draw them.

    RUN is the folder that `nnconv finetune` keeps beside its output, or the metrics.jsonl in it.
    """
    from nnconv.runtime.training.metrics import read_metrics

    if not Path(run).exists():
        raise InputError(
            f"{run}: no such run", hint="nnconv finetune ... -o OUT.nnir makes OUT.run"
        )
    records = read_metrics(Path(run))
    if not records:
        hint = "RUN is the folder that nnconv finetune keeps: OUT.run"
        raise InputError(f"{run}: nothing was recorded here yet", hint=hint)
    panels = [(title, found) for title, wanted in PANELS if (found := _curves(records, wanted))]
    if as_json:
        from nnconv.cli.output import print_json

        print_json("plot", {"run": run, "records": records})
    if output is not None:
        draw(panels, Path(output))
    elif not as_json:
        show(panels)


Panel = tuple[str, dict[str, "Curve"]]


def _curves(
    records: list[dict[str, Any]], wanted: tuple[tuple[str, str, str], ...]
) -> dict[str, Curve]:
    from nnconv.runtime.training.metrics import series

    found = {legend: series(records, kind, key) for kind, key, legend in wanted}
    return {legend: curve for legend, curve in found.items() if curve[0]}


def show(panels: list[Panel]) -> None:
    """The panels as text; the rate, which mostly says little, only as its last value."""
    from nnconv.cli.braille import chart
    from nnconv.cli.output import console

    width = max(20, min(console().width, 100))
    for title, curves in panels:
        last = ", ".join(f"{legend} {curve[1][-1]:.4g}" for legend, curve in curves.items())
        click.echo(f"{title}: {last}")
        if title != "learning rate":
            for line in chart(list(curves.values()), width):
                click.echo(line.rstrip())


def draw(panels: list[Panel], path: Path) -> None:
    """Write the panels as a picture; the same figures give the same bytes."""
    from nnconv.schemas.files import atomic_write

    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: curves are drawn into {', '.join(SUFFIXES)}")
    figure = _figure(panels)
    # without a date; and names inside an .svg come from this salt instead of from chance
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
    import matplotlib

    with atomic_write(path) as file, matplotlib.rc_context({"svg.hashsalt": "nnconv"}):
        figure.savefig(file, format=path.suffix[1:], dpi=120, metadata=metadata)


def _figure(panels: list[Panel]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        hint = 'pip install "nnconv[plot]"; without -o the curves are shown in the terminal'
        raise MissingExtraError("drawing into a file needs matplotlib", hint=hint) from None
    figure = Figure(figsize=(7, 2.6 * len(panels)), layout="constrained")
    for row, (title, curves) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, row + 1)
        for legend, (x, y) in curves.items():
            axes.plot(x, y, label=legend, marker="o" if len(x) < 30 else None, markersize=3)
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend()
    figure.axes[-1].set_xlabel("iteration")
    return figure
