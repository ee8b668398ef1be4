"""Convolutions whose weights change from step to step, and their gradients, with samples in lanes.

Weights that are stored for good are packed and belong to conv.py; these are read where they lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.arrays import Border
from nnconv.runtime.kernels.axis import Axis
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.samples.conv import sample_conv, sample_conv_weights
from nnconv.runtime.kernels.samples.windows import (
    Volume,
    WindowsConv,
    WindowsConvData,
    windows_conv_weights,
    windows_tile,
)
from nnconv.runtime.lowering.activation import after
from nnconv.runtime.lowering.claims import Claim, Read, Scope, image, lowers, sizes
from nnconv.runtime.lowering.gradients.pool import argmax_place, pools_like, remembered
from nnconv.runtime.lowering.layout import Place, dense_array, is_float
from nnconv.runtime.lowering.windows import Image, conv_geometry, planar, plane
from nnconv.runtime.ops.conv import Transposed, transposed_geometry
from nnconv.runtime.ops.windows import Geometry

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

_MOST_CELLS = 6  # of a pooling window that one tile computes


@dataclass(frozen=True, slots=True)
class _Geometry:
    """What the three products of a convolution have in common, over at most two axes."""

    window: Window
    x: Image
    y: Image

    @property
    def reach(self) -> Border:
        return self.window.reach(dense_array(self.x, 1), dense_array(self.y, 1))


def _geometry(node: Node, x: Value, weights: Value, y: Value) -> _Geometry | None:
    """None where there are more axes, or a pad is negative."""
    source, goal = plane(x), plane(y)
    if source is None or goal is None or not is_float(weights):
        return None
    where = conv_geometry(node, sizes(x), sizes(weights))
    found = planar(where) if where else None
    return _Geometry(found.window, source, goal) if found else None


def _axes(where: Geometry | Transposed) -> tuple[Axis, ...]:
    names = (where.kernel, where.strides, where.dilations, where.begins)
    return tuple(Axis(*map(int, axis)) for axis in zip(*names, strict=True))


def _over_axes(node: Node, x: Value, weights: Value) -> tuple[Axis, ...] | None:
    """The windows of a convolution over any number of axes."""
    if not is_float(x) or not is_float(weights):
        return None
    where = conv_geometry(node, sizes(x), sizes(weights))
    return None if where is None or min(where.dilations, default=1) < 1 else _axes(where)


def _volume(place: Place, value: Value) -> Volume:
    return Volume.over(place.view, sizes(value)[2:])


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
    cells = (int(pool.kernel_shape[0]), int(pool.kernel_shape[1])) if pool else (1, 1)

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


@lowers("Conv")
def conv_over_axes(node: Node, scope: Scope) -> Claim | None:
    """Conv [+ activation] over any number of axes."""
    x, w, b = node.required(0), node.required(1), node.input(2)
    axes = _over_axes(node, x, w)
    if axes is None or (b is not None and not is_float(b)):
        return None
    return _tiled(WindowsConv, node, axes, x, scope)


@lowers("nnconv.ConvGradData")
def conv_grad_data(node: Node, scope: Scope) -> Claim | None:
    dy, w = node.required(0), node.required(1)
    axes = _over_axes(node, node.output, w)
    if axes is None or not is_float(dy):
        return None
    return _tiled(WindowsConvData, node, axes, dy, scope)


@lowers("ConvTranspose")
def conv_transpose(node: Node, scope: Scope) -> Claim | None:
    """ConvTranspose [+ activation]: the data gradient of the convolution with the same weights."""
    x, w, b = node.required(0), node.required(1), node.input(2)
    if not is_float(x) or not is_float(w) or (b is not None and not is_float(b)):
        return None
    if len(sizes(x)) != len(sizes(w)):
        return None
    where = transposed_geometry(
        sizes(x)[2:], sizes(w)[2:], node.strides, node.pads, node.dilations, node.auto_pad,
        node.output_padding, node.output_shape,
    )  # fmt: skip
    if (
        min((*where.begins, *(node.pads or ())), default=0) < 0
        or min(where.dilations, default=1) < 1
    ):
        return None
    return _tiled(WindowsConvData, node, _axes(where), x, scope)


def _tiled(
    kind: type[WindowsConv | WindowsConvData], node: Node, axes: tuple[Axis, ...], x: Value,
    scope: Scope,
) -> Claim:  # fmt: skip
    """A convolution or its transpose [+ activation] with samples in lanes; the third input, where
    it is one number a channel, is a bias."""
    w, lanes = node.required(1), -scope.width
    b = node.input(2) if node.op in ("Conv", "ConvTranspose") else None
    last, activation = after(node.output, scope)
    nodes = (node, *([last] if last else []))
    y = nodes[-1].output

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, lanes), builder.write(y)
        volumes = _volume(source, x), _volume(made, y)
        tile = windows_tile(builder.target, *volumes, axes, node.group)
        kernel = kind(*volumes, axes, *tile, node.group, b is not None, activation)
        bias = [plain(builder, b)] if b else []
        builder.job(kernel, source, plain(builder, w), *bias, made)
        name = "data " if kind is WindowsConvData else "over axes "
        return f"sample conv {name}{kernel.channels}x{kernel.images}"

    reads = (Read(x, lanes), *plain_reads((w, b), scope))
    return Claim(nodes, reads, y, lanes, emit)


@lowers("nnconv.ConvGradWeights")
def conv_grad_weights(node: Node, scope: Scope) -> Claim | None:
    x, dy, dw = node.required(0), node.required(1), node.output
    where, lanes = _geometry(node, x, dw, dy), -scope.width
    if where is None:
        return _weights_over_axes(node, scope)

    def emit(builder: Builder) -> str:
        source, slope, made = builder.read(x, lanes), builder.read(dy, lanes), builder.write(dw)
        kernel = sample_conv_weights(
            builder.target, source.view, slope.view, where.window, where.x[0], node.group
        )
        builder.job(kernel, source, slope, made)
        return f"sample conv weights {kernel.channels}x{kernel.depth}x{kernel.taps}"

    return Claim((node,), (Read(x, lanes, where.reach), Read(dy, lanes)), dw, 1, emit)


def _weights_over_axes(node: Node, scope: Scope) -> Claim | None:
    x, dy, dw, lanes = node.required(0), node.required(1), node.output, -scope.width
    axes = _over_axes(node, x, dw)
    if axes is None or not is_float(dy):
        return None

    def emit(builder: Builder) -> str:
        source, slope, made = builder.read(x, lanes), builder.read(dy, lanes), builder.write(dw)
        kernel = windows_conv_weights(
            builder.target, _volume(source, x), _volume(slope, dy), axes, sizes(x)[0], node.group
        )
        builder.job(kernel, source, slope, made)
        return f"sample conv weights {kernel.channels}x{kernel.depth} over axes"

    return Claim((node,), (Read(x, lanes), Read(dy, lanes)), dw, 1, emit)
