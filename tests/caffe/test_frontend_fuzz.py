"""Forty thousand broken files: whatever a mutation makes of a file, only NnconvError comes out.

The mutations know a little of both formats: besides bytes they damage numbers, braces, lengths and
tags, and splice files into each other. Everything is seeded; a finding is one (seed, number) pair.
"""

from __future__ import annotations

import random
import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from nnconv.converter.caffe.source import read_caffemodel, read_prototxt
from nnconv.schemas.errors import NnconvError, Report
from tests.places import shared

COUNT = 20_000
PARTS = 10

TEXTS = [
    "parse/comment_places",
    "parse/string_escapes",
    "parse/list_short_messages",
    "parse/float_exp",
    "parse/list_packed_blob_data",
    "parse/v0_v1_fields",
    "legacy/v0_padding_conv",
    "legacy/v0_misplaced_fields",
    "legacy/v0_blobs_in_text",
    "legacy/v1_window_data_transform",
    "legacy/v1_params_unequal",
    "legacy/v2_input_shape",
    "legacy/v2_batchnorm_3_params",
]
BINARIES = [
    "legacy/bin_v0_model",
    "legacy/bin_v1_model",
    "legacy/bin_v2_batchnorm",
    "legacy/bin_v2_double_blobs",
    "legacy/bin_unknown_fork_field",
    "legacy/bin_input_only",
    "errors/weights_blob_count_less",
    "errors/weights_bn_legacy_ok",
]
FRAGMENTS = [
    *(bytes([character]) for character in b"{}<>[]:,;-\"'#\n\\\0\xff"),
    *(b"0x", b"1e", b"nan", b"-inf", b"99999999999999999999", b"-1", b"input_dim: 3", b"[{}, {}]"),
    *(b"permute_param { order: 1 }", b"layer { }", b"layers { layer { } }"),
    b'type: "\\x41\\777\\u00e9"',
]
SIZES = [0, 1, 2, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**31, 2**32, 2**60, 2**63, 2**64 - 1]


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def flip(data: bytearray, rng: random.Random, seeds: list[bytes]) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def replace(data: bytearray, rng: random.Random, seeds: list[bytes]) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def delete(data: bytearray, rng: random.Random, seeds: list[bytes]) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 1, 2, 4, 16))]


def duplicate(data: bytearray, rng: random.Random, seeds: list[bytes]) -> None:
    start, length = rng.randrange(len(data)), rng.choice((1, 3, 8, 40))
    at = rng.randrange(len(data))
    data[at:at] = data[start : start + length] * rng.choice((1, 1, 2, 30))


def truncate(data: bytearray, rng: random.Random, seeds: list[bytes]) -> None:
    del data[rng.randrange(len(data)) :]


def splice(data: bytearray, rng: random.Random, seeds: list[bytes]) -> None:
    other = rng.choice(seeds)
    start = rng.randrange(len(other))
    at = rng.randrange(len(data))
    data[at:at] = other[start : start + rng.randrange(1, 80)]


def edit_integer(data: bytearray, rng: random.Random, seeds: list[bytes]) -> None:
    """Another number where one is written in digits."""
    numbers = list(re.finditer(rb"\d+", data))
    if numbers:
        found = rng.choice(numbers)
        data[found.start() : found.end()] = str(rng.choice(SIZES)).encode()


def insert_fragment(data: bytearray, rng: random.Random, seeds: list[bytes]) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.choice(FRAGMENTS)


def edit_varint(data: bytearray, rng: random.Random, seeds: list[bytes]) -> None:
    """Another tag, length or size where one may stand."""
    at = rng.randrange(len(data))
    data[at : at + 1] = varint(rng.choice(SIZES))


Mutation = Callable[[bytearray, random.Random, list[bytes]], None]
COMMON: list[Mutation] = [flip, replace, delete, duplicate, truncate, splice]
TEXT: list[Mutation] = [*COMMON, edit_integer, edit_integer, insert_fragment, insert_fragment]
WIRE: list[Mutation] = [*COMMON, edit_varint, edit_varint, edit_varint]


def mutated(seeds: list[bytes], mutations: list[Mutation], rng: random.Random) -> bytes:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        if data:
            rng.choice(mutations)(data, rng, seeds)
    return bytes(data)


def survives(read: Any, source: bytes) -> bool:
    """True if the file was read, False if it was refused in the proper way."""
    report = Report()
    try:
        net = read(source, report=report)
    except NnconvError as error:
        assert error.problems and str(error) and error.exit_code == 2
        return False
    for index, layer in enumerate(net.net.layer):
        assert isinstance(layer.name, str) and isinstance(layer.type, str)
        assert net.span(index, "convolution_param", "kernel_size").layer == layer.name
        for blob in net.blobs(index):
            assert blob.array.nbytes <= 8 * len(source)
    assert str(report) and report.ok
    return True


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_text_is_read_or_refused(part: int) -> None:
    seeds = [shared("golden", f"{name}.prototxt").read_bytes() for name in TEXTS]
    rng = random.Random(part)
    results = [survives(read_prototxt, mutated(seeds, TEXT, rng)) for _ in range(COUNT // PARTS)]
    assert 0.1 < sum(results) / len(results) < 0.9  # both ways out are taken


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_weights_are_read_or_refused(part: int) -> None:
    seeds = [shared("golden", f"{name}.caffemodel").read_bytes() for name in BINARIES]
    rng = random.Random(part)
    results = [survives(read_caffemodel, mutated(seeds, WIRE, rng)) for _ in range(COUNT // PARTS)]
    assert 0.1 < sum(results) / len(results) < 0.9


def test_damaged_sizes_never_lead_to_large_allocations() -> None:
    seeds = [shared("golden", f"{name}.caffemodel").read_bytes() for name in BINARIES]
    rng = random.Random(99)
    sources = [mutated(seeds, [edit_varint], rng) for _ in range(500)]
    survives(read_caffemodel, seeds[0])
    tracemalloc.start()
    for source in sources:
        survives(read_caffemodel, source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000  # the schemas of the forks that are tried
