"""Zip and tar.gz archives unpacked without harm: nothing outside the folder, nothing but plain
files, no more bytes than are reasonable.

What is claimed is checked first, what really comes out is counted again. The first thing that is
wrong refuses the whole archive.
"""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn

from nnconv.schemas.errors import InputError

SUFFIXES = (".zip", ".tar.gz", ".tgz")
MEMBERS = 10_000
RATIO = 50  # weights hardly shrink; ten times is much, fifty a bomb
SMALL = 64 << 20  # below this many bytes no ratio is asked for
LARGEST = 16 << 30
CHUNK = 1 << 18
# names that some system or other reads as more than a plain name
_FORBIDDEN = re.compile(r'[\x00-\x1f<>:"|?*\\]|[. ]$')

_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError,
    struct.error,
)  # fmt: skip


def is_archive(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def stem(name: str) -> str:
    """The name of an archive without its suffix."""
    return next(name[: -len(end)] for end in SUFFIXES if name.lower().endswith(end))


def unpack(archive: Path, folder: Path) -> list[str]:
    """Unpack all files of `archive` into the empty `folder`; their paths below it.

    Raises InputError for an archive that is damaged, names a path outside the folder or one that
    cannot be a file's everywhere, holds a link or a device, or grows beyond reason.
    """
    allowed = min(max(SMALL, RATIO * archive.stat().st_size), LARGEST)
    unpacker = _unzip if archive.name.lower().endswith(".zip") else _untar
    done: list[str] = []
    try:
        for name, source in unpacker(archive, allowed):
            done.append(_safe(archive, name))
            target = folder / done[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            allowed -= _copy(archive, source, target, allowed)
    except _DAMAGED as error:
        _refuse(archive, f"the archive is damaged: {error}")
    except (NotImplementedError, RuntimeError, ValueError, OverflowError) as error:
        _refuse(archive, f"cannot be unpacked: {error}")
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        _refuse(archive, f"holds '{Path(error.filename).name}' twice, or as a file and a folder")
    except OSError as error:
        if error.errno != errno.EINVAL:  # of the disk, not of the archive
            raise
        _refuse(archive, "the archive is damaged: it points outside of itself")
    return done


def _unzip(archive: Path, allowed: int) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        if len(members) > MEMBERS or sum(member.file_size for member in members) > allowed:
            _refuse(archive, "grows beyond reason when unpacked")
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.orig_filename.endswith("/"):
                continue
            # Windows and old tools leave the type out
            if kind not in (0, stat.S_IFREG):
                _refuse(archive, f"'{member.filename}' is no plain file")
            with opened.open(member) as source:
                # the name as it is written: zipfile has already cut .filename at a NUL
                yield member.orig_filename, source


def _untar(archive: Path, allowed: int) -> Iterator[tuple[str, IO[bytes]]]:
    with gzip.GzipFile(archive) as unzipped:
        counted = _Counted(unzipped, archive, allowed + MEMBERS * 1024)
        with tarfile.open(fileobj=counted, mode="r:") as opened:
            for number, member in enumerate(opened):
                if number >= MEMBERS:
                    _refuse(archive, f"holds more than {MEMBERS:,} files")
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    _refuse(archive, f"'{member.name}' is no plain file")
                source = opened.extractfile(member)
                assert source is not None  # plain files have one
                yield member.name, source


class _Counted(io.RawIOBase):
    """What comes out of the gzip stream, forwards only, in bounded reads, up to a limit.

    tarfile reads the header of a long name at once, as long as it claims to be.
    """

    def __init__(self, source: gzip.GzipFile, archive: Path, limit: int) -> None:
        self._source, self._archive, self._limit = source, archive, limit
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 4 * CHUNK:
            _refuse(self._archive, "has a header beyond reason")
        data = self._source.read(size)
        self._at += len(data)
        if self._at > self._limit:
            _refuse(self._archive, "grows beyond reason when unpacked")
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Forwards, by reading; going back would begin the stream again, member after member."""
        if whence != 0 or offset < self._at:
            raise tarfile.ReadError("its parts are out of order")
        while self._at < offset and self.read(min(CHUNK, offset - self._at)):
            pass
        return self._at


def _safe(archive: Path, name: str) -> str:
    """The name itself when it is a plain path below the folder."""
    parts = name.removeprefix("./").split("/")
    if any(part in ("", ".", "..") or _FORBIDDEN.search(part) for part in parts):
        _refuse(archive, f"names a path that leads elsewhere: {name[:200]!r}")
    if len(parts) > 32 or any(len(part.encode()) > 255 for part in parts):
        _refuse(archive, f"names a path that is too long: {name[:200]!r}")
    return "/".join(parts)


def _copy(archive: Path, source: IO[bytes], target: Path, allowed: int) -> int:
    count = 0
    with target.open("xb") as file:  # x: never through something that is there
        while chunk := source.read(CHUNK):
            count += len(chunk)
            if count > allowed:
                _refuse(archive, "grows beyond reason when unpacked")
            file.write(chunk)
    return count


def _refuse(archive: Path, why: str) -> NoReturn:
    raise InputError(
        f"{archive.name}: {why}; nothing of it was kept",
        hint="the archive is not what its catalogue promises: do not unpack it by hand either",
    )
