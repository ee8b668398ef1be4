"""Reductions over any axes of any strides, with whatever is done to the elements before.

Like a chain (elementwise.py) a fold has operands with strides over one space; dimensions along
which the result has stride 0 are joined. Lanes run along the last dimension, joined or not. Sums
are kept in several partial sums, those of inner dimensions within those of outer ones, and joined
in a fixed order: results depend on the shape alone. `cut` says where one fold should become two,
so that there is work for all threads and no sum is long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.elementwise import Step, Strided, run_steps
from nnconv.runtime.kernels.functions import BINARY, NONE, Activation
from nnconv.runtime.kernels.language import (
    DTYPES,
    F32,
    Argument,
    Index,
    Kernel,
    Printer,
    Register,
    Value,
)
from nnconv.runtime.kernels.samples.lanes import Cut
from nnconv.schemas.errors import InternalError

PARTIALS = 4  # independent sums: hides the latency of an addition, and rounds less
_VECTORS = 4  # side by side in an item whose lanes are kept
_PIECE = 16384  # elements that are worth an item of their own, some microseconds of work
_ITEMS = 32  # that keep all threads busy


# How two numbers are joined, and what changes nothing.
JOINS: dict[str, tuple[Callable[[Printer, Value, Value], Value], float]] = {
    "add": (lambda k, a, b: a + b, 0.0),
    "mul": (lambda k, a, b: a * b, 1.0),
    "max": (BINARY["Max"], -math.inf),
    "min": (BINARY["Min"], math.inf),
}


@dataclass(frozen=True)
class Recipe:
    """A reduction: unary before, how two are joined, unary after (given how many there are)."""

    before: str
    join: str
    after: Callable[[int], Activation]

    @property
    def steps(self) -> tuple[Step, ...]:
        return (Step(self.before, (0,)),) if self.before else ()


def _plain(name: str = "Identity") -> Callable[[int], Activation]:
    return lambda count: Activation(name)


RECIPES: dict[str, Recipe] = {
    "ReduceSum": Recipe("", "add", _plain()),
    "ReduceMean": Recipe("", "add", lambda n: Activation("Affine", (1 / n, 0.0))),
    "ReduceMax": Recipe("", "max", _plain()),
    "ReduceMin": Recipe("", "min", _plain()),
    "ReduceProd": Recipe("", "mul", _plain()),
    "ReduceL1": Recipe("Abs", "add", _plain()),
    "ReduceL2": Recipe("Square", "add", _plain("Sqrt")),
    "ReduceSumSquare": Recipe("Square", "add", _plain()),
    "ReduceLogSum": Recipe("", "add", _plain("Log")),
}


@dataclass(frozen=True)
class Fold(Kernel):
    """y = after(steps(x...) joined over the dimensions where y has stride 0) / divisor.

    Arguments: x0, x1, ... (of `types`, computed with as f32), divisor (one number, if `divided`),
    y.
    """

    family: ClassVar[str] = "fold"

    shape: tuple[int, ...]
    inputs: tuple[Strided, ...]
    output: Strided
    steps: tuple[Step, ...]
    join: str
    width: int  # lanes of a vector
    after: Activation = NONE
    divided: bool = False
    types: tuple[str, ...] = ()  # of the inputs; f32 by default

    def __post_init__(self) -> None:
        operands = (*self.inputs, self.output)
        if self.join not in JOINS or any(len(o.strides) != len(self.shape) for o in operands):
            raise InternalError("fold: operands and shape do not belong together")

    @property
    def lanes(self) -> int:
        return self.width

    @property
    def along(self) -> bool:
        """Whether lanes run along a dimension that is joined."""
        return self.output.strides[-1] == 0

    @property
    def joined(self) -> tuple[int, ...]:
        """The dimensions that are joined."""
        return tuple(d for d, stride in enumerate(self.output.strides) if stride == 0)

    @property
    def kept(self) -> tuple[int, ...]:
        return tuple(d for d, stride in enumerate(self.output.strides) if stride)

    @property
    def _span(self) -> Cut:
        """The pieces of the last dimension, where it is kept."""
        return Cut(self.shape[-1], self.width * min(_VECTORS, -(-self.shape[-1] // self.width)))

    @property
    def grid(self) -> tuple[int, ...]:
        if self.along:
            return tuple(self.shape[d] for d in self.kept) or (1,)
        return (*(self.shape[d] for d in self.kept[:-1]), self._span.count)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        types = self.types or ("f32",) * len(self.inputs)
        named = [Argument(f"x{i}", DTYPES[t], aliased=True) for i, t in enumerate(types)]
        named += [Argument("divisor")] if self.divided else []
        return (*named, Argument("y", written=True))

    @property
    def bytes(self) -> int:
        return 4 * math.prod(self.shape) * len(self.inputs)

    def describe(self, k: Printer) -> None:
        place = [Index() for _ in self.shape]
        for d, at in zip(self.kept, k.ids, strict=False):
            place[d] = at
        if self.along:
            total = self._nest(k, place, self.joined, 1, self._row)[0]
            self._store(k, place, self._lanes(k, total), 1)
            return
        span = self._span
        for length in span.bodies(k, k.ids[-1]):
            place[-1] = k.ids[-1] * span.width
            self._columns(k, place, length)

    def _columns(self, k: Printer, place: list[Index], length: int) -> None:
        """Some vectors side by side, each lane a result of its own."""
        counts = list(_vectors(length, self.width))

        def read(at: list[Index]) -> list[Value]:
            return [
                self._value(k, (*at[:-1], at[-1] + number * self.width), count)
                for number, count in enumerate(counts)
            ]

        def inner(k: Printer, at: list[Index], d: int) -> list[Value]:
            partials = max(1, PARTIALS // len(counts))
            return self._stream(
                k, self.shape[d], 1, partials, len(counts), lambda i, _: read(_moved(at, d, i))
            )

        totals = self._nest(k, place, self.joined, len(counts), inner)
        for number, (total, count) in enumerate(zip(totals, counts, strict=True)):
            at = _moved(place, len(place) - 1, place[-1] + number * self.width)
            self._store(k, at, total, count)

    def _row(self, k: Printer, place: list[Index], d: int) -> list[Value]:
        """One run along the lanes."""
        neutral = JOINS[self.join][1]

        def read(at: Index, count: int) -> list[Value]:
            value = self._value(k, _moved(place, d, at), count)
            if not count:
                return [value]
            inside = k.vector([1.0] * count + [0.0] * (self.width - count)) > 0.0
            return [k.select(inside, value, k.constant(neutral))]

        return self._stream(k, self.shape[d], self.width, PARTIALS, 1, read)

    def _nest(
        self,
        k: Printer,
        place: list[Index],
        dims: tuple[int, ...],
        streams: int,
        inner: Callable[[Printer, list[Index], int], list[Value]],
    ) -> list[Value]:
        """All of `dims` joined, the last of them by `inner`."""
        if len(dims) == 1:
            return inner(k, place, dims[0])
        totals = self._registers(k, streams)
        with k.loop(self.shape[dims[0]], name="outer") as at:
            values = self._nest(k, _moved(place, dims[0], at), dims[1:], streams, inner)
            self._take(k, totals, values)
        return [total.value for total in totals]

    def _stream(
        self,
        k: Printer,
        length: int,
        step: int,
        partials: int,
        streams: int,
        read: Callable[[Index, int], list[Value]],
    ) -> list[Value]:
        """What `read` gives at 0, step, ... below `length`, joined; each stream for itself."""
        sums = [self._registers(k, streams) for _ in range(partials)]
        for number, at, count in positions(k, length, step, partials):
            self._take(k, sums[number], read(at, count))
        while len(sums) > 1:
            half = len(sums) // 2
            for mine, other in zip(sums[:half], sums[half:], strict=True):
                self._take(k, mine, [register.value for register in other])
            sums = sums[:half]
        return [register.value for register in sums[0]]

    def _registers(self, k: Printer, count: int) -> list[Register]:
        return [k.register(k.constant(JOINS[self.join][1]), "partial") for _ in range(count)]

    def _take(self, k: Printer, totals: list[Register], values: list[Value]) -> None:
        join = JOINS[self.join][0]
        for total, value in zip(totals, values, strict=True):
            total.value = join(k, total.value, value)

    def _lanes(self, k: Printer, value: Value) -> Value:
        """All lanes joined, by halves."""
        while value.lanes > 1:
            value = JOINS[self.join][0](k, *k.halves(value))
        return value

    def _value(self, k: Printer, place: tuple[Index, ...] | list[Index], count: int) -> Value:
        read = [self._load(k, i, place, count) for i in range(len(self.inputs))]
        return run_steps(k, read, self.steps)[-1]

    def _load(
        self, k: Printer, number: int, place: tuple[Index, ...] | list[Index], count: int
    ) -> Value:
        name, operand = f"x{number}", self.inputs[number]
        at, step = address(operand, place), operand.strides[-1]
        if step == 0:
            value = k.broadcast(name, at)
        elif step == 1:
            value = k.load(name, at, count=count)
        else:
            each = [k.scalar(name, at + i * step) for i in range(count or self.width)]
            value = k.join(each, self.width)
        return k.cast(value, F32)

    def _store(self, k: Printer, place: list[Index], value: Value, count: int) -> None:
        value = self.after(k, value)
        if self.divided:
            value = value / k.splat(k.scalar("divisor", 0), value.lanes)
        at, step = address(self.output, place), self.output.strides[-1]
        if step <= 1:
            k.store("y", at, value, count=count if value.lanes > 1 else 0)
            return
        for i in range(count or self.width):
            k.store("y", at + i * step, k.part(value, i, 1))


def address(operand: Strided, place: tuple[Index, ...] | list[Index]) -> Index:
    at = Index((), operand.offset)
    for index, stride in zip(place, operand.strides, strict=True):
        at = at + index * stride
    return at


def _moved(place: list[Index], dimension: int, at: Index) -> list[Index]:
    return [*place[:dimension], at, *place[dimension + 1 :]]


def _vectors(length: int, width: int) -> Iterator[int]:
    """The counts that `load` takes for the vectors of a piece: 0 for a whole one."""
    for start in range(0, length, width):
        yield 0 if length - start >= width else length - start


def positions(
    k: Printer, length: int, step: int, partials: int = PARTIALS
) -> Iterator[tuple[int, Index, int]]:
    """(partial, position, count) for a loop over `length` in steps; count 0 is a whole step."""
    full, rest = divmod(length, step)
    turns, left = divmod(full, partials)
    if turns:
        with k.loop(turns, name="turn") as turn:
            for p in range(partials):
                yield p, turn * (partials * step) + p * step, 0
    for p in range(left):
        yield p, Index((), (turns * partials + p) * step), 0
    if rest:
        yield left % partials, Index((), full * step), rest


def cut(kernel: Fold) -> tuple[int, int] | None:
    """(dimension, length of its pieces) where a fold is better done in pieces first."""
    each = math.prod(kernel.shape) // kernel.total
    busy = kernel.total >= _ITEMS and each <= 64 * _PIECE
    if each < 2 * _PIECE or busy:
        return None
    dimension = max(kernel.joined, key=lambda d: kernel.shape[d])
    extent = kernel.shape[dimension]
    unit = PARTIALS * kernel.width if dimension == len(kernel.shape) - 1 else 1
    length = -(-extent * _PIECE // each)
    length = -(-length // unit) * unit
    if length >= extent:
        return None
    even = (n for n in range(length, length // 2, -unit) if extent % n == 0)
    return dimension, next(even, length)
