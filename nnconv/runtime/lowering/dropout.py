"""Dropout and its gradient: the mask is never stored, each makes it from the run's step number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.elementwise import Strided
from nnconv.runtime.kernels.random import dropout
from nnconv.runtime.lowering.claims import Claim, Read, Scope, lowers, lowers_whole, sizes
from nnconv.runtime.lowering.gradients.conv import plain, plain_reads
from nnconv.runtime.lowering.layout import Place, is_float, strided_plain
from nnconv.runtime.random import threshold, two_words

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node

_MOST_ELEMENTS = 2**31  # whose numbers kernels tell apart


@lowers("nnconv.Dropout", "nnconv.DropoutGrad")
def drop(node: Node, scope: Scope) -> Claim | None:
    """What the mask of (seed, step) leaves, in the form that x has."""
    x = node.inputs[-1]  # of a gradient what comes back, of which the forward result is a picture
    if x is None or not is_float(x) or not 0 <= node.ratio < 1:
        return None
    least = threshold(node.ratio)
    if math.prod(sizes(x)) >= _MOST_ELEMENTS or least >= 2**32:
        return None
    lanes = scope.natural(x)
    settings = (least, 1 / (1 - node.ratio), two_words(node.seed))

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, lanes), builder.write(node.output)
        shape, numbers = _numbers(source, sizes(x) or (1,))
        operands = (_strides(source, shape), _strides(made, shape), numbers)
        kernel = dropout(shape, operands, settings, builder.scope.width)
        builder.job(kernel, source, builder.step_number(), made)
        return "dropout" if node.op == "nnconv.Dropout" else "dropout gradient"

    return Claim((node,), (Read(x, lanes),), node.output, lanes, emit)


@lowers("Dropout")
@lowers_whole("Dropout")
def drop_as_told(node: Node, scope: Scope) -> Claim | None:
    """ONNX's Dropout, which is told its ratio and whether it trains, and may give its mask too."""
    x, y, more = node.required(0), node.outputs[0], tuple(node.outputs[1:])
    told = _told(node, scope)
    if told is None or not is_float(x) or not 0 <= told < 1:
        return None
    least = threshold(told)
    if math.prod(sizes(x)) >= _MOST_ELEMENTS or least >= 2**32:
        return None
    settings = (least, 1 / (1 - told), two_words(node.seed or 0))

    def emit(builder: Builder) -> str:
        source, made = plain(builder, x), builder.write(y)
        shape = sizes(x) or (1,)
        row_major = Strided(tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))))
        kernel = dropout(shape, (row_major,) * 3, settings, builder.scope.width, bool(more))
        masks = [builder.write_whole(value) for value in more]
        builder.job(kernel, source, builder.step_number(), made, *masks)
        return "dropout with its mask" if more else "dropout"

    return Claim((node,), plain_reads((x,), scope), y, 1, emit, more)


def _told(node: Node, scope: Scope) -> float | None:
    """The share that is dropped; None where it is known in the run only."""
    given = [node.input(place) for place in (1, 2)]
    ratio, training = (scope.constant(value) for value in given)
    if any(v is not None and c is None for v, c in zip(given, (ratio, training), strict=True)):
        return None
    if training is None or not training.any():
        return 0.0
    return 0.5 if ratio is None else float(ratio.reshape(-1)[0])


def _numbers(place: Place, shape: tuple[int, ...]) -> tuple[tuple[int, ...], Strided]:
    """The space of a value in its form, and how far apart the numbers of its elements are."""
    if place.lanes == 1:
        return shape, Strided(tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))))
    array = place.view
    space = (array.batch, array.blocks, array.height, array.width, array.lanes)
    if place.samples:
        sample = array.blocks * array.pixels
        steps = (array.lanes * sample, array.pixels, array.width, 1, sample)
    else:
        channels = array.channels * array.pixels
        steps = (channels, array.lanes * array.pixels, array.width, 1, array.pixels)
    return space, Strided(steps)


def _strides(place: Place, space: tuple[int, ...]) -> Strided:
    if place.lanes == 1:
        return strided_plain(place, space)
    array = place.view
    return Strided((array.image, array.block, array.row, array.column, 1))
