"""`python strike.py EVENT TEXT SIGNAL WORDS...`: nnconv WORDS, and at the first audit event of this
name about something with this text in its name, the signal comes."""

import os
import signal
import sys
from typing import Any

event, text, name, *sys.argv[1:] = sys.argv[1:]
struck: list[str] = []


def hook(what: str, about: tuple[Any, ...]) -> None:
    if what == event and not struck and text in str(about[0]):
        struck.append(what)
        os.kill(os.getpid(), getattr(signal, name))


from nnconv.cli.start import run  # noqa: E402  # before the hook: the interpreter's own start

sys.addaudithook(hook)
sys.exit(run())
