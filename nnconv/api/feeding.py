"""Between a data set and a model: which array goes to which input, at what size, how prepared.

Bytes are pixels and get the model's preprocessing; other numbers are taken as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nnconv.api.heads import EUCLIDEAN, SOFTMAX, Head
from nnconv.runtime.data import ArrayDataset, Dataset, Loader, PictureFolder, Transform
from nnconv.runtime.data.datasets import DATA, LABEL
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import Model, Preprocessing, Value

if TYPE_CHECKING:
    from nnconv.schemas.types import Array


@dataclass(frozen=True, slots=True)
class Feed:
    """A data set made ready for a model; `truth` is the array that the loss compares with, as
    batches call it.
    """

    dataset: Dataset
    transforms: dict[str, Transform]
    names: dict[str, str]
    truth: str

    def with_truth(self, name: str) -> Feed:
        """The same with the truth under another name, that of a trainer's input."""
        names = {old: name if new == self.truth else new for old, new in self.names.items()}
        return replace(self, names=names, truth=name)

    def loader(self, batch: int, dataset: Dataset | None = None, *, seed: int = 0) -> Loader:
        """Batches by the names of the model's inputs, the truth under `truth`."""
        return Loader(
            dataset or self.dataset, batch, seed=seed, transforms=self.transforms, names=self.names
        )


def feed(
    model: Model, head: Head, dataset: Dataset, *, mirror: bool = False, jitter: int = 0
) -> Feed:
    """Match a data set and a model.

    `mirror` turns half of the training pictures left to right; `jitter` reads pictures so many
    pixels larger than the model takes them and cuts at random. Raises InputError where they do not
    go together: sizes, missing arrays, labels that are no classes of the model.
    """
    inputs = [value for value in model.inputs if value is not head.label]
    shapes = dataset.shapes
    names = {_source(value, inputs, shapes): value.name for value in inputs}
    truth = head.label.name if head.label is not None and head.label.name in shapes else LABEL
    if truth not in shapes:
        listed = ", ".join(shapes)
        raise InputError(f"{dataset.name}: there are no labels, only {listed}")
    transforms = {}
    for source, name in names.items():
        value = next(value for value in inputs if value.name == name)
        how = model.preprocessing.get(name, Preprocessing())
        dataset, transforms[source] = _sized(model, value, source, dataset, how, jitter)
        if mirror:
            transforms[source] = Transform.of(how, crop=transforms[source].crop, mirror=True)
    dataset = _numbered(model, head, dataset, truth)
    target = head.label.name if head.label is not None else truth
    if target in names.values():
        raise InputError(f"'{target}' cannot be both an input and the label of {dataset.name}")
    return Feed(dataset, transforms, {**names, truth: target}, target)


def _source(value: Value, inputs: list[Value], shapes: object) -> str:
    """The array of the data set that an input takes: the one of its name, else "data"."""
    held = dict(shapes)  # type: ignore[call-overload]
    if value.name in held:
        return value.name
    if len(inputs) == 1 and DATA in held:
        return DATA
    raise InputError(f"there is nothing for input '{value.name}' in the data, only {list(held)}")


def _sized(
    model: Model, value: Value, source: str, dataset: Dataset, how: Preprocessing, jitter: int
) -> tuple[Dataset, Transform]:
    """The data set at the size of an input, and the transform that brings it there."""
    wanted = tuple(_size(dim, model) for dim in value.known_shape[1:])
    if isinstance(dataset, PictureFolder):
        if len(wanted) != 3 or not all(wanted):
            raise InputError(f"'{value.name}' takes no pictures, it is {value}")
        channels, height, width = wanted
        full = (height + jitter, width + jitter)
        if how.mean_image is not None:
            full = (how.mean_image.shape[1], how.mean_image.shape[2])
        crop = height if full != (height, width) else 0
        if crop and height != width:
            raise InputError(f"pictures can only be cut to squares, not to {height}x{width}")
        sized = dataset.sized(channels, *full, reverse=how.channels == "BGR")
        return sized, Transform.of(how, crop=crop)
    if jitter:
        raise InputError("only folders of pictures can be read at a larger size (--jitter)")
    return _reshaped(dataset, source, wanted), Transform.of(how)


def _size(dim: object, model: Model) -> int:
    return dim if isinstance(dim, int) else model.graph.sizes.get(str(dim), 0)


def _reshaped(dataset: Dataset, source: str, wanted: tuple[int, ...]) -> Dataset:
    """Rows of a table become pictures where the number of elements says so."""
    shape = dataset.shapes[source]
    fits = len(shape) == len(wanted) and all(
        w in (0, s) for w, s in zip(wanted, shape, strict=True)
    )
    if fits or not isinstance(dataset, ArrayDataset):
        return dataset
    if math.prod(shape) != math.prod(wanted):
        there, here = ("x".join(map(str, sizes)) for sizes in (shape, wanted))
        raise InputError(f"{dataset.name}: samples are {there}, the model takes {here}")
    array = dataset.held[source]
    held = {**dataset.held, source: array.reshape(len(array), *wanted)}
    return ArrayDataset(held, dataset.labels, dataset.name)


def _numbered(model: Model, head: Head, dataset: Dataset, truth: str) -> Dataset:
    """The labels as the numbers of the model's classes, all within its range."""
    if head.loss == SOFTMAX:
        dataset = _one_a_sample(dataset, truth)
    labels = _labels(dataset, truth)
    if head.loss == EUCLIDEAN or labels is None or labels.ndim > 1:
        return dataset
    numbers = class_numbers(dataset.labels, model.labels)
    if numbers is not None and (numbers != np.arange(len(numbers))).any():
        dataset = _relabelled(dataset, truth, numbers[labels])
        labels = numbers[labels]
    if head.classes is not None and labels.size:
        wrong = np.flatnonzero((labels < 0) | (labels >= head.classes))
        if wrong.size:
            first = int(wrong[0])
            raise InputError(
                f"{dataset.name}: sample {first} has the label {labels[first]:g}, "
                f"the model tells {head.classes} classes apart",
                hint=f"--replace-head {int(labels.max()) + 1} gives it as many as there are",
            )
    return dataset


def _one_a_sample(dataset: Dataset, truth: str) -> Dataset:
    """Labels [n, 1] as [n]; those [n, classes] that are 1 for one class and 0 for all others as its
    number."""
    labels = dataset.held.get(truth) if isinstance(dataset, ArrayDataset) else None
    if labels is None or labels.ndim != 2:
        return dataset
    if labels.shape[1] == 1:
        return _relabelled(dataset, truth, labels[:, 0])
    chosen = labels == 1
    if (labels == chosen).all() and (chosen.sum(axis=1) == 1).all():
        return _relabelled(dataset, truth, chosen.argmax(axis=1))
    return dataset


def class_numbers(names: tuple[str, ...], known: tuple[str, ...]) -> Array | None:
    """Which class of a model each class of a data set is; None where the data set has no names.

    By name where the model has names, by number where folders are called 0, 1, 2 ... Raises
    InputError where names do not tell.

    >>> class_numbers(("one", "zero"), ("zero", "one", "two")).tolist()
    [1, 0]
    """
    if not names:
        return None
    if set(names) <= set(known):
        return np.asarray([known.index(name) for name in names])
    if all(name.isdecimal() for name in names):
        return np.asarray([int(name) for name in names])
    if known and any(not name.isdecimal() for name in known):
        strange = next(name for name in names if name not in known)
        hint = f"its classes are {', '.join(known[:8])}"
        raise InputError(f"the model knows no class '{strange}'", hint=hint)
    return np.arange(len(names))


def _labels(dataset: Dataset, truth: str) -> Array | None:
    if isinstance(dataset, PictureFolder):
        return dataset.targets
    return dataset.held.get(truth) if isinstance(dataset, ArrayDataset) else None


def _relabelled(dataset: Dataset, truth: str, labels: Array) -> Dataset:
    if isinstance(dataset, PictureFolder):
        return replace(dataset, targets=labels)
    assert isinstance(dataset, ArrayDataset)
    return ArrayDataset({**dataset.held, truth: labels}, dataset.labels, dataset.name)
