"""How parameters start: FillerParameter, checked as Caffe checks it (filler.hpp; CAFFE.md,
section 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnconv.schemas.errors import did_you_mean
from nnconv.schemas.fillers import FILLERS
from nnconv.schemas.graph import Filler

if TYPE_CHECKING:
    from nnconv.converter.caffe.layers.layer import Layer, Settings


def read_filler(layer: Layer, p: Settings, shape: Sequence[int | None]) -> Filler:
    """The filler of a blob of `shape`; raises InputError for one that Caffe refuses."""
    if p.type not in FILLERS:
        hint = did_you_mean(p.type, FILLERS) or f"known: {', '.join(FILLERS)}"
        raise layer.error("", f"unknown filler '{p.type}'", hint=hint)
    if p.type != "gaussian" and p.sparse != -1:
        raise layer.error("", f"sparse belongs to gaussian fillers, not to {p.type}")
    if 0 in shape:
        raise layer.error(
            "",
            f"a blob of {layer.show(tuple(shape))} has nothing to fill",
            hint="is num_output missing, or the input too small?",
        )
    if p.type == "bilinear" and (len(shape) != 4 or shape[2] != shape[3]):
        raise layer.error("", f"bilinear fills square kernels only, not {layer.show(tuple(shape))}")
    options: dict[str, Any] = {name: getattr(p, name) for name in FILLERS[p.type]}
    return Filler(p.type, options)
