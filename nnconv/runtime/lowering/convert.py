"""Bringing a value from one form into another: which kernels that takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nnconv.runtime.kernels.arrays import Array, Border
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.movement import Reorder, blocked, copy, plain
from nnconv.runtime.lowering.layout import Operand, Place

Move = tuple[Kernel, Operand, Operand]


def conversions(source: Place, made: Place, width: int) -> Iterator[Move]:
    """The moves that fill `made` from `source`; their elements are the same in row-major order."""
    x, y = source.view, made.view
    if bool(source.samples) != bool(made.samples):
        yield from _exchange_samples(source, made)
        return
    shape = (x.batch, x.channels, x.height, x.width)
    if shape != (y.batch, y.channels, y.height, y.width):
        x, y = _same_shape(source, made)
    x, y = replace(x, border=Border()), replace(y, border=Border())
    if (x.lanes == 1) != (y.lanes == 1):
        yield Reorder(x, y), source.operand, made.operand
        return
    yield _copy(x, y, width), source.operand, made.operand


def _same_shape(source: Place, made: Place) -> tuple[Array, Array]:
    """Views of one shape on both: the plain one of the two is dense and takes the other's."""
    x, y = source.view, made.view
    if y.lanes == 1 and made.dense:
        return x, Array.dense(x.batch, x.channels, x.height, x.width)
    if x.lanes == 1 and source.dense:
        return Array.dense(y.batch, y.channels, y.height, y.width), y
    raise AssertionError(f"no way from {x} to {y}")


def _exchange_samples(source: Place, made: Place) -> Iterator[Move]:
    """Between a plain value and one whose lanes are samples: a reorder takes samples for channels.

    Without gaps all full groups are one move and the last group another; with a border each group
    is a move, whose images are the channels.
    """
    inner, other = (made, source) if made.samples else (source, made)
    array, outer = inner.view, other.view
    full, rest = divmod(inner.samples, array.lanes)
    gaps = not (inner.dense and other.dense)
    pieces = (
        [(group, 1, array.lanes) for group in range(full)] if gaps else [(0, full, array.lanes)]
    )
    for first, count, lanes in (*pieces, (full, 1, rest)):
        if not count or not lanes:
            continue
        if gaps:
            x = replace(
                outer, batch=array.blocks, channels=lanes, image=outer.block, block=outer.image
            )
            y = replace(array, batch=array.blocks, channels=lanes, image=array.block)
        else:
            pixels = array.blocks * array.pixels
            x = Array(count, lanes, 1, pixels, 1, 0, pixels * array.lanes, pixels, pixels, 1)
            y = Array(count, lanes, 1, pixels, array.lanes, 0, array.image, 0, 0, array.lanes)
        x, y = replace(x, border=Border()), replace(y, border=Border())
        at_x = other.at(other.array.offset + first * array.lanes * outer.image)
        at_y = inner.at(inner.array.offset + first * array.image)
        if made.samples:
            yield Reorder(x, y), at_x, at_y
        else:
            yield Reorder(y, x), at_y, at_x


def _copy(x: Array, y: Array, width: int) -> Kernel:
    if x.lanes == 1:
        shape: tuple[int, ...] = (x.batch, x.channels, x.height, x.width)
        return copy(shape, plain(x), plain(y), width)
    shape = (x.batch, x.blocks, x.height, x.width, x.lanes)
    return copy(shape, blocked(x), blocked(y), width)


def shifted_copies(source: Place, whole: Place, start: int, width: int) -> Iterator[Move]:
    """Channels of a blocked value to a blocked one from channel `start` on, whatever the lanes.

    A block of the source ends in up to two of the target: one move for each of its two parts, and
    the same for the last, shorter block.
    """
    lanes = source.lanes
    shift = start % lanes
    x, y = source.view, whole.view
    full, tail = divmod(x.channels, lanes)
    for first, blocks, channels in ((0, full, lanes), (full, 1 if tail else 0, tail)):
        for low, high, ahead in ((0, lanes - shift, 0), (lanes - shift, lanes, 1)):
            high = min(high, channels)
            if not blocks or low >= high:
                continue
            target = (low + shift) % lanes + (start // lanes + first + ahead) * y.block
            shape = (x.batch, blocks, x.height, x.width, high - low)
            move = copy(shape, blocked(x), blocked(y), width)
            yield (
                move,
                Operand(source.buffer, source.array.offset + first * x.block + low),
                Operand(whole.buffer, whole.array.offset + target),
            )
