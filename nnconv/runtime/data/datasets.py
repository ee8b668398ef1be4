"""What a data set is, and which files hold one.

A data set gives the samples of any indices as arrays by name, most often "data" and "label". Bytes
are pixels, which a model's preprocessing is applied to; all other numbers are taken as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from nnconv.runtime.random import stream_of, uniform_words
from nnconv.schemas.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

AnyPath = str | os.PathLike[str]
Batch = dict[str, "Array"]
DATA, LABEL = "data", "label"


@runtime_checkable
class Dataset(Protocol):
    """Samples by index. `shapes` are those of one sample, by name; `labels` the classes' names,
    where they have any; `name` says for people where it came from.
    """

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def __len__(self) -> int: ...

    def read(self, indices: Array) -> Batch:
        """The samples at `indices` ([n], integers), stacked along a first axis. Any thread may call
        it.
        """
        ...


class ArrayDataset:
    """Samples held in arrays, one item along the first axis of each."""

    def __init__(
        self, held: Mapping[str, Array], labels: Sequence[str] = (), name: str = "arrays"
    ) -> None:
        self.held = dict(held)
        self.labels = tuple(labels)
        self.name = name
        counts = {key: len(array) if array.ndim else 0 for key, array in self.held.items()}
        if not counts:
            raise InputError(f"{name}: there are no arrays to learn from")
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{key} {count:,}" for key, count in counts.items())
            raise InputError(f"{name}: the arrays have different numbers of samples: {listed}")
        self._count = next(iter(counts.values()))
        if not self._count:
            raise InputError(f"{name}: there are no samples")

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {key: array.shape[1:] for key, array in self.held.items()}

    def __len__(self) -> int:
        return self._count

    def read(self, indices: Array) -> Batch:
        return {key: array[indices] for key, array in self.held.items()}

    def __repr__(self) -> str:
        listed = ", ".join(
            f"{key} {'x'.join(map(str, array.shape))} {array.dtype}"
            for key, array in self.held.items()
        )
        return f"<ArrayDataset {self.name}: {listed}>"


@dataclass(frozen=True, slots=True)
class Subset:
    """Some samples of another data set, in an order of their own."""

    base: Dataset
    indices: Array

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def labels(self) -> tuple[str, ...]:
        return self.base.labels

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self.base.shapes

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Array) -> Batch:
        return self.base.read(self.indices[indices])


def arrays(labels: Sequence[str] = (), /, **held: Any) -> ArrayDataset:
    """A data set over arrays by name; `labels` are the names of the classes."""
    return ArrayDataset({name: np.asarray(array) for name, array in held.items()}, labels)


def split(dataset: Dataset, share: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """A data set in two, for training and for validation; `share` in [0, 1) goes to the second.

    Which sample goes where is decided by the seed alone. Raises InputError where either half would
    be empty though `share` is not 0.
    """
    if not 0 <= share < 1:
        raise InputError(f"the share for validation must be in [0, 1), got {share:g}")
    count = len(dataset)
    held_out = round(count * share)
    if share and not 0 < held_out < count:
        raise InputError(f"{dataset.name}: {share:g} of {count} samples cannot be set aside")
    order = shuffled(count, stream_of(seed, "split"), 0)
    kept, aside = np.sort(order[held_out:]), np.sort(order[:held_out])
    return Subset(dataset, kept), Subset(dataset, aside)


def shuffled(count: int, stream: int, epoch: int) -> Array:
    """The numbers 0 .. count-1 in the order that a stream of random words gives an epoch."""
    return np.argsort(uniform_words(count, stream, epoch), kind="stable")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of data set: `recognises` looks at a path, `opener` is "module:function"."""

    title: str
    recognises: Callable[[Path], bool]
    opener: str

    def open(self, path: Path, **options: Any) -> Dataset:
        module, _, function = self.opener.partition(":")
        opened: Dataset = getattr(import_module(module), function)(path, **options)
        return opened


def _suffix(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.is_file() and path.name.lower().endswith(suffixes)


def _is_idx(path: Path) -> bool:
    return (path.is_file() and "ubyte" in path.name) or _suffix(".idx", ".idx.gz")(path)


def _has_idx(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*-idx*-ubyte*"))


_ROOM = "nnconv.runtime.data"

# the first that recognises a path opens it
KINDS: tuple[Kind, ...] = (
    Kind("IDX files", lambda path: _is_idx(path) or _has_idx(path), f"{_ROOM}.idx:open_idx"),
    Kind("a .npz archive", _suffix(".npz"), f"{_ROOM}.tables:open_npz"),
    Kind("CSV", _suffix(".csv", ".tsv"), f"{_ROOM}.tables:open_csv"),
    Kind("a folder of pictures", Path.is_dir, f"{_ROOM}.folder:open_folder"),
)


def open_dataset(path: AnyPath, part: str = "train", label: str | None = None) -> Dataset:
    """The data set that a file or folder holds.

    IDX files (a folder like MNIST's, or the file of the images), a folder with one folder of
    pictures a class, an .npz, or a .csv. `part` ("train" or "test") chooses where a folder or
    archive holds both; `label` names the label column of a CSV. Raises InputError for anything
    else, and for damaged files.
    """
    where = Path(path)
    if part not in ("train", "test"):
        raise InputError(f"part must be train or test, got '{part}'")
    try:
        there = where.exists()
    except (OSError, ValueError):
        there = False
    if not there:
        raise InputError(f"{path}: no such file or folder", hint=_nearby(where))
    for kind in KINDS:
        if kind.recognises(where):
            return kind.open(where, part=part, label=label)
    known = ", ".join(kind.title for kind in KINDS)
    raise InputError(f"{path}: this is no data set nnconv can read", hint=f"it reads {known}")


def _nearby(path: Path) -> str:
    try:
        return did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()])
    except (OSError, ValueError):
        return ""
