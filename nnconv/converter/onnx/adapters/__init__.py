"""Lifts a call from any opset to the pinned one: one table of (operator, version) -> small
function.

`lift` walks through the versions at which the operator changed. Where a step has an entry here, it
is applied; where it has none, the new version accepts what the old one said and means the same by
it (types added, attributes added whose defaults keep the old behaviour).
"""

from importlib import import_module
from pkgutil import iter_modules

from nnconv.converter.onnx.adapters.registry import ADAPTERS, lift, lifts

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["ADAPTERS", "lift", "lifts"]
