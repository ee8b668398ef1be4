"""Folds as jobs: one, or one of pieces and one of their results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.elementwise import Step, Strided, chain, space
from nnconv.runtime.kernels.fold import Fold, cut
from nnconv.runtime.kernels.functions import NONE, Activation
from nnconv.runtime.lowering.layout import Buffer, Operand, Place

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder


@dataclass(frozen=True, slots=True)
class Work:
    """What a fold does besides moving: steps on its operands, how two are joined, what follows.

    `divisor` is where a number lies by which the result is divided.
    """

    steps: tuple[Step, ...] = ()
    join: str = "add"
    after: Activation = NONE
    divisor: Buffer | Place | None = None
    types: tuple[str, ...] = ()


Source = Place | Operand | Buffer


def fold(
    builder: Builder,
    shape: Sequence[int],
    sources: Sequence[tuple[Source, Strided]],
    goal: tuple[Source, Strided],
    work: Work,
) -> None:
    """Jobs that join the sources over the dimensions where the goal has stride 0."""
    extents, strided = space(shape, [*(s for _, s in sources), goal[1]])
    kernel = Fold(
        extents, tuple(strided[:-1]), strided[-1], work.steps, work.join, builder.scope.width,
        work.after, work.divisor is not None, work.types,
    )  # fmt: skip
    where = [source for source, _ in sources]
    if not kernel.joined:
        _only_steps(builder, kernel, where, goal[0])
        return
    pieces = cut(kernel)
    if pieces is None:
        divisor = [] if work.divisor is None else [work.divisor]
        builder.job(kernel, *where, *divisor, goal[0])
        return
    parts, scratch = _in_pieces(builder, kernel, where, *pieces)
    kept = [extents[d] for d in kernel.kept]
    steps = Strided((0, *(strided[-1].strides[d] for d in kernel.kept)), strided[-1].offset)
    source = (scratch, Strided(_dense((parts, *kept))))
    fold(builder, (parts, *kept), [source], (goal[0], steps), replace(work, steps=(), types=()))


def _only_steps(builder: Builder, kernel: Fold, sources: list[Source], goal: Source) -> None:
    """There is nothing to join."""
    last = len(kernel.inputs) + len(kernel.steps) - 1
    steps = (*kernel.steps, Step(kernel.after.name, (last,), kernel.after.parameters))
    inputs = list(kernel.inputs)
    made = chain(kernel.shape, inputs, [kernel.output], steps, [last + 1], kernel.width)
    builder.job(made, *sources, goal)


def _in_pieces(
    builder: Builder, kernel: Fold, sources: list[Source], d: int, length: int
) -> tuple[int, Buffer]:
    """A fold of each piece of dimension d; how many, and where [pieces, what is kept] lies."""
    full, rest = divmod(kernel.shape[d], length)
    kept = tuple(kernel.shape[i] for i in kernel.kept)
    each, dense = math.prod(kept), iter(_dense(kept))
    parts = full + bool(rest)
    scratch = builder.buffer(parts * each)
    goal = [next(dense) if i in kernel.kept else 0 for i in range(len(kernel.shape))]
    for first, count, size in ((0, full, length), (full, 1, rest)):
        if not size:
            continue
        shape = (count, *kernel.shape[:d], size, *kernel.shape[d + 1 :])
        inputs = [
            Strided((x.strides[d] * size, *x.strides), x.offset + first * length * x.strides[d])
            for x in kernel.inputs
        ]
        extents, strided = space(shape, [*inputs, Strided((each, *goal), first * each)])
        piece = replace(
            kernel, shape=extents, inputs=tuple(strided[:-1]), output=strided[-1], after=NONE,
            divided=False,
        )  # fmt: skip
        builder.job(piece, *sources, scratch)
    return parts, scratch


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
