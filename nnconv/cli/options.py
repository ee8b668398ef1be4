"""Options that several verbs have: each stands here once, so that it is called the same and means
the same everywhere. Values are checked as they are read, and refused in our own words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import click

from nnconv.cli.base import Command, called
from nnconv.schemas.errors import InputError, did_you_mean

Decorator = Callable[[Any], Any]
Shapes = dict[str, tuple[int, ...]]

LARGEST = 2**63 - 1  # what the formats and kernels below can hold


def verb(*examples: tuple[str, str], name: str | None = None, **more: Any) -> Decorator:
    """The function is a verb; `examples` are (command line, what it does)."""
    return click.command(name, cls=Command, examples=examples, **more)


def together(*decorators: Decorator) -> Decorator:
    """Several options as one, in the order in which help lists them."""
    return lambda function: reduce(lambda f, decorate: decorate(f), reversed(decorators), function)


# --- kinds of values --------------------------------------------------------------------------


class Number(click.ParamType):  # type: ignore[type-arg]  # click before 8.4 knows no argument
    """A finite number of one kind, within bounds that are part of the message."""

    def __init__(
        self, kind: type[int] | type[float] = float, *, least: float | None = None,
        above: float | None = None,
    ) -> None:  # fmt: skip
        self.kind = kind
        self.least = least
        self.above = above
        self.name = "integer" if kind is int else "float"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | float:
        try:
            number = self.kind(value)
            if not math.isfinite(number) or abs(number) > LARGEST:
                raise ValueError
        except (ValueError, OverflowError):
            what = "a whole number" if self.kind is int else "a number"
            raise InputError(f"{called(param)} {value}: this is not {what}") from None
        if self.least is not None and number < self.least:
            raise InputError(f"{called(param)} must be at least {self.least:g}, got {value}")
        if self.above is not None and number <= self.above:
            raise InputError(f"{called(param)} must be more than {self.above:g}, got {value}")
        return number


class OneOf(click.Choice):  # type: ignore[type-arg]  # as above
    """One of a few words; a mistyped one is answered with the nearest."""

    def __init__(self, *words: str) -> None:
        super().__init__(words, case_sensitive=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        word = str(value).lower()
        if word not in self.choices:
            listed = ", ".join(self.choices)
            hint = did_you_mean(word, self.choices)
            raise InputError(f"{called(param)} {value}: there are only {listed}", hint=hint)
        return word


COUNT = Number(int, least=1)
PHASES = OneOf("test", "train")


def _shapes(context: click.Context, param: click.Parameter, texts: Sequence[str]) -> Shapes:
    found: Shapes = {}
    for text in texts:
        name, shape = parse_shape(text)
        if name in found:
            raise InputError(f"{called(param)} {text}: the shape of '{name}' is given twice")
        found[name] = shape
    return found


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`NAME:1,3,224,224` as a name and a shape; names may hold colons. `=` and `x` do as well.

    >>> parse_shape("data:1,3,224,224")
    ('data', (1, 3, 224, 224))
    >>> parse_shape("a:b=1x3x8x8")
    ('a:b', (1, 3, 8, 8))
    """
    at = max(text.rfind(":"), text.rfind("="))
    parts = text[at + 1 :].replace("x", ",").split(",")
    if at < 1 or not all(part.isdecimal() and len(part) < 13 for part in parts):
        hint = "as in --input-shape data:1,3,224,224"
        raise InputError(f"--input-shape {text}: this is not NAME:N,C,H,W", hint=hint)
    return text[:at], tuple(map(int, parts))


def _mean(
    context: click.Context, param: click.Parameter, text: str | None
) -> str | list[float] | None:
    """`104,117,123` as numbers; anything else is a file name."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text


def names(context: click.Context, param: click.Parameter, texts: Sequence[str]) -> tuple[str, ...]:
    """Names apart by commas, or from options given several times."""
    for text in texts:
        if not all(name.strip() for name in text.split(",")):
            raise InputError(f"{called(param)} '{text}': a name is missing")
    return tuple(name.strip() for text in texts for name in text.split(","))


# --- the table --------------------------------------------------------------------------------

MODEL = click.argument("model_file", metavar="MODEL")
WEIGHTS = click.option("--weights", metavar="FILE", help="The .caffemodel of a .prototxt.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
REPORT = click.option(
    "--report", "report_file", metavar="FILE.json", help="Write all findings as JSON."
)
SHAPES = click.option(
    "--input-shape", "shapes", metavar="NAME:N,C,H,W", multiple=True, callback=_shapes,
    help="The size of an input, where the file leaves it open or another is wanted.",
)  # fmt: skip
PHASE = click.option(
    "--phase", type=PHASES, help="Which of a net's layers to take.  [default: test]"
)
MODE = click.option("--mode", type=PHASES, help="How layers such as Dropout behave.")
SCALE = click.option(
    "--scale", type=Number(), metavar="X", help="Factor on the pixels, after the mean."
)
MEAN = click.option(
    "--mean", metavar="FILE|B,G,R", callback=_mean,
    help="Mean to subtract: a .binaryproto, or numbers.",
)  # fmt: skip
LABELS = click.option("--labels", metavar="FILE", help="Names of the classes, one a line.")
PIXELS = together(MEAN, SCALE, LABELS)
LOSS = click.option("--loss", metavar="NAME", help="The loss, where the model does not say it.")
SCORES = click.option(
    "--scores", metavar="OUTPUT", help="The output that the loss is of, where there are several."
)
COLUMN = click.option("--label", metavar="COLUMN", help="The label column of a CSV.")
BATCH = click.option("--batch", type=COUNT, help="Size of the first axis of all inputs.")
THREADS = click.option("--threads", type=COUNT, help="How many (default: all cores).")


def device(help: str = "Where to run: see `nnconv devices`.") -> Decorator:
    return click.option("--device", metavar="NAME", help=help)


def output(metavar: str, help: str = "The model to write.", required: bool = True) -> Decorator:
    return click.option("-o", "--output", metavar=metavar, required=required, help=help)
