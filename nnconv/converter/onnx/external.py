"""Tensors that lie in files of their own beside the model, and the guard against paths that lead
elsewhere.

A location is a path relative to the model's folder. It may not be absolute, climb out by `..`, or
pass through a symbolic link; each step is opened by O_NOFOLLOW relative to the folder before it, so
a link put in place meanwhile is refused too. Files are mapped once each.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from nnconv.schemas.errors import InputError

_KEYS = {"location", "offset", "length", "checksum", "basepath"}
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BY_DESCRIPTOR = os.open in os.supports_dir_fd


class ExternalFiles:
    """The side files of the model in `folder`; None for a model that has no folder (bytes)."""

    def __init__(self, folder: str | None) -> None:
        self.folder = folder
        self._mapped: dict[tuple[str, ...], memoryview] = {}

    def bytes_of(self, tensor: Any, size: int) -> memoryview:
        """The `size` bytes of elements of an external TensorProto.

        Raises InputError when the location leads out of the folder, there is no such file, or it
        does not hold offset + length bytes.
        """
        entries = {entry.key: entry.value for entry in tensor.external_data if entry.key in _KEYS}
        location = entries.get("location", "")
        offset, length = (_natural(entries, key, tensor.name) for key in ("offset", "length"))
        if length is not None and length != size:
            raise InputError(
                f"tensor '{tensor.name}' takes {size} bytes, {length} are stated for '{location}'"
            )
        data = self._file(location, tensor.name)
        start = offset or 0
        if start + size > len(data):
            raise InputError(
                f"tensor '{tensor.name}' takes {size} bytes from byte {start} on, but '{location}' "
                f"has {len(data)}",
                hint="the side file is cut off, or belongs to another model",
            )
        return data[start : start + size]

    def _file(self, location: str, name: str) -> memoryview:
        steps = _steps(location, name)
        if self.folder is None:
            raise InputError(
                f"tensor '{name}' lies in the file '{location}', but the model was given as bytes",
                hint="read the model from its file",
            )
        if steps not in self._mapped:
            self._mapped[steps] = _open_inside(self.folder, steps, name)
        return self._mapped[steps]


def _steps(location: str, name: str) -> tuple[str, ...]:
    """The folders and the file that `location` names; InputError for one that leads out."""
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    steps = tuple(part for part in windows.parts if part != ".")
    hostile = posix.is_absolute() or windows.anchor or ".." in steps or ":" in location
    if hostile or not steps or "\0" in location:
        raise InputError(
            f"tensor '{name}' lies in {location!r}, which is not inside the model's folder",
            hint="side files must lie beside the model, named by a relative path without '..'",
        )
    return steps


def _open_inside(folder: str, steps: tuple[str, ...], name: str) -> memoryview:
    """Map a file step by step, following no link."""
    path = os.path.join(folder, *steps)  # noqa: PTH118  (shown to the user as given)
    try:
        descriptor = _open_steps(folder, steps) if _BY_DESCRIPTOR else _open_checked(folder, steps)
    except OSError as error:
        raise InputError(f"tensor '{name}' lies in {path}: {_reason(error)}") from None
    try:
        return _mapped(descriptor, path)
    finally:
        os.close(descriptor)


def _open_steps(folder: str, steps: tuple[str, ...]) -> int:
    current = os.open(folder or ".", os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    for step in steps:
        try:
            following = os.open(step, _FLAGS | _NO_FOLLOW, dir_fd=current)
        finally:
            os.close(current)
        current = following
    return current


def _open_checked(folder: str, steps: tuple[str, ...]) -> int:
    """Where files cannot be opened relative to a folder (Windows): look first, then open."""
    path = folder
    for step in steps:
        path = os.path.join(path, step)  # noqa: PTH118
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise OSError(_LINK, "symbolic link")
    return os.open(path, _FLAGS)


_LINK = errno.ELOOP  # what O_NOFOLLOW gives for a link


def _mapped(descriptor: int, path: str) -> memoryview:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not an ordinary file")
    if status.st_size == 0:
        return memoryview(b"")
    return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))


def _reason(error: OSError) -> str:
    if error.errno == _LINK:
        return "it is a symbolic link, and links may lead out of the model's folder"
    return error.strerror or str(error)


def _natural(entries: dict[str, str], key: str, name: str) -> int | None:
    text = entries.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InputError(f"tensor '{name}': the {key} of its external data is {text[:40]!r}")
    return int(text)
