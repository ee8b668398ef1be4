"""Chains of elementwise operations in one pass over memory, with broadcasting.

A chain is a small program: values 0.. are the inputs, each step adds one; the last ones are
written. Operands are described by strides over one iteration space (`space` builds it): stride 0
broadcasts, so per-channel factors, scalars and blocked arrays need nothing of their own.

On processors an item is a run of vectors. With a width of 1, as graphics cards have it, an item is
a few elements, and neighbouring items do neighbouring elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.functions import BINARY, TERNARY, UNARY
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer, Value
from nnconv.schemas.errors import InternalError

_TABLES: dict[int, Mapping[str, Callable[..., Value]]] = {1: UNARY, 2: BINARY, 3: TERNARY}
"""Functions by how many operands they take."""
_ITEM_ELEMENTS = 4096  # of one grid item: some microseconds of work
_MOST_SPREAD = 4  # elements from lane to lane that are loaded as whole vectors
_NEIGHBOURS = 64  # items that go through memory side by side: one or two vectors of a card
_EACH = 4  # elements of such an item: loads that are on their way together
_FEW_STEPS = 16  # longer chains keep a card busy with one element an item


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: its name in a table of functions.py, the numbers of its operands, its
    parameters.
    """

    operation: str
    inputs: tuple[int, ...]
    parameters: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Strided:
    """An operand: elements between neighbours along each dimension of the space, and its start."""

    strides: tuple[int, ...]
    offset: int = 0

    def at(self, place: Sequence[Index | int]) -> Index:
        """The address of an element by its coordinates."""
        at = Index((), self.offset)
        for index, stride in zip(place, self.strides, strict=True):
            at = at + Index.of(index) * stride
        return at


@dataclass(frozen=True)
class Chain(Kernel):
    """y... = steps(x...), elementwise over `shape`; the last dimension runs in vectors.

    Arguments: x0, x1, ..., y0, y1, ...; y_i is value number `results[i]`. An output may be one of
    the inputs (in place), if both have the same strides.
    """

    family: ClassVar[str] = "chain"

    shape: tuple[int, ...]
    inputs: tuple[Strided, ...]
    outputs: tuple[Strided, ...]
    steps: tuple[Step, ...]
    results: tuple[int, ...]
    width: int  # lanes of a vector

    def __post_init__(self) -> None:
        operands = (*self.inputs, *self.outputs)
        known = len(self.inputs)
        for step in self.steps:
            if step.operation not in _TABLES[len(step.inputs)] or max(step.inputs) >= known:
                raise InternalError(f"chain: no meaning for {step}")
            known += 1
        if any(len(o.strides) != len(self.shape) for o in operands) or max(self.results) >= known:
            raise InternalError("chain: operands, results and shape do not belong together")
        if any(o.strides[-1] == 0 and self.shape[-1] > 1 for o in self.outputs):
            raise InternalError("chain: an output cannot be broadcast")

    @property
    def lanes(self) -> int:
        return self.width

    @property
    def span(self) -> int:
        """Elements of the last dimension in an item, whole vectors."""
        return min(self.shape[-1], _ITEM_ELEMENTS // self.width * self.width)

    @property
    def rows(self) -> int:
        """Steps of the dimension before the last in an item."""
        if len(self.shape) < 2:
            return 1
        return max(1, min(self.shape[-2], _ITEM_ELEMENTS // self.span))

    @property
    def each(self) -> int:
        """Elements of an item where items are neighbours."""
        return _EACH if len(self.inputs) + len(self.steps) <= _FEW_STEPS else 1

    @property
    def grid(self) -> tuple[int, ...]:
        if self.width == 1:
            return (-(-math.prod(self.shape) // (_NEIGHBOURS * self.each)) * _NEIGHBOURS,)
        spans = -(-self.shape[-1] // self.span)
        groups = -(-self.shape[-2] // self.rows) if len(self.shape) > 1 else 1
        return (*self.shape[:-2], groups, spans)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        named = [Argument(f"x{i}", aliased=True) for i in range(len(self.inputs))]
        named += [Argument(f"y{i}", written=True, aliased=True) for i in range(len(self.outputs))]
        return tuple(named)

    @property
    def bytes(self) -> int:
        return 4 * math.prod(self.shape) * (len(self.inputs) + len(self.outputs))

    def describe(self, k: Printer) -> None:
        if self.width == 1:
            self._neighbours(k)
            return
        *outer, group, span = k.ids
        spans, last = self.grid[-1], self.shape[-1] - (self.grid[-1] - 1) * self.span
        start = group * self.rows
        stop: Index | int = start + self.rows
        if len(self.shape) > 1 and self.shape[-2] % self.rows:
            stop = k.smaller(start + self.rows, self.shape[-2])
        rows = k.loop(stop, start=start, name="row") if len(self.shape) > 1 else k.loop(1)
        with rows as row:
            place = (*outer, row, span * self.span) if len(self.shape) > 1 else (span * self.span,)
            if last == self.span:
                self._run(k, place, self.span)
                return
            if spans > 1:
                with k.when(k.index_compare("lt", span, spans - 1)):
                    self._run(k, place, self.span)
            with k.when(k.index_compare("eq", span, spans - 1)):
                self._run(k, place, last)

    def _neighbours(self, k: Printer) -> None:
        (item,), count, reach = k.ids, math.prod(self.shape), _NEIGHBOURS * self.each
        first = k.quotient(item, _NEIGHBOURS) * reach + k.remainder(item, _NEIGHBOURS)
        numbers = [k.index(first + i * _NEIGHBOURS) for i in range(self.each)]
        if count % reach == 0:
            self._elements(k, numbers)
            return
        with k.when(k.index_compare("lt", numbers[-1], count)):
            self._elements(k, numbers)
        with k.when(k.index_compare("ge", numbers[-1], count)):
            for number in numbers[:-1]:
                with k.when(k.index_compare("lt", number, count)):
                    self._elements(k, [number])

    def _elements(self, k: Printer, numbers: Sequence[Index]) -> None:
        """Elements by their numbers: all are loaded before the first is stored."""
        places = [k.coordinates(number, self.shape) for number in numbers]
        loaded = [
            [load_strided(k, f"x{i}", x.at(place), 1, 0) for i, x in enumerate(self.inputs)]
            for place in places
        ]
        made = [run_steps(k, values, self.steps) for values in loaded]
        for place, values in zip(places, made, strict=True):
            for i, (y, result) in enumerate(zip(self.outputs, self.results, strict=True)):
                store_strided(k, f"y{i}", y.at(place), 1, values[result], 0)

    def _run(self, k: Printer, place: Sequence[Index], length: int) -> None:
        full, rest = divmod(length, self.width)
        fixed = {
            i: k.broadcast(f"x{i}", x.at(place))
            for i, x in enumerate(self.inputs)
            if x.strides[-1] == 0
        }
        if full:
            with k.loop(full, name="vector") as v:
                self._vector(k, (*place[:-1], place[-1] + v * self.width), 0, fixed)
        if rest:
            self._vector(k, (*place[:-1], place[-1] + full * self.width), rest, fixed)

    def _vector(
        self, k: Printer, place: Sequence[Index], count: int, fixed: Mapping[int, Value]
    ) -> None:
        values = [
            fixed[i] if i in fixed else load_strided(k, f"x{i}", x.at(place), x.strides[-1], count)
            for i, x in enumerate(self.inputs)
        ]
        values = run_steps(k, values, self.steps)
        for i, (y, result) in enumerate(zip(self.outputs, self.results, strict=True)):
            store_strided(k, f"y{i}", y.at(place), y.strides[-1], values[result], count)


def load_strided(k: Printer, name: str, at: Index, step: int, count: int) -> Value:
    """A vector of elements `step` apart from `at` on; with `count`, only so many are read."""
    width = k.lanes
    if step == 0:
        return k.broadcast(name, at)
    if step == 1:
        return k.load(name, at, count=count)
    whole = not count or count == width
    if whole and step == -1:
        forward = k.load(name, at - (width - 1))
        return k.shuffle(forward, forward, range(width - 1, -1, -1))
    if whole and 2 <= step <= _MOST_SPREAD:
        return _load_spread(k, name, at, step)
    each = [k.scalar(name, at + i * step) for i in range(count or width)]
    return k.join(each, width)


def _load_spread(k: Printer, name: str, at: Index, step: int) -> Value:
    """Every `step`-th element from as many whole vectors; the last of them ends with the last
    element.
    """
    width = k.lanes
    end = (width - 1) * step + 1
    starts = [min(number * width, end - width) for number in range(step)]
    loaded = [k.load(name, at + start) for start in starts]
    picks = [(min(i * step // width, step - 1), i * step) for i in range(width)]
    return gather_lanes(k, loaded, [(n, element - starts[n]) for n, element in picks])


def store_strided(k: Printer, name: str, at: Index, step: int, value: Value, count: int) -> None:
    """Lanes to elements `step` apart from `at` on; with `count`, only the first so many."""
    if step <= 1:
        k.store(name, at, value, count=count)
        return
    for i in range(count or k.lanes):
        k.store(name, at + i * step, k.part(value, i, 1))


def gather_lanes(k: Printer, sources: Sequence[Value], picks: Sequence[tuple[int, int]]) -> Value:
    """A vector of lanes picked as (source, lane), in a shuffle for every source but the first."""
    lanes = len(picks)
    first, *others = dict.fromkeys(source for source, _ in picks)
    if not others:
        order = [lane for _, lane in picks]
        value = sources[first]
        return value if order == list(range(lanes)) else k.shuffle(value, value, order)
    made = sources[first]
    for number, other in enumerate(others):
        kept = [i if number else lane for i, (_, lane) in enumerate(picks)]
        order = [
            lanes + lane if source == other else kept[i] for i, (source, lane) in enumerate(picks)
        ]
        made = k.shuffle(made, sources[other], order)
    return made


def run_steps(k: Printer, values: Sequence[Value], steps: Sequence[Step]) -> list[Value]:
    """The values, and behind them what each step makes."""
    found = list(values)
    for step in steps:
        operands = [found[i] for i in step.inputs]
        function = _TABLES[len(operands)][step.operation]
        found.append(function(k, *operands, *step.parameters))
    return found


def space(
    shape: Sequence[int], operands: Sequence[Strided]
) -> tuple[tuple[int, ...], list[Strided]]:
    """The same elements with as few dimensions as possible: neighbours that lie evenly are joined.

    >>> space((2, 3, 4), [Strided((12, 4, 1)), Strided((0, 0, 1))])
    ((6, 4), [Strided(strides=(4, 1), offset=0), Strided(strides=(0, 1), offset=0)])
    """
    extents: list[int] = []
    strides: list[list[int]] = [[] for _ in operands]
    for d, extent in enumerate(shape):
        if extent == 1 and (extents or d + 1 < len(shape)):
            continue
        steps = [operand.strides[d] for operand in operands]
        joined = bool(extents) and all(
            mine[-1] == step * extent for mine, step in zip(strides, steps, strict=True)
        )
        if joined:
            extents[-1] *= extent
        else:
            extents.append(extent)
        for mine, step in zip(strides, steps, strict=True):
            if joined:
                mine[-1] = step
            else:
                mine.append(step)
    found = [Strided(tuple(s), o.offset) for s, o in zip(strides, operands, strict=True)]
    return tuple(extents), found


def chain(
    shape: Sequence[int],
    inputs: Sequence[Strided],
    outputs: Sequence[Strided],
    steps: Sequence[Step],
    results: Sequence[int],
    lanes: int,
) -> Chain:
    """A chain over the simplest equal space."""
    extents, operands = space(shape, [*inputs, *outputs])
    return Chain(
        extents,
        tuple(operands[: len(inputs)]),
        tuple(operands[len(inputs) :]),
        tuple(steps),
        tuple(results),
        lanes,
    )
