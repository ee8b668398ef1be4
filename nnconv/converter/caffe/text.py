"""Reads prototxt: protobuf text by Caffe's exact rules, with the place of every field.

Two ways of reading. Strict gives Caffe's verdict. The default also takes what a fork of Caffe
takes: a file whose unknown fields a fork's schema explains is read with that schema, and fields
that nobody knows are kept aside and reported, not refused. In both, everything wrong that does not
break the syntax is found in one go.

The idea: `tokens.FIELD` recognises a whole ordinary field at once and its `Plan` says how to store
it; whatever does not fit goes through `_Attempt._careful`, which follows Caffe's rules token by
token and words the errors.
"""

from __future__ import annotations

import bisect
import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from nnconv.converter.caffe import schema
from nnconv.converter.caffe.schema import Dialect
from nnconv.converter.caffe.tokens import (
    CLOSE,
    CLOSER,
    FIELD,
    ITEM,
    NAME_WORD,
    NUMBER,
    OPEN,
    SEPARATOR,
    TextError,
    Token,
    shortened,
    skip_value,
    token,
)
from nnconv.converter.caffe.values import (
    READERS,
    Plan,
    ValueRefused,
    plans_of,
    read_integer,
    readable_name,
    relative_name,
)
from nnconv.converter.wire_format import length_delimited
from nnconv.schemas.errors import Report, SourceSpan, did_you_mean

NESTING_LIMIT = 64
# A file with more problems than this is of another kind altogether; the rest is only counted.
MAX_PROBLEMS = 100
MAX_EXCERPT = 200
LAYER_MESSAGES = frozenset({"LayerParameter", "V1LayerParameter", "V0LayerParameter"})

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """A field that the schema does not have: the message at `path` holds `raw`, as written."""

    path: Path
    message_name: str
    name: str
    span: SourceSpan
    raw: str


@dataclass(slots=True)
class Place:
    """Where a message starts and where its fields are: (name, offset, place of a submessage)."""

    offset: int
    marks: list[tuple[str, int, Place | None]] = field(default_factory=list)

    def find(self, name: str, index: int) -> tuple[int, Place | None] | None:
        """The `index`-th mark of that name, or the last if it has fewer; None if it has none."""
        found = None
        for marked, offset, place in self.marks:
            if marked == name:
                found = offset, place
                if index <= 0:
                    break
                index -= 1
        return found


class Parsed:
    """A message, its dialect, what was unknown in the text, and where every field stands."""

    def __init__(
        self, message: Message, dialect: Dialect, text: str, file: str, root: Place
    ) -> None:
        self.message = message
        self.dialect = dialect
        self.file = file
        self.unknown: list[Unknown] = []
        self._text = text
        self._root = root
        self._indexed: dict[str, list[tuple[int, Place | None]]] | None = None

    def span(self, *path: str | int) -> SourceSpan:
        """Where a field stands, span("layer", 3, "lrn_param", "local_size"), or what holds it."""
        offset, place = 0, self._root
        for name, index in _steps(path):
            found = self._top(name, index) if place is self._root else place.find(name, index)
            if found is None:
                break
            offset, below = found
            if below is None:
                break
            place = below
        return self.span_at(offset, layer=layer_name(self.message, path))

    def span_at(self, offset: int, *, layer: str = "") -> SourceSpan:
        """The span of a file offset."""
        ends = self._line_ends
        line = bisect.bisect_left(ends, offset)
        start = ends[line - 1] + 1 if line else 0
        end = ends[line] if line < len(ends) else len(self._text)
        if end - start > MAX_EXCERPT:
            # Columns count bytes here: decoding a line for each of its problems would be quadratic.
            return SourceSpan(self.file, line + 1, offset - start + 1, layer)
        column = len(_readable(self._text[start:offset])) + 1
        return SourceSpan(self.file, line + 1, column, layer, _readable(self._text[start:end]))

    def _top(self, name: str, index: int) -> tuple[int, Place | None] | None:
        """Like `Place.find` for the outermost message, whose layers may be many."""
        if self._indexed is None:
            self._indexed = {}
            for marked, offset, place in self._root.marks:
                self._indexed.setdefault(marked, []).append((offset, place))
        found = self._indexed.get(name)
        return found[min(index, len(found) - 1)] if found else None

    @functools.cached_property
    def _line_ends(self) -> list[int]:
        return [match.start() for match in re.finditer("\n", self._text)]


def _readable(text: str) -> str:
    return text.encode("latin-1").decode("utf-8", "replace")


def _steps(path: Iterable[str | int]) -> Iterator[tuple[str, int]]:
    """("layer", 3, "type") as ("layer", 3), ("type", 0)."""
    name = ""
    for item in path:
        if isinstance(item, str):
            if name:
                yield name, 0
            name = item
        else:
            yield name, item
            name = ""
    if name:
        yield name, 0


def layer_name(message: Message, path: Path) -> str:
    """The name of the innermost layer on the way along `path`, or ""."""
    found = ""
    for name, index in _steps(path):
        descriptor = message.DESCRIPTOR.fields_by_name.get(name)
        if descriptor is None or descriptor.message_type is None:
            break
        value = getattr(message, name)
        if descriptor.is_repeated:
            if index >= len(value):
                break
            value = value[index]
        message = value
        if message.DESCRIPTOR.name in LAYER_MESSAGES:
            nested = getattr(message, "layer", None)
            found = readable_name(message.name) or (readable_name(nested.name) if nested else "")  # type: ignore[attr-defined]
    return found


def parse(
    source: bytes,
    message_name: str,
    *,
    file: str = "",
    dialect: Dialect | None = None,
    strict: bool = False,
    report: Report,
) -> Parsed:
    """The message in `source`; all findings go to `report`, and errors are raised together.

    Without a `dialect` BVLC's schema is used, or (unless `strict`) the fork's that explains most of
    what BVLC's does not know. Raises InputError if the text is wrong; unknown fields are errors
    only if `strict`.
    """
    attempt = _Attempt(source, message_name, file, dialect or schema.dialect(), strict)
    if dialect is None and not strict:
        attempt = _best_attempt(attempt, source, message_name, file)
    return attempt.finish(report)


def _best_attempt(first: _Attempt, source: bytes, message_name: str, file: str) -> _Attempt:
    """The best reading with one of the forks that could explain what `first` did not understand."""
    votes = Counter(name for names in first.explained_by for name in names)
    names = votes.keys() - schema.NEVER_GUESSED
    ranked = sorted(names, key=lambda name: schema.rank(name, votes[name]))
    best = first
    for name in ranked[:4]:
        other = _Attempt(source, message_name, file, schema.dialect(name), False)
        # A fork that takes only some of the errors away hides the user's mistakes.
        explains = other.errors in (0, first.errors)
        if explains and other.misunderstood < best.misunderstood:
            best = other
        if not any(best.misunderstood):
            break
    return best


# Reading


class _Stop(Exception):
    """The syntax is broken, or there are too many problems: what follows cannot be understood."""


@dataclass(slots=True)
class _Finding:
    severity: str
    offset: int
    message: str
    hint: str
    path: Path


class _Attempt:
    """One reading of a text with one dialect; `finish` reports and hands over."""

    def __init__(
        self, source: bytes, message_name: str, file: str, dialect: Dialect, strict: bool
    ) -> None:
        self.text = source.decode("latin-1")
        self.file = file
        self.dialect = dialect
        self.strict = strict
        self.findings: list[_Finding] = []
        self.errors = 0
        self.unknown: list[tuple[Path, str, str, int, int]] = []
        self.explained_by: list[tuple[str, ...]] = []
        self.path: list[str | int] = []
        self.depth = 0
        self.message = dialect.new(message_name)
        self.root = Place(0)
        self._read()

    @property
    def misunderstood(self) -> tuple[int, int]:
        return self.errors, len(self.unknown)

    def _read(self) -> None:
        start = 0
        if not self.strict and self.text.startswith("\xef\xbb\xbf"):
            hint = "Caffe itself refuses this file: save it without the mark"
            self._find("warning", 0, "the file starts with a UTF-8 byte order mark", hint)
            start = 3
        try:
            self._message(self.message, self.root, start, "")
        except _Stop:
            return
        except TextError as error:
            self._error(error.offset, error.message, stop=False)
            return
        self._check_required()

    def _check_required(self) -> None:
        message: Any = self.message
        missing = [] if message.IsInitialized() else message.FindInitializationErrors()
        for dotted in missing[:MAX_PROBLEMS]:
            path: list[str | int] = []
            for part in dotted.split("."):
                name, _, index = part.partition("[")
                path += [name, int(index[:-1])] if index else [name]
            finding = _Finding(
                "error", -1, f"the required field {dotted} is missing", "", tuple(path)
            )
            self.findings.append(finding)
            self.errors += 1

    def _find(self, severity: str, offset: int, message: str, hint: str = "") -> None:
        self.findings.append(_Finding(severity, offset, message, hint, tuple(self.path)))

    def _error(self, offset: int, message: str, hint: str = "", *, stop: bool = True) -> None:
        self._find("error", offset, message, hint)
        self.errors += 1
        if stop and self.errors >= MAX_PROBLEMS:
            raise _Stop

    # The fast way

    def _message(self, message: Message, place: Place, position: int, closer: str) -> int:
        """Reads fields into `message` up to its `closer` ("": the end); the offset behind that."""
        if self.depth > NESTING_LIMIT:
            raise TextError(f"nested more than {NESTING_LIMIT} levels deep", position)
        plans = plans_of(self.dialect, relative_name(message.DESCRIPTOR))
        seen: set[str] = set()
        text, mark, match_field = self.text, place.marks.append, FIELD.match
        while True:
            match = match_field(text, position)
            if match is None:
                position = self._careful(message, plans, place, seen, position)
                if position < 0:
                    return self._at_end(closer)
                continue
            index = match.lastindex
            if index == CLOSE:
                if match[CLOSE] != closer:
                    self._unexpected(match[CLOSE], match.start(CLOSE), closer)
                return match.end()
            name = match[1]
            plan = plans.get(name)
            if plan is None or (name in seen and not plan.repeated):
                position = self._careful(message, plans, place, seen, match.start(1))
                continue
            start = match.start(1)
            if index == OPEN:
                if plan.kind != "message":
                    position = self._careful(message, plans, place, seen, start)
                    continue
                seen.add(name)
                position = self._child(message, plan, place, start, match.end(), match[OPEN])
                position = SEPARATOR.match(text, position).end()  # type: ignore[union-attr]
                continue
            try:
                if index == NUMBER:
                    value = plan.number(match[NUMBER])
                elif index == NAME_WORD:
                    value = plan.words[match[NAME_WORD]]
                elif plan.string is not None:
                    value = plan.string(match[index])  # type: ignore[index]
                else:
                    raise ValueError
            except (ValueError, KeyError):
                position = self._careful(message, plans, place, seen, start)
                continue
            if plan.repeated:
                getattr(message, name).append(value)
                # A mark for each weight would take ten times the room of the file.
                if not plan.bulk or name not in seen:
                    mark((name, start, None))
            else:
                setattr(message, name, value)
                mark((name, start, None))
            seen.add(name)
            position = match.end()

    def _child(
        self, message: Message, plan: Plan, place: Place, start: int, position: int, opener: str
    ) -> int:
        """A submessage whose `opener` ends at `position`; the offset behind its closer."""
        name = plan.descriptor.name
        container = getattr(message, name)
        child_place = Place(start)
        place.marks.append((name, start, child_place))
        depth = len(self.path)
        self.path.append(name)
        if plan.repeated:
            self.path.append(len(container))
            child = container.add()
        else:
            child = container
            child.SetInParent()
        self.depth += 1
        position = self._message(child, child_place, position, CLOSER[opener])
        self.depth -= 1
        del self.path[depth:]
        return position

    def _at_end(self, closer: str) -> int:
        if closer:
            message = f'the file ends where "{closer}" is expected'
            raise TextError(message, len(self.text.rstrip()))
        return len(self.text)

    def _unexpected(self, found: str, offset: int, closer: str) -> None:
        wanted = f'"{closer}"' if closer else "a field name"
        raise TextError(f'expected {wanted}, found "{found}"', offset)

    # The careful way

    def _careful(
        self, message: Message, plans: dict[str, Plan], place: Place, seen: set[str], position: int
    ) -> int:
        """One field by the letter of the rules; the offset behind it, -1 at the end of the file."""
        name = token(self.text, position)
        if name.kind == "end":
            return -1
        if name.text == "[":
            raise TextError("Caffe's messages have no extensions", name.start)
        if name.kind != "word":
            raise TextError(f"expected a field name, found {name}", name.start)
        plan = plans.get(name.text)
        if plan is None:
            end = self._unknown_field(message, plans, name)
        else:
            try:
                end = self._known_field(message, plan, place, seen, name)
            except TextError as error:
                end = self._recover(error, name.end)
        return SEPARATOR.match(self.text, end).end()  # type: ignore[union-attr]

    def _recover(self, error: TextError, position: int) -> int:
        """Notes the error and steps over the value, if that is at all well formed."""
        if isinstance(error, ValueRefused) and error.explained_by:
            self.explained_by.append(error.explained_by)
        self._error(error.offset, error.message, getattr(error, "hint", ""))
        if not isinstance(error, ValueRefused):
            raise _Stop
        try:
            return skip_value(self.text, position, NESTING_LIMIT)
        except TextError:
            raise _Stop from None

    def _known_field(
        self, message: Message, plan: Plan, place: Place, seen: set[str], name: Token
    ) -> int:
        if name.text in seen and not plan.repeated:
            raise ValueRefused(f"{name.text} is given twice, but it takes one value", name.start)
        seen.add(name.text)
        following = token(self.text, name.end)
        if following.text == ":":
            following = token(self.text, following.end)
        elif plan.kind != "message":
            raise ValueRefused(f'expected ":", found {following}', following.start)
        if plan.repeated and following.text == "[":
            return self._list(message, plan, place, name, following.end)
        return self._element(message, plan, place, name.start, following)

    def _list(self, message: Message, plan: Plan, place: Place, name: Token, position: int) -> int:
        start = position
        position, closed = self._plain_numbers(message, plan, place, name, start)
        if closed:
            return position
        first = token(self.text, position)
        if first.text == "]" and position == start:
            return first.end
        while True:
            end = self._element(message, plan, place, first.start, first)
            following = token(self.text, end)
            if following.text == "]":
                return following.end
            if following.text != ",":
                raise ValueRefused(f'expected "," or "]", found {following}', following.start)
            first = token(self.text, following.end)

    def _plain_numbers(
        self, message: Message, plan: Plan, place: Place, name: Token, position: int
    ) -> tuple[int, bool]:
        """Stores the ordinary numbers a list starts with; where they end, and if the list does."""
        values, closed = [], False
        while not closed and (match := ITEM.match(self.text, position)):
            try:
                values.append(plan.number(match[1]))
            except (ValueError, KeyError):
                break
            position, closed = match.end(), match[2] == "]"
        if values:
            place.marks.append((name.text, name.start, None))
            getattr(message, name.text).extend(values)
        return position, closed

    def _element(self, message: Message, plan: Plan, place: Place, start: int, first: Token) -> int:
        """Stores one value whose first token is `first`; the offset behind it."""
        if plan.kind == "message":
            if first.text not in CLOSER:
                raise ValueRefused(f'expected "{{", found {first}', first.start)
            return self._child(message, plan, place, start, first.end, first.text)
        reader = READERS.get(plan.kind, read_integer)
        value, end = reader(self.text, plan, first)
        place.marks.append((plan.descriptor.name, start, None))
        self._store(message, plan, value)
        return end

    def _store(self, message: Message, plan: Plan, value: Any) -> None:
        name = plan.descriptor.name
        if plan.kind == "string":
            try:
                value = value.decode("utf-8")
            except UnicodeDecodeError:
                value = self._not_utf8(message, plan, value)
                if value is None:
                    return
        if plan.repeated:
            getattr(message, name).append(value)
        else:
            setattr(message, name, value)

    def _not_utf8(self, message: Message, plan: Plan, value: bytes) -> str | None:
        """Caffe takes any bytes; only in strict reading is it worth having a str that is none."""
        if not self.strict:
            self._find("warning", -1, f"{plan.descriptor.name} is not valid UTF-8")
            return value.decode("utf-8", "backslashreplace")
        message.MergeFromString(length_delimited(plan.descriptor.number, value))
        return None

    def _unknown_field(self, message: Message, plans: dict[str, Plan], name: Token) -> int:
        message_name = relative_name(message.DESCRIPTOR)
        knowing = schema.dialects_knowing(message_name, name.text)
        if self.strict:
            hint = did_you_mean(name.text, plans) if self.errors < 20 else ""
            self._error(name.start, f"{message_name} has no field {shortened(name.text)!r}", hint)
        self.explained_by.append(knowing)
        end = skip_value(self.text, name.end, NESTING_LIMIT)
        self.unknown.append((tuple(self.path), message_name, name.text, name.start, end))
        return end

    # Handing over

    def finish(self, report: Report) -> Parsed:
        """Reports everything in the order of the file, and raises if there were errors."""
        parsed = Parsed(self.message, self.dialect, self.text, self.file, self.root)
        if self.dialect.name != schema.BASE:
            message = f"read with the schema of the Caffe fork {self.dialect.name!r}"
            report.note(message, SourceSpan(self.file))
        for path, message_name, name, start, end in self.unknown:
            span = parsed.span_at(start, layer=layer_name(self.message, path))
            parsed.unknown.append(Unknown(path, message_name, name, span, self.text[start:end]))
        if not self.strict:
            _report_unknown(parsed, report)
        errors = Report(self.file)
        for finding in self.findings:
            span = self._span(parsed, finding)
            message = f"layer {span.layer!r}: {finding.message}" if span.layer else finding.message
            target = errors if finding.severity == "error" else report
            (target.error if target is errors else report.warning)(message, span, finding.hint)
        if self.errors >= MAX_PROBLEMS:
            errors.error(f"more than {MAX_PROBLEMS} problems: giving up", SourceSpan(self.file))
        report.problems.extend(errors)
        errors.raise_if_errors()
        return parsed

    def _span(self, parsed: Parsed, finding: _Finding) -> SourceSpan:
        if finding.offset < 0:
            return parsed.span(*finding.path)
        return parsed.span_at(finding.offset, layer=layer_name(self.message, finding.path))


def _report_unknown(parsed: Parsed, report: Report) -> None:
    hints: dict[tuple[str, str], str] = {}
    for unknown in parsed.unknown[:MAX_PROBLEMS]:
        key = unknown.message_name, unknown.name
        if key not in hints:
            hints[key] = _unknown_hint(parsed.dialect, *key)
        layer = f"layer {unknown.span.layer!r}: " if unknown.span.layer else ""
        owner, name = unknown.message_name, shortened(unknown.name)
        message = f"{layer}{owner} has no field {name!r}; it is kept unread"
        report.warning(message, unknown.span, hints[key], rule="unknown-field")
    if (more := len(parsed.unknown) - MAX_PROBLEMS) > 0:
        message = f"{more} more unknown fields"
        report.warning(message, SourceSpan(parsed.file), rule="unknown-field")


def _unknown_hint(dialect: Dialect, message_name: str, field_name: str) -> str:
    if knowing := schema.dialects_knowing(message_name, field_name):
        return "known to the Caffe forks " + ", ".join(knowing)
    return did_you_mean(field_name, plans_of(dialect, message_name))
