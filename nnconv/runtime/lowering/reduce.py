"""Reductions over any axes, in whatever form a value has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.elementwise import Step, Strided, chain
from nnconv.runtime.kernels.fold import RECIPES
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.lowering.claims import Claim, Read, Scope, image, lowers, sizes
from nnconv.runtime.lowering.fold import Work, fold
from nnconv.runtime.lowering.gradients.conv import plain
from nnconv.runtime.lowering.layout import Place, is_float, strided_plain

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

_SUMS = {"nnconv.SumTo": "ReduceSum", "GlobalAveragePool": "ReduceMean",
         "GlobalMaxPool": "ReduceMax"}  # fmt: skip
"""Operators that are reductions over axes of their own; what they join stays as axes of size 1."""


@lowers("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", first=True)
def plain_planes(node: Node, scope: Scope) -> Claim | None:
    """Planes that come plain are not brought into blocks first."""
    return reduction(node, scope) if scope.natural(node.required(0)) == 1 else None


@lowers(*RECIPES, *_SUMS, "ReduceLogSumExp")
def reduction(node: Node, scope: Scope) -> Claim | None:
    """Any reduction of floats whose axes are known."""
    x, y, axes = node.required(0), node.output, joined_axes(node, scope)
    if axes is None or not is_float(x) or not is_float(y):
        return None
    lanes = _form(x, y, axes, scope)
    made = lanes if lanes < 0 or image(y) is not None else 1

    def emit(builder: Builder) -> str:
        source = plain(builder, x) if lanes == 1 else builder.read(x, lanes)
        parts = _parts(source, sizes(x), builder.write(y), _goal_axes(node, axes), sizes(y))
        count = math.prod(sizes(x)[axis] for axis in axes)
        for part in parts:
            if node.op == "ReduceLogSumExp":
                _log_sum_exp(builder, part)
            else:
                fold(builder, part.shape, [part.source], part.goal, _work(node.op, count))
        return f"fold {node.op.removeprefix('nnconv.').removeprefix('Reduce').lower()}"

    reads = () if scope.constant(x) is not None else (Read(x, lanes),)
    return Claim((node,), reads, y, made, emit)


def joined_axes(node: Node, scope: Scope) -> tuple[int, ...] | None:
    """The axes that a reduction joins; None where they are not known before the run."""
    x, y = sizes(node.required(0)), sizes(node.output)
    if node.op == "nnconv.SumTo":
        lead = len(x) - len(y)
        repeated = (lead + i for i, size in enumerate(y) if size == 1 != x[lead + i])
        return (*range(lead), *repeated)
    if node.op in _SUMS:
        return tuple(range(2, len(x)))
    given = node.input(1)
    known = scope.constant(given)
    if given is not None and known is None:
        return None
    if known is None or not known.size:
        return () if node.noop_with_empty_axes else tuple(range(len(x)))
    return tuple(sorted({int(axis) % len(x) for axis in known.reshape(-1)}))


def _work(op: str, count: int) -> Work:
    recipe = RECIPES[_SUMS.get(op, op)]
    return Work(recipe.steps, recipe.join, recipe.after(count))


def _form(x: Value, y: Value, axes: tuple[int, ...], scope: Scope) -> int:
    """Where lanes are not joined, the form that x has; plain otherwise."""
    natural = scope.natural(x)
    if natural > 1:
        return natural if image(x) is not None and 1 not in axes else 1
    ranks = {len(sizes(x)), len(sizes(y))}
    by_sample = natural < 0 and 0 not in axes and ranks <= {2, 3, 4}
    return natural if by_sample else 1


def _goal_axes(node: Node, axes: tuple[int, ...]) -> dict[int, int]:
    """The result's axis for each axis that is kept."""
    x, y = len(sizes(node.required(0))), len(sizes(node.output))
    kept = [axis for axis in range(x) if axis not in axes]
    if node.op in _SUMS or node.keepdims:
        return {axis: axis - (x - y) for axis in kept}
    return {axis: number for number, axis in enumerate(kept)}


@dataclass(frozen=True, slots=True)
class _Part:
    """Elements of x and where what they give goes, over one space."""

    shape: tuple[int, ...]
    source: tuple[Place, Strided]
    goal: tuple[Place, Strided]


def _parts(
    x: Place, extents: tuple[int, ...], y: Place, goal_axes: dict[int, int], made: tuple[int, ...]
) -> list[_Part]:
    """The space of x in its form; in two parts where blocks go out plain and the last one is not
    full."""
    shape, steps, axes = _dimensions(x, extents)
    if y.lanes > 1:
        goals = _dimensions(y, made)[1]
        by_axis = dict(zip(_dimensions(y, made)[2][:-1], goals[:-1], strict=True))
        goal = [by_axis[goal_axes[axis]] if axis in goal_axes else 0 for axis in axes[:-1]]
        return [_Part(shape, (x, Strided(steps)), (y, Strided((*goal, 1))))]
    by_number = strided_plain(y, made).strides
    goal = [by_number[goal_axes[axis]] if axis in goal_axes else 0 for axis in axes]
    if x.lanes == 1:
        return [_Part(shape, (x, Strided(steps)), (y, Strided(tuple(goal))))]
    goal[1] *= x.lanes
    full, tail = divmod(extents[1], x.lanes)
    return [
        _Part(
            (shape[0], blocks, *shape[2:4], lanes),
            (x, Strided(steps, first * steps[1])),
            (y, Strided(tuple(goal), first * goal[1])),
        )
        for first, blocks, lanes in ((0, full, x.lanes), (full, 1, tail))
        if blocks * lanes
    ]


def _dimensions(
    place: Place, extents: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(extents, strides, axes) of a value's dimensions in its form; the lanes come last."""
    array = place.view
    if place.lanes == 1:
        shape = extents or (1,)
        return shape, strided_plain(place, extents).strides, tuple(range(len(shape)))
    shape = (array.batch, array.blocks, array.height, array.width, array.lanes)
    steps = (array.image, array.block, array.row, array.column, 1)
    dims: tuple[int, ...] = (0, 1, 2, 3)
    if place.samples:
        dims = {2: (0, 1), 3: (0, 1, 3), 4: (0, 1, 2, 3)}[len(extents)]
    lane = 0 if place.samples else 1
    keep = (*dims, 4)
    return (
        tuple(shape[d] for d in keep),
        tuple(steps[d] for d in keep),
        (*range(len(dims)), lane),
    )


def _log_sum_exp(builder: Builder, part: _Part) -> None:
    """log(sum e^(x - top)) + top, with top the largest element where that is finite."""
    top = Work(join="max", after=Activation("Finite"))
    fold(builder, part.shape, [part.source], part.goal, top)
    place, strided = part.goal
    sums = builder.buffer(place.array.size)
    steps = (Step("Sub", (0, 1)), Step("Exp", (2,)))
    work = Work(steps, "add", Activation("Log"))
    fold(builder, part.shape, [part.source, part.goal], (sums, strided), work)
    kept = [(n, s) for n, s in zip(part.shape, strided.strides, strict=True) if s]
    shape = [n for n, _ in kept] or [1]
    where = Strided(tuple(s for _, s in kept) or (1,), strided.offset)
    total = chain(shape, [where] * 2, [where], [Step("Add", (0, 1))], [2], builder.scope.width)
    builder.job(total, sums, place, place)
