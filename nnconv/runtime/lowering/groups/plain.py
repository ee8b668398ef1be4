"""Pooling, normalisation and reductions on graphics cards, in inference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.copying import copy
from nnconv.runtime.kernels.elementwise import Strided
from nnconv.runtime.kernels.fold import RECIPES
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.groups.pool import ElementLRN, ElementPool
from nnconv.runtime.kernels.groups.reduce import Box, GroupReduce, GroupSoftmax
from nnconv.runtime.kernels.groups.vector import item_count
from nnconv.runtime.lowering.claims import Claim, Scope, image, sizes
from nnconv.runtime.lowering.gradients.conv import plain, plain_reads
from nnconv.runtime.lowering.gradients.pool import pool_window, remembered
from nnconv.runtime.lowering.groups.products import groups_of, on_cards
from nnconv.runtime.lowering.layout import Operand, is_float
from nnconv.runtime.lowering.pool import averaging
from nnconv.runtime.lowering.squares import is_whole

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node

_WHOLE = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}
_BESIDE = 32  # sums side by side: a vector of most cards
_SHORT = 32  # of a sum that one work-item does alone, where there are many
_MANY = 1 << 14  # sums that keep a card busy with a work-item each
_LARGE = 1 << 14  # elements of a sum that is cut, where there are few sums
_PARTS = 128


@on_cards("MaxPool", "AveragePool", "nnconv.Pool")
def pool(node: Node, scope: Scope) -> Claim | None:
    """What needs not be remembered for a gradient."""
    x, y = node.required(0), node.output
    found = pool_window(node, x, y)
    if found is None or remembered(node) or len(node.outputs) > 1:
        return None
    (window, ends), (average, include_pad) = found, averaging(node)

    def emit(builder: Builder) -> str:
        source, made = plain(builder, x), builder.write(y)
        kernel = ElementPool(source.view, made.view, window, average, include_pad, ends)
        builder.job(kernel, source, made)
        return "average pool" if kernel.average else "max pool"

    return Claim((node,), plain_reads((x,), scope), y, 1, emit)


@on_cards("LRN")
def lrn(node: Node, scope: Scope) -> Claim | None:
    x, y = node.required(0), node.output
    if image(x) is None:
        return None

    def emit(builder: Builder) -> str:
        source, made = plain(builder, x), builder.write(y)
        settings = (int(node.size), float(node.alpha), float(node.beta), float(node.bias))
        builder.job(ElementLRN(source.view, made.view, *settings), source, made)
        return "lrn"

    return Claim((node,), plain_reads((x,), scope), y, 1, emit)


@on_cards("Softmax", "LogSoftmax")
def softmax(node: Node, scope: Scope) -> Claim | None:
    """Over the last axis longer than 1; over others neighbours are neighbours anyhow."""
    x = node.required(0)
    if not is_float(x) or not sizes(x):
        return None
    shape = sizes(x)
    axis = node.axis % len(shape)
    if math.prod(shape[axis + 1 :]) > 1:
        return None

    def emit(builder: Builder) -> str:
        source, made = plain(builder, x), builder.write(node.output)
        width = item_count(shape[axis], groups_of(builder).items)
        logarithm = node.op == "LogSoftmax"
        kernel = GroupSoftmax(math.prod(shape[:axis]), shape[axis], width, logarithm)
        builder.job(kernel, source, made)
        return "group softmax"

    return Claim((node,), plain_reads((x,), scope), node.output, 1, emit)


@on_cards(*RECIPES, *_WHOLE)
def reduce(node: Node, scope: Scope) -> Claim | None:
    """Over any axes that are known."""
    x = node.required(0)
    if not is_float(x) or not is_float(node.output) or not sizes(x):
        return None
    axes = None if is_whole(node, scope) else _axes(node, scope)
    if axes is None:
        return None
    steps = [math.prod(sizes(x)[axis + 1 :]) for axis in range(len(sizes(x)))]
    kept, reduced = (
        Box(
            tuple(size for axis, size in enumerate(sizes(x)) if (axis in axes) is inside),
            tuple(step for axis, step in enumerate(steps) if (axis in axes) is inside),
        ).joined
        for inside in (False, True)
    )

    def emit(builder: Builder) -> str:
        return _emit_reduce(builder, node, kept, reduced)

    return Claim((node,), plain_reads((x,), scope), node.output, 1, emit)


def _axes(node: Node, scope: Scope) -> set[int] | None:
    """The axes that a node reduces; None where they are not known, or nothing is reduced."""
    rank = len(sizes(node.required(0)))
    if node.op in _WHOLE:
        return set(range(2, rank)) if rank > 2 else None
    given = node.input(1)
    if given is None:
        return None if node.noop_with_empty_axes else set(range(rank))
    known = scope.constant(given)
    if known is None or (not known.size and node.noop_with_empty_axes):
        return None
    return {int(axis) % rank for axis in known.reshape(-1)} or set(range(rank))


def _emit_reduce(builder: Builder, node: Node, kept: Box, reduced: Box) -> str:
    source, made = plain(builder, node.required(0)), builder.write(node.output)
    recipe = RECIPES[_WHOLE.get(node.op, node.op)]
    before, after = Activation(recipe.before or "Identity"), recipe.after(reduced.count)
    most = groups_of(builder).items
    parts = _parts(kept, reduced)
    down, across = _shape(kept, reduced, parts, most)
    if parts == 1:
        kernel = GroupReduce(kept, reduced, recipe.join, before, after, down, across)
        builder.job(kernel, source, made)
        return f"group reduce {down}x{across}"
    none = Activation()
    sums = builder.buffer(kept.count * parts)
    first = GroupReduce(kept, reduced, recipe.join, before, none, down, across, parts)
    rows, row = Box((kept.count,), (parts,)), Box((parts,), (1,))
    last = GroupReduce(rows, row, recipe.join, none, after, item_count(parts, most), 1)
    builder.job(first, source, sums)
    builder.job(last, sums, made)
    return f"group reduce {down}x{across} in {parts}"


def _parts(kept: Box, reduced: Box) -> int:
    """Into how many parts each sum is cut: so many that all of a card has work."""
    if reduced.count < _LARGE:
        return 1
    wanted = min(_PARTS // min(kept.count, _PARTS), reduced.count // (_LARGE // 4))
    if wanted < 2:
        return 1
    length = -(-reduced.count // wanted)
    return -(-reduced.count // length)


def _shape(kept: Box, reduced: Box, parts: int, most: int) -> tuple[int, int]:
    """Work-items that share a sum, and sums side by side."""
    length = -(-reduced.count // parts)
    across = min(_BESIDE, item_count(kept.count, most))
    if length <= _SHORT and kept.count >= _MANY:
        return 1, across
    if kept.contiguous and not reduced.contiguous:
        return item_count(length, most // across), across
    return item_count(length, most), 1


@on_cards("Concat")
def concat(node: Node, scope: Scope) -> Claim | None:
    """Pictures along their channels: members that were made in their slice are there already."""
    values = [value for value in node.inputs if value is not None]
    if node.axis % len(sizes(node.output)) != 1 or not all(image(value) for value in values):
        return None

    def emit(builder: Builder) -> str:
        whole, start, done = builder.write(node.output), 0, 0
        inner = math.prod(sizes(node.output)[2:])
        for value in values:
            if builder.slices.get(value) == (node.output, start):
                done += 1
            else:
                length = sizes(value)[1] * inner
                target = Operand(whole.buffer, whole.array.offset + start * inner)
                steps = Strided((length, 1)), Strided((whole.array.image, 1))
                kernel = copy((sizes(value)[0], length), *steps, 1)
                builder.job(kernel, plain(builder, value), target)
            start += sizes(value)[1]
        return "concat in place" if done == len(values) else f"concat, {len(values) - done} copied"

    return Claim((node,), plain_reads(tuple(values), scope), node.output, 1, emit)
