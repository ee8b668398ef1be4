"""`.nnir` and `.nnirtxt`: a Model on disk (ir.proto says what stands where).

The binary file is one protobuf message whose last field holds the weights. It is not parsed as
such: the few top-level fields are walked over a memory map, all but the weights are parsed, and
arrays are views of the map. So a file opens in the time its header takes, and is read from disk as
it is used.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from google.protobuf.message import DecodeError

from nnconv.schemas import ir_pb2 as ir
from nnconv.schemas.errors import InputError, NnconvError, SourceSpan
from nnconv.schemas.files import AnyPath, atomic_write, map_file, storable
from nnconv.schemas.graph import Model
from nnconv.schemas.pack import ALIGNMENT, Weights, pack
from nnconv.schemas.unpack import unpack

PRODUCER = "nnconv"
TEXT_SUFFIX = ".nnirtxt"
MOST_FIELDS = 10_000
"""Top-level fields of a file; an ordinary one has a dozen, and one for each pair of metadata."""
MOST_SHORT = 1 << 18
"""Parts of at most three bytes in a header, beside one in six bytes: each takes up to 100 bytes
once parsed. Tiny values and nodes have fewer."""

_SHORT = re.compile(rb"[\x0a\x12\x1a\x22\x2a\x32\x3a\x42\x4a\x52\x5a\x62][\0-\3]")
_PADDING, _WEIGHTS = 14 << 3 | 2, 15 << 3 | 2  # their tags, one byte each
_TEXT_START = re.compile(rb"\s*(#[^\n]*\s*)*format\s*:")


def load(source: AnyPath | bytes | memoryview) -> Model:
    """Read a `.nnir` or `.nnirtxt` from a path, or from the bytes of a file that holds its weights.

    Arrays are read-only views of the file. Raises InputError for a file that is missing, damaged or
    not of this kind, UnsupportedError for operators that this nnconv lacks.
    """
    name = "" if isinstance(source, bytes | memoryview) else os.fspath(source)
    data = memoryview(source) if isinstance(source, bytes | memoryview) else map_file(source)
    try:
        if not data:
            raise InputError("the file is empty")
        data = data.cast("B")
        message, weights = _parse_text(data) if _is_text(data) else _parse(data)
        if message.weights_file:
            weights = _side_file(message, name)
        return unpack(message, weights)
    except NnconvError as error:
        if not name or any(problem.span and problem.span.file for problem in error.problems):
            raise
        first = error.problems[0]
        line = (first.span.line, first.span.column) if first.span else ()
        raise type(error)(first.message, span=SourceSpan(name, *line), hint=first.hint) from None


def save(model: Model, path: AnyPath, external: bool = False) -> None:
    """Write `model` to a `.nnir`, or as text where `path` ends in .nnirtxt; whole or not at all.

    With `external`, and always for text, the weights go to a file beside it: NAME.weights. The same
    model gives the same bytes. Raises InputError where the folder is missing or the disk full.
    """
    message, weights = pack(model, PRODUCER)
    text = os.fspath(path).lower().endswith(TEXT_SUFFIX)
    with ExitStack() as files:  # both take their places together, the weights first
        file = files.enter_context(atomic_write(path))
        if (external or text) and weights.length:
            side = Path(path).with_suffix(".weights")
            message.weights_file, message.weights_length = storable(side), weights.length
            weights.write(files.enter_context(atomic_write(side)))
            weights = Weights()
        if text:
            from google.protobuf import text_format

            file.write(text_format.MessageToString(message, as_utf8=True).encode("utf-8"))
        else:
            file.write(_head(message, weights.length))
            weights.write(file)
        file.flush()


def _head(message: ir.Model, length: int) -> bytes:
    """All that stands before the payload of `weights`, padded to a multiple of 64 bytes."""
    head = message.SerializeToString(deterministic=True)
    if not length:
        return head
    announced = bytes([_WEIGHTS]) + _varint(length)
    padding = (
        -(len(head) + 2 + len(announced)) % ALIGNMENT
    )  # 2: tag and length of the padding itself
    return head + bytes([_PADDING, padding]) + bytes(padding) + announced


def _varint(value: int) -> bytes:
    low = bytearray()
    while value > 127:
        low.append(value & 127 | 128)
        value >>= 7
    return bytes(low) + bytes([value])


def _is_text(data: memoryview) -> bool:
    return data[0] != 0x0A and _TEXT_START.match(bytes(data[:4096])) is not None


def _parse(data: memoryview) -> tuple[ir.Model, memoryview]:
    """The message without its weights, and these, of a binary file."""
    start, end, payload = _find_weights(data)
    rest = bytes(data[:start]) + bytes(data[end:])
    most = MOST_SHORT + len(rest) // 6
    if len(rest) > 2 * most and any(islice(_SHORT.finditer(rest), most, None)):
        raise InputError(
            f"the file is damaged: more than {most:,} of its parts are next to nothing"
        )
    try:
        return ir.Model.FromString(rest), data[payload:end]
    except (DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the file is damaged: {error}") from None


def _find_weights(data: memoryview) -> tuple[int, int, int]:
    """Where the field `weights` starts and ends, and where its payload starts; all the end if there
    is none.

    Every length is checked against the file; two such fields are refused.
    """
    size, position, found = len(data), 0, None
    for _ in range(MOST_FIELDS):
        if position == size:
            return found or (size, size, size)
        start = position
        tag, position = _read_varint(data, position)
        kind = tag & 7
        if kind == 2:
            length, position = _read_varint(data, position)
        elif kind == 0:
            length, (_, position) = 0, _read_varint(data, position)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise InputError("the file is damaged, or no nnconv model")
        if length > size - position:
            raise InputError(
                f"the file is damaged: a field at byte {start} should have {length} bytes, "
                f"{size - position} are left",
                hint="was it cut short?",
            )
        if tag == _WEIGHTS:
            if found:
                raise InputError("the file is damaged: it holds two fields of weights")
            found = start, position + length, position
        position += length
    raise InputError(f"the file is damaged: it has more than {MOST_FIELDS} fields")


_FIXED = {1: 8, 5: 4}


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise InputError("the file is damaged, or cut short")


def _parse_text(data: memoryview) -> tuple[ir.Model, memoryview]:
    from google.protobuf import text_format

    try:
        message = text_format.Parse(bytes(data).decode("utf-8"), ir.Model())
    except text_format.ParseError as error:
        span = SourceSpan("", error.GetLine() or 0, error.GetColumn() or 0)
        detail = str(error).partition(" : ")[2] or str(error)
        raise InputError(detail[:300], span=span) from None
    except RecursionError:
        raise InputError("the text is nested too deeply") from None
    except ValueError as error:  # bytes that are no UTF-8, numbers beyond their type
        raise InputError(f"the text cannot be read: {error}") from None
    return message, memoryview(message.weights)


def _side_file(message: ir.Model, name: str) -> memoryview:
    """The weights of a model that keeps them in a file beside it, whose name may not lead
    elsewhere."""
    side = message.weights_file
    if not name:
        raise InputError(f"the weights are in '{side}': load the model from its path")
    if side != Path(side).name or side in (".", "..", "-") or re.search(r"[\\/:\0]", side):
        raise InputError(f"the weights must be in the same folder, not in '{side}'")
    path = Path(name).parent / side
    if path.is_symlink():
        raise InputError(f"the weights file '{side}' is a link", hint="put the file itself there")
    weights = map_file(path)
    if len(weights) != message.weights_length:
        raise InputError(
            f"'{side}' has {len(weights)} bytes, the model wants {message.weights_length}",
            hint="do the two files belong together?",
        )
    return weights
