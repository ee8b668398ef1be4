"""What operators mean: a plain numpy function for each, with its cost beside it, one module a
family.

The families register themselves when this package is imported; there is no central list.
"""

from importlib import import_module
from pkgutil import iter_modules

from nnconv.runtime.ops.registry import (
    KERNELS,
    Call,
    Cost,
    Kernel,
    bind,
    cost_of,
    evaluate_node,
    has_kernel,
    is_free,
    is_kept,
    kernel,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "KERNELS",
    "Call",
    "Cost",
    "Kernel",
    "bind",
    "cost_of",
    "evaluate_node",
    "has_kernel",
    "is_free",
    "is_kept",
    "kernel",
]
