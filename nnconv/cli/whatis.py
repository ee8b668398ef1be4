"""`nnconv FILE`: what a file is, and the three commands that likely come next."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from nnconv.cli.base import Command
from nnconv.schemas.files import STREAM


@click.command(cls=Command)
@click.argument("file")
def whatis(file: str) -> None:
    """Say what a file is and what to do with it."""
    from nnconv.converter.formats import identify
    from nnconv.zoo import find, is_zoo_name

    if is_zoo_name(file):
        entry = find(file)
        click.echo(f"{file} is a model of the zoo: {entry.title}")
        _suggest(file, "nnir")
        return
    form = identify(file)
    article = (
        "" if form.title.endswith("weights") else "a" if form.title[0] not in "aeioHnO" else "an"
    )
    click.echo(" ".join(filter(None, [f"{file} is", article, f"{form.title}."])))
    _suggest(file, form.name)


# what comes next, by the name of the format; {file} and {stem} are quoted for a shell
_MODEL = (
    "nnconv show {file}",
    "nnconv run {file} --image PICTURE",
    "nnconv ir2caffe {file} -o {stem}.prototxt --weights {stem}.caffemodel",
)
_YAML = (
    "nnconv show {file}",
    "nnconv yaml2ir {file} -o {stem}.nnir",
    "nnconv convert {file} {stem}.prototxt",
)
_ARRAY = ("nnconv run MODEL --input NAME={file}",)
_CHECKPOINT = ("nnconv load-weights MODEL {file} -o NEW.nnir", "nnconv diff {file} OTHER")
_NEXT: dict[str, tuple[str, ...]] = {
    "nnir": _MODEL,
    "nnirtxt": _MODEL,
    "prototxt": (
        "nnconv show {file}",
        "nnconv caffe2ir {file} WEIGHTS.caffemodel -o {stem}.nnir",
        "nnconv run {file} --weights WEIGHTS.caffemodel --image PICTURE",
    ),
    "caffemodel": (
        "nnconv show {file}",
        "nnconv caffe2ir {file} -o {stem}.nnir",
        "nnconv run {file} --image PICTURE",
    ),
    "picture": ("nnconv run zoo:lenet --image {file}", "nnconv run MODEL --image {file}"),
    "onnx": (
        "nnconv show {file}",
        "nnconv onnx2ir {file} -o {stem}.nnir",
        "nnconv convert {file} {stem}.prototxt",
    ),
    "yaml": _YAML,
    "nevermind": _YAML,
    "hdf5": _CHECKPOINT,
    "binaryproto": ("nnconv caffe2ir NET.prototxt WEIGHTS.caffemodel --mean {file} -o NET.nnir",),
    "pb": _CHECKPOINT,
    "state": _CHECKPOINT,
    "safetensors": _CHECKPOINT,
    "npy": _ARRAY,
    "npz": _ARRAY + _CHECKPOINT,
}


def _suggest(file: str, form: str) -> None:
    commands = _NEXT.get(form, ())
    if not commands:
        click.echo("nnconv does nothing with such files yet.")
        return
    stem = file.removeprefix("zoo:") if file.startswith("zoo:") else Path(file).stem
    stem = "net" if file == STREAM else stem
    click.echo("You may want to:")
    for command in commands:
        click.echo(f"  {command.format(file=shlex.quote(file), stem=shlex.quote(stem))}")
