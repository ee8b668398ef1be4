"""nnconv: read neural networks in one format, look at them, run them, write them in another.

This module is the door: what a user needs has its name here and is imported when it is first used,
so that `import nnconv` itself costs nothing.

>>> import nnconv
>>> model = nnconv.load("zoo:lenet")
>>> executable = nnconv.compile(model, device="reference")
>>> seven = nnconv.picture(model, nnconv.zoo.find("lenet").pictures / "seven.png")
>>> executable.run({"data": seven})["prob"].argmax()
np.int64(7)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnconv import zoo as zoo
    from nnconv.api import Executable, Model, compile, load, picture, save
    from nnconv.api.convert import convert
    from nnconv.api.diff import diff
    from nnconv.api.evaluate import evaluate
    from nnconv.api.expression import apply, grad, input
    from nnconv.api.finetune import finetune
    from nnconv.runtime import data as data
    from nnconv.runtime.training import Trainer
    from nnconv.schemas.errors import (
        InputError,
        MismatchError,
        MissingExtraError,
        NnconvError,
        Report,
        UnsupportedError,
    )
    from nnconv.schemas.training import TrainingSpec

__version__ = "0.1.0"

# names that are modules themselves
_MODULES = {"zoo": "nnconv.zoo", "data": "nnconv.runtime.data"}
# name -> the module that holds it
_HOMES = {
    "load": "nnconv.api",
    "save": "nnconv.api",
    "compile": "nnconv.api",
    "picture": "nnconv.api",
    "convert": "nnconv.api.convert",
    "diff": "nnconv.api.diff",
    "input": "nnconv.api.expression",
    "apply": "nnconv.api.expression",
    "grad": "nnconv.api.expression",
    "Trainer": "nnconv.runtime.training",
    "TrainingSpec": "nnconv.schemas.training",
    "Model": "nnconv.api",
    "Executable": "nnconv.api",
    "evaluate": "nnconv.api.evaluate",
    "finetune": "nnconv.api.finetune",
    "NnconvError": "nnconv.schemas.errors",
    "InputError": "nnconv.schemas.errors",
    "UnsupportedError": "nnconv.schemas.errors",
    "MissingExtraError": "nnconv.schemas.errors",
    "MismatchError": "nnconv.schemas.errors",
    "Report": "nnconv.schemas.errors",
}

__all__ = [
    "load", "save", "compile", "convert", "diff", "picture", "Model", "Executable", "zoo", "data",
    "input", "apply", "grad", "evaluate", "finetune", "Trainer", "TrainingSpec",
    "NnconvError", "InputError", "UnsupportedError", "MissingExtraError", "MismatchError", "Report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        found: Any = import_module(_MODULES[name])
    elif name in _HOMES:
        found = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'nnconv' has no attribute '{name}'")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
