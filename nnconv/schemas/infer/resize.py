"""Shapes of resampling: Resize and its ancestor Upsample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nnconv.schemas.dims import Dim, Shape
from nnconv.schemas.errors import InputError
from nnconv.schemas.infer.registry import Result, Unknown, infers
from nnconv.schemas.infer.support import axes, need_rank, shape, sizes

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value


@infers("Resize")
def resize(node: Node) -> Result:
    """Sizes as stated, or floor(size * scale), on the named axes (ONNX Resize-19)."""
    x = node.required(0)
    dims = shape(x)
    places = axes(node.axes, len(dims)) if node.axes else tuple(range(len(dims)))
    stated = node.input(3)
    if stated is not None and stated.shape != (0,):
        wanted = _fitted(node, [dims[place] for place in places], sizes(stated))
    else:
        factors = scales(node.required(2), len(places))
        wanted = tuple(
            scaled(dims[place], factor) for place, factor in zip(places, factors, strict=True)
        )
    if len(wanted) != len(places):
        raise InputError(f"sizes should have {len(places)} numbers, got {len(wanted)}")
    result = list(dims)
    for place, size in zip(places, wanted, strict=True):
        result[place] = size
    return [(x.dtype, tuple(result))]


@infers("Upsample")
def upsample(node: Node) -> Result:
    x = node.required(0)
    dims = need_rank(x, 1)
    factors = scales(node.required(1), len(dims))
    return [(x.dtype, tuple(map(scaled, dims, factors)))]


def scales(value: Value, count: int) -> list[float]:
    """The `count` scale factors stored in `value`."""
    if value.data is None or value.parameter is not None:
        raise Unknown
    if value.data.shape != (count,):
        raise InputError(f"scales should have {count} numbers, got {value.data.size}")
    factors: list[float] = value.data.tolist()
    if not all(0 < factor < math.inf for factor in factors):
        raise InputError(f"scales must be positive numbers, got {factors}")
    return factors


def scaled(dim: Dim, factor: float) -> Dim:
    """floor(dim * factor), the product exact: a float is a fraction whose divisor is a power of
    two."""
    above, below = factor.as_integer_ratio()
    return dim * above // below


def _fitted(node: Node, dims: list[Dim], wanted: Shape) -> Shape:
    """`wanted` itself, or with one scale for all axes when the aspect ratio is to be kept."""
    if node.keep_aspect_ratio_policy == "stretch":
        return wanted
    if len(dims) != len(wanted):
        raise InputError(f"sizes should have {len(dims)} numbers, got {len(wanted)}")
    if not all(isinstance(dim, int) and dim for dim in (*dims, *wanted)):
        raise Unknown
    ratios = [size / dim for size, dim in zip(wanted, dims, strict=True)]  # type: ignore[operator]
    scale = min(ratios) if node.keep_aspect_ratio_policy == "not_larger" else max(ratios)
    return tuple(math.floor(scale * dim + 0.5) for dim in dims)  # type: ignore[operator]
