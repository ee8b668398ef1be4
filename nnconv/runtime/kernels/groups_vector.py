"""Sums by whole groups on graphics cards, and products of so few rows that they are such sums.

The work-items of a group take every so many elements in turn, so that neighbours read neighbours,
and join what they have in a tree of fixed order: results depend on shapes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.groups_product import Ending, Goal, finisher
from nnconv.runtime.kernels.language import (
    Argument,
    Condition,
    Index,
    Kernel,
    Local,
    Printer,
    Value,
)

_ROUNDS = 4  # elements of a work-item on their way together


def join(k: Printer, operation: str, values: Sequence[Value], name: str, width: int) -> list[Value]:
    """What all `width` work-items of a group hold, joined: the same numbers for each of them.

    `name` is an array of the group, of `width` elements for each value; all work-items come here.
    """
    (me,) = k.local_ids
    for number, value in enumerate(values):
        k.store(name, me + number * width, value)
    half = width // 2
    while half:
        k.barrier()
        with k.when(k.index_compare("lt", me, half)):
            for number in range(len(values)):
                at = k.index(me + number * width)
                both = k.combine2(operation, k.load(name, at), k.load(name, at + half))
                k.store(name, at, both)
        half //= 2
    k.barrier()
    return [k.load(name, number * width) for number in range(len(values))]


def stride_over(
    k: Printer, count: int, width: int, body: Callable[[int, Index, Condition | None], None]
) -> None:
    """Call `body(which, number, inside)` for the numbers below `count` that are this work-item's,
    `which` of some independent sums; a number with a condition may lie past the end.
    """
    (me,) = k.local_ids
    turns, rest = divmod(count, width * _ROUNDS)
    if turns:
        with k.loop(turns, name="turn") as turn:
            for which in range(_ROUNDS):
                body(which, k.index(turn * (width * _ROUNDS) + me + which * width), None)
    start = turns * width * _ROUNDS
    for which in range(-(-rest // width)):
        number = k.index(me + (start + which * width))
        whole = rest >= (which + 1) * width
        body(which, number, None if whole else k.index_compare("lt", number, count))


@dataclass(frozen=True)
class FewRows(Kernel):
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
    def lanes(self) -> int:
        return 1

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
        y = Argument("y", written=True, aliased=bool(more))
        return (Argument("a"), Argument("b"), *more, y)

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.columns * self.depth

    @property
    def bytes(self) -> int:
        return 4 * self.columns * self.depth

    def describe(self, k: Printer) -> None:
        (n,), (me,) = k.ids, k.local_ids
        sums = [
            [k.register(k.constant(0.0), "sum") for _ in range(_ROUNDS)] for _ in range(self.rows)
        ]
        start = k.index(n * self.b_row)

        def add(which: int, d: Index, inside: Condition | None) -> None:
            with k.loop(1) if inside is None else k.when(inside):
                b = k.scalar("b", start + d)
                for m, line in enumerate(sums):
                    a = k.scalar("a", d + m * self.a_row)
                    line[which].value = k.fma(a, b, line[which].value)

        stride_over(k, self.depth, self.width, add)
        parts = [k.sum([each.value for each in line]) for line in sums]
        totals = join(k, "add", parts, "sums", self.width)
        with k.when(k.index_compare("eq", me, 0)):
            store = finisher(k, self.goal, self.ending, Index(), n, self.columns)
            for m, total in enumerate(totals):
                store(Index((), m), total)
