"""What only changes how elements are counted, and concatenation of blocked images.

Everything else that moves elements is in moves.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.copying import copy
from nnconv.runtime.kernels.elementwise import Strided
from nnconv.runtime.lowering.claims import Claim, Read, Scope, image, lowers, sizes
from nnconv.runtime.lowering.convert import shifted_copies
from nnconv.runtime.lowering.layout import Place, dense_array, is_float
from nnconv.runtime.lowering.moves import RESHAPING, source
from nnconv.runtime.lowering.views import View, view_of

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value


@lowers("Concat", first=True)
def concat(node: Node, scope: Scope) -> Claim | None:
    """Blocked images along their channels: members that could be computed in their slice are there
    already; the others are copied.
    """
    values = [value for value in node.inputs if value is not None]
    images = node.axis % len(sizes(node.output)) == 1 and all(image(value) for value in values)
    if not images or not any(scope.natural(value) > 1 for value in values):
        return None
    lanes = scope.width
    reads = tuple(Read(value, lanes) for value in values)
    return Claim((node,), reads, node.output, lanes, lambda b: _join(b, values, node.output))


def _join(builder: Builder, values: list[Value], output: Value) -> str:
    whole, start, copied = builder.write(output), 0, 0
    for value in values:
        if builder.slices.get(value) != (output, start):
            member = builder.read(value, whole.lanes)
            for kernel, x, y in shifted_copies(member, whole, start, builder.scope.width):
                builder.job(kernel, x, y)
            copied += 1
        start += sizes(value)[1]
    return f"concat, {copied} copied" if copied else "concat in place"


@lowers(*RESHAPING)
def reshape(node: Node, scope: Scope) -> Claim | None:
    """The same elements under another shape: seen where they lie, without a copy where that can
    be.

    A blocked image whose channels and pixels become one axis stays blocked (dense layers can read
    it); with samples side by side, so does whatever keeps the samples apart.
    """
    x, y = node.required(0), node.output
    if not is_float(x):
        return None
    lanes = _form(x, y, scope)
    reads = () if scope.constant(x) is not None else (Read(x, lanes),)
    return Claim((node,), reads, y, lanes, lambda b: _see(b, x, y, lanes), view=True)


def _form(x: Value, y: Value, scope: Scope) -> int:
    lanes, old, new = scope.natural(x), sizes(x), sizes(y)
    if lanes < 0:
        fits = 2 <= len(new) <= 4 and new[0] == old[0] and not scope.is_result(y)
    else:
        fits = image(x) is not None and new == (old[0], math.prod(old[1:]))
    return lanes if fits else 1


def _see(builder: Builder, x: Value, y: Value, lanes: int) -> str:
    place = source(builder, x, lanes)
    if lanes > 1:
        builder.alias(y, place)
        return "view"
    array = dense_array(sizes(y), lanes)
    if place.dense:
        array = replace(array, offset=place.array.offset)
        builder.alias(y, Place(place.buffer, array, place.samples))
        return "view"
    made = Place(builder.buffer(array.size), array, place.samples)
    builder.alias(y, made)
    strided = view_of(place, sizes(x))
    dense = View.dense(strided.shape)
    kernel = copy(
        dense.shape, Strided(strided.strides), Strided(dense.strides), builder.scope.width
    )
    builder.job(kernel, place, made)
    return "copy"
