"""The kinds of fresh parameters: Caffe's, which every format here takes over."""

from __future__ import annotations

FILLERS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "uniform": ("min", "max"),
    "gaussian": ("mean", "std", "sparse"),
    "positive_unitball": (),
    "xavier": ("variance_norm",),
    "msra": ("variance_norm",),
    "bilinear": (),
}
"""The types of a `Filler`, each with the options that it looks at."""
