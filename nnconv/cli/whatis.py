"""`nnconv FILE`: what a file is, and the three commands that likely come next."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from nnconv.cli.base import Command


@click.command(cls=Command)
@click.argument("file")
def whatis(file: str) -> None:
    """Say what a file is and what to do with it."""
    from nnconv.converter.formats import identify
    from nnconv.zoo import find, is_zoo_name

    if is_zoo_name(file):
        entry = find(file)
        click.echo(f"{file} is a model of the zoo: {entry.title}")
        _suggest(_for_model(file))
        return
    form = identify(file)
    article = (
        "" if form.title.endswith("weights") else "a" if form.title[0] not in "aeioHnO" else "an"
    )
    click.echo(" ".join(filter(None, [f"{file} is", article, f"{form.title}."])))
    _suggest(_NEXT.get(form.name, _for_other)(file))


def _for_model(file: str) -> list[str]:
    name = shlex.quote(file)
    stem = shlex.quote(file.removeprefix("zoo:") if file.startswith("zoo:") else Path(file).stem)
    return [
        f"nnconv show {name}",
        f"nnconv run {name} --image PICTURE",
        f"nnconv ir2caffe {name} -o {stem}.prototxt --weights {stem}.caffemodel",
    ]


def _for_net(file: str) -> list[str]:
    name, stem = shlex.quote(file), shlex.quote(Path(file).stem)
    return [
        f"nnconv show {name}",
        f"nnconv caffe2ir {name} WEIGHTS.caffemodel -o {stem}.nnir",
        f"nnconv run {name} --weights WEIGHTS.caffemodel --image PICTURE",
    ]


def _for_weights(file: str) -> list[str]:
    name, stem = shlex.quote(file), shlex.quote(Path(file).stem)
    return [
        f"nnconv show {name}",
        f"nnconv caffe2ir {name} -o {stem}.nnir",
        f"nnconv run {name} --image PICTURE",
    ]


def _for_picture(file: str) -> list[str]:
    name = shlex.quote(file)
    return [f"nnconv run zoo:lenet --image {name}", f"nnconv run MODEL --image {name}"]


def _for_array(file: str) -> list[str]:
    return [f"nnconv run MODEL --input NAME={shlex.quote(file)}"]


def _for_source(file: str) -> list[str]:
    name, stem = shlex.quote(file), shlex.quote(Path(file).stem)
    verb = "onnx2ir" if file.lower().endswith(".onnx") else "yaml2ir"
    return [
        f"nnconv show {name}",
        f"nnconv {verb} {name} -o {stem}.nnir",
        f"nnconv convert {name} {stem}.prototxt",
    ]


def _for_checkpoint(file: str) -> list[str]:
    name = shlex.quote(file)
    return [f"nnconv load-weights MODEL {name} -o NEW.nnir", f"nnconv diff {name} OTHER"]


def _for_either(file: str) -> list[str]:
    return _for_array(file) + _for_checkpoint(file)


def _for_other(file: str) -> list[str]:
    return []


_NEXT = {
    "nnir": _for_model,
    "nnirtxt": _for_model,
    "prototxt": _for_net,
    "caffemodel": _for_weights,
    "picture": _for_picture,
    "onnx": _for_source,
    "yaml": _for_source,
    "nevermind": _for_source,
    "pb": _for_checkpoint,
    "state": _for_checkpoint,
    "safetensors": _for_checkpoint,
    "npy": _for_array,
    "npz": _for_either,
}


def _suggest(commands: list[str]) -> None:
    if not commands:
        click.echo("nnconv does nothing with such files yet.")
        return
    click.echo("You may want to:")
    for command in commands:
        click.echo(f"  {command}")
