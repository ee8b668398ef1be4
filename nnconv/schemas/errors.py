"""What can go wrong, where it went wrong, and what the user can do about it.

One exception class for each *reaction* of a caller, not for each cause:

    NnconvError
    ├── InputError          the file or value given is wrong          -> mend the input    (exit 2)
    ├── UnsupportedError    right input, but nnconv cannot do it yet  -> choose another    (exit 2)
    ├── MissingExtraError   an optional dependency is not installed   -> pip install it    (exit 2)
    ├── MismatchError       a check compared two things that differ   -> look at the diff  (exit 1)
    └── InternalError       a bug of ours                             -> report it         (exit 70)

Every error carries one or more `Problem`s: what is wrong, where (`SourceSpan`) and a hint. A
`Report` collects the problems of one file, so that a user sees all of them at once; the same object
prints, becomes JSON, and is raised.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar

LONGEST_LINE = 400
"""Characters of a line of a message; files may hold names of a megabyte."""


@dataclass(frozen=True, slots=True)
class SourceSpan:
    """A place in the user's material. Lines and columns count from 1; 0 means unknown."""

    file: str = ""
    line: int = 0
    column: int = 0
    layer: str = ""
    excerpt: str = ""

    def __str__(self) -> str:
        parts = [self.file or "input"]
        if self.line:
            parts.append(str(self.line))
            if self.column:
                parts.append(str(self.column))
        return ":".join(parts)

    def to_dict(self) -> dict[str, Any]:
        known = {"file": self.file, "line": self.line, "column": self.column, "layer": self.layer}
        return {key: value for key, value in known.items() if value}


@dataclass(frozen=True, slots=True)
class Problem:
    """One fact about the input that the user should know. `severity` is error, warning or note."""

    message: str
    span: SourceSpan | None = None
    hint: str = ""
    severity: str = "error"
    rule: str = ""

    def __str__(self) -> str:
        """The one clear line, then the offending source line with a caret, then the hint."""
        label = "" if self.severity == "error" else f"{self.severity}: "
        where = f"{self.span}: " if self.span and (self.span.file or self.span.line) else ""
        lines = [visible(f"{where}{label}{self.message}")]
        hint = visible(self.hint)
        margin = " " * 5
        if self.span and self.span.excerpt and self.span.line:
            excerpt = _UNSEEN.sub("?", self.span.excerpt.expandtabs(1)).rstrip()
            lines.append(f"{self.span.line:>5} | {excerpt}")
            if self.span.column:
                caret = " " * (self.span.column - 1) + "^"
                lines.append(f"{margin} | {caret} {hint}".rstrip())
                return "\n".join(lines)
        if hint:
            lines.append(f"{margin} | {hint}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        known: dict[str, Any] = {
            "severity": self.severity,
            "message": self.message,
            "hint": self.hint,
        }
        known["rule"] = self.rule
        known["where"] = self.span.to_dict() if self.span else None
        return {key: value for key, value in known.items() if value}


class NnconvError(Exception):
    """Base of all errors that nnconv raises on purpose; `problems` holds what is wrong, in
    order."""

    exit_code: ClassVar[int] = 2
    problems: tuple[Problem, ...]

    def __init__(
        self,
        message: str | Iterable[Problem],
        *,
        span: SourceSpan | None = None,
        hint: str = "",
        rule: str = "",
    ) -> None:
        if isinstance(message, str):
            self.problems = (Problem(message, span, hint, rule=rule),)
        else:
            self.problems = tuple(message)
        super().__init__(str(self))

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))

    def to_dict(self) -> dict[str, Any]:
        return {"error": type(self).__name__, "problems": [p.to_dict() for p in self.problems]}


class InputError(NnconvError):
    """The file, value or combination given is wrong; mending the input helps."""


class UnsupportedError(NnconvError):
    """The input may be fine, but nnconv has no rule, kernel or writer for it."""


class MissingExtraError(NnconvError):
    """An optional dependency is missing; the hint says which extra to install."""


class MismatchError(NnconvError):
    """Two things that should agree differ (a check failed)."""

    exit_code = 1


class InternalError(NnconvError):
    """A state that only a bug of ours can reach."""

    exit_code = 70


@dataclass(slots=True)
class Report:
    """All that is to be said about one file or one job, in the order it was found.

    >>> report = Report("net.prototxt")
    >>> span = SourceSpan("net.prototxt", 31, 17)
    >>> report.error("local_size must be odd, got 4", span, hint="5 is usual")
    >>> report.ok
    False
    """

    subject: str = ""
    problems: list[Problem] = field(default_factory=list)

    def error(
        self, message: str, span: SourceSpan | None = None, hint: str = "", rule: str = ""
    ) -> None:
        self.problems.append(Problem(message, span, hint, "error", rule))

    def warning(
        self, message: str, span: SourceSpan | None = None, hint: str = "", rule: str = ""
    ) -> None:
        self.problems.append(Problem(message, span, hint, "warning", rule))

    def note(
        self, message: str, span: SourceSpan | None = None, hint: str = "", rule: str = ""
    ) -> None:
        self.problems.append(Problem(message, span, hint, "note", rule))

    def extend(self, error: NnconvError) -> None:
        """Take over what an exception carries, to go on and find more."""
        self.problems.extend(error.problems)

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def ok(self) -> bool:
        return not self.errors

    def raise_if_errors(self, kind: type[NnconvError] = InputError) -> None:
        """Raise all errors found so far as one exception of class `kind`; do nothing when there is
        none."""
        if errors := self.errors:
            raise kind(errors)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems)) or f"{self.subject}: nothing to report"

    def to_dict(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "ok": self.ok,
            "problems": [p.to_dict() for p in self.problems],
        }


# Comparing takes about 10 us a pair of names, more for long ones, and names come from files.
_LONGEST_NAME = 100
_MOST_NAMES = 1000


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """A hint naming the nearest known names, or '' when nothing is near.

    >>> did_you_mean("Convolutoin", ["Convolution", "Pooling"])
    "did you mean 'Convolution'?"
    """
    longest = 2 * len(name) + 1
    if len(name) > _LONGEST_NAME:
        return ""
    near_in_length = (candidate for candidate in known if len(candidate) <= longest)
    lowered = {candidate.lower(): candidate for candidate in islice(near_in_length, _MOST_NAMES)}
    near = difflib.get_close_matches(name.lower(), lowered, n=count, cutoff=0.6)
    if not near:
        return ""
    return "did you mean " + " or ".join(f"'{lowered[candidate]}'" for candidate in near) + "?"


# what moves a terminal's cursor, colours it, or turns the direction of writing
_UNSEEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Text from a file as it may be shown: control characters spelt out, long lines cut.

    >>> visible("name\\x1b[31m")
    'name\\\\x1b[31m'
    """
    text = _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    if len(text) <= LONGEST_LINE:
        return text
    return "\n".join(map(_cut, text.split("\n")))


def _cut(line: str) -> str:
    half = LONGEST_LINE // 2
    return line if len(line) <= LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"
