"""What the operators of our own domain mean, said in standard operators.

A body is built when it is asked for, for the sizes known then and the mode of the run: it emits
nodes and returns the values that take the place of the node's outputs, or None, before it has
emitted anything, where the standard operators cannot say it. With a body an operator has gradients,
an export and a reference before anyone writes a kernel for it.

The bodies register themselves when this package is imported.
"""

from importlib import import_module
from pkgutil import iter_modules

from nnconv.schemas.functions.registry import BODIES, Body, body_of, expand, function

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["BODIES", "Body", "body_of", "expand", "function"]
