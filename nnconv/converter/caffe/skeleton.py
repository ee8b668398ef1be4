"""The skeleton of a binary net (all but its blobs) as a message, of the dialect that fits it best.

Field numbers of different forks collide, and nothing in a file says which fork wrote it. So the
dialect is guessed: the one that can decode most and leaves fewest fields unknown. What no dialect
can decode is left out with a warning, never a reason to refuse the weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from nnconv.converter.caffe import schema
from nnconv.converter.caffe.schema import Dialect
from nnconv.converter.caffe.values import readable_name, relative_name
from nnconv.converter.wire_format import LENGTH, Source, fields
from nnconv.schemas.errors import Report, SourceSpan

# Guessing decodes the skeleton a few times: not worth it for one that is no skeleton.
MAX_GUESSED = 1 << 20
# All forks are tried only if BVLC's schema contradicts the file.
MAX_CANDIDATES = 6
MAX_WARNINGS = 100
MAX_NAMED = 10
MAX_FORKS = 3
# protobuf takes a hundred bytes to list an unknown field: too much for a message of many millions.
MAX_LISTED = 1 << 20
MAX_LOOKED_AT = 200_000
LAYERS = ("LayerParameter", "V1LayerParameter")

Hints = Sequence[tuple[str, str]]


class _Reading:
    """A skeleton as one dialect reads it, and what of it the dialect does not explain."""

    def __init__(
        self, message: Message, dialect: Dialect, hints: Hints, undecodable: Sequence[str] = ()
    ) -> None:
        self.message = message
        self.dialect = dialect
        self.undecodable = undecodable
        self.unmet = [hint for hint in hints if not dialect.knows(*hint)]
        self.unknown: Counter[tuple[str, int]] = Counter()
        self.first_layers: dict[tuple[str, int], str] = {}
        self.bad_strings: list[tuple[Message, str]] = []
        self._visit(message)

    @property
    def misfit(self) -> tuple[int, int]:
        return len(self.undecodable), self.unknown.total() + len(self.unmet)

    def _visit(self, message: Any, layer: str | bytes = "") -> None:
        owner = relative_name(message.DESCRIPTOR)
        if owner in LAYERS:
            layer = message.name
        for number in _unknown_numbers(message):
            self.unknown[owner, number] += 1
            self.first_layers.setdefault((owner, number), readable_name(layer))
        for descriptor, value in message.ListFields():
            values = value if descriptor.is_repeated else (value,)
            if descriptor.type == descriptor.TYPE_MESSAGE:
                for child in values:
                    self._visit(child, layer)
            elif descriptor.type == descriptor.TYPE_STRING and bytes in map(type, values):
                self.bad_strings.append((message, descriptor.name))

    def finish(self, report: Report, file: str) -> tuple[Message, Dialect]:
        """Mends strings, and says once for each kind what was odd."""
        span = SourceSpan(file)
        if self.dialect.name != schema.BASE:
            report.note(f"read with the schema of the Caffe fork {self.dialect.name!r}", span)
        for problem in self.undecodable[:MAX_WARNINGS]:
            report.warning(problem, span, hint="the rest of the file is read")
        if self.unknown:
            listed = [self._placed(*key) for key in sorted(self.unknown)[:MAX_NAMED]]
            if (more := len(self.unknown) - MAX_NAMED) > 0:
                listed.append(f"{more} more")
            text = f"kept unread, unknown to {self.dialect.name!r}: {', '.join(listed)}"
            report.warning(text, span, hint="the weights are not affected", rule="unknown-field")
        if self.bad_strings:
            first, name = self.bad_strings[0]
            owner, count = relative_name(first.DESCRIPTOR), len(self.bad_strings)
            text = f"{count} fields are not valid UTF-8, the first is {name} of a {owner}"
            report.warning(text, span)
        for message, name in self.bad_strings:
            _mend(message, name)
        return self.message, self.dialect

    def _placed(self, owner: str, number: int) -> str:
        """An unknown field, the first layer that has it, and who knows it."""
        layer = self.first_layers[owner, number]
        facts = [f"layer {layer!r}"] if layer else []
        if (count := self.unknown[owner, number]) > 1:
            facts[:1] = [f"{count} times, first in {facts[0]}" if facts else f"{count} times"]
        if names := schema.dialects_numbering(owner, number):
            facts.append(f"known to {', '.join(map(repr, names[:MAX_FORKS]))}")
        return f"field {number} of {owner}" + (f" ({', '.join(facts)})" if facts else "")


def _unknown_numbers(message: Message) -> list[int]:
    """The numbers of the fields that the schema does not know; of a huge message, of its first."""
    if message.ByteSize() <= MAX_LISTED:
        unknown = UnknownFieldSet(message)
        return [unknown[place].field_number for place in range(len(unknown))]
    data, known = memoryview(message.SerializeToString()), message.DESCRIPTOR.fields_by_number
    looked_at = islice(fields(data, 0, len(data)), MAX_LOOKED_AT)
    return [item.number for item in looked_at if item.number not in known]


def _mend(message: Message, name: str) -> None:
    """Makes str of what is not UTF-8: protobuf hands such values out as bytes."""
    value = getattr(message, name)
    if isinstance(value, bytes):
        setattr(message, name, readable_name(value))
        return
    texts = [readable_name(text) for text in value]
    message.ClearField(name)
    getattr(message, name).extend(texts)


def parse_skeleton(
    skeleton: bytes, dialect: Dialect | None, report: Report, file: str, hints: Hints = ()
) -> tuple[Message, Dialect]:
    """The skeleton as a NetParameter of `dialect`, or of the dialect that explains most of it.

    `hints` are fields (message, name) that were seen outside the skeleton, in the blobs.
    """
    best = _decode(skeleton, dialect or schema.dialect(), hints)
    if dialect is None and any(best.misfit) and len(skeleton) <= MAX_GUESSED:
        for name in _candidates(best):
            message = schema.dialect(name).new("NetParameter")
            try:
                message.MergeFromString(skeleton)
            except DecodeError:
                continue
            other = _Reading(message, schema.dialect(name), hints)
            if other.misfit < best.misfit:
                best = other
    return best.finish(report, file)


def _candidates(reading: _Reading) -> list[str]:
    """The forks that have fields with the unknown numbers, the likeliest first."""
    votes: Counter[str] = Counter()
    for key, count in reading.unknown.items():
        for name in schema.dialects_numbering(*key):
            votes[name] += count
    for hint in reading.unmet:
        votes.update(schema.dialects_knowing(*hint))
    names = set(schema.dialects() if reading.undecodable else votes) - schema.NEVER_GUESSED
    ranked = sorted(names, key=lambda name: schema.rank(name, votes[name]))
    return ranked if reading.undecodable else ranked[:MAX_CANDIDATES]


def _decode(skeleton: bytes, dialect: Dialect, hints: Hints) -> _Reading:
    """The skeleton by one dialect; fields that contradict its schema are left out and listed."""
    message = dialect.new("NetParameter")
    undecodable: list[str] = []
    try:
        message.MergeFromString(skeleton)
    except DecodeError:
        message = dialect.new("NetParameter")
        _salvage(message, memoryview(skeleton), 0, len(skeleton), undecodable)
    return _Reading(message, dialect, hints, undecodable)


def _salvage(message: Any, data: Source, start: int, end: int, undecodable: list[str]) -> None:
    """Merges the fields of [start, end) one by one, those of a bad layer again one by one."""
    by_number = message.DESCRIPTOR.fields_by_number
    for item in fields(data, start, end):
        field = bytes(data[item.tag : item.end])
        try:
            type(message).FromString(field)  # merging a bad field would leave half of it behind
        except DecodeError:
            name = by_number[item.number].name if item.number in by_number else str(item.number)
            layers = name in ("layer", "layers") and message.DESCRIPTOR.name == "NetParameter"
            if layers and item.wire_type == LENGTH:
                child = getattr(message, name).add()
                _salvage(child, data, item.start, item.end, undecodable)
                continue
            owner = message.DESCRIPTOR.name
            layer = f" of layer {readable_name(message.name)!r}" if owner in LAYERS else ""
            undecodable.append(f"field {name}{layer} does not fit the schema: left out")
        else:
            message.MergeFromString(field)
