"""A folder with one folder of pictures a class: the folders' names, sorted, are the classes.

Pictures are decoded when they are asked for, to the size that `sized` was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.data.datasets import DATA, LABEL, Batch
from nnconv.runtime.data.pictures import MODES, SUFFIXES, decode, pixels
from nnconv.schemas.errors import InputError

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

# subfolders that hold whole data sets rather than one class, when all of them have such names
PARTS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """Pictures and the numbers of their classes. Samples are uint8 [channels, height, width], in
    the channel order that `reverse` asks for (blue first), all of one size.
    """

    name: str
    files: Sequence[Path]
    targets: Array
    labels: tuple[str, ...]
    size: tuple[int, int, int] = (3, 256, 256)
    reverse: bool = True

    def sized(
        self, channels: int, height: int, width: int, *, reverse: bool = True
    ) -> PictureFolder:
        """The same pictures, given with so many channels at another size."""
        if channels not in MODES:
            raise InputError(f"pictures have one or three channels, the model wants {channels}")
        return replace(self, size=(channels, height, width), reverse=reverse and channels == 3)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {DATA: self.size, LABEL: ()}

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Array) -> Batch:
        """Raises InputError, naming the file, for a picture that cannot be decoded."""
        batch = np.empty((len(indices), *self.size), np.uint8)
        channels, height, width = self.size
        for row, index in zip(batch, indices.tolist(), strict=True):
            picture = pixels(decode(self.files[index], channels), channels, height, width)
            row[...] = picture[::-1] if self.reverse else picture
        return {DATA: batch, LABEL: self.targets[indices]}


def open_folder(path: Path, part: str = "train", label: str | None = None) -> PictureFolder:
    """The pictures in a folder of folders. Where it holds `train` and `test` (or `val`) folders,
    `part` chooses one.
    """
    if label is not None:
        raise InputError(f"{path}: the classes of pictures are folders, not a column")
    root = _part(path, part)
    classes = sorted(entry for entry in root.iterdir() if _is_folder(entry))
    found = [(file, number) for number, entry in enumerate(classes) for file in _pictures(entry)]
    if not found:
        hint = "it needs one folder of pictures for each class: DATA/cats/1.jpg, DATA/dogs/1.jpg"
        raise InputError(f"{path}: there are no folders of pictures in this folder", hint=hint)
    return PictureFolder(
        str(path),
        tuple(file for file, _ in found),
        np.asarray([number for _, number in found], np.int64),
        tuple(entry.name for entry in classes),
    )


def _part(path: Path, part: str) -> Path:
    folders = {entry.name.lower(): entry for entry in path.iterdir() if _is_folder(entry)}
    known = {name for names in PARTS.values() for name in names}
    if not folders or not folders.keys() <= known:
        return path
    for name in PARTS[part]:
        if name in folders:
            return folders[name]
    raise InputError(f"{path}: there is no {part} folder, only {', '.join(sorted(folders))}")


def _is_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES))
