"""How a field's value is stored: fast for the ordinary ways of writing it, exact for all others.

A `Plan`, one a field, has three small converters for what `tokens.FIELD` may have found: a decimal
number, a word, a plain string. They raise ValueError or KeyError for anything else, and then the
readers below, one a kind of field, decide by Caffe's letter: which tokens a field takes, what its
range is, and what to tell the user.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from nnconv.converter.caffe import schema
from nnconv.converter.caffe.schema import Dialect
from nnconv.converter.caffe.tokens import TextError, Token, token, unquote
from nnconv.schemas.errors import did_you_mean


class ValueRefused(TextError):
    """A value that its field does not take: what follows can still be read.

    `explained_by` names the forks of Caffe whose schema would take it.
    """

    def __init__(
        self, message: str, offset: int, hint: str = "", explained_by: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, offset)
        self.hint = hint
        self.explained_by = explained_by


@dataclass(slots=True)
class Plan:
    """How to store one field; the converters raise ValueError or KeyError for what does not fit.

    Of `bulk` fields, weights written as text, only the first element's place is kept.
    """

    descriptor: FieldDescriptor
    repeated: bool
    kind: str
    number: Callable[[str], Any]
    bulk: bool = False
    words: dict[str, Any] = field(default_factory=dict)
    string: Callable[[str], Any] | None = None


def _refuse(text: str) -> Any:
    raise ValueError(text)


def _integer(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if low <= value <= high and (low or text[0] != "-"):
            return value
        raise ValueError(text)

    return read


BULK = ("BlobProto", "Datum")
INTEGERS = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
BOOLEANS = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
SPECIALS = {"inf": float("inf"), "infinity": float("inf"), "nan": float("nan")}
_NAMES: dict[int, str] = {number: name for name, number in schema.TYPES.items()}


def _ascii_string(text: str) -> str:
    if text.isascii():
        return text
    raise ValueError(text)


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


def values_of(enum: Any) -> dict[str, int]:
    """The numbers of an enum's values, by name."""
    return {value.name: value.number for value in enum.values}


def _plan(descriptor: FieldDescriptor) -> Plan:
    kind = _NAMES[descriptor.type]
    owner: Any = descriptor.containing_type
    bulk = descriptor.is_repeated and owner.name in BULK
    plan = Plan(descriptor, descriptor.is_repeated, kind, _refuse, bulk)
    if kind in ("float", "double"):
        plan.number, plan.words = float, SPECIALS
    elif kind in INTEGERS:
        plan.number = _integer(*INTEGERS[kind])
    elif kind == "bool":
        plan.number, plan.words = {"0": False, "1": True}.__getitem__, BOOLEANS
    elif kind == "enum":
        plan.words = values_of(descriptor.enum_type)
        plan.number = {str(value): value for value in plan.words.values()}.__getitem__
    elif kind in ("string", "bytes"):
        plan.string = _ascii_string if kind == "string" else _bytes
    return plan


@functools.cache
def plans_of(dialect: Dialect, message_name: str) -> dict[str, Plan]:
    """The plans of a message's fields, by name."""
    descriptor = dialect.descriptor(message_name)
    return {item.name: _plan(item) for item in descriptor.fields}


def relative_name(descriptor: Any) -> str:
    """The name of a message or enum without its package."""
    full_name: str = descriptor.full_name
    return full_name.removeprefix(schema.PACKAGE + ".")


def readable_name(value: str | bytes) -> str:
    """protobuf hands out a string that is not UTF-8 as bytes."""
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


def _signed(text: str, first: Token) -> tuple[bool, Token]:
    if first.text == "-":
        return True, token(text, first.end)
    return False, first


def _misfit(plan: Plan, wanted: str, found: Token) -> ValueRefused:
    return ValueRefused(f"{plan.descriptor.name}: expected {wanted}, found {found}", found.start)


def _whole(found: Token) -> int:
    """The value of an integer token: decimal, 0x hexadecimal, or octal with a leading 0."""
    text, base = found.text, 10
    if text[:2] in ("0x", "0X"):
        text, base = text[2:], 16
    elif text[0] == "0":
        base = 8
    digits = text.lstrip("0") or "0"
    return int(digits, base) if len(digits) <= 100 else 1 << 100  # out of any field's range


def read_integer(text: str, plan: Plan, first: Token) -> tuple[int, int]:
    low, high = INTEGERS[plan.kind]
    negative, digits = _signed(text, first) if low else (False, first)
    if digits.kind != "integer":
        wanted = "an integer" if low else "an integer of at least 0"
        raise _misfit(plan, wanted, digits)
    value = -_whole(digits) if negative else _whole(digits)
    if not low <= value <= high:
        message = f"{plan.descriptor.name}: {'-' * negative}{digits} is out of range"
        raise ValueRefused(message, digits.start, f"{plan.kind} takes {low} to {high}")
    return value, digits.end


def _read_float(text: str, plan: Plan, first: Token) -> tuple[float, int]:
    negative, number = _signed(text, first)
    if number.kind == "word" and number.text.lower() in SPECIALS:
        value = SPECIALS[number.text.lower()]
    elif number.kind == "float":
        value = float(number.text.rstrip("fF"))
    elif number.kind == "integer" and (number.text == "0" or number.text[0] != "0"):
        value = float(number.text)
    else:
        raise _misfit(plan, "a decimal number", number)
    return -value if negative else value, number.end


def _read_bool(text: str, plan: Plan, first: Token) -> tuple[bool, int]:
    if first.kind == "integer" and _whole(first) in (0, 1):
        return bool(_whole(first)), first.end
    if first.kind == "word" and first.text in BOOLEANS:
        return BOOLEANS[first.text], first.end
    raise _misfit(plan, "true or false", first)


def _read_enum(text: str, plan: Plan, first: Token) -> tuple[int, int]:
    negative, value = _signed(text, first)
    if value.kind == "word" and not negative:
        if value.text in plan.words:
            return plan.words[value.text], value.end
    elif value.kind == "integer":
        number = -_whole(value) if negative else _whole(value)
        if number in plan.words.values():
            return number, value.end
    else:
        raise _misfit(plan, "a name", value)
    enum = relative_name(plan.descriptor.enum_type)
    knowing = schema.dialects_with_value(enum, value.text)
    hint = "known to the Caffe forks " + ", ".join(knowing) if knowing else ""
    hint = hint or did_you_mean(value.text, plan.words) or "known: " + ", ".join(plan.words)
    message = f"{plan.descriptor.name}: {enum} has no value {'-' * negative}{value}"
    raise ValueRefused(message, value.start, hint, knowing)


def _read_string(text: str, plan: Plan, first: Token) -> tuple[bytes, int]:
    """One literal or several in a row, which count as one."""
    if first.kind != "string":
        raise _misfit(plan, "a string in quotes", first)
    parts, end = [unquote(first.text, first.start)], first.end
    while (following := token(text, end)).kind == "string":
        parts.append(unquote(following.text, following.start))
        end = following.end
    return b"".join(parts), end


READERS: dict[str, Callable[[str, Plan, Token], tuple[Any, int]]] = {
    "float": _read_float,
    "double": _read_float,
    "bool": _read_bool,
    "enum": _read_enum,
    "string": _read_string,
    "bytes": _read_string,
}
