"""nevermind-neu's data sets: one protobuf record a sample, or a table of comma-separated values.

Records of equal size, which is how its tools write them, are one strided view of the mapped file;
others go through protobuf.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from nnconv.converter.wire_format import LENGTH, Field, Malformed, fields
from nnconv.schemas import nevermind_pb2 as pb
from nnconv.schemas.errors import InputError, SourceSpan
from nnconv.schemas.files import AnyPath, map_file

if TYPE_CHECKING:
    from nnconv.schemas.types import Array


@dataclass(frozen=True, slots=True)
class Dataset:
    """`inputs` [N, features] and `expected` [N, labels], float32; they may be views of the file."""

    inputs: Array
    expected: Array

    def __len__(self) -> int:
        return len(self.inputs)


def read_dataset(path: AnyPath) -> Dataset:
    """The samples of a data set's file; an empty file holds none.

    Raises InputError, with the record's number, for records of different widths.
    """
    import os

    import numpy as np

    if os.path.isfile(path) and os.path.getsize(path) == 0:  # noqa: PTH113, PTH202
        return Dataset(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32))
    data = map_file(path)
    span = SourceSpan(str(path))
    try:
        first = next(fields(data, 0, len(data)))
        return _regular(data, first) or _one_by_one(data, span)
    except (Malformed, DecodeError) as error:
        raise InputError(f"this is no data set of nevermind-neu: {error}", span=span) from None


def _regular(data: memoryview, first: Field) -> Dataset | None:
    """The samples as views, None unless all records are laid out like the first one."""
    import numpy as np

    width = first.end
    if first.number != 1 or first.wire_type != LENGTH or len(data) % width:
        return None
    parts = list(islice(fields(data, first.start, first.end), 3))
    if [(part.number, part.wire_type) for part in parts] != [(1, LENGTH), (2, LENGTH)]:
        return None
    if any((part.end - part.start) % 4 for part in parts):
        return None
    records = np.frombuffer(data, np.uint8).reshape(-1, width)
    frame = np.ones(width, bool)
    for part in parts:
        frame[part.start : part.end] = False
    columns = np.flatnonzero(frame)
    if not (records[:, columns] == records[0, columns]).all():
        return None
    inputs, expected = (_view(records, part) for part in parts)
    return Dataset(inputs, expected)


def _view(records: Any, part: Field) -> Array:
    """The floats of one field of all records: a structured view, so that unaligned is no matter."""
    import numpy as np

    count = (part.end - part.start) // 4
    layout = np.dtype({"names": ["v"], "formats": [("<f4", (count,))], "offsets": [part.start],
                       "itemsize": records.shape[1]})  # fmt: skip
    values: Array = records.reshape(-1).view(layout)["v"].reshape(-1, count)
    return values


def _one_by_one(data: memoryview, span: SourceSpan) -> Dataset:
    """Records of any layout; the first that is not as wide as the first one ends it."""
    import numpy as np

    inputs: list[Array] = []
    expected: list[Array] = []
    for item in fields(data, 0, len(data), frozenset({1})):
        if item.wire_type != LENGTH:
            raise Malformed("a record is no message", item.tag)
        sample = pb.Sample.FromString(bytes(data[item.start : item.end]))
        inputs.append(np.array(sample.input, np.float32))
        expected.append(np.array(sample.expected, np.float32))
        found = (len(inputs[-1]), len(expected[-1]))
        width = (len(inputs[0]), len(expected[0]))
        if found != width:
            raise InputError(
                f"record {len(inputs) - 1} has {found[0]} inputs and {found[1]} labels, record 0 "
                f"has {width[0]} and {width[1]}",
                span=span,
            )
        if not any(found):
            raise InputError("record 0 is empty", span=span)
    if not inputs:
        return Dataset(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32))
    return Dataset(np.stack(inputs), np.stack(expected))


def read_csv(path: AnyPath, label_columns: int, *, header: bool = True) -> Dataset:
    """The rows of a table; the last `label_columns` columns are the labels, all others the inputs.

    (nevermind-neu's own loader also leaves the first label among the inputs; this one does not.)
    Raises InputError, with the line, for uneven rows and for what is no number.
    """
    import numpy as np

    text = bytes(map_file(path)).decode("utf-8", "replace")
    reader = csv.reader(io.StringIO(text, newline=""))
    rows: list[list[float]] = []
    try:
        for row in reader:
            if header and reader.line_num == 1:
                continue
            if row:
                rows.append([float(cell) for cell in row])
            if rows and row and len(rows[-1]) != len(rows[0]):
                raise ValueError(f"{len(rows[-1])} columns, the first row has {len(rows[0])}")
    except (ValueError, csv.Error) as error:
        raise InputError(str(error), span=SourceSpan(str(path), reader.line_num)) from None
    width = len(rows[0]) if rows else 0
    if rows and not 0 < label_columns < width:
        raise InputError(
            f"{label_columns} of {width} columns cannot be labels", span=SourceSpan(str(path))
        )
    table = np.array(rows, np.float32).reshape(len(rows), width)
    split = max(width - label_columns, 0)
    return Dataset(table[:, :split], table[:, split:])
