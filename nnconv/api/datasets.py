"""Data sets of any kind: those that the runtime opens, and those in formats of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nnconv.runtime.data import ArrayDataset, Dataset, open_dataset
from nnconv.schemas.errors import InputError

if TYPE_CHECKING:
    from nnconv.api.files import AnyPath

_LENGTH_FIELD_1 = 0x0A


def open_data(data: Dataset | AnyPath, part: str = "train", label: str | None = None) -> Dataset:
    """A Dataset as it is, and what `nnconv.data.open_dataset` opens, or nevermind-neu writes.

    Raises InputError for anything else, and for damaged files.
    """
    if isinstance(data, Dataset):
        return data
    path = Path(data)
    if not _is_nevermind(path):
        return open_dataset(path, part, label)
    from nnconv.converter.nevermind.dataset import read_dataset

    if label is not None:
        raise InputError(f"{path}: nevermind-neu's labels are no column")
    found = read_dataset(path)
    return ArrayDataset({"data": found.inputs, "label": found.expected}, name=str(path))


def _is_nevermind(path: Path) -> bool:
    """Whether a file begins with a record that begins with a record: samples, and in each its
    inputs."""
    try:
        with path.open("rb") as file:
            head = file.read(11)
    except (OSError, ValueError):
        return False
    if not head:
        return path.suffix == ".pb"
    behind = next((i for i, byte in enumerate(head[1:], 1) if byte < 0x80), len(head))
    return head[0] == _LENGTH_FIELD_1 and head[behind + 1 : behind + 2] == bytes([_LENGTH_FIELD_1])
