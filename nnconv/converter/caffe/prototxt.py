"""Prints messages as prototxt: fields in order of number, floats as short as they read back the
same.

Unlike protobuf's own printer the text does not change from version to version, so the same model
always gives the same file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_FLOATS = {
    FieldDescriptor.CPPTYPE_FLOAT: (6, 9, "<f"),
    FieldDescriptor.CPPTYPE_DOUBLE: (15, 17, "<d"),
}
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


def print_message(message: Message) -> str:
    """The text of a message; "" for an empty one. Unknown fields are left out."""
    return "".join(f"{line}\n" for line in _lines(message, ""))


def _lines(message: Message, indent: str) -> Iterator[str]:
    for field, value in message.ListFields():
        for item in value if field.is_repeated else (value,):
            if field.message_type is None:
                yield f"{indent}{field.name}: {_scalar(field, item)}"
            else:
                yield f"{indent}{field.name} {{"
                yield from _lines(item, indent + "  ")
                yield f"{indent}}}"


def _scalar(field: Any, value: Any) -> str:
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else str(value)
    if field.cpp_type in _FLOATS:
        return _float(value, *_FLOATS[field.cpp_type])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true" if value else "false"
    if isinstance(value, bytes):
        return '"' + "".join(map(_byte, value)) + '"'
    if isinstance(value, str):
        return '"' + "".join(map(_character, value)) + '"'
    return str(value)


def _float(value: float, shortest: int, longest: int, form: str) -> str:
    if not math.isfinite(value):
        sign = "-" if math.copysign(1, value) < 0 else ""
        return f"{sign}nan" if math.isnan(value) else f"{sign}inf"
    packed = struct.pack(form, value)
    for digits in range(shortest, longest):
        text = f"{value:.{digits}g}"
        if _packed(form, float(text)) == packed:
            return text
    return f"{value:.{longest}g}"


def _packed(form: str, value: float) -> bytes:
    try:
        return struct.pack(form, value)
    except OverflowError:  # rounded past the largest float
        return b""


def _character(character: str) -> str:
    code = ord(character)
    return _ESCAPES.get(character) or (f"\\{code:03o}" if code < 32 or code == 127 else character)


def _byte(code: int) -> str:
    character = chr(code)
    return _ESCAPES.get(character) or (character if 32 <= code < 127 else f"\\{code:03o}")
