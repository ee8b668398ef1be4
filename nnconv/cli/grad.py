"""`nnconv grad`: the gradients of a model, written as a model."""

from __future__ import annotations

from pathlib import Path

import click

from nnconv.cli.base import Command
from nnconv.cli.output import say_findings
from nnconv.schemas.errors import InputError, Report


@click.command(
    cls=Command,
    examples=[
        ("nnconv grad net.prototxt --of loss -o grad.nnir", "gradients of all parameters"),
        (
            "nnconv grad zoo:lenet --of ip2 --wrt data -o saliency.nnir",
            "how each score changes with the picture",
        ),
    ],
)
@click.argument("model_file", metavar="MODEL")
@click.option("--weights", metavar="FILE", help="The .caffemodel of a .prototxt.")
@click.option(
    "--of", "of", metavar="NAMES", multiple=True,
    help="What to differentiate, several apart by commas.  [default: the model's losses]",
)  # fmt: skip
@click.option(
    "--wrt", "wrt", metavar="NAMES", multiple=True,
    help="By what, several apart by commas.  [default: all parameters]",
)  # fmt: skip
@click.option(
    "--mode", type=click.Choice(["test", "train"]), help="How layers such as Dropout behave."
)
@click.option(
    "-o", "--output", metavar="GRAD.nnir", required=True,
    help="The model to write; a .dot draws it.",
)  # fmt: skip
def grad(
    model_file: str,
    weights: str | None,
    of: tuple[str, ...],
    wrt: tuple[str, ...],
    mode: str | None,
    output: str,
) -> None:
    """Write the gradients of a model as a model.

    Its outputs are what was differentiated and, for each NAME, the gradient NAME@grad. It can be
    shown, run, differentiated again and converted like any other.
    """
    from nnconv.api import load, save
    from nnconv.api.expression import dot
    from nnconv.api.files import checked_target
    from nnconv.api.gradients import gradient_model

    target = checked_target(output)
    if target.suffix not in (".nnir", ".nnirtxt", ".dot"):
        raise InputError(
            f"{output}: grad writes .nnir, .nnirtxt or .dot", hint=f"-o {target.stem}.nnir"
        )
    if Path(model_file).resolve() == target.resolve():
        raise InputError(f"{output}: this is the model itself, choose another name")
    report = Report(model_file)
    model = load(model_file, weights, phase=mode, report=report)
    say_findings(report)
    made = gradient_model(model, _names(of), _names(wrt), mode)
    if target.suffix == ".dot":
        from nnconv.schemas.files import atomic_write

        with atomic_write(target) as file:
            file.write(dot(made.graph).encode())
    else:
        save(made, target)
    click.echo(f"{output}: {len(made.graph)} nodes, {len(made.outputs)} outputs", err=True)


def _names(texts: tuple[str, ...]) -> list[str]:
    return [name for text in texts for name in text.split(",") if name]
