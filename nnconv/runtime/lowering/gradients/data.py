"""The data gradient of a convolution with stride 1: a convolution with the weights turned around.

That runs in tiles of columns over a border of zeros, about twice as fast as the kernel that leaves
out what lies outside; where most of a narrow map would meet nothing, that one stays ahead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.samples.conv import sample_conv
from nnconv.runtime.lowering.claims import Claim, Read, Scope, image, lowers, sizes
from nnconv.runtime.lowering.gradients.conv import plain, plain_reads
from nnconv.runtime.lowering.layout import dense_array, is_float
from nnconv.runtime.ops.windows import geometry

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node

_MOST_IN_VAIN = 1.6  # products with the border and all, to those that count


@lowers("nnconv.ConvGradData", first=True)
def turned(node: Node, scope: Scope) -> Claim | None:
    dy, w, dx, lanes = node.required(0), node.required(1), node.output, -scope.width
    window = _window(node)
    if window is None:
        return None
    slope, made = image(dy), image(dx)
    assert slope is not None and made is not None
    reach = window.reach(dense_array(slope, 1), dense_array(made, 1))

    def emit(builder: Builder) -> str:
        source, goal = builder.read(dy, lanes), builder.write(dx)
        kernel = sample_conv(
            builder.target, source.view, goal.view, window, groups=node.group, bias=False,
            turned=True,
        )  # fmt: skip
        builder.job(kernel, source, plain(builder, w), goal)
        return f"sample conv data turned {kernel.channels}x{kernel.columns}x{kernel.images}"

    return Claim((node,), (Read(dy, lanes, reach), *plain_reads((w,), scope)), dx, lanes, emit)


def _window(node: Node) -> Window | None:
    """The window of the convolution with turned weights, where that is worth it."""
    slope, made, w = image(node.required(0)), image(node.output), node.required(1)
    if slope is None or made is None or not is_float(w) or len(sizes(w)) != 4:
        return None
    where = geometry(made[2:], sizes(w)[2:], node.strides, node.pads, node.dilations, node.auto_pad)
    if set(where.strides) != {1} or min(*where.begins, *where.ends) < 0:
        return None
    products = useful = 1
    pads = []
    axes = zip(where.kernel, where.dilations, where.begins, made[2:], slope[2:], strict=True)
    for size, dilation, pad, extent, count in axes:
        pads.append(int(dilation * (size - 1) - pad))
        products *= size * extent
        firsts = (tap * dilation - pad for tap in range(size))
        useful *= sum(max(0, min(extent, first + count) - max(0, first)) for first in firsts)
    if min(pads) < 0 or products > _MOST_IN_VAIN * useful:
        return None
    kernel, apart = ((int(a), int(b)) for a, b in (where.kernel, where.dilations))
    return Window(kernel, (1, 1), apart, (pads[0], pads[1]))
