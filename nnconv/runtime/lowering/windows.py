"""Windows over any number of spatial axes, as kernels take them: over the last two.

A sequence is an image of one row, a value without spatial axes an image of one pixel; both lie in
memory as such an image does, so only numbers change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.lowering.claims import sizes
from nnconv.runtime.lowering.layout import is_float
from nnconv.runtime.ops.windows import Geometry, geometry

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value

Image = tuple[int, int, int, int]
_NEUTRAL = {"kernel": 1, "strides": 1, "dilations": 1, "begins": 0, "ends": 0}


def plane(value: Value | None) -> Image | None:
    """Batch, channels, height and width of a float value with at most two spatial axes."""
    if value is None or not is_float(value) or not 2 <= len(sizes(value)) <= 4:
        return None
    batch, channels, *spatial = sizes(value)
    height, width = (*_lead(spatial, 1), *spatial)
    return batch, channels, height, width


def _lead(axes: Sequence[int], neutral: int) -> tuple[int, ...]:
    """What stands before the axes that are there, so that two of them are."""
    return (neutral,) * (2 - len(axes))


@dataclass(frozen=True, slots=True)
class Planar:
    """A window over two axes, and the padding at their ends (the window has that before them)."""

    window: Window
    ends: tuple[int, int]


def planar(where: Geometry) -> Planar | None:
    """A geometry over at most two axes; None where a pad is negative, which kernels do not
    follow."""
    if len(where.kernel) > 2 or min((*where.begins, *where.ends), default=0) < 0:
        return None
    found = []
    for name, neutral in _NEUTRAL.items():
        axes = tuple(int(n) for n in getattr(where, name))
        height, width = (*_lead(axes, neutral), *axes)
        found.append((height, width))
    return Planar(Window(*found[:4]), found[4])


def conv_geometry(node: Node, x: tuple[int, ...], weights: tuple[int, ...]) -> Geometry | None:
    """Where the windows of a convolution or of its gradients lie, by the sizes of the data and of
    the weights; None where these do not belong together."""
    if len(x) != len(weights) or len(x) < 2:
        return None
    return geometry(x[2:], weights[2:], node.strides, node.pads, node.dilations, node.auto_pad)


def pool_geometry(node: Node, x: tuple[int, ...]) -> Geometry:
    """Where the windows of a pool or of its gradient lie; Caffe's has neither dilations nor
    automatic padding."""
    known = node.arguments()
    dilations, auto_pad = known.get("dilations"), known.get("auto_pad", "NOTSET")
    return geometry(x[2:], node.kernel_shape, node.strides, node.pads, dilations, auto_pad)
