"""`nnconv grad`: the gradients of a model, written as a model."""

from __future__ import annotations

import click

from nnconv.cli import options
from nnconv.cli.files import open_model, refuse_overwriting
from nnconv.cli.options import verb
from nnconv.schemas.errors import InputError


@verb(
    ("nnconv grad net.prototxt --of loss -o grad.nnir", "gradients of all parameters"),
    (
        "nnconv grad zoo:lenet --of ip2 --wrt data -o saliency.nnir",
        "how each score changes with the picture",
    ),
)
@options.MODEL
@options.WEIGHTS
@click.option(
    "--of", "of", metavar="NAMES", multiple=True, callback=options.names,
    help="What to differentiate, several apart by commas.  [default: the model's losses]",
)  # fmt: skip
@click.option(
    "--wrt", "wrt", metavar="NAMES", multiple=True, callback=options.names,
    help="By what, several apart by commas.  [default: all parameters]",
)  # fmt: skip
@options.MODE
@options.output("GRAD.nnir", "The model to write; a .dot draws it.")
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
    from nnconv.api import save
    from nnconv.api.expression import dot
    from nnconv.api.files import checked_target
    from nnconv.api.gradients import gradient_model

    target = checked_target(output)
    if target.suffix not in (".nnir", ".nnirtxt", ".dot"):
        raise InputError(
            f"{output}: grad writes .nnir, .nnirtxt or .dot", hint=f"-o {target.stem}.nnir"
        )
    refuse_overwriting([model_file], output)
    model = open_model(model_file, weights, phase=mode)
    made = gradient_model(model, of, wrt, mode)
    if target.suffix == ".dot":
        from nnconv.schemas.files import atomic_write

        with atomic_write(target) as file:
            file.write(dot(made.graph).encode())
    else:
        save(made, target)
    click.echo(f"{output}: {len(made.graph)} nodes, {len(made.outputs)} outputs", err=True)
