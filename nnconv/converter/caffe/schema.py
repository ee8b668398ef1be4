"""Caffe's protobuf schemas, as data: one private descriptor pool for each dialect (fork) of Caffe.

A dialect is BVLC master with the fork's differences put over it. What a fork lacks (because it
branched off earlier) is kept wherever its name and number are still free, since files are often
written by hand for a fork of a fork; `Dialect.knows` and `dialects_knowing` tell what it has.
Nothing is ever put into protobuf's default pool: a second caffe.proto there breaks pycaffe and any
other reader.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.message import Message

from nnconv.schemas.errors import InputError, did_you_mean

BASE = "bvlc"
PACKAGE = "caffe"
# C3D 1.0 renumbered and retyped LayerParameter itself: nothing behind the readers understands it.
NEVER_GUESSED = frozenset({"c3d-1.0"})
# Forks that most files of an ambiguous kind come from. SegNet's upsample_param, for one, shares a
# field with the far commoner one of the YOLO forks.
COMMONEST = ("ssd", "mobilenet-yolo")

_FIELD = descriptor_pb2.FieldDescriptorProto
LABELS = {
    "optional": _FIELD.LABEL_OPTIONAL,
    "required": _FIELD.LABEL_REQUIRED,
    "repeated": _FIELD.LABEL_REPEATED,
}
TYPES = {
    "double": _FIELD.TYPE_DOUBLE,
    "float": _FIELD.TYPE_FLOAT,
    "int64": _FIELD.TYPE_INT64,
    "uint64": _FIELD.TYPE_UINT64,
    "int32": _FIELD.TYPE_INT32,
    "uint32": _FIELD.TYPE_UINT32,
    "bool": _FIELD.TYPE_BOOL,
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
    "message": _FIELD.TYPE_MESSAGE,
    "enum": _FIELD.TYPE_ENUM,
}

Json = dict[str, Any]


class Record(NamedTuple):
    """One field as a dialect declares it; `type_name` is relative to the package."""

    name: str
    number: int
    label: str
    type: str
    type_name: str = ""
    packed: bool = False
    default: str | None = None

    @classmethod
    def parse(cls, line: str) -> Record:
        name, number, label, kind, *rest = line.split(" ", 4)
        options = rest[0] if rest else ""
        packed = options.startswith("packed")
        _, equals, default = options.partition("=")
        kind, _, type_name = kind.partition(":")
        return cls(name, int(number), label, kind, type_name, packed, default if equals else None)


class Value(NamedTuple):
    """One value of an enum."""

    name: str
    number: int

    @classmethod
    def parse(cls, line: str) -> Value:
        name, number = line.split(" ")
        return cls(name, int(number))


@dataclass(frozen=True, slots=True)
class Dialect:
    """One schema, with its own pool: messages of different dialects never mix.

    >>> net = dialect().new("NetParameter")
    >>> net.layer.add(name="ip1").inner_product_param.num_output = 10
    >>> net.layer[0].inner_product_param.bias_term
    True
    """

    name: str
    pool: descriptor_pool.DescriptorPool

    def descriptor(self, name: str) -> Descriptor:
        """The descriptor of a message, named relative to package caffe; KeyError if none."""
        return self.pool.FindMessageTypeByName(f"{PACKAGE}.{name}")

    def enum(self, name: str) -> EnumDescriptor:
        """The descriptor of an enum ("Phase", "PoolingParameter.PoolMethod"); KeyError if none."""
        return self.pool.FindEnumTypeByName(f"{PACKAGE}.{name}")

    def new(self, message_name: str, /, **fields: Any) -> Message:
        """An empty message of that name, or one with `fields` set."""
        return message_factory.GetMessageClass(self.descriptor(message_name))(**fields)

    def knows(self, message_name: str, field_name: str) -> bool:
        """True if the fork itself has the field, not only BVLC master that fills its gaps."""
        return self.name in dialects_knowing(message_name, field_name)


def dialects() -> tuple[str, ...]:
    """The names of all dialects, BVLC master first."""
    return (BASE, *_table()["overlays"])


@functools.cache
def dialect(name: str = BASE) -> Dialect:
    """The dialect of that name; its pool is built on first use (4-13 ms). InputError if unknown."""
    if name not in dialects():
        hint = did_you_mean(name, dialects()) or "known: " + ", ".join(dialects())
        raise InputError(f"there is no Caffe dialect {name!r}", hint=hint)
    messages = {key: _filled(key, fields) for key, fields in _declared(name, "messages").items()}
    enums = {key: _filled_enum(key, values) for key, values in _declared(name, "enums").items()}
    for key, records in _base("messages").items():
        messages.setdefault(key, records)
    for key, values in _base("enums").items():
        enums.setdefault(key, values)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_file(name, messages, enums).SerializeToString())
    return Dialect(name, pool)


def dialects_knowing(message_name: str, field_name: str) -> tuple[str, ...]:
    """The dialects whose own schema has this field, in the order of `dialects()`."""
    return _index().get((message_name, field_name), ())


def dialects_with_value(enum_name: str, value: str) -> tuple[str, ...]:
    """The dialects whose own schema has this value (a name, or a number in digits) in that enum."""
    return tuple(
        name
        for name in dialects()
        for known in _declared(name, "enums").get(enum_name, ())
        if value in (known.name, str(known.number))
    )


def dialects_numbering(message_name: str, number: int) -> tuple[str, ...]:
    """The dialects whose own schema has a field with that number in that message."""
    return tuple(
        name
        for name in dialects()
        if any(f.number == number for f in _declared(name, "messages").get(message_name, ()))
    )


def rank(dialect_name: str, votes: int) -> tuple[int, bool, int, str]:
    """Sorts forks by how much they explain, then the commonest and the smallest schema first."""
    size = sum(map(len, _declared(dialect_name, "messages").values()))
    return -votes, dialect_name not in COMMONEST, size, dialect_name


@functools.cache
def _table() -> Json:
    table: Json = json.loads(Path(__file__).with_name("schema.json").read_text("utf-8"))
    return table


@functools.cache
def _base(kind: str) -> dict[str, tuple[Any, ...]]:
    parse: Any = Record.parse if kind == "messages" else Value.parse
    return {key: tuple(map(parse, lines)) for key, lines in _table()["base"][kind].items()}


@functools.cache
def _declared(name: str, kind: str) -> dict[str, tuple[Any, ...]]:
    """Messages or enums as the fork has them: base, less what it lacks, its own put in."""
    if name == BASE:
        return _base(kind)
    parse: Any = Record.parse if kind == "messages" else Value.parse
    overlay = _table()["overlays"][name]
    missing = set(overlay.get(f"{kind}_missing", ()))
    result = {key: items for key, items in _base(kind).items() if key not in missing}
    for key, change in overlay.get(kind, {}).items():
        put = {item.number: item for item in map(parse, change["put"])}
        gone = set(change["removed"]) | put.keys()
        kept = (item for item in result.get(key, ()) if item.number not in gone)
        result[key] = (*kept, *put.values())
    for key, lines in overlay.get(f"{kind}_new", {}).items():
        result[key] = tuple(map(parse, lines))
    return result


def _filled(message: str, own: tuple[Record, ...]) -> tuple[Record, ...]:
    """The fork's fields, and those of BVLC master whose name and number the fork has not taken.

    What is one value in an old fork and a list in master is a list: both can be read into it.
    """
    base = _base("messages").get(message, ())
    lists = {(field.name, field.number) for field in base if field.label == "repeated"}
    widened = (
        field._replace(label="repeated", default=None)
        if (field.name, field.number) in lists
        else field
        for field in own
    )
    return (*widened, *_free(own, base))


def _filled_enum(enum: str, own: tuple[Value, ...]) -> tuple[Value, ...]:
    return own + _free(own, _base("enums").get(enum, ()))


def _free(own: tuple[Any, ...], base: tuple[Any, ...]) -> tuple[Any, ...]:
    names = {item.name for item in own}
    numbers = {item.number for item in own}
    return tuple(item for item in base if item.name not in names and item.number not in numbers)


@functools.cache
def _index() -> dict[tuple[str, str], tuple[str, ...]]:
    found: dict[tuple[str, str], list[str]] = {}
    for name in dialects():
        for message, fields in _declared(name, "messages").items():
            for field in fields:
                found.setdefault((message, field.name), []).append(name)
    return {key: tuple(names) for key, names in found.items()}


def _file(
    name: str, messages: dict[str, tuple[Record, ...]], enums: dict[str, tuple[Value, ...]]
) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"nnconv/caffe/{name}.proto", package=PACKAGE, syntax="proto2"
    )
    built: dict[str, descriptor_pb2.DescriptorProto] = {}
    # Outer messages come first: a dotted name is nested in the one before its dot.
    for key in sorted(messages, key=lambda key: key.count(".")):
        outer, _, inner = key.rpartition(".")
        owner = built[outer].nested_type if outer else file.message_type
        built[key] = owner.add(name=inner)
        built[key].field.extend(_field(record) for record in messages[key])
    for key, values in enums.items():
        outer, _, inner = key.rpartition(".")
        holder = built[outer].enum_type if outer else file.enum_type
        enum = holder.add(name=inner)
        for value in values:
            enum.value.add(name=value.name, number=value.number)
    return file


def _field(record: Record) -> descriptor_pb2.FieldDescriptorProto:
    field = _FIELD(
        name=record.name,
        number=record.number,
        label=LABELS[record.label],
        type=TYPES[record.type],
        default_value=record.default,
    )
    if record.type_name:
        field.type_name = f".{PACKAGE}.{record.type_name}"
    if record.packed:
        field.options.packed = True
    return field
