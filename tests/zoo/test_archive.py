"""Archives that want more than to be unpacked."""

from __future__ import annotations

import gzip
import io
import random
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from nnconv.schemas.errors import InputError
from nnconv.zoo import archive

FILES = {"net/deploy.prototxt": b"name: 'net'", "net/net.caffemodel": bytes(1000), "readme": b""}


def a_zip(files: dict[str, bytes], mode: int = 0) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as out:
        for name, body in files.items():
            info = zipfile.ZipInfo("name")
            info.filename, info.external_attr = name, mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(info, body)
    return made.getvalue()


def a_tar(
    files: dict[str, bytes], kind: bytes = tarfile.REGTYPE, link: str = "", **fields: int
) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as out:
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(body)
            for field, value in fields.items():
                setattr(info, field, value)
            out.addfile(info, io.BytesIO(body))
    return made.getvalue()


def unpack(folder: Path, name: str, data: bytes) -> dict[str, bytes]:
    (folder / name).write_bytes(data)
    (folder / "inside").mkdir()
    names = archive.unpack(folder / name, folder / "inside")
    return {name: (folder / "inside" / name).read_bytes() for name in names}


@pytest.mark.parametrize(
    ("name", "make"), [("a.zip", a_zip), ("a.tar.gz", a_tar), ("a.tgz", a_tar)]
)
def test_an_honest_archive_is_unpacked(
    name: str, make: Callable[[dict[str, bytes]], bytes], tmp_path: Path
) -> None:
    assert unpack(tmp_path, name, make(FILES)) == FILES


def test_leading_dots_and_folders_are_fine(tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as out:
        folder = tarfile.TarInfo("./net")
        folder.type = tarfile.DIRTYPE
        out.addfile(folder)
        info = tarfile.TarInfo("./net/a")
        info.size = 1
        out.addfile(info, io.BytesIO(b"x"))
    assert unpack(tmp_path, "a.tgz", made.getvalue()) == {"net/a": b"x"}


ESCAPES = [
    "../out", "a/../../out", "/tmp/out", "a//b", "a/./b", "..", "C:/out", "C:out", "a\\..\\out",
    "a\x01b", "con. ", "a/b.", "a" * 256, "d/" * 40 + "f",
]  # fmt: skip


@pytest.mark.parametrize("path", ESCAPES)
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_path_that_leads_elsewhere_is_refused(path: str, kind: str, tmp_path: Path) -> None:
    make = a_zip if kind == "zip" else a_tar
    with pytest.raises(InputError, match="names a path"):
        unpack(tmp_path, f"a.{kind}", make({path: b"x"}))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / f"a.{kind}"]


def test_a_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    data = a_zip({"aXb": b"x"}).replace(b"aXb", b"a\0b")
    with pytest.raises(InputError, match="names a path"):
        unpack(tmp_path, "a.zip", data)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
def test_a_tar_holds_plain_files_only(kind: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'net' is no plain file"):
        unpack(tmp_path, "a.tgz", a_tar({"net": b""}, kind, "/etc/passwd"))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_zip_holds_plain_files_only(kind: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'net' is no plain file"):
        unpack(tmp_path, "a.zip", a_zip({"net": b"/etc/passwd"}, kind | 0o777))


@pytest.mark.parametrize("second", ["net", "net/inner"])
def test_no_file_is_written_over_or_below_another(second: str, tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as out:
        out.writestr("net", b"1")
        if second == "net":
            with pytest.warns(UserWarning, match="Duplicate"):
                out.writestr(second, b"2")
        else:
            out.writestr(second, b"2")
    with pytest.raises(InputError, match="twice, or as a file and a folder"):
        unpack(tmp_path, "a.zip", made.getvalue())


@pytest.mark.parametrize(("name", "make"), [("a.zip", a_zip), ("a.tgz", a_tar)])
def test_a_bomb_is_refused_before_it_is_large(
    name: str, make: Callable[[dict[str, bytes]], bytes], tmp_path: Path, small: None
) -> None:
    with pytest.raises(InputError, match="grows beyond reason"):
        unpack(tmp_path, name, make({f"{i}": bytes(1 << 20) for i in range(20)}))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 12 << 20


def test_a_zip_that_lies_about_its_sizes_writes_no_more_than_it_said(
    tmp_path: Path, small: None
) -> None:
    body = bytes(8 << 20)
    data = a_zip({"net": body}).replace(struct.pack("<L", len(body)), struct.pack("<L", 100))
    with pytest.raises(InputError):
        unpack(tmp_path, "a.zip", data)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 1 << 20


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_to_be_huge_is_not_read_into_memory(
    kind: bytes, tmp_path: Path
) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, 1 << 40
    data = gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16))
    with pytest.raises(InputError, match="a header beyond reason"):
        unpack(tmp_path, "a.tgz", data)


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MEMBERS", 5)
    for name, make in (("a.zip", a_zip), ("a.tgz", a_tar)):
        (tmp_path / name[2:]).mkdir()
        with pytest.raises(InputError, match=r"more than 5 files|beyond reason"):
            unpack(tmp_path / name[2:], name, make({f"{i}": b"" for i in range(6)}))


@pytest.mark.parametrize("data", [b"PK\3\4 no", b"\x1f\x8b no", b"text" * 100, a_tar(FILES)[:-60]])
@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
def test_what_is_no_archive_is_called_damaged(name: str, data: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="damaged"):
        unpack(tmp_path, name, data)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("name", "make"), [("a.zip", a_zip), ("a.tgz", a_tar)])
def test_a_mutated_archive_is_unpacked_inside_or_refused(
    name: str, make: Callable[[dict[str, bytes]], bytes], seed: int, tmp_path: Path, small: None
) -> None:
    chance = random.Random(f"{name} {seed}")
    plain = make(FILES)
    if name == "a.tgz":  # mutate the tar, not its compression, which a checksum guards
        plain = gzip.decompress(plain)
    for _ in range(30):
        data = bytearray(plain)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(min(len(data), 2048))] = chance.choice([0, 1, 47, 46, 127, 255])
        folder = tmp_path / "box"
        folder.mkdir()
        try:
            unpack(folder, name, gzip.compress(data, 1) if name == "a.tgz" else bytes(data))
        except InputError as error:
            assert name in str(error)
        assert [path.name for path in folder.parent.iterdir()] == ["box"]
        assert sorted(path.name for path in folder.iterdir()) == [name, "inside"]
        shutil.rmtree(folder)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bombs of a few megabytes are enough."""
    monkeypatch.setattr(archive, "SMALL", 4 << 20)


def test_zlib_is_what_shrinks_a_bomb() -> None:
    """The ratio that is allowed lies well above what weights reach and below what zeros do."""
    weights = random.Random(1).randbytes(1 << 16)
    assert len(weights) / len(zlib.compress(weights)) < 2 < archive.RATIO
    assert (1 << 20) / len(zlib.compress(bytes(1 << 20))) > 10 * archive.RATIO
