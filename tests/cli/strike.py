"""`python strike.py EVENT TEXT SIGNAL WORDS...`: nnconv WORDS, and at the first audit event of this
name about something with this text in its name, the signal comes."""

import os
import signal
import sys
from typing import Any

from nnconv.cli.start import run


def strike(event: str, text: str, name: str) -> None:
    """Have the signal sent once, when the event comes."""
    struck: list[str] = []

    def hook(what: str, about: tuple[Any, ...]) -> None:
        if what == event and not struck and text in str(about[0]):
            struck.append(what)
            os.kill(os.getpid(), getattr(signal, name))

    sys.addaudithook(hook)


if __name__ == "__main__":
    moment, sys.argv[1:] = sys.argv[1:4], sys.argv[4:]
    strike(*moment)
    sys.exit(run())
