"""protobuf's wire format: tags, lengths and nothing of what they mean.

A message is a run of fields; `fields` finds their bounds without reading their values, and refuses
what cannot be one. All offsets are those of the whole file, so that errors can name them.
"""

from __future__ import annotations

from collections.abc import Iterator
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


def fields(data: Source, position: int, end: int) -> Iterator[Field]:
    """The fields of the message that fills [position, end)."""
    while position < end:
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
        yield Field(number, wire_type, tag, start, position)


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
