"""Checkpoints come back bit for bit, the same bytes every time, and other programs read them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from google.protobuf import descriptor_pool
from safetensors.numpy import load_file, save_file

from nnconv.converter.checkpoint.files import read_checkpoint, write_checkpoint
from nnconv.converter.checkpoint.npz import COMMENT
from nnconv.schemas import checkpoint_pb2 as pb
from nnconv.schemas.checkpoint import Checkpoint, Lazy
from nnconv.schemas.errors import UnsupportedError

SUFFIXES = [".npz", ".pb", ".safetensors"]


def sample() -> Checkpoint:
    random = np.random.default_rng(1)
    weights = random.standard_normal((3, 2, 5), np.float32)
    weights[0, 0, 0] = np.nan
    parameters: dict[str, Any] = {
        "conv1/0": weights,
        "/abs/../up\\x:é %41": np.asfortranarray(random.standard_normal((4, 3))),
        "state:looks like a prefix": np.arange(5, dtype=np.int64),
        "scalar": np.array(7, np.uint8),
        "empty": np.zeros((0, 3), np.float16),
        "strided": random.standard_normal((6, 4), np.float32)[::2, ::-1],
        "swapped": np.arange(4, dtype=">f4"),
        "flags": np.array([True, False]),
    }
    momentum = {name: parameters[name] for name in ("conv1/0", "scalar")}
    return Checkpoint(
        parameters, {"counter": np.array([3], np.int32)},
        {"momentum": momentum, "a:b": {"conv1/0": weights}}, 1234, {"note": "é", "by": "test"},
    )  # fmt: skip


def assert_equal(a: Checkpoint, b: Checkpoint) -> None:
    assert (a.iteration, a.metadata) == (b.iteration, b.metadata)
    assert set(a.optimizer) == set(b.optimizer)
    tables = [(a.parameters, b.parameters), (a.state, b.state)]
    tables += [(a.optimizer[slot], b.optimizer[slot]) for slot in a.optimizer]
    for left, right in tables:
        assert set(left) == set(right)
        for name in left:
            assert left[name].dtype.newbyteorder("<") == right[name].dtype.newbyteorder("<")
            np.testing.assert_array_equal(left[name], right[name])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_everything_comes_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c{suffix}"
    write_checkpoint(sample(), path)
    found = read_checkpoint(path)
    assert_equal(sample(), found)
    write_checkpoint(found, tmp_path / f"again{suffix}")
    assert (tmp_path / f"again{suffix}").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_arrays_are_read_when_asked_for_and_are_views(tmp_path: Path, suffix: str) -> None:
    write_checkpoint(sample(), tmp_path / f"c{suffix}")
    found = read_checkpoint(tmp_path / f"c{suffix}").parameters
    assert isinstance(found, Lazy)
    assert found.headers["conv1/0"].shape == (3, 2, 5)
    assert not found["conv1/0"].flags.owndata
    assert not found["conv1/0"].flags.writeable


@pytest.mark.parametrize("suffix", [".pb", ".safetensors"])
def test_bfloat16_comes_back(tmp_path: Path, suffix: str) -> None:
    half = np.array([1.5, -2.0, 3e38], ml_dtypes.bfloat16)
    write_checkpoint(Checkpoint({"h": half}), tmp_path / f"c{suffix}")
    found = read_checkpoint(tmp_path / f"c{suffix}").parameters["h"]
    assert found.dtype == half.dtype
    assert found.tobytes() == half.tobytes()


def test_npz_says_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"'h' is bfloat16, which \.npz cannot hold"):
        write_checkpoint(Checkpoint({"h": np.ones(2, ml_dtypes.bfloat16)}), tmp_path / "c.npz")
    assert list(tmp_path.iterdir()) == []


def test_numpy_reads_our_npz_and_we_read_numpys(tmp_path: Path) -> None:
    arrays = {"a/b": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.eye(3, 4))}
    write_checkpoint(Checkpoint(arrays), tmp_path / "ours.npz")
    theirs = np.load(tmp_path / "ours.npz", allow_pickle=False)
    for name, array in arrays.items():
        np.testing.assert_array_equal(theirs[name], array)
    assert zipfile.ZipFile(tmp_path / "ours.npz").comment == COMMENT
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "theirs.npz", **arrays)  # type: ignore[arg-type]
        assert_equal(read_checkpoint(tmp_path / "theirs.npz"), Checkpoint(arrays))


def test_the_safetensors_package_agrees(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "i": np.array([1, 2], np.int8),
    }
    save_file(arrays, tmp_path / "theirs.safetensors", metadata={"format": "np"})
    found = read_checkpoint(tmp_path / "theirs.safetensors")
    assert_equal(found, Checkpoint(arrays, metadata={"format": "np"}))
    plain = {key: np.ascontiguousarray(value) for key, value in sample().parameters.items()}
    plain["swapped"] = plain["swapped"].astype("<f4")
    write_checkpoint(Checkpoint(plain), tmp_path / "ours.safetensors")
    theirs = load_file(tmp_path / "ours.safetensors")
    for name, array in plain.items():
        key = f"parameter:{name}" if name.startswith("state:") else name
        np.testing.assert_array_equal(theirs[key], array)


def test_protobuf_itself_reads_our_pb(tmp_path: Path) -> None:
    write_checkpoint(sample(), tmp_path / "c.pb")
    message = pb.Checkpoint.FromString((tmp_path / "c.pb").read_bytes())
    assert (message.format, message.version, message.iteration) == ("nnck", 1, 1234)
    first = message.parameters[0]
    assert (first.name, list(first.sizes), first.type) == ("conv1/0", [3, 2, 5], 1)
    weights = sample().parameters["conv1/0"]
    assert first.data == weights.tobytes()
    assert [tensor.slot for tensor in message.optimizer] == ["a:b", "momentum", "momentum"]
    assert descriptor_pool.Default().FindMessageTypeByName("nnconv.checkpoint.Checkpoint")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_writing_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c{suffix}"
    write_checkpoint(sample(), path)
    before = path.read_bytes()

    broken = Lazy()
    write_checkpoint(sample(), tmp_path / f"s{suffix}")
    good = read_checkpoint(tmp_path / f"s{suffix}").parameters
    assert isinstance(good, Lazy)
    for name in good:
        broken.add(name, good.headers[name], lambda: (_ for _ in ()).throw(ValueError("gone")))
    with pytest.raises(ValueError, match="gone"):
        write_checkpoint(Checkpoint(broken), path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
