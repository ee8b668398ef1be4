"""What a user says about a model's pictures and classes when its format has no place for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnconv.schemas.errors import InputError
from nnconv.schemas.files import AnyPath, map_file
from nnconv.schemas.graph import Model, Preprocessing, Value

if TYPE_CHECKING:
    from nnconv.schemas.types import Array


def describe(
    model: Model,
    mean: AnyPath | Sequence[float] | None = None,
    scale: float | None = None,
    labels: AnyPath | Sequence[str] | None = None,
) -> None:
    """Keep in `model` how pictures become its first input with four axes, and what its classes are
    called. Raises InputError where there is no such input, or a file cannot be read."""
    if labels is not None:
        model.labels = read_labels(labels)
    if mean is None and scale is None:
        return
    how = model.preprocessing.setdefault(_picture(model.inputs).name, Preprocessing())
    if scale is not None:
        how.scale = scale
    if isinstance(mean, str | os.PathLike):
        how.mean_image, how.mean = _mean_image(mean), ()
    elif mean is not None:
        how.mean, how.mean_image = tuple(map(float, mean)), None


def read_labels(labels: AnyPath | Sequence[str]) -> tuple[str, ...]:
    """The lines of a file that are not empty, or the names given."""
    if not isinstance(labels, str | os.PathLike):
        return tuple(labels)
    text = bytes(map_file(labels)).decode("utf-8", errors="replace")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _picture(inputs: Sequence[Value]) -> Value:
    for value in inputs:
        if value.shape is not None and len(value.shape) == 4:
            return value
    raise InputError("mean and scale are for pictures, but no input has 4 axes")


def _mean_image(path: AnyPath) -> Array:
    from nnconv.converter.caffe.wire import read_blob_file

    array: Array = read_blob_file(Path(path)).array
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3:
        raise InputError(f"{path}: a mean picture has 3 axes, this blob has {array.ndim}")
    return array
