"""Errors of readers that know only bytes, told with the name of their file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nnconv.converter.wire_format import Malformed
from nnconv.schemas.errors import InputError, NnconvError, SourceSpan
from nnconv.schemas.files import AnyPath


@contextmanager
def in_file(path: AnyPath) -> Iterator[None]:
    """An error raised within names the file, unless it names a place already."""
    try:
        yield
    except NnconvError as error:
        first = error.problems[0]
        span = first.span or SourceSpan(str(path))
        raise type(error)(first.message, span=span, hint=first.hint) from None


@contextmanager
def in_message(path: AnyPath, hint: str) -> Iterator[None]:
    """`in_file` for protobuf's wire format; `hint` goes with bytes that are no message."""
    from google.protobuf.message import DecodeError

    with in_file(path):
        try:
            yield
        except Malformed as error:
            message = f"the file is damaged at byte {error.offset:,}: {error.message}"
            raise InputError(message, hint=hint) from None
        except (DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"the file is damaged: {error}") from None
