"""Convolutions over three axes with stored weights, transposed ones too, by the kernels of two.

The taps along the first axis are more input blocks: x is copied with its border of zeros, slice
after slice of the first axis with all blocks of a slice together, so that the blocks that a slice
of the result sees follow one another. The slices of the result are the images of a batch, whose
inputs overlap. Dilation along the first axis means taps of zeros between.

A transposed convolution is several ordinary ones, each of which computes the cells of one phase
(phases.py); all read the same copy of x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.kernels.arrays import Array, Border
from nnconv.runtime.kernels.conv import Conv, Window, every_conv, merged_groups, pack_weights
from nnconv.runtime.kernels.elementwise import Strided
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.movement import Reorder, copy
from nnconv.runtime.lowering.activation import after
from nnconv.runtime.lowering.algorithms import Direct, Epilogue, Places, choose
from nnconv.runtime.lowering.claims import Claim, Read, Scope, lowers, sizes
from nnconv.runtime.lowering.conv import floats
from nnconv.runtime.lowering.conv_transpose import axis_phases
from nnconv.runtime.lowering.layout import Buffer, Floats, Place, is_float
from nnconv.runtime.lowering.phases import Phase
from nnconv.runtime.lowering.windows import conv_geometry

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array as Data

_MOST_JOBS = 256  # images times groups times phases


@dataclass(frozen=True, slots=True)
class _Axis:
    """How cells `first`, first + step, ... of the result, `count` of them, see x along an axis:
    through `taps` of the kernel, `dilation` apart, from `begin` cells before x on and `stride`
    further for each."""

    taps: tuple[int, ...]
    stride: int
    dilation: int
    begin: int
    first: int
    step: int
    count: int

    @property
    def extent(self) -> int:
        """Cells of x from the first tap to the last."""
        return (len(self.taps) - 1) * self.dilation + 1

    @property
    def reach(self) -> int:
        """Cells of x from the first that is seen to behind the last."""
        return (self.count - 1) * self.stride + self.extent


_Part = tuple[_Axis, _Axis, _Axis]


@dataclass(frozen=True, slots=True)
class _Work:
    x: Value
    y: Value
    weights: Data
    bias: Data | None
    parts: Sequence[_Part]
    turned: bool  # weights are [inputs, outputs of a group, ...]
    groups: int  # as kernels have them: whole blocks each
    merged: int  # groups of the operator in one of these
    activation: Activation
    lanes: int

    @property
    def inputs(self) -> int:
        """Channels of x in a group."""
        return sizes(self.x)[1] // self.groups

    @property
    def blocks(self) -> int:
        """Input blocks of a group in a slice."""
        return -(-self.inputs // self.lanes)

    @property
    def outputs(self) -> int:
        """Channels of y in a group."""
        return sizes(self.y)[1] // self.groups

    @property
    def begins(self) -> tuple[int, ...]:
        """Cells of zeros before x, along each axis."""
        axes = zip(*self.parts, strict=True)
        return tuple(max(0, *(axis.begin for axis in along)) for along in axes)

    def group_weights(self, group: int, part: _Part) -> Floats:
        """What a group's weights are for a part, over two axes: [outputs, slices x lanes of its
        blocks, rows, columns], zeros where groups were merged, lanes are empty or the first axis
        is dilated."""
        given = floats(self.weights)
        if self.turned:
            apart = given.reshape(self.groups * self.merged, -1, *given.shape[1:])
            given = apart.swapaxes(1, 2).reshape(-1, *apart.shape[1:2], *given.shape[2:])
        mine = given[group * self.outputs : (group + 1) * self.outputs]
        mine = mine[:, :, part[0].taps][:, :, :, part[1].taps][:, :, :, :, part[2].taps]
        kernel, width = mine.shape[3:], self.blocks * self.lanes
        full = np.zeros((self.outputs, part[0].extent, width, *kernel), np.float32)
        each, deep = self.outputs // self.merged, mine.shape[1]
        for m in range(self.merged):
            rows = slice(m * each, (m + 1) * each)
            taps = full[rows, :: part[0].dilation, m * deep : (m + 1) * deep]
            taps[...] = mine[rows].swapaxes(1, 2)
        return full.reshape(self.outputs, -1, *kernel)


@lowers("Conv", first=True)
def conv_volume(node: Node, scope: Scope) -> Claim | None:
    """Conv [+ activation], three spatial axes, stored weights, in blocks."""
    weights = _weights(node, scope)
    if weights is None:
        return None
    where = conv_geometry(node, sizes(node.required(0)), weights.shape)
    if where is None or min(where.dilations) < 1:
        return None
    kernel = (tuple(range(size)) for size in where.kernel)
    each = (kernel, where.strides, where.dilations, where.begins, sizes(node.output)[2:])
    axes = [
        _Axis(taps, int(stride), int(dilation), int(begin), 0, 1, count)
        for taps, stride, dilation, begin, count in zip(*each, strict=True)
    ]
    return _claim(node, scope, weights, [(axes[0], axes[1], axes[2])])


@lowers("ConvTranspose")
def conv_transpose_volume(node: Node, scope: Scope) -> Claim | None:
    """ConvTranspose [+ activation], three spatial axes, stored weights, in blocks."""
    weights, source = _weights(node, scope), sizes(node.required(0))
    if weights is None:
        return None
    axes = axis_phases(node, source, weights.shape, sizes(node.output))
    if axes is None or not all(phase.taps for phases in axes for phase in phases):
        return None
    if any(
        -phase.pad >= size
        for phases, size in zip(axes, source[2:], strict=True)
        for phase in phases
    ):
        return None
    parts = [
        (_phase(a, axes[0]), _phase(b, axes[1]), _phase(c, axes[2])) for a, b, c in product(*axes)
    ]
    return _claim(node, scope, weights, parts)


def _phase(phase: Phase, of: Sequence[Phase]) -> _Axis:
    return _Axis(phase.taps, 1, phase.dilation, phase.pad, phase.first, len(of), phase.count)


def _weights(node: Node, scope: Scope) -> Data | None:
    """The stored weights of a node over three axes whose bias is stored too."""
    x, weights, bias = node.required(0), scope.constant(node.required(1)), node.input(2)
    if not is_float(x) or len(sizes(x)) != 5 or scope.width == 1:
        return None
    return None if bias is not None and scope.constant(bias) is None else weights


def _claim(node: Node, scope: Scope, weights: Data, parts: Sequence[_Part]) -> Claim | None:
    x, bias = node.required(0), node.input(2)
    width, channels, outputs = scope.width, sizes(x)[1], sizes(node.output)[1]
    groups = node.group
    if groups > 1:
        groups = merged_groups(groups, channels // groups, outputs // groups, width, width)
    if groups * sizes(x)[0] * len(parts) > _MOST_JOBS:
        return None
    last, activation = after(node.output, scope)
    nodes = (node, *([last] if last else []))
    work = _Work(
        x, nodes[-1].output, weights, scope.constant(bias), parts, node.op == "ConvTranspose",
        groups, node.group // groups, activation, width,
    )  # fmt: skip
    full = scope.natural(x) == width and channels % width == 0  # no lane holds anything
    lanes = width if full else 1
    return Claim(nodes, (Read(x, lanes),), work.y, width, lambda b: _emit(b, work, lanes))


def _emit(builder: Builder, work: _Work, lanes: int) -> str:
    x, y = builder.read(work.x, lanes), builder.write(work.y)
    padded, room = _padded(work)
    label = ""
    for group in range(work.groups):
        for image in range(x.array.batch):
            buffer = builder.buffer(room)
            buffer.geometry = padded
            copied = Place(buffer, padded)
            _enter(builder, work, x, copied, group, image)
            for part in work.parts:
                label = _product(builder, work, part, copied, y, group, image)
    return f"{'transposed' if work.turned else 'conv'} volume {label}"


def _padded(work: _Work) -> tuple[Array, int]:
    """Where x goes: its slices as images, its own cells without the border; and the elements of
    everything."""
    depth, height, width = sizes(work.x)[2:]
    front, top, left = work.begins
    deep, high, wide = (
        max(begin + size, *(begin - axis.begin + axis.reach for axis in axes))
        for begin, size, axes in zip(
            work.begins, sizes(work.x)[2:], zip(*work.parts, strict=True), strict=True
        )
    )
    row = wide * work.lanes
    block, slab = high * row, work.blocks * high * row
    offset = front * slab + top * row + left * work.lanes
    border = Border(top, left, high - top - height, wide - left - width)
    array = Array(
        depth, work.inputs, height, width, work.lanes, offset, slab, block, row, work.lanes, border
    )
    return array, deep * slab


def _enter(
    builder: Builder, work: _Work, x: Place, goal: Place, group: int, image: int
) -> None:  # fmt: skip
    """A group of an image into its padded place."""
    depth, height, width = sizes(work.x)[2:]
    area, made = height * width, replace(goal.view, border=Border())
    first = x.array.offset + image * x.array.image
    if x.lanes == 1:
        start = first + group * work.inputs * depth * area
        plain = Array(depth, work.inputs, height, width, 1, 0, area, depth * area, width, 1)
        builder.job(Reorder(plain, made), x.at(start), goal)
        return
    lanes = work.lanes
    start = first + group * work.blocks * x.array.block
    shape = (depth, work.blocks, height, width, lanes)
    source = Strided((area * lanes, x.array.block, width * lanes, lanes, 1))
    target = Strided((made.image, made.block, made.row, lanes, 1))
    builder.job(copy(shape, source, target, builder.scope.width), x.at(start), goal)


def _product(
    builder: Builder, work: _Work, part: _Part, padded: Place, y: Place, group: int, image: int
) -> str:  # fmt: skip
    places = _places(work, part, padded, y, group, image)
    epilogue = Epilogue(work.bias is not None, work.activation)
    window = Window(*zip(*((len(a.taps), a.stride, a.dilation) for a in part[1:]), strict=True))
    found = every_conv(
        builder.target, places.x.view, places.y.view, window, bias=epilogue.bias,
        activation=epilogue.activation,
    )  # fmt: skip
    forms = (Direct(kernel, _packer(kernel), "volume") for kernel in found)
    form = choose(builder, forms, [work.weights], places)
    key = (form.key, group, work.groups, tuple(axis.taps for axis in part))
    weights = builder.packed(
        key, [work.weights], lambda: form.pack(work.group_weights(group, part))
    )
    bias: Buffer | None = None
    if work.bias is not None:
        mine = slice(group * work.outputs, (group + 1) * work.outputs)
        layout = ("bias", form.bias_layout, group, work.groups)
        bias = builder.packed(layout, [work.bias], lambda: form.pack_bias(floats(work.bias)[mine]))
    for kernel, operands in form.jobs(places, weights, bias, ()):
        builder.job(kernel, *operands)
    return form.name


def _places(
    work: _Work, part: _Part, padded: Place, y: Place, group: int, image: int
) -> Places:  # fmt: skip
    """What a part reads, slices as images and the taps along the first axis as blocks, and the
    cells that it writes."""
    lanes, array, (deep, down, across) = work.lanes, padded.array, part
    wide, high = array.row // lanes, array.block // array.row
    front, top, left = (b - axis.begin for b, axis in zip(work.begins, part, strict=True))
    x = Array(
        deep.count, deep.extent * work.blocks * lanes, high - top, wide - left, lanes,
        front * array.image + top * array.row + left * lanes, deep.stride * array.image,
        array.block, array.row, lanes,
    )  # fmt: skip
    height, width = sizes(work.y)[3:]
    start = y.array.offset + image * y.array.image
    start += group * (work.outputs // lanes) * y.array.block if work.groups > 1 else 0
    start += ((deep.first * height + down.first) * width + across.first) * lanes
    made = Array(
        deep.count, work.outputs, down.count, across.count, lanes, start,
        deep.step * height * width * lanes, y.array.block, down.step * width * lanes,
        across.step * lanes,
    )  # fmt: skip
    return Places(Place(padded.buffer, x), Place(y.buffer, made))


def _packer(kernel: Conv) -> Callable[[Floats], Floats]:
    return lambda weights: pack_weights(kernel, weights)
