"""Reading a mapping key by key: typed getters that note what is wrong and go on.

A getter returns its default after noting a problem, so that one pass over a file finds them all;
the caller raises the report at the end. `finish` refuses the keys that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeVar

from nnconv.converter.yaml.compose import Document, Item, Mapping, Scalar, Sequence
from nnconv.schemas.errors import did_you_mean

T = TypeVar("T")
LARGEST = 1 << 48
"""Larger integers are no size, step or seed of any model."""


class Fields:
    """The keys of one mapping; `what` names it in messages."""

    def __init__(self, document: Document, item: Item, what: str) -> None:
        self.document = document
        self.item = item
        self.what = what
        self.asked: set[str] = set()
        self.pairs: dict[str, tuple[Scalar, Item]] = {}
        if isinstance(item, Mapping):
            self.pairs = item.pairs
        else:
            self.error(item, f"{what} must be a mapping of keys to values, this is {kind(item)}")

    def error(self, item: Item | None, message: str, hint: str = "") -> None:
        self.document.error(item or self.item, message, hint)

    def __contains__(self, key: str) -> bool:
        return key in self.pairs

    def at(self, key: str) -> Item | None:
        """The node under `key`, None when there is none."""
        self.asked.add(key)
        pair = self.pairs.get(key)
        return pair[1] if pair else None

    def key(self, key: str) -> Item:
        """Where the key itself stands; the mapping when it is missing."""
        return self.pairs[key][0] if key in self.pairs else self.item

    def text(self, key: str, default: str = "", known: Collection[str] = ()) -> str:
        item = self.at(key)
        if item is None:
            return default
        if not isinstance(item, Scalar) or not isinstance(item.value, str):
            self.error(item, f"{key} must be text, this is {kind(item)}", 'put it in quotes: "..."')
            return default
        if known and item.value not in known:
            hint = did_you_mean(item.value, known) or f"known are {', '.join(sorted(known))}"
            self.error(item, f"{key} cannot be '{item.value}'", hint)
            return default
        return item.value

    def integer(self, key: str, default: int = 0, least: int | None = None) -> int:
        item = self.at(key)
        if item is None:
            return default
        value = integer(item)
        if value is None or (least is not None and value < least) or abs(value) > LARGEST:
            bound = "" if least is None else f" of at least {least}"
            self.error(item, f"{key} must be a whole number{bound}, this is {kind(item)}")
            return default
        return value

    def number(self, key: str, default: float = 0.0) -> float:
        item = self.at(key)
        if item is None:
            return default
        value = number(item)
        if value is None:
            self.error(item, f"{key} must be a number, this is {kind(item)}")
            return default
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        item = self.at(key)
        if item is None:
            return default
        if not isinstance(item, Scalar) or not isinstance(item.value, bool):
            self.error(item, f"{key} must be true or false, this is {kind(item)}")
            return default
        return item.value

    def items(self, key: str) -> list[Item]:
        """The elements of a list; a lone scalar counts as a list of one."""
        item = self.at(key)
        if item is None:
            return []
        if isinstance(item, Sequence):
            return item.items
        if isinstance(item, Scalar):
            return [item]
        self.error(item, f"{key} must be a list, this is a mapping")
        return []

    def texts(self, key: str) -> list[str]:
        found = []
        for item in self.items(key):
            if isinstance(item, Scalar):
                found.append(item.text)
            else:
                self.error(item, f"{key} must hold words, this is {kind(item)}")
        return found

    def mapping(self, key: str, what: str = "") -> Fields | None:
        """The mapping under `key`, to be read in turn."""
        item = self.at(key)
        return None if item is None else Fields(self.document, item, what or key)

    def finish(self) -> None:
        """Note every key that nobody asked for."""
        for key, (item, _) in self.pairs.items():
            if key not in self.asked:
                hint = did_you_mean(key, self.asked) or _known(self.asked)
                self.error(item, f"{self.what} has no key '{key}'", hint)


def integer(item: Item) -> int | None:
    """The integer that a node writes, None for anything else."""
    value = item.value if isinstance(item, Scalar) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(item: Item) -> float | None:
    """The number that a node writes, None for anything else."""
    value = item.value if isinstance(item, Scalar) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value


def kind(item: Item) -> str:
    """A node in words, for messages."""
    if isinstance(item, Scalar):
        return f"'{item.text[:60]}'" if item.text else "empty"
    return "a list" if isinstance(item, Sequence) else "a mapping"


def _known(keys: Iterable[str]) -> str:
    listed = ", ".join(sorted(keys))
    return f"known are {listed}" if listed else ""
