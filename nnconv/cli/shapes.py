"""The option `--input-shape`, which several verbs have."""

from __future__ import annotations

from collections.abc import Iterable

from nnconv.schemas.errors import InputError

SHAPE_HELP = "The size of an input, where the file leaves it open or another is wanted."


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The shapes by input name."""
    return dict(map(parse_shape, texts))


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`NAME:1,3,224,224` as a name and a shape; names may hold colons.

    >>> parse_shape("data:1,3,224,224")
    ('data', (1, 3, 224, 224))
    """
    name, _, numbers = text.rpartition(":")
    try:
        if not name:
            raise ValueError
        return name, tuple(int(number) for number in numbers.split(",") if number)
    except ValueError:
        hint = "as in --input-shape data:1,3,224,224"
        raise InputError(f"--input-shape {text}: this is not NAME:N,C,H,W", hint=hint) from None
