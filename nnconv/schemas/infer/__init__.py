"""Type and shape inference, one module a family of operators.

The families register themselves when this package is imported; `infer_node` applies the rule of one
node, `infer_graph` those of all.
"""

from importlib import import_module
from pkgutil import iter_modules

from nnconv.schemas.infer.registry import CONTENTS, RULES, infer_graph, infer_node, infers, knows

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["CONTENTS", "RULES", "infer_graph", "infer_node", "infers", "knows"]
