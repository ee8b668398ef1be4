"""What users hold in their hands: it ties the converter, the runtime and the zoo together.

Everything here is also found in `nnconv` itself: `nnconv.load`, `nnconv.save`, `nnconv.compile` ...
A name is imported when it is first used: looking into a model needs nothing of what runs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnconv.api.files import load, save
    from nnconv.api.pictures import picture
    from nnconv.api.running import compile
    from nnconv.runtime.executor import Executable
    from nnconv.schemas.graph import Model

_HOMES = {
    "load": "nnconv.api.files",
    "save": "nnconv.api.files",
    "picture": "nnconv.api.pictures",
    "compile": "nnconv.api.running",
    "Executable": "nnconv.runtime.executor",
    "Model": "nnconv.schemas.graph",
}

__all__ = ["Executable", "Model", "compile", "load", "picture", "save"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nnconv.api' has no attribute '{name}'")
    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found
