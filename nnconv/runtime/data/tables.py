"""Data sets in one file of numbers: .npz archives and CSV.

CSV is parsed by numpy, some megabytes of lines at a time; Python looks at single lines only to say
where an error is.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.data.datasets import DATA, LABEL, ArrayDataset
from nnconv.schemas.arrays import array_names, load_array
from nnconv.schemas.errors import InputError, SourceSpan, did_you_mean

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

# how archives in circulation call the two arrays, for each part where they hold both
DATA_NAMES = ("data", "x", "images", "image", "input", "inputs", "features")
LABEL_NAMES = ("label", "labels", "y", "target", "targets", "class", "species")

CHUNK = 1 << 23  # bytes of text that are parsed at once
LONGEST_LABEL = 64  # characters
_AT = re.compile(r"^(.*) at row (\d+), column (\d+)\.$", re.S)
_COLUMNS = re.compile(r"columns? .* at row (\d+)")


def open_npz(path: Path, part: str = "train", label: str | None = None) -> ArrayDataset:
    """The arrays of an archive: data and labels under any usual name (also x_train, y_test ...);
    others keep their names, as long as they have as many samples.
    """
    if label is not None:
        raise InputError(f"{path}: the labels of an .npz are an array, not a column")
    chosen = _by_role(path, array_names(path), part)
    return ArrayDataset(
        {role: load_array(path, name) for role, name in chosen.items()}, name=str(path)
    )


def _by_role(path: Path, names: list[str], part: str) -> dict[str, str]:
    """The arrays of a part by what they are; one that is named for the part comes before one that
    is named for none.
    """
    other = {"train": "test", "test": "train"}[part]
    chosen: dict[str, str] = {}
    for name in sorted(names, key=lambda name: part not in _words(name)):
        role = _role(name, part)
        if other in _words(name) or (role in chosen and part not in _words(name)):
            continue
        if role in chosen:
            raise InputError(f"{path}: '{chosen[role]}' and '{name}' mean the same")
        chosen[role] = name
    if not chosen:
        raise InputError(f"{path}: holds no arrays of the {part} part")
    return chosen


def _words(name: str) -> list[str]:
    return re.split(r"[_.\-/ ]", name.lower())


def _role(name: str, part: str) -> str:
    plain = re.sub(rf"[_.\-/ ]?{part}[_.\-/ ]?", "", name.lower())
    return DATA if plain in DATA_NAMES else LABEL if plain in LABEL_NAMES else name


def open_csv(path: Path, part: str = "train", label: str | None = None) -> ArrayDataset:
    """Rows of numbers, one column of which is the label: the one called `label` (a name, or its
    number from 1), else one with a usual name, else the last.

    A first line without numbers names the columns. Labels may be words, which become classes in
    alphabetical order. Raises InputError with line and column for what is not a number, not
    finite, and for lines of another length.
    """
    table = Table.of(path, label)
    numbers, words = [], []
    for chunk in _chunks(path, table.header):
        numbers.append(table.numbers(chunk))
        words.append(table.labels(chunk))
    if not numbers:
        raise InputError(f"{path}: there are no rows of numbers")
    codes, names = _classes(words)
    return ArrayDataset({DATA: np.concatenate(numbers), LABEL: codes}, names, str(path))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some lines of a file, and the number of the first."""

    lines: Sequence[str]
    first: int


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a CSV file; `header` says whether its first line names them."""

    path: Path
    delimiter: str
    columns: int
    label: int
    header: bool

    @staticmethod
    def of(path: Path, label: str | None) -> Table:
        delimiter = "\t" if path.name.lower().endswith(".tsv") else ","
        chunk = next(_chunks(path, header=False), None)
        lines = [] if chunk is None else chunk.lines
        first = next((line for line in lines if line.strip()), "")
        if not first:
            raise InputError(f"{path}: the file is empty")
        cells = [cell.strip().strip('"') for cell in first.split(delimiter)]
        if len(cells) < 2:
            hint = "data and label, separated by commas (tabs in a .tsv)"
            raise InputError(f"{path}:1: a row needs two columns or more", hint=hint)
        # of a row of numbers at most one cell, the label, is a word
        header = sum(_is_word(cell) for cell in cells) > 1
        return Table(path, delimiter, len(cells), _label_column(path, cells, header, label), header)

    def numbers(self, chunk: Chunk) -> Array:
        found = self._parse(chunk, "f4", [i for i in range(self.columns) if i != self.label])
        self._check_lengths(chunk, len(found))
        if not np.isfinite(found).all():
            row, column = np.argwhere(~np.isfinite(found))[0].tolist()
            raise self._error(chunk, row, column + (column >= self.label), "is not a finite number")
        return found

    def labels(self, chunk: Chunk) -> Array:
        found = self._parse(chunk, f"U{LONGEST_LABEL + 1}", [self.label])[:, 0]
        long = np.strings.str_len(found) > LONGEST_LABEL
        if long.any():
            row = int(long.argmax())
            raise self._error(
                chunk, row, self.label, f"a label has at most {LONGEST_LABEL} characters"
            )
        return np.strings.strip(found)

    def _parse(self, chunk: Chunk, dtype: str, columns: list[int]) -> Array:
        try:
            parsed = np.loadtxt(
                chunk.lines, dtype=dtype, delimiter=self.delimiter, ndmin=2, comments=None,
                quotechar='"', usecols=columns,
            )  # fmt: skip
        except ValueError as error:
            if found := _AT.match(str(error)):
                what, row, column = found.groups()
                message = re.sub(r" to (string|float)\d+$", " to a number", what)
                raise self._error(chunk, int(row), int(column) - 1, message) from None
            found = _COLUMNS.search(str(error))
            row = int(found.group(1)) - 1 if found else 0
            raise self._error(chunk, row, 0, f"the row needs {self.columns} columns") from None
        return parsed

    def _check_lengths(self, chunk: Chunk, rows: int) -> None:
        """Refuse rows that are too long; numpy refuses those that are too short."""
        text = "".join(chunk.lines)
        if text.count(self.delimiter) == rows * (self.columns - 1):
            return
        filled = [line for line in chunk.lines if line.strip()]
        try:
            lengths = [len(cells) for cells in csv.reader(filled, delimiter=self.delimiter)]
        except csv.Error as error:
            raise InputError(f"{self.path}: {error}") from None
        for row, length in enumerate(lengths):
            if length > self.columns:
                what = f"the row has {length} columns, the first has {self.columns}"
                raise self._error(chunk, row, self.columns, what)

    def _error(self, chunk: Chunk, row: int, column: int, what: str) -> InputError:
        """The error at a cell; `row` counts the lines of the chunk that are not empty."""
        numbered = [(n, line) for n, line in enumerate(chunk.lines, chunk.first) if line.strip()]
        number, line = numbered[min(row, len(numbered) - 1)]
        cells = line.rstrip("\n").split(self.delimiter)
        start = sum(len(cell) + 1 for cell in cells[:column]) + 1
        cell = cells[column].strip() if column < len(cells) else ""
        message = what if cell in what and cell else f"'{cell[:40]}': {what}"
        return InputError(message, span=SourceSpan(str(self.path), number, start, excerpt=line))


def _label_column(path: Path, cells: list[str], header: bool, label: str | None) -> int:
    lowered = [cell.lower() for cell in cells]
    if label is None:
        usual = [i for i, cell in enumerate(lowered) if header and cell in LABEL_NAMES]
        return usual[0] if usual else len(cells) - 1
    if header and label.lower() in lowered:
        return lowered.index(label.lower())
    if label.isdigit() and 1 <= int(label) <= len(cells):
        return int(label) - 1
    hint = did_you_mean(label, cells) if header else f"its columns are 1 to {len(cells)}"
    raise InputError(f"{path}: there is no column '{label}'", hint=hint)


def _is_word(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return True
    return False


def _chunks(path: Path, header: bool) -> Iterator[Chunk]:
    """The lines of a file in portions; the first one with words is left out where there is one."""
    first, skip = 1, header
    try:
        with path.open(encoding="utf-8-sig") as file:
            while lines := file.readlines(CHUNK):
                number = first
                first += len(lines)
                if skip:
                    at = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
                    lines, number, skip = lines[at + 1 :], number + at + 1, at == len(lines)
                if any(line.strip() for line in lines):
                    yield Chunk(lines, number)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this is not a text file ({error.reason})") from None


def _classes(words: list[Array]) -> tuple[Array, tuple[str, ...]]:
    """Labels as numbers (integers where they are, else as given), or as classes with names."""
    joined = np.concatenate(words)
    try:
        numbers = joined.astype(np.float64)
    except ValueError:
        names, codes = np.unique(joined, return_inverse=True)
        return codes.astype(np.int64), tuple(names.tolist())
    whole = np.isfinite(numbers).all() and (numbers == np.trunc(numbers)).all()
    return numbers.astype(np.int64 if whole else np.float32), ()
