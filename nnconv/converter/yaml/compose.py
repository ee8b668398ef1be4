"""From bytes to a tree of YAML nodes that know where they stand, within fixed bounds.

PyYAML's C parser only delivers events here; its own composer recurses in C (and crashes on deep
nesting), takes the last of two equal keys, and reads `no` as a boolean. The loop below stops at
`MOST_DEPTH` before the parser could feel the depth, and counts what aliases would unfold to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from nnconv.converter.yaml.scalars import LONGEST_NUMBER, Plain, resolve
from nnconv.schemas.errors import InputError, Report, SourceSpan, UnsupportedError

MOST_DEPTH = 64
MOST_BYTES = 32 << 20
MOST_NODES = 2_000_000
MOST_PROBLEMS = 50
_CORE = "tag:yaml.org,2002:"
# PyYAML comes without its C half on a few platforms; the events are the same, only slower
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True, eq=False)
class Item:
    """One node of the tree; `line` and `column` count from 1. `size` counts it with all inside,
    `height` the levels, so that aliases cannot nest deeper than what is written out."""

    line: int
    column: int
    tag: str = ""
    size: int = 1
    height: int = 1


@dataclass(slots=True, eq=False)
class Scalar(Item):
    """A scalar: `value` is what it means, `text` what stands there."""

    text: str = ""
    value: Plain = None


@dataclass(slots=True, eq=False)
class Sequence(Item):
    items: list[Item] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Mapping(Item):
    """Pairs in order; keys are scalars, each text once."""

    pairs: dict[str, tuple[Scalar, Item]] = field(default_factory=dict)
    pending: Scalar | None = None


class Document:
    """One YAML file: its tree, and the lines that errors quote."""

    def __init__(self, data: bytes | memoryview, file: str, report: Report) -> None:
        """Raises InputError at once for what cannot be parsed; duplicate keys go to `report`."""
        self.file = file
        self.report = report
        if len(data) > MOST_BYTES:
            raise InputError(
                f"the file has {len(data):,} bytes, a YAML model {MOST_BYTES:,} at most",
                span=SourceSpan(file),
                hint="weights belong into a file of their own (weights: FILE.npz)",
            )
        self._data = bytes(data)
        self._lines: list[str] | None = None
        self.root = _Composer(self).compose(self._data)

    def span(self, item: Item, layer: str = "") -> SourceSpan:
        return self.place(item.line, item.column, layer)

    def place(self, line: int, column: int, layer: str = "") -> SourceSpan:
        if self._lines is None:
            self._lines = self._data.decode("utf-8", "replace").splitlines()
        shown = self._lines[line - 1] if 0 < line <= len(self._lines) else ""
        excerpt = shown if len(shown) <= 200 else ""
        return SourceSpan(self.file, line, column, layer, excerpt)

    def error(self, item: Item, message: str, hint: str = "", layer: str = "") -> None:
        """Note a problem and go on; raises all of them once there are too many to read."""
        self.report.error(message, self.span(item, layer), hint)
        if len(self.report.errors) >= MOST_PROBLEMS:
            self.report.raise_if_errors()


class _Composer:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.open: list[Sequence | Mapping] = []
        self.anchors: dict[str, Item] = {}
        self.unfinished: dict[int, str] = {}
        self.nodes = 0
        self.root: Item | None = None

    def compose(self, data: bytes) -> Item:
        for event in self._events(data):
            kind = type(event).__name__
            if kind in ("SequenceEndEvent", "MappingEndEvent"):
                self._close()
            elif kind == "DocumentStartEvent":
                if self.root is not None:
                    raise self._wrong(event, "the file holds a second document")
            elif kind in ("ScalarEvent", "SequenceStartEvent", "MappingStartEvent", "AliasEvent"):
                self._node(event, kind)
        if self.root is None:
            raise InputError("the file holds nothing", span=SourceSpan(self.document.file))
        return self.root

    def _events(self, data: bytes) -> Iterator[Any]:
        loader = None
        try:
            loader = _LOADER(data)
            while loader.check_event():
                yield loader.get_event()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = (mark.line + 1, mark.column + 1) if mark else (0, 0)
            message = " ".join(filter(None, (error.context, error.problem)))
            raise InputError(f"not YAML: {message}", span=self.document.place(*place)) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            text = str(error).splitlines()[0]
            raise InputError(f"not YAML: {text}", span=SourceSpan(self.document.file)) from None
        finally:
            if loader is not None:
                loader.dispose()

    def _node(self, event: Any, kind: str) -> None:
        if len(self.open) >= MOST_DEPTH:
            raise self._wrong(event, f"nested more than {MOST_DEPTH} deep")
        if kind == "AliasEvent":
            item = self._alias(event)
        else:
            mark = event.start_mark
            place = mark.line + 1, mark.column + 1
            if kind == "ScalarEvent":
                item = self._scalar(event, *place)
            else:
                made = Sequence if kind == "SequenceStartEvent" else Mapping
                item = made(*place, tag=_local(event.tag))
            if event.anchor:
                self.anchors[event.anchor] = item
        self.nodes += item.size
        if self.nodes > MOST_NODES:
            raise self._wrong(event, f"more than {MOST_NODES:,} nodes, aliases unfolded")
        if kind in ("SequenceStartEvent", "MappingStartEvent"):
            assert isinstance(item, Sequence | Mapping)
            self.open.append(item)
            self.unfinished[id(item)] = event.anchor or ""
        else:
            self._add(item)

    def _alias(self, event: Any) -> Item:
        item = self.anchors.get(event.anchor)
        if item is None or id(item) in self.unfinished:
            what = "is not defined before it" if item is None else "would hold itself"
            raise self._wrong(event, f"the alias *{event.anchor} {what}")
        if len(self.open) + item.height > MOST_DEPTH:
            raise self._wrong(event, f"nested more than {MOST_DEPTH} deep, aliases unfolded")
        return item

    def _scalar(self, event: Any, line: int, column: int) -> Scalar:
        tag, text = _local(event.tag), event.value
        plain = event.implicit[0] and not tag
        if plain and len(text) > LONGEST_NUMBER and text.lstrip("+-").isdigit():
            raise self._wrong(event, f"a number of {len(text):,} digits")
        value = resolve(text) if plain else text
        return Scalar(line, column, tag, text=text, value=value)

    def _close(self) -> None:
        item = self.open.pop()
        del self.unfinished[id(item)]
        self._add(item)

    def _add(self, item: Item) -> None:
        if not self.open:
            self.root = item
            return
        parent = self.open[-1]
        parent.size += item.size
        parent.height = max(parent.height, item.height + 1)
        if isinstance(parent, Sequence):
            parent.items.append(item)
        elif parent.pending is None:
            self._key(parent, item)
        else:
            key, parent.pending = parent.pending, None
            if key.text in parent.pairs:
                first = parent.pairs[key.text][0]
                message = f"the key '{key.text}' stands here twice, first in line {first.line}"
                self.document.error(key, message)
            else:
                parent.pairs[key.text] = key, item

    def _key(self, parent: Mapping, item: Item) -> None:
        if not isinstance(item, Scalar):
            raise InputError(
                "a key must be a word, not a list or mapping", span=self.document.span(item)
            )
        parent.pending = item

    def _wrong(self, event: Any, message: str) -> InputError:
        mark = event.start_mark
        return InputError(message, span=self.document.place(mark.line + 1, mark.column + 1))


def _local(tag: str | None) -> str:
    """The tag without the core schema's prefix; `!` alone only says "not plain"."""
    return (tag or "").removeprefix(_CORE).lstrip("!")


def read(data: bytes | memoryview, file: str, report: Report) -> Document:
    """The document in `data`, or what is wrong with it, in the words of `file`."""
    try:
        return Document(data, file, report)
    except RecursionError:  # only PyYAML's Python half could
        raise UnsupportedError("nested too deeply", span=SourceSpan(file)) from None
