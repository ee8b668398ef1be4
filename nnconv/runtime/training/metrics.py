"""What training says about itself: one JSON object a line in a file, in order of iterations.

Lines are only ever appended; after an interruption the file is cut back to the iteration that
training resumes from, so that it reads as if nothing had happened.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from nnconv.schemas.errors import InputError, SourceSpan
from nnconv.schemas.files import atomic_write

FILE = "metrics.jsonl"
LONGEST_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class Lap:
    """How training stands after `iteration` updates; `loss` is the mean since the last report,
    `lr` the rate of the last update, `seconds` those since this process began to train.
    """

    kind: ClassVar[str] = "train"
    iteration: int
    epoch: float
    loss: float
    lr: float
    samples_per_second: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Validation:
    """How the model did on samples that it does not learn from. `accuracy` is None for models that
    choose no class.
    """

    kind: ClassVar[str] = "validation"
    iteration: int
    epoch: float
    loss: float
    accuracy: float | None
    samples: int


Record = Lap | Validation


class Watcher(Protocol):
    """Somebody who wants to know how training goes."""

    def saw(self, record: Record) -> None: ...


class MetricsFile:
    """The records of a run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def saw(self, record: Record) -> None:
        """Append a record; JSON has no NaN, which is written as null."""
        facts = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(record).items()
        }
        line = json.dumps({"kind": record.kind, **facts}, allow_nan=False)
        # one write call a line: what a kill leaves behind is whole lines and at most one torn end
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)

    def rewind(self, iteration: int) -> None:
        """Forget what was recorded after an iteration, and a torn last line."""
        kept = [r for r in read_metrics(self.path) if r["iteration"] <= iteration]
        with atomic_write(self.path) as file:
            file.writelines(json.dumps(record).encode() + b"\n" for record in kept)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, or of the run folder it lies in; [] for a file not yet there.

    A torn last line is left out. Raises InputError, with its number, for a line that is no record.
    """
    file = path / FILE if path.is_dir() else path
    if not file.exists():
        return []
    records = []
    for number, line in _lines(file):
        try:
            record = json.loads(line)
            if not isinstance(record["iteration"], int) or not isinstance(record["kind"], str):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            if not line.endswith(b"\n"):
                break
            raise InputError(
                "this is no record of a training run", span=SourceSpan(str(file), number)
            ) from None
        records.append(record)
    return records


def series(records: list[dict[str, Any]], kind: str, key: str) -> tuple[list[int], list[float]]:
    """Iterations and values of one quantity, where it was recorded as a number."""
    points = [
        (record["iteration"], float(record[key]))
        for record in records
        if record["kind"] == kind and isinstance(record.get(key), int | float)
    ]
    return [x for x, _ in points], [y for _, y in points]


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with file.open("rb") as stream:
            number = 0
            while line := stream.readline(LONGEST_LINE):
                yield (number := number + 1), line
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from None
