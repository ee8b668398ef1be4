"""The blobs that files give to layers, and Caffe's rules for copying them (net.cpp,
CopyTrainedLayersFrom).

Blobs go by layer name. A binary file fills the first layer of a name, an HDF5 file the last; within
a file a later layer of the same name overwrites an earlier one, and a later file an earlier file.
Every blob offered is checked, the overwritten ones too, as Caffe would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnconv.converter.caffe.blob import Blob, format_shape
from nnconv.converter.caffe.source import NetSource
from nnconv.schemas.errors import InputError, MissingExtraError, SourceSpan

Sizes = Sequence["int | None"]


@dataclass(slots=True)
class Offer:
    """What one file holds for one layer name. `hdf5` offers match shapes exactly and may have
    gaps (None); an offer with `own` stands in the net's own definition. `order` says which of
    two is copied later, `count` how many blobs the file has for the layer."""

    blobs: list[Blob | None]
    file: str
    order: tuple[int, int]
    count: int
    hdf5: bool = False
    own: bool = False

    def blob(self, index: int) -> Blob | None:
        """The blob of parameter `index`, None where the file has none."""
        return self.blobs[index] if index < len(self.blobs) else None

    def fit(self, blob: Blob, shape: Sizes) -> tuple[int, ...] | None:
        """The sizes `blob` has as a parameter of `shape` (open where None), or None if it does
        not fit."""
        have = blob.shape
        if blob.legacy and not self.hdf5:
            # Caffe pads the net's shape with ones in front to four axes and compares those
            lead = len(have) - len(shape)
            if lead < 0 or any(size != 1 for size in have[:lead]):
                return None
            have = have[lead:]
        if len(have) != len(shape):
            return None
        equal = all(want is None or size == want for size, want in zip(have, shape, strict=True))
        return have if equal else None


@dataclass(slots=True)
class Weights:
    """All blobs given beside the net, by layer name."""

    files: list[str] = field(default_factory=list)
    offers: dict[str, list[Offer]] = field(default_factory=dict)

    def add_net(self, source: NetSource) -> None:
        """Take over the blobs of a caffemodel, layers without any included."""
        number = self._file(source.file)
        for index, layer in enumerate(source.net.layer):
            blobs: list[Blob | None] = list(source.blobs(index))
            self._offer(layer.name, Offer(blobs, source.file, (number, index), len(blobs)))

    def add_hdf5(self, path: Path) -> None:
        """Take over the groups of /data of an HDF5 weights file; raises MissingExtraError
        without h5py."""
        number = self._file(str(path))
        for index, (name, blobs, count) in enumerate(_read_hdf5(path)):
            self._offer(name, Offer(blobs, str(path), (number, index), count, hdf5=True))

    def _file(self, name: str) -> int:
        self.files.append(name)
        return len(self.files)

    def _offer(self, name: str, offer: Offer) -> None:
        self.offers.setdefault(name, []).append(offer)

    def of(self, name: str, first: bool, last: bool) -> list[Offer]:
        """The offers for the first, last or some layer called `name`, in the order of copying."""
        return [offer for offer in self.offers.get(name, ()) if (last if offer.hdf5 else first)]


def mismatch(offer: Offer, blob: Blob, shape: Sizes) -> str:
    """In words, why `blob` does not fit a parameter of `shape`."""
    wanted = "x".join("?" if size is None else str(size) for size in shape) or "scalar"
    legacy = " (old form)" if blob.legacy else ""
    return f"{format_shape(blob.shape)}{legacy} in {Path(offer.file).name}, the net needs {wanted}"


_INDICES = frozenset(map(str, range(64)))
MOST_PACKED = 1024
"""How much larger than its storage a compressed data set may be; more is an attempt on our
memory."""


def _read_hdf5(path: Path) -> list[tuple[str, list[Blob | None], int]]:
    """The layers of an HDF5 weights file: name, blobs by index (None for a gap), their number."""
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            data = _hard(h5py, file, "data")
            if not isinstance(data, h5py.Group):
                raise InputError(
                    f"{path}: no group /data with weights",
                    span=SourceSpan(str(path)),
                    hint="is this an HDF5 file of Caffe's weights?",
                )
            names = [str(name) for name in data]
            return [
                (name, *_read_group(h5py, path, name, _hard(h5py, data, name))) for name in names
            ]
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as HDF5: {error}", span=SourceSpan(str(path))
        ) from None


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise MissingExtraError(
            "weights in HDF5 need the package h5py", hint='pip install "nnconv[hdf5]"'
        ) from None
    return h5py


def _hard(h5py: Any, group: Any, name: str) -> Any:
    """A member of a group that lies in this very file; links that lead elsewhere are refused."""
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise InputError(
            f"{group.file.filename}: '{name}' is a link to another place, which is not followed",
            span=SourceSpan(group.file.filename),
        )
    return group[name]


def _read_group(h5py: Any, path: Path, name: str, group: Any) -> tuple[list[Blob | None], int]:
    if not isinstance(group, h5py.Group):
        raise InputError(f"{path}: /data/{name} is no group", span=SourceSpan(str(path)))
    found = {
        int(key): _read_dataset(path, f"/data/{name}/{key}", _hard(h5py, group, key))
        for key in group
        if key in _INDICES
    }
    return [found.get(index) for index in range(max(found, default=-1) + 1)], len(group)


def _read_dataset(path: Path, name: str, dataset: Any) -> Blob:
    """A blob as float32; a view of the mapped file where the data lie there as they are."""
    kind = dataset.dtype.kind
    if kind not in "fiu" or dataset.external or dataset.is_virtual:
        raise InputError(f"{path}: {name} holds no numbers of its own", span=SourceSpan(str(path)))
    if dataset.nbytes > max(dataset.id.get_storage_size(), 1) * MOST_PACKED:
        raise InputError(
            f"{path}: {name} claims {dataset.nbytes:,} bytes it does not have",
            span=SourceSpan(str(path)),
        )
    offset = dataset.id.get_offset()
    if dataset.dtype == np.dtype("<f4") and offset is not None and dataset.shape:
        array: Any = np.memmap(path, "<f4", "r", offset, dataset.shape)
    else:
        array = np.asarray(dataset[()]).astype("<f4")
    return Blob(tuple(dataset.shape), np.asarray(array).view(np.ndarray))
