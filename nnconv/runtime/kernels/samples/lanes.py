"""Arrays whose lanes are samples: [N/L][C][H][W][L], the layout of training.

A vector holds one element of L samples. So no channel count wastes lanes, weights are scalars read
in the source's own order and never packed, and what is done to each sample alone (softmax, argmax)
needs no shuffles. To `Array` such a value is a blocked one of N/L images with C blocks, so that
pooling and elementwise chains run on it as they are. The lanes past the last sample hold anything:
whoever adds up samples leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nnconv.runtime.kernels.arrays import Array, Border
from nnconv.runtime.kernels.elementwise import Step, run_steps
from nnconv.runtime.kernels.language import Argument, Index, Printer, Value
from nnconv.runtime.kernels.schedule import tile_cycles
from nnconv.runtime.kernels.target import Target


@dataclass(frozen=True, slots=True)
class Finish:
    """What becomes of a gradient where it is made: value 0 is the gradient, the next ones are read,
    element by element (True in `dense`) or one number for all; each step adds one. `results` are
    written instead of the gradient. Of the first result an item of the grid may also give the sums
    of its squares, lane by lane.

    Arguments of its kernel: u0, u1, ... for what is read, v0, v1, ... for results, and `squares`
    [items, lanes] where they are wanted.
    """

    dense: tuple[bool, ...]
    steps: tuple[Step, ...]
    results: tuple[int, ...]
    squares: bool = False

    @property
    def arguments(self) -> tuple[Argument, ...]:
        read = [Argument(f"u{i}", aliased=True) for i in range(len(self.dense))]
        made = [Argument(f"v{i}", written=True, aliased=True) for i in range(len(self.results))]
        made += [Argument("squares", written=True)] if self.squares else []
        return (*read, *made)

    def ask(self, k: Printer, at: Index) -> None:
        """Have what is read there fetched into the cache."""
        for i, dense in enumerate(self.dense):
            if dense:
                k.prefetch(f"u{i}", at)

    def store(self, k: Printer, at: Index, gradient: Value, count: int) -> Value:
        """Write the results for the `count` elements of the gradient from there on; the first of
        them, 0 in the lanes behind.
        """
        read = [
            k.load(f"u{i}", at, lanes=gradient.lanes, count=count)
            if dense
            else k.splat(k.scalar(f"u{i}", 0), gradient.lanes)
            for i, dense in enumerate(self.dense)
        ]
        values = run_steps(k, [gradient, *read], self.steps)
        for i, result in enumerate(self.results):
            k.store(f"v{i}", at, values[result], count=count)
        return some_lanes(k, values[self.results[0]], count)


def samples_array(
    samples: int, channels: int, height: int, width: int, lanes: int, border: Border | None = None
) -> Array:
    """The array that fills a buffer of its own."""
    return Array.dense(-(-samples // lanes), channels * lanes, height, width, lanes, border)


def dense_like(array: Array) -> Array:
    """The same extents without gaps: how what won in a pooling window is remembered."""
    return Array.dense(array.batch, array.channels, array.height, array.width, array.lanes)


@dataclass(frozen=True, slots=True)
class Cut:
    """`length` in equal pieces of `width`, and a last one that may be narrower."""

    length: int
    width: int

    @property
    def count(self) -> int:
        return -(-self.length // self.width)

    @property
    def rest(self) -> int:
        return self.length % self.width

    def bodies(self, k: Printer, number: Index) -> Iterator[int]:
        """The widths that piece `number` may have; what is printed between runs for that one."""
        if not self.rest:
            yield self.width
            return
        if self.count > 1:
            with k.when(k.index_compare("lt", number, self.count - 1)):
                yield self.width
            with k.when(k.index_compare("eq", number, self.count - 1)):
                yield self.rest
            return
        yield self.rest


def even_piece(length: int, most: int) -> int:
    """The width of pieces as equal as can be, at most `most`."""
    pieces = -(-length // most)
    return -(-length // pieces)


def cut_tile(target: Target, factors: int, vectors: int, steps: int) -> tuple[int, int]:
    """(factors, vectors) of a register tile: broadcast factors times vectors, by counted cycles.

    Accumulators, one operand a vector and one factor must fit the registers. Factors are cut into
    even pieces; among equals the tile with fewer pieces comes first.
    """
    best = min(
        (
            (_cover(factors, a, vectors, b, steps), -a * b, a, b)
            for a in range(1, min(factors, target.registers) + 1)
            for b in range(1, min(vectors, 8) + 1)
            if a * b + b + 1 <= target.registers and a == even_piece(factors, a)
        ),
    )
    return best[2], best[3]


def _cover(factors: int, a: int, vectors: int, b: int, steps: int) -> float:
    pieces = [(factors // a, a), (1, factors % a)], [(vectors // b, b), (1, vectors % b)]
    return sum(
        count * times * tile_cycles(height, width, steps)
        for count, height in pieces[0]
        for times, width in pieces[1]
        if count and height and times and width
    )


def sample_groups(k: Printer, samples: int) -> Iterator[tuple[Index, Value | None]]:
    """All groups of samples: full ones in a rolled loop, and the last with a mask of its lanes."""
    full, rest = divmod(samples, k.lanes)
    if full:
        with k.loop(full, name="group") as group:
            yield group, None
    if rest:
        lanes = k.vector([float(lane) for lane in range(k.lanes)])
        yield Index((), full), lanes < float(rest)


def some_lanes(k: Printer, value: Value, count: int) -> Value:
    """The first `count` lanes of a vector, and 0 in the others."""
    if count >= value.lanes:
        return value
    inside = k.vector([1.0] * count + [0.0] * (value.lanes - count)) > 0.0
    return k.select(inside, value, k.like(value, 0.0))


def masked(k: Printer, mask: Value | None, value: Value) -> Value:
    """The value in lanes that hold samples, 0 in the others."""
    return value if mask is None else k.select(mask, value, k.like(value, 0.0))
