"""Sums by whole groups on graphics cards, and products of so few rows that they are such sums.

The work-items of a group take every so many elements in turn, so that neighbours read neighbours,
and join what they have in a tree of fixed order: results depend on shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.groups.product import Ending, Finisher, Goal
from nnconv.runtime.kernels.language import (
    Argument,
    Condition,
    Index,
    Kernel,
    Local,
    Printer,
    Value,
)

ROUNDS = 4  # elements of a work-item on their way together
NEUTRAL = {"add": 0.0, "mul": 1.0, "max": -math.inf, "min": math.inf}


def item_count(length: int, most: int) -> int:
    """Work-items for a sum of `length` elements: a power of two."""
    return min(1 << (max(1, length) - 1).bit_length(), most)


def join(k: Printer, operation: str, values: Sequence[Value], name: str) -> list[Value]:
    """What the work-items of a group hold, joined along the first axis of the group: the same
    numbers for all of them. That axis is a power of two long.

    `name` is an array of the group, as large as the group for each value; all work-items come here.
    """
    down, across = (*k.kernel.local, 1)[:2]
    first, *rest = k.local_ids
    beside = rest[0] if rest else Index()
    me = k.index(first * across + beside)
    for number, value in enumerate(values):
        k.store(name, me + number * down * across, value)
    half = down // 2
    while half:
        k.barrier()
        with k.when(k.index_compare("lt", first, half)):
            for number in range(len(values)):
                at = k.index(me + number * down * across)
                other = k.load(name, at + half * across)
                k.store(name, at, k.combine2(operation, k.load(name, at), other))
        half //= 2
    k.barrier()
    joined = [k.load(name, beside + number * down * across) for number in range(len(values))]
    k.barrier()  # the array may be used again
    return joined


def stride_over(
    k: Printer,
    count: int,
    body: Callable[[int, Index], None],
    below: Index | int | None = None,
) -> None:
    """Call `body(which, number)` for the numbers below `count` that are this work-item's, `which`
    of some independent sums; `below` is where they end, where that is known at run time only.
    """
    me, width = k.local_ids[0], k.kernel.local[0]
    end = count if below is None else below
    turns, rest = divmod(count, width * ROUNDS)

    def visit(which: int, number: Index, whole: bool) -> None:
        with k.loop(1) if whole and below is None else k.when(k.index_compare("lt", number, end)):
            body(which, number)

    if turns:
        with k.loop(turns, name="turn") as turn:
            for which in range(ROUNDS):
                at = k.index(turn * (width * ROUNDS) + me + which * width)
                visit(which, at, whole=True)
    start = turns * width * ROUNDS
    for which in range(-(-rest // width)):
        number = k.index(me + (start + which * width))
        visit(which, number, whole=rest >= (which + 1) * width)


def fold(
    k: Printer,
    operation: str,
    count: int,
    element: Callable[[Index], Value],
    name: str,
    below: Index | int | None = None,
) -> Value:
    """`count` elements joined by a group: the same number for all of its work-items."""
    neutral = k.constant(NEUTRAL[operation])
    sums = [k.register(neutral, "part") for _ in range(ROUNDS)]

    def add(which: int, number: Index) -> None:
        sums[which].value = k.combine2(operation, sums[which].value, element(number))

    stride_over(k, count, add, below)
    a, b, c, d = (each.value for each in sums)
    mine = k.combine2(operation, k.combine2(operation, a, b), k.combine2(operation, c, d))
    return join(k, operation, [mine], name)[0]


class InGroups(Kernel):
    """What kernels share whose groups join one number a work-item: their array, `sums`."""

    @property
    def lanes(self) -> int:
        return 1

    @property
    def shared(self) -> tuple[Local, ...]:
        return (Local("sums", math.prod(self.local)),)


def is_first(k: Printer) -> Condition:
    """Whether this work-item is the one of its group, or of its row of it, that stores."""
    return k.index_compare("eq", k.local_ids[0], 0)


@dataclass(frozen=True)
class FewRows(InGroups):
    """y[m, n] = ending(sum over d of a[m, d] * b[n, d]) for few m: a group an n.

    Rows of a and b are contiguous, `a_row` and `b_row` elements apart. Arguments: a, b, [bias],
    [residual], y.
    """

    family: ClassVar[str] = "group_few_rows"

    rows: int
    columns: int
    depth: int
    a_row: int
    b_row: int
    goal: Goal
    ending: Ending
    width: int

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.columns,)

    @property
    def local(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def shared(self) -> tuple[Local, ...]:
        return (Local("sums", self.rows * self.width),)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        more = self.ending.arguments
        return (Argument("a"), Argument("b"), *more, Argument("y", written=True))

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.columns * self.depth

    @property
    def bytes(self) -> int:
        return 4 * self.columns * self.depth

    def describe(self, k: Printer) -> None:
        (n,) = k.ids
        sums = [
            [k.register(k.constant(0.0), "sum") for _ in range(ROUNDS)] for _ in range(self.rows)
        ]
        start = k.index(n * self.b_row)

        def add(which: int, d: Index) -> None:
            b = k.scalar("b", start + d)
            for m, line in enumerate(sums):
                a = k.scalar("a", d + m * self.a_row)
                line[which].value = k.fma(a, b, line[which].value)

        stride_over(k, self.depth, add)
        parts = [k.sum([each.value for each in line]) for line in sums]
        totals = join(k, "add", parts, "sums")
        with k.when(is_first(k)):
            rows, size = [Index((), m) for m in range(self.rows)], (self.rows, self.columns)
            Finisher(k, self.goal, self.ending, Index(), size, rows).column(n, totals)
