"""The walk over protobuf's wire format, against protobuf's own reading and against itself."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nnconv.converter.wire_format import (
    Field,
    Malformed,
    fields,
    length_delimited,
    varint,
    without,
)
from tests.places import REPOSITORY


def message(generator: random.Random) -> bytes:
    """Fields of all kinds, some with keys and numbers longer than they need be."""
    return b"".join(field(generator) for _ in range(generator.randint(0, 12)))


def field(generator: random.Random) -> bytes:
    number = generator.choice((1, 2, 7, 15, 16, 100, 2047, 2048, 1 << 20, (1 << 29) - 1))
    wire_type = generator.choice((0, 1, 2, 5))
    key = padded(number << 3 | wire_type, generator)
    if wire_type == 0:
        return key + padded(generator.choice((0, 1, 127, 128, 1 << 63)), generator)
    if wire_type == 2:
        content = generator.randbytes(generator.choice((0, 1, 2, 3, 4, 9)))
        return key + padded(len(content), generator) + content
    return key + generator.randbytes(8 if wire_type == 1 else 4)


def padded(value: int, generator: random.Random) -> bytes:
    """A varint, at times with zeros behind it that say nothing."""
    encoded = bytearray(varint(value))
    while len(encoded) < 9 and generator.random() < 0.2:
        encoded[-1] |= 0x80
        encoded.append(0)
    return bytes(encoded)


WANTED = [frozenset({1}), frozenset({7, 100}), frozenset({2047, 16}), frozenset({1, 2, 7, 15})]


def walked(data: bytes, wanted: frozenset[int] | None = None) -> list[Field] | str:
    try:
        return list(fields(memoryview(data), 0, len(data), wanted))
    except Malformed as error:
        return error.message


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: str(sorted(wanted)))
def test_what_is_passed_over_is_what_nobody_asked_for(wanted: frozenset[int]) -> None:
    generator = random.Random(5)
    found = 0
    for _ in range(3000):
        data = message(generator)
        every = walked(data)
        assert not isinstance(every, str)
        chosen = [item for item in every if item.number in wanted]
        assert walked(data, wanted) == chosen
        found += len(chosen)
    assert found > 1000


def test_every_cut_is_seen_also_behind_what_is_passed_over() -> None:
    generator = random.Random(6)
    for _ in range(300):
        data = message(generator)
        for end in range(len(data)):
            assert isinstance(walked(data[:end]), str) == isinstance(
                walked(data[:end], frozenset({9})), str
            )


def test_what_is_left_is_everything_else() -> None:
    parts = [length_delimited(1, b"one"), varint(2 << 3) + b"\x05", length_delimited(3, b"three")]
    data = memoryview(b"".join(parts))
    taken = fields(data, 0, len(data), frozenset({1, 3}))
    assert without(data, 0, len(data), taken) == parts[1]


# --- files of nothing but tiny fields -------------------------------------------------------------

TINY = {
    "numbers": b"\x78\x01",
    "empty texts": b"\x7a\x00",
    "long keys": b"\xf8\xff\x7f\x01",
    "floats": b"\x7d1234",
}
PLACES: dict[str, Callable[[bytes], bytes]] = {
    "net.caffemodel": lambda run: length_delimited(1, b"n") + run,
    "layer.caffemodel": lambda run: length_delimited(100, length_delimited(1, b"l") + run),
    "blob.caffemodel": lambda run: length_delimited(100, length_delimited(7, run)),
    "top.pb": lambda run: b"\x0a\x04nnck" + run,
    "tensor.pb": lambda run: b"\x0a\x04nnck" + length_delimited(6, length_delimited(1, b"a") + run),
    "layer.state": lambda run: length_delimited(1, run),
    "buffer.state": lambda run: length_delimited(1, length_delimited(2, run)),
    "top.onnx": lambda run: length_delimited(7, b"") + run,
    "node.onnx": lambda run: length_delimited(7, length_delimited(1, run)),
}
SAME: dict[str, bytes] = {  # runs of what is wanted
    "layers.caffemodel": b"\xa2\x06\x00" * (1 << 20),
    "blobs.caffemodel": length_delimited(100, b"\x3a\x00" * (1 << 20)),
    "sizes.caffemodel": length_delimited(100, length_delimited(7, b"\x08\x01" * (1 << 20))),
    "tensors.pb": b"\x0a\x04nnck" + b"\x32\x00" * (1 << 20),
    "layers.state": b"\x0a\x00" * (1 << 20),
    "buffers.state": length_delimited(1, b"\x12\x00" * (1 << 20)),
    "nodes.onnx": length_delimited(7, b"\x0a\x00" * (1 << 20)),
}
LIMITED = """
import pathlib, resource, sys
from nnconv.converter import formats
from nnconv.converter.caffe.source import read_caffemodel
from nnconv.converter.checkpoint.protobuf import read_pb
from nnconv.converter.nevermind.state import read_state
from nnconv.converter.onnx.reader import import_onnx
from nnconv.schemas.errors import NnconvError, Report
readers = {".caffemodel": lambda path: read_caffemodel(path, report=Report()), ".pb": read_pb,
           ".state": read_state, ".onnx": import_onnx}
for warm in sorted(pathlib.Path(sys.argv[1]).glob("warm/*")):
    try: readers[warm.suffix](warm)
    except NnconvError: pass
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
room = (64 << 20) + 4 * (4 << 20)
resource.setrlimit(resource.RLIMIT_AS, (used + room,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.*")):
    try: readers[path.suffix](path)
    except NnconvError: pass
    print(path.name)
"""


def test_four_megabytes_of_tiny_fields_take_no_more_than_four_times_their_room(
    tmp_path: Path,
) -> None:
    (tmp_path / "warm").mkdir()
    names = []
    for place, make in PLACES.items():
        (tmp_path / "warm" / place).write_bytes(make(b"\x78\x01"))
        for kind, unit in TINY.items():
            names.append(f"{kind}.{place}")
            (tmp_path / names[-1]).write_bytes(make(unit * ((4 << 20) // len(unit))))
    for name, data in SAME.items():
        names.append(name)
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], cwd=REPOSITORY, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == sorted(names)
