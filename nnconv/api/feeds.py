"""What is fed into a model, gathered from files: arrays by name, and pictures as a batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnconv.api.pictures import picture, picture_input
from nnconv.api.shapes import fits
from nnconv.converter.formats import by_suffix
from nnconv.schemas.arrays import Check, array_names, is_array_file, load_array
from nnconv.schemas.errors import InputError, did_you_mean
from nnconv.schemas.graph import Model, Value

if TYPE_CHECKING:
    import numpy as np

    from nnconv.schemas.types import Array


@dataclass(slots=True)
class Feeds:
    """Arrays by input name; `pictures` are the files behind the samples of a batch, where they
    are.
    """

    arrays: dict[str, Array] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)


def gather(
    model: Model,
    inputs: Sequence[str],
    images: Sequence[str],
    sizes: Mapping[str, int] | None = None,
) -> Feeds:
    """All inputs of a model, from `NAME=FILE` (or FILE) specifications and from pictures, which are
    made as large as `sizes` (free sizes by name) say.

    Raises InputError for unknown names, inputs that nothing was given for, and arrays that do not
    fit; the arrays' headers are checked before they are read.
    """
    feeds = Feeds()
    for specification in inputs:
        _feed(model, specification, feeds, sizes)
    if images:
        value = picture_input(model)
        if value.name in feeds.arrays:
            raise InputError(f"input '{value.name}' is given twice")
        feeds.pictures = list(_expand(images))
        feeds.arrays[value.name] = picture(model, feeds.pictures, value.name, sizes=sizes)
    missing = [value.name for value in model.inputs if value.name not in feeds.arrays]
    if missing:
        options = " ".join(f"--input {name}=FILE" for name in missing)
        raise InputError(
            f"nothing is given for input {' and '.join(missing)}", hint=f"add {options}"
        )
    return feeds


def _feed(model: Model, specification: str, feeds: Feeds, sizes: Mapping[str, int] | None) -> None:
    inputs = {value.name: value for value in model.inputs}
    name, file = _split(specification, inputs)
    if not file:
        raise InputError(f"--input {specification}: no file is named", hint=f"{name}=FILE")
    path = Path(file)
    if (
        not name
        and is_array_file(path)
        and set(names := array_names(_existing(path))) & inputs.keys()
    ):
        for key in names:
            if key in inputs:
                feeds.arrays[key] = load_array(path, key, _check(inputs[key]))
        return
    if not name and len(inputs) != 1:
        raise InputError(
            f"{file}: which input is it for?", hint=f"NAME=FILE with {', '.join(inputs)}"
        )
    value = inputs[name] if name else model.inputs[0]
    if is_array_file(path):
        feeds.arrays[value.name] = load_array(_existing(path), value.name, _check(value))
    else:
        feeds.pictures = list(_expand([file]))
        feeds.arrays[value.name] = picture(model, feeds.pictures, value.name, sizes=sizes)


def _split(specification: str, inputs: dict[str, Value]) -> tuple[str, str]:
    """NAME and FILE; names of inputs may hold `=` themselves, so known ones are tried first."""
    for name in inputs:
        if specification.startswith(f"{name}="):
            return name, specification[len(name) + 1 :]
    name, found, _ = specification.partition("=")
    if not found or os.path.exists(specification):  # noqa: PTH110
        return "", specification
    hint = did_you_mean(name, inputs) or f"the inputs are {', '.join(inputs)}"
    raise InputError(f"--input {specification}: the model has no input '{name}'", hint=hint)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return path


def _check(value: Value) -> Check:
    def check(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        wanted = "x".join(map(str, value.shape or ()))
        if not fits(value, shape):
            got = "x".join(map(str, shape)) or "a scalar"
            raise InputError(f"input '{value.name}' is {wanted}, the file holds {got}")
        if dtype.kind not in "iufb":
            raise InputError(f"input '{value.name}' is {value.dtype}, the file holds {dtype}")

    return check


def _expand(images: Iterable[str]) -> Iterable[Path]:
    """Each picture; a folder stands for the pictures in it, in the order of their names."""
    for image in images:
        path = Path(image)
        if not path.is_dir():
            yield path
            continue
        inside = sorted(entry for entry in path.iterdir() if _is_picture(entry))
        if not inside:
            raise InputError(f"{path}: there are no pictures in this folder")
        yield from inside


def _is_picture(path: Path) -> bool:
    form = by_suffix(path)
    return form is not None and form.name == "picture"
