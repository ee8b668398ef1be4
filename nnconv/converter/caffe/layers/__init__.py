"""The layer rules, one module a family; importing the package registers them all."""

from importlib import import_module
from pkgutil import iter_modules

from nnconv.converter.caffe.layers.registry import READERS, WRITERS, reads, writes

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["READERS", "WRITERS", "reads", "writes"]
