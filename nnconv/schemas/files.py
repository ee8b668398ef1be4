"""Files on disk: written whole or not at all, and mapped for reading instead of copied."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO

from nnconv.schemas.errors import InputError, SourceSpan

AnyPath = str | os.PathLike[str]

STREAM = "-"
"""The name that stands for standard input or output."""


@contextlib.contextmanager
def atomic_write(path: AnyPath) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends well, and not before.

    The bytes go to a temporary file in the same folder, which is flushed to the disk and renamed;
    when anything fails it is removed and the old file stays as it was. A path that is no ordinary
    file (a pipe, /dev/null) is written straight, `-` is standard output. Raises InputError where
    the folder is missing or not writable, or the disk is full.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp(), "numbers")
    >>> with atomic_write(target) as file:
    ...     _ = file.write(b"1 2 3")
    >>> target.read_bytes()
    b'1 2 3'
    """
    if os.fspath(path) == STREAM:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(os.path.realpath(path))  # through a link, so that the link stays one
    with _explained(path):
        is_special = target.exists() and not target.is_file()
    if is_special:
        with _explained(path), target.open("wb") as file:
            yield file
        return
    temporary = target.parent / f".nnconv-{secrets.token_hex(8)}.tmp"
    try:
        with _explained(path):
            with _created(temporary, target) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)  # noqa: PTH105  # Path.replace is harder to fault in tests
            _sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def storable(path: AnyPath) -> str:
    """The name of a file, for another file to hold. Raises InputError where it is no text."""
    name = Path(path).name
    try:
        name.encode()
    except UnicodeEncodeError:
        raise _error(path, "the name is not valid UTF-8", "another file has to hold it") from None
    return name


def map_file(path: AnyPath) -> memoryview:
    """The bytes of a file as a read-only view of a memory map; it lives as long as the view does.

    An empty file gives an empty view, and `-` what stands on standard input. Raises InputError for
    a file that is missing, not readable, or no ordinary file.
    """
    if os.fspath(path) == STREAM:
        return memoryview(_standard_input())
    try:
        descriptor = os.open(path, os.O_RDONLY | _BINARY | _NONBLOCK)
    except (OSError, ValueError) as error:
        raise _refused(path, error) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not an ordinary file"
            raise _error(path, f"is {kind}", "name a file")
        if status.st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise _refused(path, error) from None
    finally:
        os.close(descriptor)


@cache
def _standard_input() -> bytes:
    """All of it, kept: a file is looked at more than once."""
    return sys.stdin.buffer.read()


def _created(temporary: Path, target: Path) -> BinaryIO:
    """The temporary file, open for writing, with the permissions of the file it will replace."""
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _BINARY, mode)
    return os.fdopen(descriptor, "wb")


_BINARY = getattr(os, "O_BINARY", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # opening a pipe must not wait for its writer


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself last; some systems cannot open or flush a folder."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: AnyPath) -> Iterator[None]:
    """Failures of the file system become InputErrors that name `path`."""
    try:
        yield
    except OSError as error:
        raise _refused(path, error) from error


_REASONS = {
    errno.ENOENT: ("no such file", "check the name and the folder"),
    errno.ENOTDIR: ("part of the path is not a folder", "check the name"),
    errno.EISDIR: ("is a folder", "name a file"),
    errno.EACCES: ("permission denied", "choose another folder, or change its permissions"),
    errno.EPERM: ("operation not permitted", "choose another folder"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.ENOSPC: ("the disk is full", "free some space or choose another folder"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or choose another folder"),
    errno.EFBIG: ("the file is too large here", "raise the limit on file sizes"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
}


def _refused(path: AnyPath, error: OSError | ValueError) -> InputError:
    if "\0" in os.fspath(path):  # each Python says it in other words
        return _error(path, "a null byte stands in no file's name")
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT and os.path.islink(path):  # noqa: PTH114
        return _error(path, f"this is a link to {os.readlink(path)}, which is not there")  # noqa: PTH115
    if number == errno.ENOENT and not (folder := Path(path).absolute().parent).is_dir():
        return _error(path, f"the folder {folder} does not exist", "create it first")
    message, hint = _REASONS.get(number or 0, (str(error), ""))
    return _error(path, message, hint)


def _error(path: AnyPath, message: str, hint: str = "") -> InputError:
    return InputError(message, span=SourceSpan(os.fspath(path)), hint=hint)
