"""Pictures become inputs: decoded, turned upright, resized, and put through the model's
preprocessing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.data.pictures import MODES, decode, pixels
from nnconv.schemas.dims import Symbolic
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import Model, Preprocessing, Value

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

AnyPath = str | os.PathLike[str]


def picture(
    model: Model,
    files: AnyPath | Sequence[AnyPath],
    name: str | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Array:
    """The array [N,C,H,W] that one or more picture files give for an input of `model`.

    `name` is the input (None: the one that takes pictures). Pictures are resized to the input's own
    height and width, or to what `sizes` binds them to; channel order, mean and scale are the
    model's. The array has the input's element type.

    Raises InputError for files that are no pictures and inputs that take none.

    >>> import nnconv
    >>> digits = sorted(nnconv.zoo.find("lenet").pictures.glob("*.png"))
    >>> nnconv.picture(nnconv.load("zoo:lenet"), digits).shape
    (6, 1, 28, 28)
    """
    value = picture_input(model, name)
    paths = [files] if isinstance(files, str | os.PathLike) else list(files)
    how = model.preprocessing.get(value.name, Preprocessing())
    _, channels, height, width = value.known_shape
    bound = {**model.graph.sizes, **(sizes or {})}
    size = _bound(height, bound), _bound(width, bound)
    prepared = [_prepare(Path(path), int(str(channels)), size, how) for path in paths]
    shapes = {array.shape for array in prepared}
    if len(shapes) > 1:
        raise InputError(
            f"'{value.name}' has no fixed size and the pictures have {len(shapes)} different ones",
            hint="say the size: --input-shape NAME:N,C,H,W",
        )
    return np.stack(prepared).astype(value.dtype.numpy, copy=False)


def picture_input(model: Model, name: str | None = None) -> Value:
    """The input called `name`, or the only one that can take a picture; InputError otherwise."""
    if name is not None:
        found = [value for value in model.inputs if value.name == name]
        if not found or not takes_pictures(found[0]):
            raise InputError(f"no input called '{name}' takes pictures", hint=_offers(model))
        return found[0]
    able = [value for value in model.inputs if takes_pictures(value)]
    if len(able) != 1:
        what = "no input takes pictures" if not able else f"{len(able)} inputs take pictures"
        raise InputError(f"{what}: name one, --input NAME=FILE", hint=_offers(model))
    return able[0]


def takes_pictures(value: Value) -> bool:
    """Whether an input is [N,C,H,W] with one (grey) or three (colour) channels."""
    return value.shape is not None and len(value.shape) == 4 and value.shape[1] in MODES


def _prepare(path: Path, channels: int, size: tuple[int, int], how: Preprocessing) -> Array:
    """One picture as float32 [C,H,W]. A mean image larger than the input is subtracted before a
    centre crop, as Caffe does it.
    """
    image = decode(path, channels)
    mean = None if how.mean_image is None else np.asarray(how.mean_image, np.float32)
    if mean is not None and mean.shape[0] != channels:
        raise InputError(f"the mean image has {mean.shape[0]} channels, the input has {channels}")
    height, width = size
    full = (height or image.height, width or image.width) if mean is None else mean.shape[1:]
    array = pixels(image, channels, *full).astype(np.float32)
    if channels == 3 and how.channels == "BGR":
        array = array[::-1]
    if mean is not None:
        array = _centre(array - mean, height or full[0], width or full[1])
    elif how.mean:
        array = array - _channel_means(how.mean, channels)
    return np.asarray(array * np.float32(how.scale), np.float32)


def _channel_means(mean: tuple[float, ...], channels: int) -> Array:
    if len(mean) not in (1, channels):
        raise InputError(f"the model's mean has {len(mean)} numbers, its input {channels} channels")
    return np.asarray(mean, np.float32).reshape(-1, 1, 1)


def _centre(array: Array, height: int, width: int) -> Array:
    top, left = (array.shape[1] - height) // 2, (array.shape[2] - width) // 2
    if top < 0 or left < 0:
        raise InputError(
            f"the mean image is {array.shape[1]}x{array.shape[2]}, smaller than the input"
        )
    return array[:, top : top + height, left : left + width]


def _bound(dim: int | Symbolic, sizes: Mapping[str, int]) -> int:
    """A height or width, 0 where it is free."""
    if isinstance(dim, int):
        return dim
    return sizes.get(str(dim), 0)


def _offers(model: Model) -> str:
    for value in model.inputs:
        if (
            value.shape is not None
            and len(value.shape) == 4
            and isinstance(value.shape[1], Symbolic)
        ):
            return f"say how many channels it has: --input-shape {value.name}:1,3,HEIGHT,WIDTH"
    return f"the inputs are {'; '.join(map(str, model.inputs)) or 'none'}"
