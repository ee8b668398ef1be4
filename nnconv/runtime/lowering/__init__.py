"""From a bound graph to a plan of kernel jobs: one module a family of operators, as in ops/ and
kernels/.

The families register their rules when this package is imported (`claims.lowers`); there is no
central list. `build.lower` runs them over a graph.
"""

from importlib import import_module
from pkgutil import walk_packages

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)
