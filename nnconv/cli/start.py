"""The door of the program: signals have their meaning before anything slow is imported.

An interrupt (Ctrl-C), a request to end (SIGTERM) and a terminal that goes away (SIGHUP) all become
one KeyboardInterrupt, so that whatever writes a file removes what it has begun; a second one kills.
Inside somebody else's process `main` is the door, and signals stay theirs.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_NAMES = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "the terminal went away"}
_MEANING = {getattr(signal, name): text for name, text in _NAMES.items() if hasattr(signal, name)}


def run() -> int:
    """The exit code of the command line; 128 + the signal's number where one ended it."""
    try:
        _listen()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="backslashreplace")  # names of files may be any bytes
        sys.unraisablehook = _postpone
        from nnconv.cli.main import main

        code = main()
    except KeyboardInterrupt as error:  # as modules were imported
        text, code = error.args or (_MEANING[signal.SIGINT], 128 + signal.SIGINT)
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{text}\n")
    # nothing is left to clean up: a signal may kill what only ends
    for number in _MEANING:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)
    return code


def _listen() -> None:
    for number in _MEANING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt(_MEANING[number], 128 + number)


def _postpone(unraisable: UnraisableHookArgs) -> None:
    """A signal that came where no exception can be raised (a callback, a finaliser) comes again
    as soon as one can."""
    error = unraisable.exc_value
    if not isinstance(error, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    number = error.args[1] - 128 if error.args else signal.SIGINT
    signal.signal(number, _end)
    signal.raise_signal(number)
