"""Writing is all or nothing, whatever fails; mapping refuses what is no file."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nnconv.schemas import files
from nnconv.schemas.errors import InputError
from nnconv.schemas.files import atomic_write, map_file


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file with content that a failed write must leave alone."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 10,000 bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def write(path: Path, data: bytes = b"new") -> None:
    with atomic_write(path) as file:
        file.write(data)


def test_a_new_file_replaces_the_old_one(old: Path) -> None:
    write(old)
    assert old.read_bytes() == b"new" and names(old.parent) == ["file"]


def test_permissions_of_the_old_file_are_kept(old: Path) -> None:
    old.chmod(0o600)
    write(old)
    assert old.stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link(old: Path) -> None:
    link = old.with_name("link")
    link.symlink_to(old)
    write(link)
    assert link.is_symlink() and old.read_bytes() == b"new"


def test_a_device_is_written_straight() -> None:
    write(Path(os.devnull))
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt()], ids=repr)
def test_an_error_in_the_block_passes_and_leaves_the_old_file(
    old: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)), atomic_write(old) as file:
        file.write(b"half")
        raise error
    assert old.read_bytes() == b"old" and names(old.parent) == ["file"]


def test_a_disk_that_fills_up_is_named(old: Path, small_files: None) -> None:
    with pytest.raises(InputError, match="too large") as caught:
        write(old, bytes(100_000))
    assert old.read_bytes() == b"old" and names(old.parent) == ["file"]
    assert caught.value.problems[0].hint


FAILING: dict[str, tuple[Any, str]] = {
    "open": (os, "open"), "sync": (os, "fsync"), "rename": (os, "replace"),
    "folder": (files, "_sync_folder"),
}  # fmt: skip


@pytest.mark.parametrize("call", FAILING)
@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS, errno.EDQUOT]
)
def test_every_call_may_fail_once(
    old: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*FAILING[call], fail)
    with pytest.raises(InputError) as caught:
        write(old)
    monkeypatch.undo()
    assert str(old) in str(caught.value)
    assert old.read_bytes() in (b"old", b"new") and names(old.parent) == ["file"]
    assert old.read_bytes() == b"old" or call == "folder"


MISSING: dict[str, tuple[Callable[[Path], Path], str]] = {
    "folder": (lambda root: root / "no" / "file", "no does not exist"),
    "file as folder": (lambda root: root / "file" / "below", "does not exist|not a folder"),
    "a folder": (lambda root: root, "is a folder"),
    "long name": (lambda root: root / ("n" * 300), "too long"),
}


@pytest.mark.parametrize(("place", "words"), MISSING.values(), ids=MISSING)
def test_places_that_cannot_be_written_are_named(
    old: Path, place: Callable[[Path], Path], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        write(place(old.parent))
    assert names(old.parent) == ["file"]


def test_a_mapped_file_is_read_only(old: Path) -> None:
    view = map_file(old)
    assert bytes(view) == b"old" and view.readonly
    old.unlink()
    assert bytes(view) == b"old"


def test_what_cannot_be_mapped_is_named(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, words in [
        (pipe, "not an ordinary file"), (tmp_path, "folder"),
        (tmp_path / "none", "no such file"), (tmp_path / "no" / "none", "no does not exist"),
        (Path("nul\0"), "null byte"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=words):
            map_file(path)
