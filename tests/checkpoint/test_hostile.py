"""Hostile weights files are refused before memory is taken, in words that say why."""

from __future__ import annotations

import io
import json
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from nnconv.converter.checkpoint import protobuf
from nnconv.converter.checkpoint.files import read_checkpoint, write_checkpoint
from nnconv.converter.wire_format import length_delimited
from nnconv.schemas import checkpoint_pb2 as pb
from nnconv.schemas.checkpoint import MOST_ARRAYS, Checkpoint
from nnconv.schemas.errors import InputError, NnconvError
from tests.places import REPOSITORY

HUGE = 1 << 60


def npy_bytes(shape: tuple[int, ...], data: bytes = b"", descr: str = "<f4") -> bytes:
    header = io.BytesIO()
    about = {"descr": descr, "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(header, about)
    return header.getvalue() + data


def npz(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([{"x": 1}], dtype=object))
    return buffer.getvalue()


def overlapping() -> bytes:
    """Two entries of the directory that point at the same bytes, as a zip bomb's do."""
    data = npz({"a.npy": npy_bytes((1,), bytes(4)), "b.npy": npy_bytes((1,), bytes(4))})
    second = data.rfind(b"PK\1\2")
    patched = bytearray(data)
    patched[second + 42 : second + 46] = struct.pack("<L", 0)
    return bytes(patched)


def lying_size() -> bytes:
    """The directory says that an entry unpacks to 4 GB."""
    data = bytearray(npz({"a.npy": npy_bytes((1,), bytes(4))}, zipfile.ZIP_DEFLATED))
    place = data.rfind(b"PK\1\2")
    data[place + 24 : place + 28] = struct.pack("<L", 0xFFFF_FFF0)
    return bytes(data)


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def message(*tensors: pb.Tensor, **fields: object) -> bytes:
    whole = pb.Checkpoint(format="nnck", version=1, parameters=tensors)
    for key, value in fields.items():
        setattr(whole, key, value)
    return whole.SerializeToString()


# name of the file, what makes it, what the message says
HOSTILE: list[tuple[str, Callable[[], bytes], str]] = [
    ("pickle.npz", pickled, "holds Python objects, which nnconv never loads"),
    ("bomb.npz", lambda: npz({"a.npy": npy_bytes((1 << 26,), bytes(4 << 26))}, 8), "zip bomb"),
    ("overlap.npz", overlapping, "share bytes of the archive"),
    ("lying.npz", lying_size, "cannot unpack to"),
    ("claim.npz", lambda: npz({"a.npy": npy_bytes((HUGE,))}), "takes 4,611,686"),
    ("up.npz", lambda: npz({"../../evil.npy": npy_bytes(())}), "leads out of its folder"),
    ("abs.npz", lambda: npz({"/etc/evil.npy": npy_bytes(())}), "leads out of its folder"),
    ("drive.npz", lambda: npz({"C:evil.npy": npy_bytes(())}), "leads out of its folder"),
    ("header.npz", lambda: npz({"a.npy": b"\x93NUMPY\1\0\xff\xff{"}), "is damaged"),
    ("nested.npz", lambda: npz({"a.npy": b"\x93NUMPY\1\0\x00\x30" + b"[" * 0x3000}), "is damaged"),
    ("code.npz", lambda: npz({"a.npy": b"\x93NUMPY\1\0\x10\0__import__('os')"}), "is damaged"),
    ("text.npz", lambda: npz({"a.npy": npy_bytes((1,), bytes(4), "<U1")}), "not numbers"),
    ("cut.npz", lambda: npz({"a.npy": npy_bytes((9,), bytes(36))})[:-30], "no complete zip"),
    ("entries.npz", lambda: npz({})[:8] + b"\xff" * 4 + npz({})[12:], "does not fit the file"),
    ("long.safetensors", lambda: struct.pack("<Q", HUGE) + b"{}", "the header should have"),
    ("nested.safetensors", lambda: safetensors(b"[" * 100_000), "nested too deeply"),
    ("twice.safetensors", lambda: safetensors(b'{"a":1,"a":2}'), "holds a name twice"),
    ("claim.safetensors", lambda: safetensors({"a": tensor([HUGE], 0, 4)}, bytes(4)), "takes 4,6"),
    ("past.safetensors", lambda: safetensors({"a": tensor([2], 0, 8)}, bytes(4)), "the data end"),
    ("gap.safetensors", lambda: safetensors({"a": tensor([1], 4, 8)}, bytes(8)), "leaves a gap"),
    ("overlap.safetensors",
     lambda: safetensors({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, bytes(4)), "overlaps"),
    ("rest.safetensors", lambda: safetensors({"a": tensor([1], 0, 4)}, bytes(9)), "of 9"),
    ("minus.safetensors", lambda: safetensors({"a": tensor([-1], 0, 4)}, bytes(4)), "sizes"),
    ("dtype.safetensors", lambda: safetensors({"a": tensor([1], 0, 4, "X")}, bytes(4)), "unknown"),
    ("claim.pb", lambda: message(pb.Tensor(name="a", type=1, sizes=[HUGE])), "takes 4,611"),
    ("product.pb", lambda: message(pb.Tensor(name="a", type=1, sizes=[1 << 40] * 4)), "takes"),
    ("type.pb", lambda: message(pb.Tensor(name="a", type=99, sizes=[1], data=b"1234")), "no type"),
    ("past.pb", lambda: message() + b"\x32\xff\xff\xff\xff\x0f", "bytes long"),
    ("newer.pb", lambda: message(version=9), "a newer nnconv reads it"),
    ("other.pb", lambda: b"\x08\x01", "no checkpoint of nnconv"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "words"), HOSTILE, ids=[case[0] for case in HOSTILE])
def test_hostile_files_are_refused(
    tmp_path: Path, name: str, make: Callable[[], bytes], words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(NnconvError, match=words) as caught:
        dict(read_checkpoint(path).parameters)
    assert name in str(caught.value)


def test_they_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    """In a process that may take 300 MB beyond what it has once everything is imported."""
    for name, make, _ in HOSTILE:
        (tmp_path / name).write_bytes(make())
    (tmp_path / "deep.yaml").write_bytes(b"[" * 50_000)
    script = """
import resource, sys, pathlib
from nnconv.converter.checkpoint import npz, protobuf, safetensors
from nnconv.converter.checkpoint.files import read_checkpoint
from nnconv.converter.yaml.reader import import_yaml
from nnconv.schemas.errors import NnconvError
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20),) * 2)
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        import_yaml(path) if path.suffix == ".yaml" else dict(read_checkpoint(path).parameters)
        print("read", path)
    except NnconvError:
        pass
"""
    if not Path("/proc/self/statm").exists():  # RLIMIT_AS means nothing there either
        assert resource.RLIMIT_AS
        return
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=REPOSITORY, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- very many arrays -----------------------------------------------------------------------------

TOO_MANY = MOST_ARRAYS + 1


def many_tensors() -> bytes:
    elements = pb.Tensor(type=1, sizes=[1], data=bytes(4)).SerializeToString()
    names = (length_delimited(1, b"%x" % number) for number in range(TOO_MANY))
    return message() + b"".join(length_delimited(6, name + elements) for name in names)


def many_entries() -> bytes:
    """A zip's directory of as many entries; none of them is ever looked for."""
    listed = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 9, 1, *[0] * 6) + b"a"
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, TOO_MANY, TOO_MANY,
                        TOO_MANY * len(listed), 0)  # fmt: skip
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, TOO_MANY * len(listed), 1)
    return (
        listed * TOO_MANY
        + end64
        + locator
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    )


def many_offsets() -> bytes:
    entries = ",".join(
        f'"{number:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
        for number in range(TOO_MANY)
    )
    return safetensors(f"{{{entries}}}".encode())


@pytest.mark.parametrize(
    ("name", "make"),
    [("a.pb", many_tensors), ("a.npz", many_entries), ("a.safetensors", many_offsets)],
)
def test_more_arrays_than_any_net_has_are_refused(
    name: str, make: Callable[[], bytes], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(make())
    with pytest.raises(InputError, match=f"{MOST_ARRAYS:,}"):
        read_checkpoint(tmp_path / name)


def test_too_many_arrays_are_refused_before_any_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protobuf, "_tensor", None)
    (tmp_path / "a.pb").write_bytes(many_tensors())
    with pytest.raises(InputError, match=f"{MOST_ARRAYS:,}"):
        read_checkpoint(tmp_path / "a.pb")


def test_small_tensors_are_read_as_large_ones_are(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        str(size): np.arange(size, dtype=np.float32) for size in (0, 1, 1000, 1020, 1030, 5000)
    }
    write_checkpoint(Checkpoint(arrays), tmp_path / "a.pb")
    found = read_checkpoint(tmp_path / "a.pb").parameters
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.writeable


@pytest.mark.parametrize("size", [2, 5000])
def test_a_tensor_with_two_fields_of_elements_is_refused(size: int, tmp_path: Path) -> None:
    elements = length_delimited(5, bytes(4 * size))
    tensor = pb.Tensor(name="a", type=1, sizes=[size]).SerializeToString() + elements * 2
    (tmp_path / "a.pb").write_bytes(message() + length_delimited(6, tensor))
    with pytest.raises(InputError, match="twice"):
        read_checkpoint(tmp_path / "a.pb")


def test_a_damaged_element_is_seen_by_its_checksum(tmp_path: Path) -> None:
    data = bytearray(npz({"a.npy": npy_bytes((64,), bytes(256))}))
    data[300] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(NnconvError, match="checksum"):
        read_checkpoint(tmp_path / "a.npz").parameters["a"]


@pytest.mark.parametrize("suffix", [".npz", ".deflated.npz", ".pb", ".safetensors"])
def test_mutated_files_give_clean_errors_or_arrays(tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(29)
    arrays: dict[str, Any] = {
        "a": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b/1": np.ones(3, np.int64),
    }
    path = tmp_path / f"c{suffix}"
    if suffix == ".deflated.npz":
        np.savez_compressed(path, **arrays)
    else:
        whole = Checkpoint(arrays, {"s": np.ones(1)}, {"m": arrays}, 5, {"k": "v"})
        write_checkpoint(whole, path)
    original = path.read_bytes()
    outcomes = set()
    for _ in range(1200):
        data = bytearray(original)
        for position in random.integers(0, len(data), random.integers(1, 6)):
            data[position] = random.integers(0, 256)
        path.write_bytes(data[: random.integers(1, len(data))] if random.random() < 0.2 else data)
        try:
            found = read_checkpoint(path)
            for table in (found.parameters, found.state, *found.optimizer.values()):
                dict(table)
            outcomes.add("read")
        except NnconvError as error:
            assert error.problems
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
