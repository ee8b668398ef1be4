"""What a user says about a model's pictures and classes, where its format has no place for it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnconv.schemas.errors import InputError, SourceSpan
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
    called.

    `mean` is a .binaryproto, one number or one for each channel; `labels` a file of lines, or
    names. What was known before stays where nothing is said. Raises InputError where there is no
    such input, or where what is given is no mean, scale or list of names.
    """
    if labels is not None:
        model.labels = read_labels(labels)
    if mean is None and scale is None:
        return
    picture = _picture(model.inputs)
    how = model.preprocessing.setdefault(picture.name, Preprocessing())
    if scale is not None:
        if not math.isfinite(scale):
            raise InputError(f"the scale must be a number, got {scale}")
        how.scale = scale
    if isinstance(mean, str | os.PathLike):
        how.mean_image, how.mean = _mean_image(mean, picture), ()
    elif mean is not None:
        how.mean, how.mean_image = _channel_means(mean, picture), None


def read_labels(labels: AnyPath | Sequence[str]) -> tuple[str, ...]:
    """The lines of a file that are not empty, or the names given."""
    if not isinstance(labels, str | os.PathLike):
        return tuple(labels)
    data = bytes(map_file(labels))
    if b"\0" in data:
        hint = "labels are a text file with one name a line"
        raise InputError("this is no text", span=SourceSpan(os.fspath(labels)), hint=hint)
    text = data.decode("utf-8", errors="replace")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _picture(inputs: Sequence[Value]) -> Value:
    for value in inputs:
        if value.shape is not None and len(value.shape) == 4:
            return value
    raise InputError("mean and scale are for pictures, but no input has 4 axes")


def _channel_means(mean: Sequence[float], picture: Value) -> tuple[float, ...]:
    numbers = tuple(map(float, mean))
    channels = picture.known_shape[1]
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"the mean must be numbers, got {numbers}")
    if len(numbers) != 1 and isinstance(channels, int) and len(numbers) != channels:
        raise InputError(
            f"the mean has {len(numbers)} numbers, input '{picture.name}' has {channels} channels"
        )
    return numbers


def _mean_image(path: AnyPath, picture: Value) -> Array:
    """A BlobProto [C, H, W], or [1, C, H, W] as compute_image_mean writes it."""
    from nnconv.converter.caffe.wire import read_blob_file

    array: Array = read_blob_file(path).array
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3:
        raise InputError(
            f"{os.fspath(path)}: a mean picture has 3 axes, this blob has {array.ndim}"
        )
    channels = picture.known_shape[1]
    if isinstance(channels, int) and array.shape[0] != channels:
        raise InputError(
            f"{os.fspath(path)}: the mean picture has {array.shape[0]} channels, input "
            f"'{picture.name}' has {channels}"
        )
    return array
