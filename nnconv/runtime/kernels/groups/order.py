"""The first elements of rows in an order, and gradients of whole planes' maxima: a group a row.

The work-items of a group look at every so many elements in turn; what they found is joined in a
tree. Keys and places decide everything (kernels/order.py), so any tree finds the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.language import I32, Argument, Index, Kernel, Local, Printer, Value
from nnconv.runtime.kernels.order import NEVER, Best, Numbers, Order


class _InGroups(Kernel):
    """What both share: two arrays of the group for joining."""

    width: int

    @property
    def lanes(self) -> int:
        return 1

    @property
    def local(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def shared(self) -> tuple[Local, ...]:
        return (Local("keys", self.width, I32), Local("found", self.width, I32))


def first_of_group(k: Printer, order: Order, key: Value, place: Value) -> tuple[Value, Value]:
    """The best of what the work-items of a group found, for all of them; there is a power of two
    of them, and all come here.
    """
    (me,), half = k.local_ids, k.kernel.local[0] // 2
    k.store("keys", me, key)
    k.store("found", me, place)
    while half:
        k.barrier()
        with k.when(k.index_compare("lt", me, half)):
            mine = k.load("keys", me), k.load("found", me)
            other = k.load("keys", me + half), k.load("found", me + half)
            with k.when(order.ahead(k, *other, *mine)):
                k.store("keys", me, other[0])
                k.store("found", me, other[1])
        half //= 2
    k.barrier()
    joined = k.load("keys", 0), k.load("found", 0)
    k.barrier()  # the arrays may be used again
    return joined


@dataclass(frozen=True)
class GroupRanked(_InGroups):
    """The first `count` elements of each contiguous row in an order, and where they stand.

    Arguments: x, [elements], [places], both [rows, count].
    """

    family: ClassVar[str] = "group_ranked"

    rows: int
    length: int
    count: int
    width: int
    order: Order
    elements: bool = False
    numbers: Numbers | None = None

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.rows,)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        made = [Argument("elements", written=True)] if self.elements else []
        made += [self.numbers.argument] if self.numbers else []
        return (Argument("x"), *made)

    @property
    def bytes(self) -> int:
        return 4 * self.rows * self.length * self.count

    def describe(self, k: Printer) -> None:
        (row,), (me,) = k.ids, k.local_ids
        start = k.index(row * self.length)
        edge = self.length if self.order.last else -1
        behind = k.register(k.constant(-NEVER, I32)), k.register(k.constant(edge, I32))
        best = Best.none(k, elements=False)
        with k.loop(self.count, name="rank") as rank:
            best.forget(k)
            with k.loop(self.length, start=me, step=self.width, name="at") as at:
                x, place = k.scalar("x", start + at), k.index_value(at)
                key = self.order.key(k, x)
                wins = self.order.ahead(k, key, place, best.key.value, best.place.value)
                taken = self.order.ahead(k, behind[0].value, behind[1].value, key, place)
                best.meet(k, k.both(wins, taken), key, place, x)
            key, place = first_of_group(k, self.order, best.key.value, best.place.value)
            behind[0].value, behind[1].value = key, place
            with k.when(k.index_compare("eq", me, 0)):
                goal = k.index(row * self.count + rank)
                if self.elements:
                    k.store("elements", goal, k.scalar("x", start + k.value_index(place)))
                if self.numbers is not None:
                    k.store("places", goal, self.numbers.of(k, place))


@dataclass(frozen=True)
class GroupPeakGrad(_InGroups):
    """dx = dy at the first of the largest elements of each plane of x, 0 elsewhere; plain arrays.

    Arguments: x, dy [planes], dx.
    """

    family: ClassVar[str] = "group_peak_grad"

    x: Array
    dy: Array
    dx: Array
    width: int

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.x.batch, self.x.channels)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("dy"), Argument("dx", written=True))

    @property
    def bytes(self) -> int:
        return 8 * self.x.batch * self.x.channels * self.x.pixels

    def describe(self, k: Printer) -> None:
        (image, channel), (me,), order = k.ids, k.local_ids, Order()
        best, extents = Best.none(k, elements=False), (self.x.height, self.x.width)

        def pixel(array: Array, number: Index) -> Index:
            return array.at(image, channel, *k.coordinates(number, extents))

        with k.loop(self.x.pixels, start=me, step=self.width, name="at") as at:
            x = k.scalar("x", pixel(self.x, at))
            key, place = order.key(k, x), k.index_value(at)
            best.meet(k, key > best.key.value, key, place, x)
        _, first = first_of_group(k, order, best.key.value, best.place.value)
        slope = k.scalar("dy", self.dy.at(image, channel))
        with k.loop(self.x.pixels, start=me, step=self.width, name="at") as at:
            mine = k.compare("eq", k.index_value(at), first)
            k.store("dx", pixel(self.dx, at), k.select(mine, slope, k.constant(0.0)))
