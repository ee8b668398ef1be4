"""Models by name: a few that come along with nnconv, and a catalogue of those that can be fetched.

The zoo knows files: where they are, what they should hash to, and how to bring them here safely.
Reading them is done one floor up, so a zoo name works wherever nnconv takes a path: `zoo:lenet`.

    catalogue   what there is                  download   one file over HTTP: resume, retry, mirrors
    cache       what lies on this machine      archive    a zip or tar.gz unpacked without harm
    store       get, verify and clear: the three together

>>> import nnconv
>>> nnconv.zoo.find("lenet").title
'LeNet: which handwritten digit is it?'
>>> "squeezenet1.1" in nnconv.zoo.names()
True
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnconv.zoo.catalogue import PREFIX, Entry, File, find, is_zoo_name, names

if TYPE_CHECKING:
    from nnconv.schemas.graph import Model
    from nnconv.zoo.store import clear as clear
    from nnconv.zoo.store import get as get
    from nnconv.zoo.store import verify as verify

__all__ = [
    "PREFIX", "Entry", "File", "clear", "find", "get", "is_zoo_name", "load", "names", "verify",
]  # fmt: skip


def load(name: str, **options: Any) -> Model:
    """The model called `name`, fetched and converted when it is not at hand; see `nnconv.load`.

    Raises InputError where there is no such model, or it cannot be fetched.

    >>> import nnconv
    >>> nnconv.zoo.load("lenet").inputs
    [<Value data: float32 Nx1xHxW>]
    """
    # loading needs the floors above; nnconv itself, imported before its parts, knows where it is
    model: Model = sys.modules["nnconv"].load(PREFIX + name.removeprefix(PREFIX), **options)
    return model


def __getattr__(name: str) -> Any:
    if name in ("get", "verify", "clear"):
        return getattr(import_module("nnconv.zoo.store"), name)
    raise AttributeError(f"module 'nnconv.zoo' has no attribute '{name}'")
