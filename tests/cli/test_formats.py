"""Files are what name and content say; hostile arrays and pictures only ever give clean errors."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

import nnconv as door
from nnconv.converter.formats import identify
from nnconv.runtime.data.pictures import decode
from nnconv.schemas.arrays import load_array, save_arrays
from nnconv.schemas.errors import InputError, UnsupportedError

NET = b'name: "x"\nlayer { name: "d" type: "Input" top: "d" }\n'
KINDS = [
    # name, content, the format it is
    ("net.prototxt", NET, "prototxt"),
    ("net.PROTOTXT", b"# a comment\n\n" + NET, "prototxt"),
    ("net", NET, "prototxt"),
    ("net.backup", b'\x0a\x01x\xa2\x06\x05\x0a\x01d\x12\x00', "caffemodel"),
    ("m.nnir", b"\x0a\x04nnir\x10\x01", "nnir"),
    ("m", b"\x0a\x04nnir\x10\x01", "nnir"),
    ("m.nnirtxt", b'format: "nnir"\n', "nnirtxt"),
    ("w.caffemodel.h5", b"\x89HDF\r\n\x1a\n", "hdf5"),
    ("w.caffemodel", b"damaged beyond recognition", "caffemodel"),
    ("p.png", b"\x89PNG\r\n\x1a\n", "picture"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "kind"), KINDS, ids=[kind[0] for kind in KINDS])
def test_files_are_recognised(in_folder: Path, name: str, content: bytes, kind: str) -> None:
    Path(name).write_bytes(content)
    assert identify(name).name == kind


CLASHES = [
    ("net.prototxt", b"\x0a\x04nnir\x10\x01", "the name says Caffe net as text, the content is"),
    ("net.nnir", NET, "the name says nnconv model, the content is a Caffe net as text"),
    ("net.caffemodel", b"\x89PNG\r\n\x1a\n", "the content is a picture"),
    ("net.prototxt", b"", "the file is empty"),
    ("net.xyz", b"\xff\xfe\xfd", "cannot tell what kind of file this is"),
]


@pytest.mark.parametrize(("name", "content", "message"), CLASHES)
def test_a_name_that_contradicts_the_content_is_told(
    in_folder: Path, name: str, content: bytes, message: str
) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        identify(name)


def test_files_of_two_models_do_not_mix(in_folder: Path, lenet: Path) -> None:
    door.save(door.load("zoo:lenet"), "a.nnir")
    with pytest.raises(InputError, match="do not belong together"):
        door.load(["a.nnir", lenet / "lenet.caffemodel"])
    with pytest.raises(InputError, match="scale cannot be given for an nnconv model"):
        door.load("a.nnir", scale=2.0)


@pytest.mark.parametrize("name", ["a.png", "a.txt", "a", "a.npy"])
def test_formats_that_are_not_written_are_named(in_folder: Path, name: str) -> None:
    with pytest.raises(UnsupportedError, match="does not write this format"):
        door.save(door.load("zoo:lenet"), name)


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3, 4)), np.array(7), np.zeros((0, 3))],
    ids=["ordinary", "fortran", "scalar", "empty"],
)
def test_arrays_written_here_are_read_by_numpy_and_the_other_way_round(
    in_folder: Path, array: np.ndarray
) -> None:
    save_arrays(Path("ours.npz"), {"a/b": array, "file": array})
    np.savez("theirs.npz", other=array[None], **{"a/b": array})  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.load("ours.npz")["a/b"], array)
    np.testing.assert_array_equal(load_array(Path("theirs.npz"), "a/b"), array)
    with pytest.raises(InputError, match="did you mean 'a/b'"):
        load_array(Path("theirs.npz"), "a-b")


def test_an_archive_that_unpacks_beyond_reason_is_refused(in_folder: Path) -> None:
    with zipfile.ZipFile("bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 22,)}
        )
        archive.writestr("a.npy", header.getvalue() + bytes(4 << 22))
    refused = []

    def check(shape: tuple[int, ...], dtype: object) -> None:
        refused.append(shape)
        raise InputError("too large")

    with pytest.raises(InputError, match="too large"):
        load_array(Path("bomb.npz"), "a", check)
    assert refused == [(1 << 22,)]  # before anything of it was unpacked


@pytest.mark.parametrize("kind", ["npy", "npz", "png", "jpg"])
def test_mutated_files_give_clean_errors_or_arrays(in_folder: Path, lenet: Path, kind: str) -> None:
    random = np.random.default_rng(11)
    original = _sample(kind, lenet)
    path = Path(f"mutated.{kind}")
    outcomes = set()
    for _ in range(300):
        data = bytearray(original)
        for position in random.integers(0, len(data), random.integers(1, 6)):
            data[position] = random.integers(0, 256)
        path.write_bytes(
            data[: random.integers(1, len(data) + 1)] if random.random() < 0.3 else data
        )
        try:
            decode(path, 1) if kind in ("png", "jpg") else load_array(path, "a")
            outcomes.add("read")
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def _sample(kind: str, lenet: Path) -> bytes:
    if kind == "png":
        return (lenet / "digits/two.png").read_bytes()
    if kind == "jpg":
        from PIL import Image

        Image.open(lenet / "digits/two.png").save("two.jpg")
        return Path("two.jpg").read_bytes()
    if kind == "npy":
        np.save("a.npy", np.ones((2, 3), np.float32))
        return Path("a.npy").read_bytes()
    np.savez_compressed("a.npz", a=np.arange(60.0))
    return Path("a.npz").read_bytes()
