"""Operators that only move elements: what goes where, in one table, and the rule that lowers them.

An entry of the table says in the words of views.py which elements of an input end where in an
output, as a list of copies. The same list serves plain values, and blocked ones or those with
samples side by side as long as the axis that has the lanes stays as it is; channels of blocked
images are moved by a kernel of their own. What is one unbroken piece is seen where it lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.kernels.arrays import Border
from nnconv.runtime.kernels.channels import Channels, runs
from nnconv.runtime.kernels.copying import copy
from nnconv.runtime.kernels.elementwise import Strided
from nnconv.runtime.lowering.claims import Claim, Read, Scope, image, lowers, sizes
from nnconv.runtime.lowering.layout import Buffer, Home, Operand, Place, dense_array, is_float
from nnconv.runtime.lowering.views import View, around, forward, view_of
from nnconv.schemas.infer.indexing import length, span

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

RESHAPING = (
    "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "nnconv.Flatten", "nnconv.Reshape",
)  # fmt: skip
FILL = -1  # where elements come from that no input has
_MOST_PIECES = 27  # of one operator: three to each of three axes
_MOST_RUNS = 40  # of one reordering of channels: each is code of its own


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements of input number `source`, and where in output number `target` they go."""

    x: View
    y: View
    source: int = 0
    target: int = 0


@dataclass(frozen=True, slots=True)
class Moves:
    """All that an operator does. Along other axes than `axes` everything stays where it is."""

    pieces: tuple[Piece, ...]
    axes: frozenset[int]
    fill: float = 0.0


Ask = Callable[[int], "list[int] | None"]
"""The whole numbers of an input by its number, None where they are not known."""
Views = Sequence[View]
Mover = Callable[["Node", Ask, Views, Views], "Moves | None"]
MOVERS: dict[str, Mover] = {}


def moves(*ops: str) -> Callable[[Mover], Mover]:
    """Register what operators do with views of their inputs and outputs."""

    def register(mover: Mover) -> Mover:
        MOVERS.update(dict.fromkeys(ops, mover))
        return mover

    return register


# -- the table


@moves("Slice")
def _slice(node: Node, ask: Ask, xs: Views, ys: Views) -> Moves | None:
    bounds = _bounds(sizes(node.required(0)), [ask(number) for number in (1, 2, 3, 4)], node, 3)
    if bounds is None:
        return None
    x = xs[0]
    for axis, start, count, step in bounds:
        x = x.cut(axis, start, count, step)
    return Moves((Piece(x, ys[0]),), frozenset(bound[0] for bound in bounds))


@moves("nnconv.SliceGrad")
def _slice_gradient(node: Node, ask: Ask, xs: Views, ys: Views) -> Moves | None:
    bounds = _bounds(sizes(node.output), [ask(number) for number in (2, 3, 4, 5)], node, 4)
    if bounds is None:
        return None
    y = ys[0]
    if all(step == 1 for *_, step in bounds):
        rest = [*around(y, [(axis, start, count) for axis, start, count, _ in bounds])]
    else:
        rest = [y]
    for axis, start, count, step in bounds:
        y = y.cut(axis, start, count, step)
    axes = frozenset(bound[0] for bound in bounds)
    return Moves((*_filled(rest), Piece(*forward(xs[0], y))), axes)


def _bounds(
    shape: Sequence[int], given: Sequence[list[int] | None], node: Node, axes_at: int
) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, count, step) for each axis that a slice does not leave whole."""
    starts, ends, axes, steps = given
    if starts is None or ends is None:
        return None
    if axes is None:
        axes = list(range(len(starts)))
        if node.input(axes_at) is not None:
            return None
    if steps is None:
        steps = [1] * len(starts)
        if node.input(axes_at + 1) is not None:
            return None
    found = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = shape[axis]
        first, _ = span(size, start, end, step)
        count = length(size, start, end, step)
        assert isinstance(count, int)
        if (first, count, step) != (0, size, 1):
            found.append((axis % len(shape), first, count, step))
    return found


def _filled(views: Sequence[View]) -> Iterator[Piece]:
    for y in views:
        yield Piece(View(y.shape, (0,) * len(y.shape)), y, FILL)


@moves("Split")
def _split(node: Node, ask: Ask, xs: Views, ys: Views) -> Moves:
    axis, start, pieces = node.axis % len(sizes(node.required(0))), 0, []
    for number, output in enumerate(node.outputs):
        count = sizes(output)[axis]
        pieces.append(Piece(xs[0].cut(axis, start, count), ys[number], target=number))
        start += count
    return Moves(tuple(pieces), frozenset({axis}))


@moves("Concat")
def _concat(node: Node, ask: Ask, xs: Views, ys: Views) -> Moves:
    axis, start, pieces = node.axis % len(sizes(node.output)), 0, []
    for number, value in enumerate(node.inputs):
        assert value is not None
        count = sizes(value)[axis]
        pieces.append(Piece(xs[number], ys[0].cut(axis, start, count), number))
        start += count
    return Moves(tuple(pieces), frozenset({axis}))


@moves("Transpose")
def _transpose(node: Node, ask: Ask, xs: Views, ys: Views) -> Moves:
    rank = len(sizes(node.output))
    order = list(range(rank))[::-1] if node.perm is None else [axis % rank for axis in node.perm]
    moved = frozenset(axis for axis, source in enumerate(order) if axis != source)
    return Moves((Piece(xs[0].ordered(order), ys[0]),), moved)


@moves("Tile")
def _tile(node: Node, ask: Ask, xs: Views, ys: Views) -> Moves | None:
    repeats = ask(1)
    if repeats is None:
        return None
    shape, x, y = sizes(node.required(0)), xs[0], ys[0]
    axes = [axis for axis, times in enumerate(repeats) if times != 1]
    for axis in reversed(axes):
        x, y = x.inserted(axis, repeats[axis]), y.split(axis, repeats[axis], shape[axis])
    return Moves((Piece(x, y),), frozenset(axes))


@moves("Expand")
def _expand(node: Node, ask: Ask, xs: Views, ys: Views) -> Moves:
    x, shape, wanted = xs[0], sizes(node.required(0)), sizes(node.output)
    missing = len(wanted) - len(shape)
    axes = {*range(len(wanted))} if missing else set[int]()
    for axis, size in enumerate(wanted):
        if axis < missing:
            x = x.inserted(axis, size)
        elif shape[axis - missing] != size:
            x = x.cut(axis, 0, size, 0)
            axes.add(axis)
    return Moves((Piece(x, ys[0]),), frozenset(axes))


@moves("Pad")
def _pad(node: Node, ask: Ask, xs: Views, ys: Views) -> Moves | None:
    pads, axes, value = ask(1), ask(3), node.input(2)
    shape, rank = sizes(node.required(0)), len(sizes(node.output))
    if pads is None or (axes is None and node.input(3) is not None):
        return None
    if value is not None and value.data is None:
        return None
    axes = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    each = zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
    padded = [(axis, begin, end) for axis, begin, end in each if begin or end]
    lines = [_segments(node.mode, shape[axis], begin, end) for axis, begin, end in padded]
    if not all(lines) or np.prod([len(line) for line in lines]) > _MOST_PIECES:
        return None
    pieces = []
    for box in product(*lines):
        x, y = xs[0], ys[0]
        for (axis, _, _), (at, start, count, step) in zip(padded, box, strict=True):
            x, y = x.cut(axis, start, count, step), y.cut(axis, at, count)
        pieces.append(Piece(x, y))
    if node.mode == "constant":
        cuts = [(p[0], line[0][0], line[0][2]) for p, line in zip(padded, lines, strict=True)]
        pieces += _filled([*around(ys[0], cuts)])
    fill = 0.0 if value is None or value.data is None else float(value.data.reshape(-1)[0])
    return Moves(tuple(pieces), frozenset(axis for axis, *_ in padded), fill)


def _segments(mode: str, size: int, begin: int, end: int) -> list[tuple[int, int, int, int]]:
    """Along one axis: from where on in the output, elements of the input as (start, count, step);
    negative pads crop first. Empty where a mode needs more than there is.
    """
    low, high = max(-begin, 0), size - max(-end, 0)
    before, after, count = max(begin, 0), max(end, 0), high - low
    sides = {
        "constant": None,
        "edge": ((low, 0), (high - 1, 0), before + after),
        "reflect": ((low + before, -1), (high - 2, -1), count - 1),
        "wrap": ((high - before, 1), (low, 1), count),
    }
    if count < 1 or mode not in sides:
        return []
    found = [(before, low, count, 1)]
    if (side := sides[mode]) is not None:
        (first, step), (second, _), most = side
        if max(before, after) > most:
            return []
        found += [(0, first, before, step)] * bool(before)
        found += [(before + count, second, after, step)] * bool(after)
    return found


@moves("DepthToSpace", "SpaceToDepth")
def _depth_to_space(node: Node, ask: Ask, xs: Views, ys: Views) -> Moves:
    """Both ways: the deep side's channels are block row, block column and channel (DCR) or, with
    the channel first, CRD; the wide side's pixels are row, block row, column, block column.
    """
    side = node.blocksize
    deep, wide = (xs[0], ys[0]) if node.op == "DepthToSpace" else (ys[0], xs[0])
    _, channels, height, width = (
        sizes(node.output) if node.op == "DepthToSpace" else sizes(node.required(0))
    )
    if node.mode == "CRD":
        deep = deep.split(1, channels, side, side).ordered((0, 1, 4, 2, 5, 3))
    else:
        deep = deep.split(1, side, side, channels).ordered((0, 3, 4, 1, 5, 2))
    wide = wide.split(3, width // side, side).split(2, height // side, side)
    pair = (deep, wide) if node.op == "DepthToSpace" else (wide, deep)
    return Moves((Piece(*pair),), frozenset({1, 2, 3}))


@moves("Gather")
def _gather(node: Node, ask: Ask, xs: Views, ys: Views) -> Moves | None:
    """Constant indices, as so many runs of even steps."""
    indices, shape = ask(1), sizes(node.required(0))
    if not indices:
        return None
    axis, rank = node.axis % len(shape), len(sizes(node.output))
    size, extra = shape[axis], rank - len(shape) + 1
    y = ys[0].joined(axis, extra) if extra else ys[0].inserted(axis)
    pieces, at = [], 0
    for start, count, step in _even([index % size for index in indices]):
        pieces.append(Piece(xs[0].cut(axis, start, count, step), y.cut(axis, at, count)))
        at += count
    axes = {axis} if extra == 1 else {*range(axis, max(rank, len(shape)))}
    return Moves(tuple(pieces), frozenset(axes if extra < 2 else range(rank)))


def _even(numbers: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(start, count, step) of evenly spaced runs, each as long as can be."""
    at = 0
    while at < len(numbers):
        step = numbers[at + 1] - numbers[at] if at + 1 < len(numbers) else 1
        end = at + 1
        while end < len(numbers) and numbers[end] - numbers[end - 1] == step:
            end += 1
        yield numbers[at], end - at, step
        at = end


# -- the rule


@lowers(*MOVERS)
def move(node: Node, scope: Scope) -> Claim | None:
    """Views and copies, in the form in which the inputs lie where that can be."""
    inputs = _moved_inputs(node)
    if not all(is_float(value) for value in (*inputs, *node.outputs)):
        return None
    found = _found(node, scope, _dense_views(inputs, 1), _dense_views(node.outputs, 1))
    if found is None or len(found.pieces) > _MOST_PIECES * len(inputs) * len(node.outputs):
        return None
    if node.op == "Transpose" and 1 in found.axes and _is_blocked(inputs, scope):
        return _from_blocks(node, scope)
    if (orders := _channel_orders(node, found, scope)) is not None:
        return _reordered(node, orders, scope)
    lanes = _form(inputs, node, found, scope)
    form = _found(node, scope, _dense_views(inputs, lanes), _dense_views(node.outputs, lanes))
    assert form is not None
    seen = _seen(node, form, scope, lanes)
    return _claim(node, inputs, lanes, lambda b: _emit(b, node, lanes, seen), bool(seen), scope)


def _claim(
    node: Node,
    inputs: Sequence[Value],
    lanes: int,
    emit: Callable[[Builder], str],
    view: bool,
    scope: Scope,
) -> Claim:
    computed = (value for value in dict.fromkeys(inputs) if scope.constant(value) is None)
    reads = tuple(Read(value, lanes) for value in computed)
    first, *others = node.outputs
    return Claim((node,), reads, first, lanes, emit, tuple(others), lanes, view)


def _moved_inputs(node: Node) -> list[Value]:
    if node.op == "Concat":
        return [value for value in node.inputs if value is not None]
    return [node.required(0)]


def _found(node: Node, scope: Scope, xs: Views, ys: Views) -> Moves | None:
    def ask(number: int) -> list[int] | None:
        data = scope.constant(node.input(number))
        return None if data is None else [int(each) for each in data.reshape(-1)]

    return MOVERS[node.op](node, ask, xs, ys)


def _dense_views(values: Sequence[Value], lanes: int) -> list[View]:
    return [view_of(_dense(value, lanes), sizes(value)) for value in values]


def _dense(value: Value, lanes: int) -> Place:
    array = dense_array(sizes(value), lanes)
    return Place(Buffer(Home.ARENA, array.size), array, sizes(value)[0] if lanes < 0 else 0)


def _is_blocked(values: Sequence[Value], scope: Scope) -> bool:
    naturals = [scope.natural(value) for value in values]
    return max(naturals) > 1 and min(naturals) > 0 and all(image(value) for value in values)


def _form(inputs: Sequence[Value], node: Node, found: Moves, scope: Scope) -> int:
    """The form of the inputs, unless elements change their lanes."""
    values = [*inputs, *node.outputs]
    if all(scope.natural(value) < 0 for value in inputs):
        fits = 0 not in found.axes and all(2 <= len(sizes(value)) <= 4 for value in values)
        return scope.natural(inputs[0]) if fits else 1
    if 1 in found.axes or not _is_blocked(inputs, scope):
        return 1
    return scope.width if all(image(value) for value in node.outputs) else 1


def _seen(node: Node, found: Moves, scope: Scope, lanes: int) -> set[int]:
    """Numbers of the outputs that are one unbroken piece of the input. A plain result has an array
    of its own, which must be written anyway.
    """
    pieces = [[p for p in found.pieces if p.target == n] for n in range(len(node.outputs))]
    return {
        number
        for number, (value, mine) in enumerate(zip(node.outputs, pieces, strict=True))
        if len(mine) == 1 and mine[0].source != FILL and mine[0].x.unbroken and mine[0].y.unbroken
        and not (lanes == 1 and scope.is_result(value))
    }  # fmt: skip


def _emit(builder: Builder, node: Node, lanes: int, seen: set[int]) -> str:
    inputs, scope = _moved_inputs(node), builder.scope
    places = [source(builder, value, lanes) for value in inputs]
    xs, ys = _views(places, inputs), _dense_views(node.outputs, lanes)
    shown = _found(node, scope, xs, ys)
    assert shown is not None
    written: dict[int, Place] = {}
    for number, value in enumerate(node.outputs):
        if not value.uses and not scope.is_result(value):
            continue
        piece = next(piece for piece in shown.pieces if piece.target == number)
        if number in seen and piece.x.unbroken:
            array = dense_array(sizes(value), lanes)
            place, offset = places[piece.source], places[piece.source].array.offset
            array = replace(array, offset=offset + piece.x.offset)
            builder.alias(value, Place(place.buffer, array, place.samples))
        else:
            written[number] = builder.write(value)
            ys[number] = view_of(written[number], sizes(value))
    found = _found(node, scope, xs, ys)
    assert found is not None
    for piece in found.pieces:
        if piece.target in written:
            _copy(builder, found, piece, places, written[piece.target])
    return f"{called(node)} view" if not written else f"{called(node)} copy"


def _views(places: Sequence[Place], values: Sequence[Value]) -> list[View]:
    return [view_of(place, sizes(value)) for place, value in zip(places, values, strict=True)]


def _copy(
    builder: Builder, found: Moves, piece: Piece, places: Sequence[Place], goal: Place
) -> None:
    if piece.source == FILL:
        filler = np.full(1, found.fill, np.float32)
        origin = Operand(builder.packed(("fill", found.fill), [], lambda: filler))
    else:
        place = places[piece.source]
        origin = Operand(place.buffer, place.array.offset + piece.x.offset)
    _job(
        builder, piece.x, piece.y, origin, Operand(goal.buffer, goal.array.offset + piece.y.offset)
    )


def _job(builder: Builder, x: View, y: View, origin: Operand, goal: Operand) -> None:
    """Kernels know strides only: where the elements start is said by the operands."""
    kernel = copy(y.shape, Strided(x.strides), Strided(y.strides), builder.scope.width)
    builder.job(kernel, origin, goal)


def source(builder: Builder, value: Value, lanes: int) -> Place:
    """A value in a form; a stored one where it is stored."""
    if lanes == 1 and builder.scope.constant(value) is not None:
        return builder.constant(value)
    return builder.read(value, lanes)


def called(node: Node) -> str:
    """An operator's name as plans show it."""
    return node.op.removeprefix("nnconv.").lower()


# -- blocked images


def _channel_orders(node: Node, found: Moves, scope: Scope) -> list[list[int]] | None:
    """For each output the channels of a blocked input that it takes; None where more moves than
    whole channels, or in too many ways.
    """
    x = node.required(0)
    if found.axes != {1} or node.op == "Concat" or not _is_blocked([x], scope):
        return None
    plane = sizes(x)[2] * sizes(x)[3]
    orders = [[0] * sizes(value)[1] for value in node.outputs]
    for piece in found.pieces:
        if piece.source == FILL or len(piece.y.shape) != 4:
            return None
        first, goal = piece.x.offset // plane, piece.y.offset // plane
        for number in range(piece.y.shape[1]):
            channel = first + number * piece.x.strides[1] // plane
            orders[piece.target][goal + number * piece.y.strides[1] // plane] = channel
    few = all(
        _whole_blocks(order, scope.width) or len(runs(order, scope.width)) <= _MOST_RUNS
        for order in orders
    )
    return orders if few else None


def _whole_blocks(order: Sequence[int], lanes: int) -> bool:
    """Neighbouring channels from the start of a block on."""
    return order[0] % lanes == 0 and list(order) == list(range(order[0], order[0] + len(order)))


def _reordered(node: Node, orders: Sequence[list[int]], scope: Scope) -> Claim:
    seen = any(_whole_blocks(order, scope.width) for order in orders)

    def emit(builder: Builder) -> str:
        x, copied = builder.read(node.required(0), scope.width), 0
        for value, order in zip(node.outputs, orders, strict=True):
            if _whole_blocks(order, scope.width):
                array = x.array.slice_channels(order[0], len(order))
                builder.alias(value, Place(x.buffer, array))
            elif value.uses or scope.is_result(value):
                take_channels(builder, x, order, builder.write(value))
                copied += 1
        return f"{called(node)} channels, {copied} copied"

    return _claim(node, [node.required(0)], scope.width, emit, seen, scope)


def take_channels(builder: Builder, x: Place, order: Sequence[int], y: Place) -> None:
    """A job: y becomes the channels of x, both blocked, in the order given."""
    source, made = (replace(place.view, border=Border()) for place in (x, y))
    builder.job(Channels(source, made, tuple(runs(order, x.lanes))), x, y)


@lowers("Reshape", "nnconv.Reshape")
def shuffle(node: Node, scope: Scope) -> Claim | None:
    """Channels counted as several axes, these exchanged, and counted as one again: ShuffleNet's
    channel shuffle, on images that are not plain.
    """
    x = node.required(0)
    turn = scope.only_reader(node.output)
    last = scope.only_reader(turn.output) if turn is not None else None
    if scope.natural(x) == 1 or image(x) is None or turn is None or last is None:
        return None
    if turn.op != "Transpose" or last.op not in RESHAPING or sizes(last.output) != sizes(x):
        return None
    found = _channel_axes(sizes(x), sizes(node.output), turn.perm)
    if found is None:
        return None
    parts, order = found
    lanes = scope.natural(x)
    channels = np.arange(math.prod(parts)).reshape(parts).transpose(order).reshape(-1).tolist()
    if lanes > 1 and len(runs(channels, lanes)) > _MOST_RUNS:
        return None

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, lanes), builder.write(last.output)
        if lanes > 1:
            take_channels(builder, source, channels, made)
        else:
            whole, into = view_of(source, sizes(x)), view_of(made, sizes(x))
            turned = whole.split(1, *parts).ordered([0, *(axis + 1 for axis in order)])
            goal = into.split(1, *(parts[axis] for axis in order))
            _job(builder, turned, goal, source.operand, made.operand)
        return "channel shuffle"

    return Claim((node, turn, last), (Read(x, lanes),), last.output, lanes, emit)


def _channel_axes(
    x: Sequence[int], middle: Sequence[int], perm: Sequence[int] | None
) -> tuple[list[int], list[int]] | None:
    """The sizes that the channels of an image are split into, and the order they are brought in;
    None where other axes move.
    """
    if perm is None or middle[0] != x[0] or perm[0] != 0:
        return None
    ends = (end for end in range(2, len(middle)) if math.prod(middle[1:end]) == x[1])
    end = next(ends, 0)
    if not end or [*perm[end:]] != [*range(end, len(middle))]:
        return None
    return [*middle[1:end]], [axis - 1 for axis in perm[1:end]]


def _from_blocks(node: Node, scope: Scope) -> Claim:
    """A plain transpose read from a blocked image: its lanes are an axis like any other."""
    x = node.required(0)
    order = list(range(4))[::-1] if node.perm is None else [axis % 4 for axis in node.perm]
    at = order.index(1)
    wide = [*order[:at], 1, 4, *order[at + 1 :]]

    def emit(builder: Builder) -> str:
        place, goal = builder.read(x, scope.width), builder.write(node.output)
        whole, made = view_of(place, sizes(x)), view_of(goal, sizes(node.output))
        full, tail = divmod(sizes(x)[1], scope.width)
        for first, blocks, lanes in ((0, full, scope.width), (full, min(tail, 1), tail)):
            if blocks:
                part = whole.cut(1, first, blocks).cut(4, 0, lanes).ordered(wide)
                into = made.cut(at, first * scope.width, blocks * lanes).split(at, blocks, lanes)
                _job(builder, part, into, place.at(place.array.offset + part.offset),
                     goal.at(goal.array.offset + into.offset))  # fmt: skip
        return "transpose of blocks"

    return Claim((node,), (Read(x, scope.width),), node.output, 1, emit)
