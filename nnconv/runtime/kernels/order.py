"""The largest or smallest elements along an axis, and where they stand: ArgMax, ArgMin and TopK.

Floats are compared by integer keys (`order_key`), a total order with NaN at an end of it; among
equals the place decides. Each rank is one pass over the axis for the best element behind the one
before, so nothing is moved, and lanes run along columns, or along the axis where that is
contiguous. (By groups on graphics cards: groups/order.py.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.language import (
    DTYPES,
    F32,
    I32,
    Argument,
    Condition,
    Index,
    Printer,
    Register,
    Value,
)
from nnconv.runtime.kernels.reduce import AlongAxis

_TOP = 0x7FFFFFFF
NEVER = -_TOP  # a key below all keys


@dataclass(frozen=True, slots=True)
class Order:
    """Which element comes first: the largest or the smallest, NaN before or behind all others, and
    of equals the one in front, or with `last` the one behind."""

    smallest: bool = False
    nan_first: bool = True
    last: bool = False

    def key(self, k: Printer, x: Value) -> Value:
        """An integer that is the larger the earlier x comes; NEVER is none of them."""
        bits = k.bits(x + 0.0, I32)  # -0 equals 0
        key = k.select(bits < 0, k.binary("xor", bits, _TOP), bits)
        key = k.binary("xor", key, -1) if self.smallest else key
        return k.select(k.compare("ne", x, x), _TOP if self.nan_first else NEVER + 1, key)

    def ahead(self, k: Printer, key: Value, place: Value, than: Value, there: Value) -> Condition:
        """Whether the element at `place` comes before the one at `there`, by key and place."""
        nearer = place > there if self.last else place < there
        return either(k, key > than, k.both(k.compare("eq", key, than), nearer))


def either(k: Printer, a: Condition, b: Condition) -> Condition:
    return k.negate(k.both(k.negate(a), k.negate(b)))


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is written of a place: place * scale + shift, as a type of the language."""

    kind: str = "i64"
    scale: int = 1
    shift: int = 0

    @property
    def argument(self) -> Argument:
        return Argument("places", DTYPES[self.kind], written=True)

    def of(self, k: Printer, place: Value) -> Value:
        """In 32 bits, which whoever asks for it answers for."""
        number = place if self.scale == 1 else place * self.scale
        number = number + self.shift if self.shift else number
        return k.cast(number, DTYPES[self.kind])


@dataclass(slots=True)
class Best:
    """The best so far, one a lane: keys, places, and the elements where they are wanted."""

    key: Register
    place: Register
    element: Register | None

    @staticmethod
    def none(k: Printer, elements: bool) -> Best:
        key = k.register(k.constant(NEVER, I32), "key")
        place = k.register(k.constant(-1, I32), "place")
        return Best(key, place, k.register(k.constant(0.0), "element") if elements else None)

    def forget(self, k: Printer) -> None:
        self.key.value = k.constant(NEVER, I32)

    def meet(self, k: Printer, wins: Condition, key: Value, place: Value, element: Value) -> None:
        self.key.value = k.select(wins, key, self.key.value)
        self.place.value = k.select(wins, place, self.place.value)
        if self.element is not None:
            self.element.value = k.select(wins, element, self.element.value)


@dataclass(frozen=True)
class Ranked(AlongAxis):
    """The first `y.length` elements along the axis in an order, and where they stand.

    Arguments: x, [elements], [places], both as y lies.
    """

    family: ClassVar[str] = "ranked"

    order: Order
    elements: bool = False
    numbers: Numbers | None = None

    @property
    def arguments(self) -> tuple[Argument, ...]:
        made = [Argument("elements", written=True)] if self.elements else []
        made += [self.numbers.argument] if self.numbers else []
        return (Argument("x"), *made)

    @property
    def bytes(self) -> int:
        return 12 * self.x.outer * self.x.length * self.x.inner * self.y.length

    def _row(self, k: Printer, outer: Index) -> None:
        best = Best.none(k, elements=False)
        lanes = k.vector([float(lane) for lane in range(k.lanes)], I32)
        full, rest = divmod(self.x.length, k.lanes)
        behind = self._nothing(k)
        with k.loop(self.y.length, name="rank") as rank:
            best.forget(k)
            if full:
                with k.loop(full, name="vector") as vector:
                    self._meet(k, best, outer, vector * k.lanes, lanes, 0, behind)
            if rest:
                self._meet(k, best, outer, Index((), full * k.lanes), lanes, rest, behind)
            key, place = self._first_lane(k, best)
            behind[0].value, behind[1].value = k.splat(key), k.splat(place)
            element = k.scalar("x", self.x.at(outer, k.value_index(place), 0))
            self._leave(k, self.y.at(outer, rank, 0), place, element, 0)

    def _nothing(self, k: Printer) -> tuple[Register, Register]:
        """Key and place of an element before all others."""
        edge = self.x.length if self.order.last else -1
        key, place = k.constant(_TOP, I32), k.constant(edge, I32)
        return k.register(key, "before"), k.register(place, "there")

    def _meet(
        self, k: Printer, best: Best, outer: Index, at: Index, lanes: Value, count: int,
        behind: tuple[Register, Register],
    ) -> None:  # fmt: skip
        """A vector of elements along a row, or the `count` last ones."""
        x = k.load("x", self.x.at(outer, at, 0), count=count)
        key, place = self.order.key(k, x), lanes + k.splat(k.index_value(at))
        if count:
            key = k.select(lanes < count, key, k.constant(NEVER, I32))
        best.meet(k, self._wins(k, best, key, place, behind), key, place, x)

    def _wins(
        self, k: Printer, best: Best, key: Value, place: Value, behind: tuple[Register, Register]
    ) -> Condition:
        """Whether an element met in the order of places is the best, of those not taken yet."""
        wins = key >= best.key.value if self.order.last else key > best.key.value
        if self.y.length == 1:
            return wins
        taken = behind[0].value, behind[1].value
        return k.both(wins, self.order.ahead(k, *taken, key, place))

    def _first_lane(self, k: Printer, best: Best) -> tuple[Value, Value]:
        """Of the best of each lane the best: always the same, halves at a time."""
        key, place = best.key.value, best.place.value
        while key.lanes > 1:
            (key, other), (place, there) = k.halves(key), k.halves(place)
            keeps = self.order.ahead(k, key, place, other, there)
            key, place = k.select(keeps, key, other), k.select(keeps, place, there)
        return key, place

    def _columns(self, k: Printer, outer: Index, inner: Index, count: int) -> None:
        best, behind = Best.none(k, self.elements), self._nothing(k)
        with k.loop(self.y.length, name="rank") as rank:
            best.forget(k)
            with k.loop(self.x.length, name="at") as at:
                x = k.load("x", self.x.at(outer, at, inner), count=count)
                key, place = self.order.key(k, x), k.splat(k.index_value(at))
                best.meet(k, self._wins(k, best, key, place, behind), key, place, x)
            behind[0].value, behind[1].value = best.key.value, best.place.value
            element = best.element.value if best.element is not None else None
            self._leave(k, self.y.at(outer, rank, inner), best.place.value, element, count)

    def _leave(
        self, k: Printer, at: Index, place: Value, element: Value | None, count: int
    ) -> None:
        if self.elements and element is not None:
            k.store("elements", at, element, count=count)
        if self.numbers is not None:
            k.store("places", at, self.numbers.of(k, place), count=count)


@dataclass(frozen=True)
class Floated(AlongAxis):
    """y = x as f32, for whole numbers of a type of the language, along an axis of one element.

    Arguments: x, y.
    """

    family: ClassVar[str] = "floated"

    kind: str = "i64"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x", DTYPES[self.kind]), Argument("y", written=True))

    def _row(self, k: Printer, outer: Index) -> None:
        x = k.scalar("x", self.x.at(outer, 0, 0))
        k.store("y", self.y.at(outer, 0, 0), k.cast(x, F32))

    def _columns(self, k: Printer, outer: Index, inner: Index, count: int) -> None:
        x = k.load("x", self.x.at(outer, 0, inner), count=count)
        k.store("y", self.y.at(outer, 0, inner), k.cast(x, F32), count=count)
