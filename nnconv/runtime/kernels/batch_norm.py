"""Statistics over a batch by channel, and the sums of their gradient.

Samples lie in lanes (samples/) or values are plain; either way a plane, one channel of one image
or of one group of samples, is an item of its own and leaves a few numbers, which a second, small
kernel joins for each channel in the planes' order. What follows (normalising, scale, ReLU) is a
chain with a number a channel, and so costs one pass over memory.

A plane's sums are taken about its own mean, so nothing cancels: a mean of 1000 with a deviation of
1 comes out as exact as a mean of 0. The channel's mean is kept in two parts, of which the first is
subtracted exactly: x - `mean` rounds nowhere near it, and `shift` is what the rest amounts to, so
that (x - mean) * inverse + shift is normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.fold import PARTIALS, positions
from nnconv.runtime.kernels.language import F32, Argument, Index, Kernel, Printer, Value
from nnconv.runtime.kernels.samples.lanes import Cut, some_lanes

_LONG = 512  # vectors of a plane: a longer one is summed row by row
MOMENTS = 3  # numbers that a plane leaves: its mean, and the sums of deviations and their squares
SUMS = 2  # of a gradient: the sum of dy, and of dy times the deviation
STATISTICS = 3  # numbers a channel: mean, inverse, shift
SLOPES = 3  # numbers a channel that its gradient is made with

Load = Callable[[str], Value]


@dataclass(frozen=True)
class _Planes(Kernel):
    """One item a plane of `x`, and of further arrays of its extents.

    What planes leave lies as [number][plane of a channel][channel].
    """

    x: Array
    samples: int
    width: int

    @property
    def lanes(self) -> int:
        return self.width

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.x.batch, self.x.blocks)

    @property
    def _arrays(self) -> dict[str, Array]:
        return {"x": self.x}

    @property
    def bytes(self) -> int:
        return 4 * self.x.batch * self.x.blocks * self.x.pixels * self.x.lanes * len(self._arrays)

    def _inside(self, k: Printer) -> Value | None:
        """Which lanes hold samples, where not all do in every plane."""
        if self.samples % self.x.lanes == 0:
            return None
        numbers = k.vector([float(lane) for lane in range(self.width)])
        return numbers < k.splat(self._held(k))

    def _held(self, k: Printer) -> Value:
        """How many samples this item's plane has."""
        lanes = self.x.lanes
        left = k.smaller(self.samples - k.ids[0] * lanes, lanes)
        return k.index_value(left, F32)

    def _sums(
        self, k: Printer, count: int, terms: Callable[[Load], Sequence[Value]]
    ) -> list[Value]:
        """`count` sums over the plane, each a number; `terms` says what is added at a vector."""
        totals = [k.register(k.constant(0.0), "total") for _ in range(count)]
        rows, length = self._rows()
        with k.loop(rows, name="row") as row:
            partials = [
                [k.register(k.constant(0.0), "part") for _ in range(count)] for _ in range(PARTIALS)
            ]
            for number, at, some in positions(k, length, self.width):
                found = terms(self._loader(k, row, at, some))
                for partial, term in zip(partials[number], found, strict=True):
                    here = some_lanes(k, term, some) if some else term
                    partial.value = partial.value + here
            for total, each in zip(totals, zip(*partials, strict=True), strict=True):
                a, b, c, d = (partial.value for partial in each)
                total.value = total.value + ((a + b) + (c + d))
        inside = self._inside(k)
        values = (total.value for total in totals)
        if inside is not None:
            values = (k.select(inside, value, k.constant(0.0)) for value in values)
        return [k.reduce("add", value) for value in values]

    def _rows(self) -> tuple[int, int]:
        """Rows of a plane and their elements; short planes without gaps are one row."""
        flat = all(array.flat for array in self._arrays.values())
        whole = self.x.pixels * self.x.lanes
        if flat and whole <= _LONG * self.width:
            return 1, whole
        return self.x.height, self.x.width * self.x.lanes

    def _loader(self, k: Printer, row: Index, at: Index, count: int) -> Load:
        group, channel = k.ids

        def load(name: str) -> Value:
            place = self._arrays[name].at(group, channel, row) + at
            return k.load(name, place, count=count)

        return load

    def _leave(self, k: Printer, numbers: Sequence[Value]) -> None:
        group, channel = k.ids
        for number, value in enumerate(numbers):
            place = (group + number * self.x.batch) * self.x.blocks + channel
            k.store("parts", place, value)


@dataclass(frozen=True)
class PlaneMoments(_Planes):
    """parts = mean of a plane, sum of x - mean (what its rounding left), sum of (x - mean)^2.

    Arguments: x, parts [MOMENTS, planes, channels].
    """

    family: ClassVar[str] = "plane_moments"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("parts", written=True))

    def describe(self, k: Printer) -> None:
        (total,) = self._sums(k, 1, lambda load: [load("x")])
        mean = total / (self._held(k) * float(self.x.pixels))
        middle = k.splat(mean)

        def terms(load: Load) -> list[Value]:
            deviation = load("x") - middle
            return [deviation, deviation * deviation]

        self._leave(k, [mean, *self._sums(k, MOMENTS - 1, terms)])


@dataclass(frozen=True)
class PlaneSums(_Planes):
    """parts = sum of dy, and of dy (x - mean), over a plane. With `gated` dy counts where
    ((x - mean) * inverse + shift) * scale + offset is above 0: behind a ReLU.

    Arguments: x, dy, statistics [STATISTICS, channels], [scale, offset], parts [SUMS, planes,
    channels].
    """

    family: ClassVar[str] = "plane_sums"

    dy: Array
    gated: bool = False

    @property
    def _arrays(self) -> dict[str, Array]:
        return {"x": self.x, "dy": self.dy}

    @property
    def arguments(self) -> tuple[Argument, ...]:
        gate = (Argument("scale"), Argument("offset")) if self.gated else ()
        read = (Argument("x"), Argument("dy"), Argument("statistics"), *gate)
        return (*read, Argument("parts", written=True))

    def describe(self, k: Printer) -> None:
        channel, channels = k.ids[1], self.x.blocks
        mean = k.broadcast("statistics", channel)
        gate: list[Value] = []
        if self.gated:
            gate = [k.broadcast("statistics", channel + i * channels) for i in (1, 2)]
            gate += [k.broadcast(name, channel) for name in ("scale", "offset")]

        def terms(load: Load) -> list[Value]:
            deviation, dy = load("x") - mean, load("dy")
            if gate:
                inverse, shift, scale, offset = gate
                passed = (deviation * inverse + shift) * scale + offset > 0.0
                dy = k.select(passed, dy, k.constant(0.0))
            return [dy, dy * deviation]

        self._leave(k, self._sums(k, SUMS, terms))


@dataclass(frozen=True)
class _Channels(Kernel):
    """One item a vector of channels, which joins what their planes have left."""

    channels: int
    samples: int
    lanes_of_x: int
    pixels: int
    width: int

    @property
    def lanes(self) -> int:
        return self.width

    @property
    def grid(self) -> tuple[int, ...]:
        return (Cut(self.channels, self.width).count,)

    @property
    def planes(self) -> int:
        return -(-self.samples // self.lanes_of_x)

    @property
    def count(self) -> int:
        """Values a channel."""
        return self.samples * self.pixels

    @property
    def bytes(self) -> int:
        return 4 * self.channels * self.planes * MOMENTS

    def describe(self, k: Printer) -> None:
        (number,) = k.ids
        for some in Cut(self.channels, self.width).bodies(k, number):
            self._join(k, number * self.width, some)

    def _join(self, k: Printer, channel: Index, some: int) -> None:
        raise NotImplementedError

    def _each_plane(self, k: Printer) -> Iterator[tuple[Index, float]]:
        """The planes of a channel and how many values each has."""
        full, rest = divmod(self.samples, self.lanes_of_x)
        if full:
            with k.loop(full, name="plane") as plane:
                yield plane, float(self.lanes_of_x * self.pixels)
        if rest:
            yield Index((), full), float(rest * self.pixels)

    def _part(self, k: Printer, number: int, plane: Index, channel: Index, some: int) -> Value:
        place = (plane + number * self.planes) * self.channels + channel
        return k.load("parts", place, count=some)

    def _row(self, number: int, channel: Index) -> Index:
        return channel + number * self.channels


@dataclass(frozen=True)
class ChannelMoments(_Channels):
    """statistics = mean, 1 / sqrt(variance + epsilon) and shift of each channel; with `fraction`
    the decaying sums of Caffe's BatchNorm move on (batch_norm_layer.cpp).

    Arguments: parts, [mean sums, variance sums, their weight], statistics, [the three next ones].
    """

    family: ClassVar[str] = "channel_moments"

    epsilon: float
    fraction: float | None = None

    @property
    def arguments(self) -> tuple[Argument, ...]:
        moving = self.fraction is not None
        names = ("means", "variances", "weight") if moving else ()
        read = [Argument(name, aliased=True) for name in names]
        made = [Argument(f"next_{name}", written=True, aliased=True) for name in names]
        return (Argument("parts"), *read, Argument("statistics", written=True), *made)

    def _join(self, k: Printer, channel: Index, some: int) -> None:
        mean = k.register(k.constant(0.0), "mean")
        for plane, values in self._each_plane(k):
            part = self._part(k, 0, plane, channel, some)
            mean.value = k.fma(values / self.count, part, mean.value)
        middle = mean.value
        rest, squares = (k.register(k.constant(0.0), name) for name in ("rest", "squares"))
        for plane, values in self._each_plane(k):
            away = self._part(k, 0, plane, channel, some) - middle
            first = self._part(k, 1, plane, channel, some)
            second = self._part(k, 2, plane, channel, some)
            moved = k.fma(values, away, first)
            rest.value = rest.value + moved
            squares.value = squares.value + k.fma(away, moved + first, second)
        left = rest.value / float(self.count)
        variance = k.max(0.0, squares.value / float(self.count) - left * left)
        inverse = 1.0 / k.sqrt(variance + self.epsilon)
        for number, value in enumerate((middle, inverse, -left * inverse)):
            k.store("statistics", self._row(number, channel), value, count=some)
        if self.fraction is not None:
            self._move_on(k, channel, some, (middle + left, variance))

    def _move_on(self, k: Printer, channel: Index, some: int, found: tuple[Value, Value]) -> None:
        fraction = self.fraction or 0.0
        mean, variance = found
        unbiased = variance * (self.count / (self.count - 1) if self.count > 1 else 1.0)
        for name, value in (("means", mean), ("variances", unbiased)):
            old = k.load(name, channel, count=some)
            k.store(f"next_{name}", channel, old * fraction + value, count=some)
        with k.when(k.index_compare("eq", channel, 0)):
            k.store("next_weight", 0, k.scalar("weight", 0) * fraction + 1.0)


@dataclass(frozen=True)
class ChannelSlopes(_Channels):
    """slopes = p, q and r of each channel: dx = p dy + q (x - mean) + r, the gradient of
    y = scale * normalised x + offset. With `sums` also those of scale and offset.

    dx = scale inverse (dy - mean(dy) - y mean(dy y)), where y is normalised (batch_norm_layer.cpp).
    Arguments: parts, statistics, [scale], slopes, [sums of scale], [sums of offset].
    """

    family: ClassVar[str] = "channel_slopes"

    scaled: bool = False
    sums: tuple[bool, bool] = (False, False)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        read = [Argument("parts"), Argument("statistics")]
        read += [Argument("scale")] if self.scaled else []
        names = (
            "slopes",
            *(n for n, on in zip(("dscale", "doffset"), self.sums, strict=True) if on),
        )
        return (*read, *(Argument(name, written=True) for name in names))

    def _join(self, k: Printer, channel: Index, some: int) -> None:
        totals = [k.register(k.constant(0.0), "total") for _ in range(SUMS)]
        for plane, _ in self._each_plane(k):
            for number, total in enumerate(totals):
                total.value = total.value + self._part(k, number, plane, channel, some)
        inverse, shift = (
            k.load("statistics", self._row(number, channel), count=some) for number in (1, 2)
        )
        doffset = totals[0].value
        dscale = totals[1].value * inverse + shift * doffset
        factor = inverse * k.load("scale", channel, count=some) if self.scaled else inverse
        slope = factor * (dscale / float(self.count))
        constant = -(factor * (doffset / float(self.count)) + slope * shift)
        for number, value in enumerate((factor, -slope * inverse, constant)):
            k.store("slopes", self._row(number, channel), value, count=some)
        for wanted, name, value in zip(
            self.sums, ("dscale", "doffset"), (dscale, doffset), strict=True
        ):
            if wanted:
                k.store(name, channel, value, count=some)
