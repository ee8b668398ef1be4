"""Puts the arrays of a checkpoint into a model, by name, and says what fitted and what did not.

Patterns rename the file's names into the model's: `features.*=conv*` takes `features.3/0` for
`conv3/0`. Shapes are compared before any array is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nnconv.schemas.checkpoint import Arrays, Checkpoint, Header, header
from nnconv.schemas.errors import InputError, MismatchError, Problem, did_you_mean
from nnconv.schemas.graph import Model, Value

if TYPE_CHECKING:
    from nnconv.schemas.types import Array


@dataclass(frozen=True, slots=True)
class Misfit:
    """A name that both sides have, with different shapes or types."""

    name: str
    wanted: str
    got: str


@dataclass(slots=True)
class Loaded:
    """The report of a loading, all in names of the model: `unexpected` are the file's names that
    the model has no parameter for, `missing` parameters that the file has no array for."""

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misfits: list[Misfit] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.misfits)

    def problems(self) -> list[Problem]:
        """What did not fit, one problem each; missing and unexpected names in two."""
        found = [
            Problem(f"'{m.name}' is {m.wanted} in the model, {m.got} in the file", rule="shape")
            for m in self.misfits
        ]
        for rule, names, text in (
            ("missing", self.missing, "the file has no array for"),
            ("unexpected", self.unexpected, "the model has no parameter for"),
        ):
            if names:
                hint = did_you_mean(names[0], self.unexpected if rule == "missing" else ())
                found.append(Problem(f"{text} {listed(names)}", hint=hint, rule=rule))
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "matched": self.matched,
            "missing": self.missing,
            "unexpected": self.unexpected,
            "misshaped": [{"name": m.name, "wanted": m.wanted, "got": m.got} for m in self.misfits],
        }


def load_weights(
    model: Model,
    checkpoint: Checkpoint,
    renames: Sequence[tuple[str, str]] = (),
    *,
    strict: bool = False,
) -> Loaded:
    """Fill the model's parameters and state from a checkpoint; the model is changed in place.

    `renames` are pairs of patterns (the file's, the model's), `*` standing for any text; the first
    that fits a name counts. With `strict`, anything that does not fit raises MismatchError and
    leaves the model as it was. Nothing fitting at all raises InputError.
    """
    offered = renamed(checkpoint.parameters, renames)
    wanted = {name: value for name, value in model.graph.values.items() if value.parameter}
    report = Loaded()
    arrays: list[tuple[Value, Array]] = []
    for name, value in wanted.items():
        if name not in offered:
            report.missing.append(name)
            continue
        arrays += _fitting(value, checkpoint.parameters, offered[name], checkpoint.padded, report)
    report.unexpected = [name for name in offered if name not in wanted]
    for state in model.graph.state:
        if state.read.parameter is None and state.name in checkpoint.state:
            arrays += _fitting(state.read, checkpoint.state, state.name, False, report)
    if strict and not report.complete:
        raise MismatchError(report.problems())
    if offered and wanted and not report.matched:
        raise InputError(
            f"no array of the file fits the model, which wants {listed(list(wanted))}; "
            f"the file has {listed(list(offered))}",
            hint="--map 'FILE*=MODEL*' renames",
        )
    for value, array in arrays:
        value.data = array
    return report


def _fitting(
    value: Value, arrays: Arrays, name: str, padded: bool, report: Loaded
) -> list[tuple[Value, Array]]:
    """The value with its array where they fit; else the report says why not."""
    got = header(arrays, name)
    shape = got.shape
    if padded and len(shape) > len(value.shape or ()):
        lead = len(shape) - len(value.shape or ())
        shape = shape[lead:] if all(size == 1 for size in shape[:lead]) else shape
    both_floats = got.dtype.is_float and value.dtype.is_float
    if shape != value.shape or (got.dtype is not value.dtype and not both_floats):
        wanted = Header(value.dtype, tuple(d for d in value.shape or () if isinstance(d, int)))
        report.misfits.append(Misfit(value.name, shown(wanted), shown(got)))
        return []
    report.matched.append(value.name)
    array = arrays[name].reshape(shape)
    return [(value, array.astype(value.dtype.numpy, copy=False))]


def renamed(arrays: Arrays, renames: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The names of a file as the model has them, each with its name in the file.

    Raises InputError when two names of the file become the same, and for a pair that none fits.
    """
    rules = [(_pattern(old), new) for old, new in renames]
    found: dict[str, str] = {}
    for (old, new), (pattern, _) in zip(renames, rules, strict=True):
        if not any(map(pattern.fullmatch, arrays)):
            hint = did_you_mean(old, arrays) or f"the file has {listed(list(arrays))}"
            raise InputError(f"--map {old}={new}: no name of the file is like {old}", hint=hint)
    for name in arrays:
        new = _rename(name, rules)
        if new in found:
            raise InputError(f"'{found[new]}' and '{name}' of the file would both be '{new}'")
        found[new] = name
    return found


def parse_rename(text: str) -> tuple[str, str]:
    """`PATTERN=PATTERN`, both with as many `*`, which stand for each other in order.

    >>> parse_rename("features.*=conv*")
    ('features.*', 'conv*')
    """
    old, mark, new = text.partition("=")
    if not mark or not old or not new or new.count("*") != old.count("*"):
        raise InputError(
            f"--map {text}: this does not say what becomes what", hint="--map 'features.*=conv*'"
        )
    return old, new


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile("(.*?)".join(map(re.escape, text.split("*"))), re.S)


def _rename(name: str, rules: Sequence[tuple[re.Pattern[str], str]]) -> str:
    for pattern, new in rules:
        if match := pattern.fullmatch(name):
            parts, result = list(match.groups()), ""
            for index, piece in enumerate(new.split("*")):
                result += (parts[index - 1] if index else "") + piece
            return result
    return name


def shown(kind: Header) -> str:
    """Type and shape in words.

    >>> from nnconv.schemas.types import DType
    >>> shown(Header(DType.FLOAT32, (20, 1, 5, 5)))
    'float32 20x1x5x5'
    """
    return f"{kind.dtype} {'x'.join(map(str, kind.shape)) or 'scalar'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more."""
    text = ", ".join(f"'{name}'" for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def stored_arrays(model: Model) -> Mapping[str, Array]:
    """Every array of a model that a weights file may hold: parameters and constants, by name."""
    return {
        name: value.data for name, value in model.graph.values.items() if value.data is not None
    }
