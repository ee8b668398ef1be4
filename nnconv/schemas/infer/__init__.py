"""Type and shape inference, one module a family of operators.

The families register themselves when this package is imported; `infer_node` applies the rule of one node.
"""

from importlib import import_module
from pkgutil import iter_modules

from nnconv.schemas.infer.registry import RULES, infer_node, infers

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["RULES", "infer_node", "infers"]
