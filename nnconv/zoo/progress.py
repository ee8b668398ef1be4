"""How a person sees a download go on: a bar on a terminal, a few plain lines anywhere else, on
stderr.

The zoo tells a `Watch` what happens; what is shown is the watch's business.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

STEP = 0.25  # a plain line each time this part of a file has come


class Watch:
    """Sees what happens and shows nothing."""

    def begin(self, name: str, done: int, total: int | None) -> None:
        """The file `name` of `total` bytes (None: not known) is being fetched, `done` are here."""

    def advance(self, done: int) -> None:
        """So many bytes of the file are here now."""

    def end(self) -> None:
        """The file is whole, or was given up."""

    def say(self, text: str) -> None:
        """Something that a waiting person should know."""


class Lines(Watch):
    """Plain lines: at the beginning, at every quarter, and what else there is to say."""

    def __init__(self) -> None:
        self._name, self._total, self._next = "", 0, 0.0

    def begin(self, name: str, done: int, total: int | None) -> None:
        self._name, self._total = name, total or 0
        self._next = (done / self._total if self._total else 0.0) + STEP
        self.say(f"fetching {name}" + (f", {size(self._total)}" if total else ""))

    def advance(self, done: int) -> None:
        if self._total and done / self._total >= self._next:
            part = done / self._total
            self._next = part + STEP
            self.say(f"{self._name}: {part:.0%}")

    def say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class Bar(Watch):
    """A moving bar with speed and time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def begin(self, name: str, done: int, total: int | None) -> None:
        self.end()
        self._task = self._progress.add_task(name, completed=done, total=total)

    def advance(self, done: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done)

    def end(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)


@contextlib.contextmanager
def shown() -> Iterator[Watch]:
    """The watch that suits where stderr goes."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield Bar(bars)


def size(number: float) -> str:
    """A number of bytes in a readable unit.

    >>> size(4959758)
    '5.0 MB'
    """
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
