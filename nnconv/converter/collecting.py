"""Python's garbage collector stands still while a model is read.

A graph is made of many small objects that all stay, and the collector would walk over all of them
again and again: half the time of a large import.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No collection until the block ends; one that somebody else has switched off stays off."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
