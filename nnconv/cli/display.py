"""What a person sees while a model is trained: a live line at a terminal, plain lines elsewhere.

Everything goes to stderr, because stdout belongs to results.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

import click

from nnconv.runtime.training.metrics import Lap, Record, Validation

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


class PlainDisplay:
    """One line a record."""

    def __init__(self, total: int) -> None:
        self.total = total

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def saw(self, record: Record) -> None:
        click.echo(describe(record, self.total), err=True)


class LiveDisplay:
    """A progress bar with the last figures; validations stay above it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._bar, self._task = _bar(total)

    def __enter__(self) -> LiveDisplay:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def saw(self, record: Record) -> None:
        if isinstance(record, Validation):
            self._bar.console.print(describe(record, self.total), highlight=False)
            return
        self._bar.update(
            self._task, completed=record.iteration, figures=_figures(record),
            left=remaining(record, self.total),
        )  # fmt: skip


def display(total: int, quiet: bool = False) -> PlainDisplay | LiveDisplay:
    """The display for a run of `total` iterations, as stderr allows it."""
    if quiet:
        return _Silent(total)
    return LiveDisplay(total) if sys.stderr.isatty() else PlainDisplay(total)


class _Silent(PlainDisplay):
    def saw(self, record: Record) -> None:
        pass


def describe(record: Record, total: int) -> str:
    """A record as a line of text."""
    head = f"iteration {record.iteration:>{len(str(total))}}/{total}  epoch {record.epoch:.2f}"
    if isinstance(record, Lap):
        return f"{head}  {_figures(record)}  {remaining(record, total)} left"
    accuracy = "" if record.accuracy is None else f"  accuracy {record.accuracy:.2%}"
    return f"{head}  validation loss {record.loss:.4f}{accuracy}  ({record.samples:,} samples)"


def _figures(record: Lap) -> str:
    speed = f"{record.samples_per_second:,.0f} samples/s"
    return f"loss {record.loss:.4f}  lr {record.lr:.3g}  {speed}"


def remaining(record: Lap, total: int) -> str:
    """The time that the rest of the run takes at the speed of the last report.

    >>> remaining(Lap(100, 1.0, 0.5, 0.01, 3200.0, 10.0), 1000)
    '1:30'
    """
    if not record.iteration or not record.seconds:
        return "?"
    seconds = round(record.seconds / record.iteration * (total - record.iteration))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _bar(total: int) -> tuple[Bar, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"),
        TextColumn("{task.fields[left]} left"), console=Console(stderr=True), transient=True,
        refresh_per_second=4,
    )  # fmt: skip
    return bar, bar.add_task("train", total=total, figures="", left="?")
