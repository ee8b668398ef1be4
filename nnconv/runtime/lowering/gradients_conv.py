"""Convolutions whose weights change from step to step, and their gradients, with samples in lanes.

Weights that are stored for good are packed and belong to conv.py; these are read where they lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.arrays import Border
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.samples_conv import (
    sample_conv,
    sample_conv_data,
    sample_conv_weights,
)
from nnconv.runtime.lowering.activation import after
from nnconv.runtime.lowering.claims import Claim, Read, Scope, image, lowers, sizes
from nnconv.runtime.lowering.gradients_pool import argmax_place, pools_like, remembered
from nnconv.runtime.lowering.layout import Place, dense_array, is_float
from nnconv.runtime.ops.windows import geometry

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

_MOST_CELLS = 6  # of a pooling window that one tile computes


@dataclass(frozen=True, slots=True)
class _Geometry:
    """What the three products of a convolution have in common."""

    window: Window
    x: tuple[int, int, int, int]
    y: tuple[int, int, int, int]

    @property
    def reach(self) -> Border:
        return self.window.reach(dense_array(self.x, 1), dense_array(self.y, 1))


def _geometry(node: Node, x: Value, weights: Value, y: Value) -> _Geometry | None:
    """None where an operand is no image, or a pad is negative."""
    source, goal = image(x), image(y)
    if source is None or goal is None or not is_float(weights) or len(sizes(weights)) != 4:
        return None
    kernel = sizes(weights)[2:]
    where = geometry(source[2:], kernel, node.strides, node.pads, node.dilations, node.auto_pad)
    if min(*where.begins, *where.ends) < 0:
        return None
    window = Window(*(_pair(item) for item in where[:4]))
    return _Geometry(window, source, goal)


def _pair(given: tuple[int, ...]) -> tuple[int, int]:
    return int(given[0]), int(given[1])


def plain(builder: Builder, value: Value) -> Place:
    """A value as the source has it: stored, or where the run finds it."""
    return (
        builder.constant(value)
        if builder.scope.constant(value) is not None
        else builder.read(value, 1)
    )


def plain_reads(values: tuple[Value | None, ...], scope: Scope) -> tuple[Read, ...]:
    """Reads of those that are not stored."""
    return tuple(Read(v, 1) for v in values if v is not None and scope.constant(v) is None)


@lowers("Conv")
def conv(node: Node, scope: Scope) -> Claim | None:
    """Conv [+ activation | + MaxPool that its gradient remembers]."""
    x, w, b = node.required(0), node.required(1), node.input(2)
    where = _geometry(node, x, w, node.output)
    if where is None or (b is not None and not is_float(b)):
        return None
    if all(scope.constant(v) is not None for v in (w, b) if v is not None):
        return None  # packed: conv.py
    lanes = -scope.width
    pool = _pooling(node, scope)
    last, activation = (None, Activation()) if pool else after(node.output, scope)
    nodes = (node, *([last] if last else []), *([pool] if pool else []))
    y = nodes[-1].output
    cells = _pair(tuple(pool.kernel_shape)) if pool else (1, 1)

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, lanes), builder.write(y)
        kernel = sample_conv(
            builder.target, source.view, made.view, where.window, groups=node.group,
            bias=b is not None, activation=activation, pool=cells,
        )  # fmt: skip
        operands = [source, plain(builder, w), *([plain(builder, b)] if b else []), made]
        if pool:
            operands.append(argmax_place(builder, pool))
        builder.job(kernel, *operands)
        return f"sample conv {kernel.channels}x{kernel.columns}x{kernel.images}"

    reads = (Read(x, lanes, where.reach), *plain_reads((w, b), scope))
    return Claim(nodes, reads, y, lanes, emit)


def _pooling(node: Node, scope: Scope) -> Node | None:
    """The MaxPool behind a convolution, where nothing but its gradient needs to see what it pools
    and its windows tile the image."""
    y = image(node.output)
    found = [r for r in node.output.consumers if remembered(r)]
    if y is None or len(found) != 1 or found[0] in scope.taken:
        return None
    pool = found[0]
    size = tuple(pool.kernel_shape)
    made = image(pool.output)
    tiles = made is not None and tuple(pool.strides or ()) == size and not any(pool.pads or ())
    if not tiles or made is None or (made[2] * size[0], made[3] * size[1]) != y[2:]:
        return None
    hidden = all(r is pool or pools_like(r, pool) for r in node.output.consumers)
    if not hidden or scope.is_result(node.output) or size[0] * size[1] > _MOST_CELLS:
        return None
    return pool


@lowers("nnconv.ConvGradData")
def conv_grad_data(node: Node, scope: Scope) -> Claim | None:
    dy, w, dx = node.required(0), node.required(1), node.output
    where = _geometry(node, dx, w, dy)
    if where is None:
        return None
    window = where.window
    if any(min(pair) > 1 for pair in zip(window.stride, window.dilation, strict=True)):
        return None
    lanes = -scope.width

    def emit(builder: Builder) -> str:
        slope, made = builder.read(dy, lanes), builder.write(dx)
        kernel = sample_conv_data(builder.target, slope.view, made.view, where.window, node.group)
        builder.job(kernel, slope, plain(builder, w), made)
        return f"sample conv data {kernel.channels}x{kernel.images}"

    reads = (Read(dy, lanes), *plain_reads((w,), scope))
    return Claim((node,), reads, dx, lanes, emit)


@lowers("nnconv.ConvGradWeights")
def conv_grad_weights(node: Node, scope: Scope) -> Claim | None:
    x, dy, dw = node.required(0), node.required(1), node.output
    where = _geometry(node, x, dw, dy)
    if where is None:
        return None
    lanes = -scope.width

    def emit(builder: Builder) -> str:
        source, slope, made = builder.read(x, lanes), builder.read(dy, lanes), builder.write(dw)
        kernel = sample_conv_weights(
            builder.target, source.view, slope.view, where.window, where.x[0], node.group
        )
        builder.job(kernel, source, slope, made)
        return f"sample conv weights {kernel.channels}x{kernel.depth}x{kernel.taps}"

    return Claim((node,), (Read(x, lanes, where.reach), Read(dy, lanes)), dw, 1, emit)
