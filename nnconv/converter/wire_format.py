"""protobuf's wire format: tags, lengths and nothing of what they mean.

A message is a run of fields; `fields` finds their bounds without reading their values, and refuses
what cannot be one. All offsets are those of the whole file, so that errors can name them. Runs of
small fields that nobody asked for are passed over by one regular expression: a file made of nothing
else would cost a minute otherwise, and lists of numbers in old files are long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

VARINT, FIXED64, LENGTH, START_GROUP, END_GROUP, FIXED32 = range(6)
GROUP_DEPTH = 64
_FIXED = {FIXED32: 4, FIXED64: 8}

Source = memoryview


class Field(NamedTuple):
    """One field on the wire: its tag starts at `tag`, its value is [start, end)."""

    number: int
    wire_type: int
    tag: int
    start: int
    end: int


class Malformed(Exception):
    """The bytes at `offset` are not what the wire format allows there."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


def read_varint(data: Source, position: int, end: int) -> tuple[int, int]:
    """The unsigned value at `position`, and the offset behind it."""
    value = shift = 0
    start = position
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7
        if shift >= 70:
            raise Malformed("a varint is longer than ten bytes", start)
    raise Malformed("the data ends within a number", start)


def fields(
    data: Source, position: int, end: int, wanted: frozenset[int] | None = None
) -> Iterator[Field]:
    """The fields of the message that fills [position, end); where numbers are `wanted`, those."""
    skip = _small_fields(wanted).match
    while (position := skip(data, position, end).end()) < end:  # type: ignore[union-attr]
        tag = position
        key = data[position]
        position += 1
        if key >= 0x80:
            key, position = read_varint(data, tag, end)
        number, wire_type = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise Malformed(f"no field has the number {number}", tag)
        start = position
        if wire_type == LENGTH:
            # most lengths are one byte
            if position < end and (length := data[position]) < 0x80:
                start = position + 1
            else:
                length, start = read_varint(data, position, end)
            position = start + length
        elif wire_type == VARINT:
            _, position = read_varint(data, position, end)
        elif wire_type == FIXED32:
            position += 4
        elif wire_type == FIXED64:
            position += 8
        elif wire_type == START_GROUP:
            position = _skip_group(data, position, end)
        else:
            raise Malformed(f"field {number} has the invalid wire type {wire_type}", tag)
        if position > end:
            message = f"field {number} is {position - start:,} bytes long, {end - start:,} are left"
            raise Malformed(message, tag)
        if wanted is None or number in wanted:
            yield Field(number, wire_type, tag, start, position)


def without(data: Source, start: int, end: int, taken: Iterable[Field]) -> bytes:
    """The bytes of [start, end) less some of its fields, given in order."""
    rest = bytearray()
    for item in taken:
        rest += data[start : item.tag]
        start = item.end
    return bytes(rest + data[start:end])


@cache
def _small_fields(wanted: frozenset[int] | None) -> re.Pattern[bytes]:
    """Matches a run of whole fields, none of them `wanted`: numbers, and up to three bytes of
    anything. Possessive, so that it needs no memory for the way back."""
    if wanted is None:
        return re.compile(b"")
    values = {
        VARINT: rb"[\x80-\xff]{0,9}+[\0-\x7f]",
        FIXED64: rb".{8}",
        LENGTH: rb"(?:\0|\x01.|\x02..|\x03...)",
        FIXED32: rb".{4}",
    }
    kinds = [_keys(wire_type, wanted) + value for wire_type, value in values.items()]
    return re.compile(rb"(?:" + b"|".join(kinds) + rb")*+", re.DOTALL)


def _keys(wire_type: int, wanted: frozenset[int]) -> bytes:
    """Matches the keys of one to four bytes, in their shortest form, of numbers not `wanted`."""
    short = b"".join(
        b"\\x%02x" % (number << 3 | wire_type) for number in range(1, 16) if number not in wanted
    )
    first = b"".join(b"\\x%02x" % (0x80 | low << 3 | wire_type) for low in range(16))
    others = b"|".join(re.escape(varint(n << 3 | wire_type)) for n in sorted(wanted) if n > 15)
    long = (rb"(?!" + others + rb")" if others else b"") + (
        b"[" + first + rb"][\x80-\xff]{0,2}+[\x01-\x7f]"
    )
    return rb"(?:" + (b"[" + short + b"]|" if short else b"") + long + b")"


def _skip_group(data: Source, position: int, end: int) -> int:
    """The offset behind the end of a group (an old kind of submessage, always unknown here)."""
    start, depth = position, 1
    while depth:
        if depth > GROUP_DEPTH:
            raise Malformed(f"groups are nested more than {GROUP_DEPTH} deep", start)
        key, position = read_varint(data, position, end)
        wire_type = key & 7
        if wire_type == LENGTH:
            length, position = read_varint(data, position, end)
            position += length
        elif wire_type == VARINT:
            _, position = read_varint(data, position, end)
        elif wire_type in _FIXED:
            position += _FIXED[wire_type]
        elif wire_type == START_GROUP:
            depth += 1
        elif wire_type == END_GROUP:
            depth -= 1
        else:
            raise Malformed(f"invalid wire type {wire_type} in a group", position)
    return position


def varint(value: int) -> bytes:
    """protobuf's base-128 form of a non-negative integer."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def length_delimited(number: int, payload: bytes) -> bytes:
    """A field of wire type 2: tag, length, payload."""
    return varint(number << 3 | LENGTH) + varint(len(payload)) + payload
