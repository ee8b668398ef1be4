"""How commands print: facts on stdout (tables, or JSON), everything else on stderr.

Colour and lines only where a person reads: not in a pipe, not with NO_COLOR.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from nnconv.schemas.errors import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from nnconv.schemas.errors import Report

SCHEMA = 1  # version of what --json prints; grows when a key changes its meaning or goes
PIPE_WIDTH = 160  # columns of a table that is not printed to a terminal
NARROWEST = 80  # of a table: cells folded to three letters are worse than lines that wrap


def console() -> Console:
    """Where tables go; plain text in a pipe, at COLUMNS or a generous width."""
    from rich.console import Console

    columns = os.environ.get("COLUMNS", "")
    asked = int(columns) if columns.isdecimal() else 0
    width = None if sys.stdout.isatty() else asked or PIPE_WIDTH
    return Console(
        width=width, color_system=None if os.environ.get("NO_COLOR") else "auto", highlight=False,
        soft_wrap=False, emoji=False, markup=False,
    )  # fmt: skip


def print_table(made: Table) -> None:
    """A table on stdout; in a pipe without blanks at the ends of lines."""
    out = console()
    out.width = max(out.width, NARROWEST)
    if out.is_terminal:
        out.print(made)
        return
    with out.capture() as captured:
        out.print(made)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table; a column whose name begins with `>` is set to the right."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        right = column.startswith(">")
        made.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(visible(cell)) for cell in row))
    return made


def print_json(kind: str, facts: dict[str, Any]) -> None:
    """One JSON object on stdout, with the version of its schema. NaN and inf, which JSON lacks, are
    null.
    """
    whole = {"nnconv": kind, "schema": SCHEMA, **facts}
    click.echo(json.dumps(_plain(whole), indent=2, ensure_ascii=False, allow_nan=False))


def say(message: str) -> None:
    """A line for the person at the terminal, on stderr."""
    click.echo(message, err=True)


def say_findings(report: Report) -> None:
    """The warnings of a report, on stderr; notes are for --report and --json."""
    for problem in report:
        if problem.severity == "warning":
            say(str(problem))


def count(number: int) -> str:
    return f"{number:,}"


def size(number: float) -> str:
    """A number of bytes in a readable unit.

    >>> size(1724320)
    '1.7 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
