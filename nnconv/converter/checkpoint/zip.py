"""Zip archives read without trusting them: every length is checked before anything is unpacked.

The central directory says what is there; each entry's own header must agree. Entries are stored or
deflated, may not overlap, and together may not unpack to absurdly more than the file has.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from nnconv.schemas.checkpoint import check_number
from nnconv.schemas.errors import InputError, UnsupportedError

STORED, DEFLATED = 0, 8
MOST_RATIO = 200
FREE_BYTES = 64 << 20
"""What an archive may unpack to whatever its own size is; above that, MOST_RATIO counts."""

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ZIP64 = 0x0001
_BIG, _MANY = 0xFFFF_FFFF, 0xFFFF
_ENCRYPTED = 1


class Entry(NamedTuple):
    """One file of an archive: its unpacked `size`, and where its `packed` bytes lie."""

    name: str
    method: int
    crc: int
    size: int
    packed: memoryview


def read_archive(data: memoryview) -> tuple[list[Entry], bytes]:
    """The entries of an archive and its comment.

    Raises InputError for an archive that is damaged, leads out of its folder, or is made to exhaust
    memory; UnsupportedError for encryption and other methods.
    """
    start, length, count, comment = _directory(data)
    check_number(count)
    entries, spans = [], []
    for fields in _central(data, start, length, count):
        entry, span = _entry(data, *fields)
        entries.append(entry)
        spans.append((*span, entry.name))
    _check_spans(sorted(spans))
    unpacked = sum(entry.size for entry in entries if entry.method == DEFLATED)
    if unpacked > max(FREE_BYTES, MOST_RATIO * len(data)):
        raise InputError(
            f"the archive of {len(data):,} bytes would unpack to {unpacked:,}",
            hint="this looks like a zip bomb; if it is not, save it uncompressed",
        )
    if len({entry.name for entry in entries}) < len(entries):
        raise InputError("the archive holds a name twice")
    return entries, comment


def unpack(entry: Entry, most: int | None = None) -> memoryview:
    """The bytes of an entry, or the first `most` of them, as a view where they are stored.

    Raises InputError when they are damaged or not as many as the directory says.
    """
    if most is not None and most < entry.size:
        if entry.method == STORED:
            return entry.packed[:most]
        return memoryview(_inflate(entry, most))
    content = entry.packed
    if entry.method == DEFLATED:
        content = memoryview(_inflate(entry, entry.size))
    if len(content) != entry.size or zlib.crc32(content) != entry.crc:
        raise InputError(f"'{entry.name}' is damaged: its checksum does not fit")
    return content


def _inflate(entry: Entry, most: int) -> bytes:
    # one byte more than stated, so that a stream that goes on is seen
    limit = most + 1 if most == entry.size else most
    try:
        return zlib.decompressobj(-15).decompress(entry.packed, limit)
    except zlib.error as error:
        raise InputError(f"'{entry.name}' is damaged: {error}") from None


def _directory(data: memoryview) -> tuple[int, int, int, bytes]:
    """Where the central directory starts, its length and number of entries, and the comment."""
    tail_at = max(0, len(data) - _END.size - _MANY)
    tail = bytes(data[tail_at:])
    found = tail.rfind(b"PK\5\6")
    if found < 0 or found + _END.size > len(tail):
        raise InputError("this is no complete zip archive", hint="was it cut short?")
    _, _, _, _, count, length, start, comment_length = _END.unpack_from(tail, found)
    comment = tail[found + _END.size :][:comment_length]
    end = tail_at + found
    if count == _MANY or length == _BIG or start == _BIG:
        start, length, count, end = _directory64(data, end, (start, length, count))
    if start + length > end or count * _CENTRAL.size > length:
        raise InputError(f"the archive's directory of {count:,} entries does not fit the file")
    return start, length, count, comment


def _directory64(
    data: memoryview, end: int, plain: tuple[int, int, int]
) -> tuple[int, int, int, int]:
    locator = end - _END64_LOCATOR.size
    if locator < 0 or bytes(data[locator : locator + 4]) != b"PK\6\7":
        return *plain, end
    _, _, place, _ = _END64_LOCATOR.unpack_from(data, locator)
    if place + _END64.size > locator or bytes(data[place : place + 4]) != b"PK\6\6":
        raise InputError("the archive's directory is damaged")
    *_, count, length, start = _END64.unpack_from(data, place)
    return start, length, count, place


def _central(
    data: memoryview, start: int, length: int, count: int
) -> Iterator[tuple[str, int, int, int, int, int, int]]:
    """For each entry: name, flags, method, crc, packed size, size, offset of its own header."""
    position, end = start, start + length
    for _ in range(count):
        if position + _CENTRAL.size > end or bytes(data[position : position + 4]) != b"PK\1\2":
            raise InputError(f"the archive's directory is damaged at byte {position:,}")
        numbers = _CENTRAL.unpack_from(data, position)
        flags, method, crc, packed, size = numbers[3], numbers[4], *numbers[7:10]
        name_length, extra_length, comment_length = numbers[10:13]
        offset = numbers[16]
        name_at = position + _CENTRAL.size
        extra_at = name_at + name_length
        position = extra_at + extra_length + comment_length
        if position > end:
            raise InputError("the archive's directory is damaged: a name reaches past its end")
        raw = bytes(data[name_at:extra_at])
        name = raw.decode("utf-8" if flags & 0x800 else "cp437", "replace")
        extra = bytes(data[extra_at : extra_at + extra_length])
        packed, size, offset = _wide(extra, packed, size, offset)
        yield name, flags, method, crc, packed, size, offset


def _wide(extra: bytes, packed: int, size: int, offset: int) -> tuple[int, int, int]:
    """The three numbers, those that need 64 bits taken from the extra field."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, position)
        body = extra[position + 4 : position + 4 + length]
        position += 4 + length
        if tag != _ZIP64:
            continue
        words = [word for (word,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
        values = [size, packed, offset]
        for index, value in enumerate(values):
            if value == _BIG and words:
                values[index] = words.pop(0)
        size, packed, offset = values
    return packed, size, offset


def _entry(
    data: memoryview, name: str, flags: int, method: int, crc: int, packed: int, size: int, at: int
) -> tuple[Entry, tuple[int, int]]:
    check_name(name)
    if flags & _ENCRYPTED or method not in (STORED, DEFLATED):
        what = "encrypted" if flags & _ENCRYPTED else f"packed by method {method}"
        raise UnsupportedError(f"'{name}' is {what}, nnconv reads stored and deflated entries")
    if at + _LOCAL.size > len(data) or bytes(data[at : at + 4]) != b"PK\3\4":
        raise InputError(f"'{name}' is not where the archive's directory says")
    numbers = _LOCAL.unpack_from(data, at)
    start = at + _LOCAL.size + numbers[9] + numbers[10]
    if start + packed > len(data):
        raise InputError(
            f"'{name}' should have {packed:,} bytes at {start:,}, the file ends at {len(data):,}"
        )
    if method == STORED and packed != size:
        raise InputError(f"'{name}' is stored, but its two sizes differ: {packed:,} and {size:,}")
    # deflate cannot do better than 1032 to 1, so more is a lie about the size
    if method == DEFLATED and size > 1032 * packed + 64:
        raise InputError(f"'{name}' of {packed:,} bytes cannot unpack to {size:,}")
    return Entry(name, method, crc, size, data[start : start + packed]), (at, start + packed)


def check_name(name: str) -> None:
    """Raise InputError for a name that would lead out of the folder an archive is unpacked in."""
    steps = re.split(r"[\\/]", name)
    if ".." in steps or steps[0] == "" or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise InputError(
            f"the archive holds the name {name[:100]!r}, which leads out of its folder"
        )


def _check_spans(spans: list[tuple[int, int, str]]) -> None:
    for (_, end, first), (start, _, second) in pairwise(spans):
        if start < end:
            raise InputError(f"'{first}' and '{second}' share bytes of the archive",
                             hint="this looks like a zip bomb")  # fmt: skip
