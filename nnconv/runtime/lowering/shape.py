"""What only changes where data lies: concatenation, flattening, reshaping."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.elementwise import Strided
from nnconv.runtime.kernels.movement import copy
from nnconv.runtime.lowering.claims import Claim, Read, Scope, image, lowers, sizes
from nnconv.runtime.lowering.convert import shifted_copies
from nnconv.runtime.lowering.layout import Operand, Place, dense_array, is_float

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value


@lowers("Concat")
def concat(node: Node, scope: Scope) -> Claim | None:
    """Members that could be computed in their slice are there already; the others are copied."""
    values = [value for value in node.inputs if value is not None]
    if not all(is_float(value) for value in values):
        return None
    axis = node.axis % len(sizes(node.output))
    images = axis == 1 and all(image(value) for value in values)
    blocked = images and any(scope.natural(value) > 1 for value in values)
    lanes = scope.width if blocked else 1

    def emit(builder: Builder) -> str:
        if blocked:
            return _join_blocked(builder, values, node.output)
        return _join_plain(builder, values, node.output, axis)

    reads = tuple(Read(value, lanes) for value in values)
    return Claim((node,), reads, node.output, lanes, emit)


def _join_blocked(builder: Builder, values: list[Value], output: Value) -> str:
    whole, start, copied = builder.write(output), 0, 0
    for value in values:
        if builder.slices.get(value) != (output, start):
            source = builder.read(value, whole.lanes)
            for kernel, x, y in shifted_copies(source, whole, start, builder.scope.width):
                builder.job(kernel, x, y)
            copied += 1
        start += sizes(value)[1]
    return f"concat, {copied} copied" if copied else "concat in place"


def _join_plain(builder: Builder, values: list[Value], output: Value, axis: int) -> str:
    whole, shape, start, done = builder.write(output), sizes(output), 0, 0
    inner = math.prod(shape[axis + 1 :])
    outer, step = math.prod(shape[:axis]), shape[axis] * inner
    for value in values:
        length = sizes(value)[axis] * inner
        if axis == 1 and builder.slices.get(value) == (output, start // inner):
            start, done = start + length, done + 1
            continue
        source = builder.read(value, 1)
        target = Operand(whole.buffer, whole.array.offset + start)
        kernel = copy(
            (outer, length), Strided((length, 1)), Strided((step, 1)), builder.scope.width
        )
        builder.job(kernel, source, target)
        start += length
    return "concat in place" if done == len(values) else "concat"


@lowers("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity")
def reshape(node: Node, scope: Scope) -> Claim | None:
    """The same elements under another shape: seen where they lie, without a copy where that can
    be.

    A blocked image whose channels and pixels become one axis stays blocked (dense layers can read
    it).
    """
    x, y = node.required(0), node.output
    if not is_float(x) or scope.constant(x) is not None:
        return None
    flattened = image(x) is not None and sizes(y) == (sizes(x)[0], math.prod(sizes(x)[1:]))
    lanes = scope.natural(x) if flattened else 1
    return Claim((node,), (Read(x, lanes),), y, lanes, lambda b: _see(b, x, y, lanes))


def _see(builder: Builder, x: Value, y: Value, lanes: int) -> str:
    place = builder.read(x, lanes)
    if lanes > 1:
        builder.alias(y, place)
        return "view"
    if place.dense:
        array = replace(dense_array(sizes(y), 1), offset=place.array.offset)
        builder.alias(y, Place(place.buffer, array))
        return "view"
    made, array = builder.write(y), place.view
    shape = (array.batch, array.channels, array.height, array.width)
    strided = Strided((array.image, array.block, array.row, array.column))
    target = dense_array(shape, 1)
    dense = Strided((target.image, target.block, target.row, target.column))
    builder.job(copy(shape, strided, dense, builder.scope.width), place, made)
    return "copy"
