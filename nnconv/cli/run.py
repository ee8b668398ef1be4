"""`nnconv run`: inputs from files, one run, and its results as a person or a program wants them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from nnconv.cli import options
from nnconv.cli.files import open_model
from nnconv.cli.options import Shapes, verb
from nnconv.schemas.errors import InputError

if TYPE_CHECKING:
    from nnconv.api.feeds import Feeds
    from nnconv.schemas.graph import Model
    from nnconv.schemas.types import Array


@verb(
    ("nnconv run zoo:lenet --image seven.png", "the most likely classes of a picture"),
    ("nnconv run net.nnir --input data=batch.npy --output result.npz", "arrays in, arrays out"),
)
@options.MODEL
@click.argument("more", metavar="[FILE]...", nargs=-1)
@options.WEIGHTS
@click.option(
    "--input", "inputs", metavar="NAME=FILE", multiple=True,
    help="An input from a .npy, .npz or picture file; one input alone needs no NAME=.",
)  # fmt: skip
@click.option(
    "--image", "images", metavar="FILE", multiple=True,
    help="A picture, or a folder of them; several make a batch.",
)  # fmt: skip
@options.SHAPES
@options.device()
@options.MODE
@options.output("FILE.npz", "Write the results as arrays.", required=False)
@click.option("--top", type=options.COUNT, metavar="K", help="How many classes to print.")
@click.option("--dump-all", is_flag=True, help="Return every value of the model, inner ones too.")
@options.JSON
def run(
    model_file: str,
    more: tuple[str, ...],
    weights: str | None,
    inputs: tuple[str, ...],
    images: tuple[str, ...],
    shapes: Shapes,
    device: str | None,
    mode: str | None,
    output: str | None,
    top: int | None,
    dump_all: bool,
    as_json: bool,
) -> None:
    """Run a model on pictures or arrays.

    FILE is a picture, a folder of pictures, or an array for a model with one input.

    MODEL is a .nnir, a .caffemodel, a .prototxt (with --weights) or a zoo:NAME. Without any input
    it says what the model wants.
    """
    from nnconv.api import compile
    from nnconv.api.feeds import gather
    from nnconv.api.files import checked_target
    from nnconv.api.shapes import bind_sizes
    from nnconv.schemas.arrays import save_arrays

    target = checked_target(output) if output else None
    if target is not None and target.suffix != ".npz":
        raise InputError(
            f"{output}: results are written as .npz", hint=f"--output {target.stem}.npz"
        )
    model = open_model(model_file, weights, shapes=shapes)
    if model.inputs and not (inputs or images or more):
        raise InputError(wants(model, model_file))
    files, pictures = _sorted_out((*images, *more))
    sizes = bind_sizes(model, shapes) if shapes else None
    feeds = gather(model, (*inputs, *files), pictures, sizes)
    _check_shapes(feeds, shapes)
    outputs = "all" if dump_all else None
    results = compile(model, device=device, mode=mode, outputs=outputs).run(feeds.arrays)
    # inner values go into the file; without one they are listed
    shown = {value.name for value in model.outputs} if target else results.keys()
    found = Results(model, feeds, {name: a for name, a in results.items() if name in shown}, top)
    if top is not None and not found.scores:
        raise InputError(f"--top {top}: no output of the model holds one score a class")
    if target is not None:
        save_arrays(target, results)
    if as_json:
        from nnconv.cli.output import print_json

        print_json("run", {"model": model_file, **found.to_dict(), "output": output})
    else:
        found.print()
    if target is not None:
        count = len(results)
        click.echo(f"{output}: {count} array{'s' if count > 1 else ''}", err=True)


def _check_shapes(feeds: Feeds, shapes: Shapes) -> None:
    """Raise InputError where what is given has another size than was asked for."""
    for name, shape in shapes.items():
        if feeds.arrays[name].shape != shape:
            asked, given = (",".join(map(str, s)) for s in (shape, feeds.arrays[name].shape))
            raise InputError(
                f"--input-shape {name}:{asked}: what is given for it is {given}",
                hint="the first number is how many pictures there are",
            )


def _sorted_out(files: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Array files and pictures apart."""
    from nnconv.schemas.arrays import is_array_file

    arrays = [file for file in files if is_array_file(file)]
    return arrays, [file for file in files if file not in arrays]


def wants(model: Model, file: str) -> str:
    """What to give a model, with command lines to copy."""
    from nnconv.api.pictures import takes_pictures

    lines = [f"{file} needs input:"]
    for value in model.inputs:
        shape = "x".join(map(str, value.shape or ())) or "any shape"
        lines.append(f"  {value.name}: {value.dtype} {shape}{_preparation(model, value.name)}")
    lines.append("Try:")
    able = [value for value in model.inputs if takes_pictures(value)]
    if len(able) == len(model.inputs) == 1:
        lines.append(f"  nnconv run {shlex.quote(file)} --image PICTURE.png")
    arrays = " ".join(f"--input {shlex.quote(value.name)}=ARRAY.npy" for value in model.inputs)
    lines.append(f"  nnconv run {shlex.quote(file)} {arrays}")
    return "\n".join(lines)


def _preparation(model: Model, name: str) -> str:
    """How a picture is prepared for an input, in words; empty where it is taken as it is."""
    from nnconv.api.pictures import takes_pictures

    value = next(value for value in model.inputs if value.name == name)
    how = model.preprocessing.get(name)
    if not takes_pictures(value):
        return ""
    grey = value.known_shape[1] == 1
    words = ["grey picture" if grey else f"{how.channels if how else 'BGR'} picture"]
    if how is not None and how.mean_image is not None:
        words.append("minus the mean image")
    elif how is not None and how.mean:
        words.append(f"minus {', '.join(f'{number:g}' for number in how.mean)}")
    if how is not None and how.scale != 1:
        words.append(f"pixels x {how.scale:g}")
    return f"  ({', '.join(words)})"


class Results:
    """The outputs of a run, each as class scores (labels, best first) or as a summary of
    numbers.
    """

    def __init__(
        self, model: Model, feeds: Feeds, outputs: dict[str, Array], top: int | None
    ) -> None:
        self.model = model
        self.feeds = feeds
        self.top = top
        self.scores: dict[str, Array] = {}
        self.others: dict[str, Array] = {}
        for name, array in outputs.items():
            inner = all(value.name != name for value in model.outputs)
            rows = None if inner else scores(model, name, array, asked=top is not None)
            if rows is None:
                self.others[name] = array
            else:
                self.scores[name] = rows

    def best(self, row: Array, default: int) -> list[tuple[str, float]]:
        """The best classes of one sample, as (label, score)."""
        labels = self.model.labels
        order = (-row).argsort(kind="stable")[: self.top or default]
        return [(labels[i] if i < len(labels) else str(i), float(row[i])) for i in order]

    def sample_names(self, count: int) -> list[str]:
        """What to call each sample: its picture, else its number."""
        if len(self.feeds.pictures) == count:
            return [path.name for path in self.feeds.pictures]
        return [f"#{index}" for index in range(count)]

    def print(self) -> None:
        from nnconv.cli.output import print_table, table

        for name, rows in self.scores.items():
            if len(rows) == 1:
                best = [(label, f"{score:.4f}") for label, score in self.best(rows[0], 5)]
                print_table(table([name, ">score"], best))
                continue
            lines = []
            for sample, row in zip(self.sample_names(len(rows)), rows, strict=True):
                lines.append(
                    [sample, *(f"{label} {score:.4f}" for label, score in self.best(row, 3))]
                )
            columns = [str(rank + 1) for rank in range(len(lines[0]) - 1)] if lines else []
            print_table(table([name, *columns], lines))
        if self.others:
            facts = [list(map(str, summarise(array).values())) for array in self.others.values()]
            named = [[name, *row] for name, row in zip(self.others, facts, strict=True)]
            print_table(table(["output", "shape", ">min", ">max", ">mean"], named))

    def to_dict(self) -> dict[str, Any]:
        outputs: list[dict[str, Any]] = []
        for name, rows in self.scores.items():
            samples = [
                {
                    "sample": sample,
                    "best": [{"label": b[0], "score": b[1]} for b in self.best(row, 5)],
                }
                for sample, row in zip(self.sample_names(len(rows)), rows, strict=True)
            ]
            outputs.append({"name": name, "shape": list(rows.shape), "samples": samples})
        for name, array in self.others.items():
            outputs.append({"name": name, **summarise(array), "shape": list(array.shape)})
        return {"outputs": outputs}


def scores(model: Model, name: str, array: Array, asked: bool) -> Array | None:
    """The array as [N, classes] when it holds one score a class and sample, else None.

    It does when there is a label for each, when a Softmax made it, or when the user asked for the
    best.
    """
    flat = array.reshape(array.shape[:2]) if array.ndim > 2 and array[0, 0].size == 1 else array
    if flat.ndim != 2 or flat.shape[1] < 2 or not len(flat):
        return None
    producer = model.graph.values[name].producer
    softmax = producer is not None and producer.op == "Softmax"
    return flat if asked or softmax or len(model.labels) == flat.shape[1] else None


def summarise(array: Array) -> dict[str, Any]:
    """Shape and range of an array of numbers."""
    shape = "x".join(map(str, array.shape)) or "scalar"
    if not array.size or array.dtype.kind not in "fiub":
        return {"shape": shape, "min": "", "max": "", "mean": ""}
    wide = array.astype("float64")
    facts = {"min": wide.min(), "max": wide.max(), "mean": wide.mean()}
    return {"shape": shape, **{key: float(f"{value:.6g}") for key, value in facts.items()}}
