"""Get, verify and clear: the catalogue, the network and the cache put together.

`get` is the only way into the cache, and it never leaves a folder that looks whole and is not: each
file is checked before it has its name, archives are unpacked beside their place and moved, and the
receipt comes last.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from nnconv.schemas.errors import InputError, MismatchError, Problem
from nnconv.zoo import archive, cache
from nnconv.zoo.cache import Receipt
from nnconv.zoo.catalogue import DIGESTS, Entry, File, entries, find
from nnconv.zoo.download import Patience, fetch
from nnconv.zoo.progress import Watch, shown

SCRATCH = ".unpacking-"  # folders of a process that was killed are swept up by the next
NETS = (".prototxt", ".pbtxt")
WEIGHTS = {"caffe": ".caffemodel", "onnx": ".onnx"}


def get(
    name: str | Entry,
    *,
    watch: Watch | None = None,
    patience: Patience | None = None,
    force: bool = False,
) -> tuple[Path, ...]:
    """The files of a model on this machine, fetched first where they are not here yet.

    `watch` sees the progress (a bar or plain lines on stderr if None), `patience` says how long to
    try, `force` fetches again what is here. Raises InputError where there is no such model, the
    network is forbidden (NNCONV_OFFLINE), no mirror has the right file, or the disk is full.
    """
    entry = name if isinstance(name, Entry) else find(name)
    if (found := here(entry)) and not force:
        return found
    if cache.offline():
        raise InputError(
            f"zoo:{entry.name} is not on this machine, and NNCONV_OFFLINE forbids to fetch it",
            hint=f"unset NNCONV_OFFLINE, or copy {cache.folder(entry)} from another machine",
        )
    if watch is not None:
        return _fetched(entry, watch, patience or Patience(), force)
    with shown() as watch:
        return _fetched(entry, watch, patience or Patience(), force)


def here(entry: Entry) -> tuple[Path, ...]:
    """The files of a model that is on this machine, empty when it is not."""
    if entry.folder is not None:
        return tuple(entry.folder / file.name for file in entry.files)
    found = cache.receipt(entry)
    return tuple(cache.folder(entry) / path for path in found.model) if found else ()


def verify(names: Iterable[str] = ()) -> list[str]:
    """Read all files again and compare their digests: the models given, or all that are here.

    Returns the names of those that are right. Raises MismatchError that names each wrong file.
    """
    chosen = [find(name) for name in names] or [
        entry for entry in entries() if entry.folder is None and here(entry)
    ]
    problems = [problem for entry in chosen for problem in _wrong(entry)]
    if problems:
        raise MismatchError(problems)
    return [entry.name for entry in chosen]


def clear(names: Iterable[str] = (), *, watch: Watch | None = None) -> int:
    """Remove models from the cache, all when none is named; returns the bytes that were freed.

    What comes along with nnconv stays.
    """
    chosen = [find(name) for name in names] or entries()
    freed = 0
    for entry in chosen:
        if entry.folder is None and cache.folder(entry).is_dir():
            with cache.locked(entry, watch or Watch()):
                freed += cache.removed(entry)
    return freed


def _fetched(entry: Entry, watch: Watch, patience: Patience, force: bool) -> tuple[Path, ...]:
    with cache.locked(entry, watch):
        if force:
            cache.removed(entry)
            cache.folder(entry).mkdir(exist_ok=True)
        elif found := here(entry):  # while this process waited, another fetched it
            return found
        _sweep(entry)
        model = [path for file in entry.files for path in _brought(entry, file, watch, patience)]
        place = cache.folder(entry)
        files = {path: cache.measured(place / path) for path in model}
        cache.write_receipt(entry, Receipt(cache.origin(entry), model, files))
        return tuple(place / path for path in model)


def _brought(entry: Entry, file: File, watch: Watch, patience: Patience) -> list[str]:
    """One file in its place, unpacked if it is an archive: the paths that make the model."""
    place = cache.folder(entry)
    target = place / file.name
    kind, digest = file.digest
    # one that a killed process, or the user, put there is taken only after a look inside
    if not (target.is_file() and cache.digest_of(target, kind) == digest):
        fetch(file, target, watch, patience)
    if not archive.is_archive(file.name):
        return [file.name]
    unpacked = _unpacked(place, file, target)
    chosen = sorted(file.members) or _model_files(entry, file, unpacked)
    inside = archive.stem(file.name)
    for path, digests in file.members.items():
        _check_member(place / inside / path, file, path, digests)
    target.unlink()
    return [f"{inside}/{path}" for path in chosen]


def _unpacked(place: Path, file: File, target: Path) -> list[str]:
    scratch = place / f"{SCRATCH}{secrets.token_hex(6)}"
    final = place / archive.stem(file.name)
    scratch.mkdir()
    try:
        found = archive.unpack(target, scratch)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(scratch, final)  # noqa: PTH105  # Path.replace is harder to fault in tests
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full" if full else (error.strerror or str(error)).lower()
        raise InputError(
            f"{place}: {reason} while unpacking {file.name}",
            hint="free some space and run it again; or set NNCONV_HOME to a folder elsewhere",
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return found


def _check_member(path: Path, file: File, member: str, digests: dict[str, str]) -> None:
    kind = next((kind for kind in DIGESTS if kind in digests), None)
    if not path.is_file() or (kind and cache.digest_of(path, kind) != digests[kind]):
        raise InputError(
            f"{file.name}: '{member}' is missing or not the one of the catalogue",
            hint="please report it: the catalogue's entry is wrong",
        )


def _model_files(entry: Entry, file: File, unpacked: list[str]) -> list[str]:
    """The weights, and for Caffe the net to deploy, where an archive has just one of each."""
    ending = WEIGHTS.get(entry.format, f".{entry.format}")
    weights = [path for path in unpacked if path.lower().endswith(ending)]
    nets = [path for path in unpacked if path.lower().endswith(NETS)]
    deploy = [path for path in nets if "deploy" in path.rpartition("/")[2].lower()] or nets
    if len(weights) != 1 or (entry.format == "caffe" and len(deploy) != 1):
        listed = ", ".join(sorted(unpacked)[:20])
        raise InputError(
            f"{file.name}: cannot tell which of its files are the model: {listed}",
            hint=f"unpacked it lies in {cache.folder(entry)}: load the files you mean by path",
        )
    return [*deploy, *weights] if entry.format == "caffe" else weights


def _sweep(entry: Entry) -> None:
    for left in cache.folder(entry).glob(f"{SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)


def _wrong(entry: Entry) -> list[Problem]:
    """What is wrong with the files of a model, read from the first byte to the last."""
    if entry.folder is not None:
        return []
    found = cache.receipt(entry)
    if found is None:
        hint = f"nnconv zoo get {entry.name}"
        return [Problem(f"zoo:{entry.name} is not on this machine, or not whole", hint=hint)]
    place = cache.folder(entry)
    hint = f"nnconv zoo get --force {entry.name}"
    return [
        Problem(f"{place / path}: the content has changed since it was fetched", hint=hint)
        for path, fact in found.files.items()
        if cache.measured(place / path) != fact
    ]
