"""What of the zoo lies on this machine: one folder a model, one receipt that says what is in it.

A file gets its name only after its digest was found right, so what has its name is good; the
receipt is written last, so a folder with a receipt is whole. Who changes a folder holds its lock.

    HOME/zoo/NAME/            the files, `.part` of one that is being fetched, NAME-KEY.nnir
    HOME/zoo/NAME/receipt.json
    HOME/zoo/.locks/NAME.lock
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnconv.schemas.errors import InputError
from nnconv.schemas.files import atomic_write
from nnconv.zoo.catalogue import Entry
from nnconv.zoo.progress import Watch

RECEIPT = "receipt.json"
PATIENCE = 3600.0  # seconds to wait for another process that fetches the same model


@dataclass(slots=True)
class Receipt:
    """What a folder holds: path below it -> (bytes, sha256); `model` are the files to load.

    `origin` says which version of the catalogue's entry they are.
    """

    origin: str
    model: list[str]
    files: dict[str, tuple[int, str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"origin": self.origin, "model": self.model, "files": self.files}


def home() -> Path:
    """NNCONV_HOME, or the user's cache folder by the platform's convention."""
    if chosen := os.environ.get("NNCONV_HOME"):
        return Path(chosen).absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("nnconv"))


def folder(entry: Entry) -> Path:
    """Where the files of a model lie, or will."""
    return home() / "zoo" / entry.name


def offline() -> bool:
    """Whether NNCONV_OFFLINE forbids the network."""
    return os.environ.get("NNCONV_OFFLINE", "0").lower() not in ("", "0", "no", "false", "off")


def origin(entry: Entry) -> str:
    """A name for the files that the catalogue means, other when it means others."""
    facts = [(file.name, file.digest, sorted(file.members)) for file in entry.files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def receipt(entry: Entry) -> Receipt | None:
    """What is here of a model when it is whole, else None; sizes are looked at, not digests."""
    try:
        raw = json.loads((folder(entry) / RECEIPT).read_text("utf-8"))
        files = {path: (int(size), str(digest)) for path, (size, digest) in raw["files"].items()}
        found = Receipt(str(raw["origin"]), [str(path) for path in raw["model"]], files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    whole = found.origin == origin(entry) and set(found.model) <= found.files.keys()
    return found if whole and all(_has(entry, *item) for item in files.items()) else None


def write_receipt(entry: Entry, found: Receipt) -> None:
    with atomic_write(folder(entry) / RECEIPT) as file:
        file.write(json.dumps(found.to_dict(), indent=1).encode())


def measured(path: Path) -> tuple[int, str]:
    """Size and sha256 of a file as it lies on the disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return os.fstat(file.fileno()).st_size, digest


def digest_of(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


@contextlib.contextmanager
def locked(entry: Entry, watch: Watch, patience: float = PATIENCE) -> Iterator[None]:
    """Alone with the folder of a model; other processes and threads wait here.

    The system frees the lock of a process that dies. Raises InputError when the wait gets too long
    or the cache folder cannot be made.
    """
    from filelock import FileLock, Timeout

    path = home() / "zoo" / ".locks" / f"{entry.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder(entry).mkdir(exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            watch.say(f"another nnconv is fetching {entry.name}, waiting for it")
            lock.acquire(timeout=patience)
    except Timeout:
        raise InputError(
            f"zoo:{entry.name}: another nnconv has been at it for {patience:.0f} s",
            hint="wait for it or end it; or set NNCONV_HOME to another folder",
        ) from None
    except OSError as error:
        raise InputError(
            f"{error.filename or path}: {(error.strerror or str(error)).lower()}",
            hint="the zoo needs a folder to write to: set NNCONV_HOME",
        ) from None
    try:
        yield
    finally:
        lock.release()


def removed(entry: Entry) -> int:
    """Remove all that is here of a model; the number of bytes that were freed."""
    place = folder(entry)
    freed = sum(path.lstat().st_size for path in place.rglob("*") if path.is_file())
    # the receipt first: what is half removed must not look whole
    (place / RECEIPT).unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    return freed


def _has(entry: Entry, path: str, fact: tuple[int, str]) -> bool:
    try:
        return (folder(entry) / path).stat().st_size == fact[0]
    except (OSError, ValueError):
        return False
