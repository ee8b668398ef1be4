"""Convolutions over three axes with stored weights, by the kernels of two.

The taps along the first axis are more input blocks: x is copied with its border of zeros, slice
after slice of the first axis with all blocks of a slice together, so that the blocks that a slice
of the result sees follow one another. The slices of the result are the images of a batch, whose
inputs overlap. Dilation along the first axis means taps of zeros between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from nnconv.runtime.lowering.layout import Buffer, Floats, Place, is_float
from nnconv.runtime.lowering.windows import conv_geometry

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.runtime.ops.windows import Geometry
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array as Data

_MOST_JOBS = 256  # images times groups


@dataclass(frozen=True, slots=True)
class _Work:
    x: Value
    y: Value
    weights: Data
    bias: Data | None
    where: Geometry
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
    def depth(self) -> int:
        """Slices that a slice of the result sees, those between its taps included."""
        return (self.where.kernel[0] - 1) * self.where.dilations[0] + 1

    @property
    def window(self) -> Window:
        """Over the last two axes; their border is there already."""
        pairs = (self.where.kernel, self.where.strides, self.where.dilations)
        size, stride, dilation = ((int(p[1]), int(p[2])) for p in pairs)
        return Window(size, stride, dilation)

    def group_weights(self, group: int) -> Floats:
        """A group's weights over two axes: [outputs, slices x lanes of its blocks, rows,
        columns], zeros where groups were merged, lanes are empty or the first axis is dilated."""
        outputs = self.weights.shape[0] // self.groups
        mine = floats(self.weights)[group * outputs : (group + 1) * outputs]
        kernel, width = mine.shape[3:], self.blocks * self.lanes
        full = np.zeros((outputs, self.depth, width, *kernel), np.float32)
        each, deep = outputs // self.merged, mine.shape[1]
        for m in range(self.merged):
            rows = slice(m * each, (m + 1) * each)
            taps = full[rows, :: self.where.dilations[0], m * deep : (m + 1) * deep]
            taps[...] = mine[rows].swapaxes(1, 2)
        return full.reshape(outputs, -1, *kernel)


@lowers("Conv", first=True)
def conv_volume(node: Node, scope: Scope) -> Claim | None:
    """Conv [+ activation], three spatial axes, stored weights, in blocks."""
    x, weights, bias = node.required(0), scope.constant(node.required(1)), node.input(2)
    if not is_float(x) or weights is None or len(sizes(x)) != 5 or scope.width == 1:
        return None
    if bias is not None and scope.constant(bias) is None:
        return None
    where = conv_geometry(node, sizes(x), weights.shape)
    if where is None or min(where.dilations) < 1:
        return None
    width, channels, outputs = scope.width, sizes(x)[1], int(weights.shape[0])
    groups = node.group
    if groups > 1:
        groups = merged_groups(groups, channels // groups, outputs // groups, width, width)
    if groups * sizes(x)[0] > _MOST_JOBS:
        return None
    last, activation = after(node.output, scope)
    nodes = (node, *([last] if last else []))
    work = _Work(
        x, nodes[-1].output, weights, scope.constant(bias), where, groups, node.group // groups,
        activation, width,
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
            _enter(builder, work, x, Place(buffer, padded), group, image)
            label = _product(builder, work, Place(buffer, padded), y, group, image)
    return f"conv volume {label}"


def _padded(work: _Work) -> tuple[Array, int]:
    """Where x goes: its slices as images, its own cells without the border; and the elements of
    everything."""
    front, top, left = work.where.begins
    _, height, width = sizes(work.x)[2:]
    deep, high, wide = (
        max(reach, begin + size)
        for reach, begin, size in zip(
            work.where.reach, work.where.begins, sizes(work.x)[2:], strict=True
        )
    )
    row = wide * work.lanes
    block, slab = high * row, work.blocks * high * row
    offset = front * slab + top * row + left * work.lanes
    border = Border(top, left, high - top - height, wide - left - width)
    array = Array(
        sizes(work.x)[2], work.inputs, height, width, work.lanes, offset, slab, block, row,
        work.lanes, border,
    )  # fmt: skip
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
    builder: Builder, work: _Work, padded: Place, y: Place, group: int, image: int
) -> str:  # fmt: skip
    window, lanes = work.window, work.lanes
    slices, height, width = sizes(work.y)[2:]
    array, outputs = padded.array, sizes(work.y)[1] // work.groups
    wide, high = array.row // lanes, array.block // array.row
    x = Array(
        slices, work.depth * work.blocks * lanes, high, wide, lanes, 0,
        int(work.where.strides[0]) * array.image, array.block, array.row, lanes,
    )  # fmt: skip
    start = y.array.offset + image * y.array.image
    start += group * (outputs // lanes) * y.array.block if work.groups > 1 else 0
    made = Array(
        slices, outputs, height, width, lanes, start, height * width * lanes, y.array.block,
        width * lanes, lanes,
    )  # fmt: skip
    places = Places(Place(padded.buffer, x), Place(y.buffer, made))
    epilogue = Epilogue(work.bias is not None, work.activation)
    found = every_conv(
        builder.target, x, replace(made, offset=0), window, bias=epilogue.bias,
        activation=epilogue.activation,
    )  # fmt: skip
    forms = (Direct(kernel, _packer(kernel), "volume") for kernel in found)
    form = choose(builder, forms, [work.weights], places)
    key = (form.key, group, work.groups)
    weights = builder.packed(key, [work.weights], lambda: form.pack(work.group_weights(group)))
    bias: Buffer | None = None
    if work.bias is not None:
        mine = slice(group * outputs, (group + 1) * outputs)
        layout = ("bias", form.bias_layout, group, work.groups)
        bias = builder.packed(layout, [work.bias], lambda: form.pack_bias(floats(work.bias)[mine]))
    for kernel, operands in form.jobs(places, weights, bias, ()):
        builder.job(kernel, *operands)
    return form.name


def _packer(kernel: Conv) -> Callable[[Floats], Floats]:
    return lambda weights: pack_weights(kernel, weights)
