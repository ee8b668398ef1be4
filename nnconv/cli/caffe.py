"""Verbs for Caffe's files: `caffe2ir` in, `ir2caffe` out."""

from __future__ import annotations

from typing import Any

import click

from nnconv.cli import options
from nnconv.cli.files import import_model, refuse_overwriting, summary
from nnconv.cli.options import verb
from nnconv.schemas.errors import InputError


@verb(
    ("nnconv caffe2ir deploy.prototxt net.caffemodel -o net.nnir", "a net with its weights"),
    (
        "nnconv caffe2ir deploy.prototxt net.caffemodel -o net.nnir --mean 104,117,123 "
        "--labels synset_words.txt",
        "the same, with what turns a picture into its input and numbers into names",
    ),
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@options.output("OUT.nnir")
@options.PHASE
@options.PIXELS
@options.SHAPES
@click.option("--strict", is_flag=True, help="Refuse what Caffe refuses (unknown fields, say).")
@options.REPORT
def caffe2ir(files: tuple[str, ...], output: str, report_file: str | None, **given: Any) -> None:
    """Read a Caffe net and its weights, write a .nnir model.

    FILE is a .prototxt, a .caffemodel or both, in any order; a .caffemodel alone holds its net too.
    `-` stands for standard input and output.
    """
    import_model(files, output, report_file, "caffe2ir", **given)


@verb(
    ("nnconv ir2caffe net.nnir -o net.prototxt --weights net.caffemodel", "both files"),
    ("nnconv ir2caffe zoo:lenet -o lenet.prototxt --weights lenet.caffemodel", "from the zoo"),
)
@options.MODEL
@options.output("NET.prototxt", "The net to write.")
@click.option("--weights", metavar="NET.caffemodel", help="The weights.  [default: beside the net]")
def ir2caffe(model_file: str, output: str, weights: str | None) -> None:
    """Write a model back as a Caffe net and its weights.

    What came from Caffe and was not changed is written as it was: the same layers, names and bytes.
    """
    from nnconv.api.files import checked_target, load, save

    target = checked_target(output)
    second = checked_target(weights) if weights else target.with_suffix(".caffemodel")
    refuse_overwriting([model_file], output, str(second))
    if target.suffix != ".prototxt" or second.suffix != ".caffemodel":
        raise InputError("a Caffe net is a .prototxt and a .caffemodel", hint="-o NET.prototxt")
    model = load(model_file)
    save(model, target, second)
    click.echo(f"{target}, {second}: {summary(model)}")
