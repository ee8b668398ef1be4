"""The language itself: indices fold, types convert, loops and branches obey run-time bounds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest

from nnconv.runtime.devices import jit, jobs
from nnconv.runtime.kernels.language import (
    F32,
    I32,
    I64,
    U8,
    Argument,
    Index,
    Kernel,
    Printer,
    tiles,
)
from nnconv.runtime.kernels.opencl import opencl_text
from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import InternalError, UnsupportedError

Describe = Callable[[Printer], None]


@dataclass(frozen=True)
class Small(Kernel):
    """A kernel given by a function, for tests."""

    family: ClassVar[str] = "small"

    shape: tuple[int, ...]
    width: int
    buffers: tuple[Argument, ...]
    body: Describe
    # a function's repr is an address that a later one may have again: kernels are named by this too
    serial: int = field(default_factory=itertools.count().__next__)

    @property
    def grid(self) -> tuple[int, ...]:
        return self.shape

    @property
    def lanes(self) -> int:
        return self.width

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return self.buffers

    def describe(self, k: Printer) -> None:
        self.body(k)


def run(kernel: Kernel, target: Target, *arrays: np.ndarray) -> None:
    addresses = tuple(array.ctypes.data for array in arrays)
    job = jobs.Job(jit.load(kernel, target), addresses, kernel.total, kernel.chunk)
    jobs.JobTable([job], threads=1, owners=arrays).run()


X, Y = Argument("x"), Argument("y", written=True)


def test_indices_are_linear_forms() -> None:
    i, j = Index([("i", 1)]), Index([("j", 1)])
    form = (i * 3 + j) * 4 + 5 - i * 12
    assert (dict(form.terms), form.constant) == ({"j": 4}, 5)
    assert (7 - i * 2).terms == (("i", -2),)
    assert (i * 0).terms == ()


def test_bytes_become_numbers(target: Target) -> None:
    def body(k: Printer) -> None:
        (i,) = k.ids
        k.store("y", i * k.lanes, k.cast(k.load("x", i * k.lanes), F32) * (1 / 256))

    n = target.lanes
    x, y = np.arange(256, dtype=np.uint8), np.empty(256, np.float32)
    run(Small((256 // n,), n, (Argument("x", U8), Y), body), target, x, y)
    np.testing.assert_array_equal(y, x / 256)


def test_elements_are_gathered_by_integer_indices(target: Target) -> None:
    def body(k: Printer) -> None:
        (i,) = k.ids
        place = k.value_index(k.scalar("at", i))
        k.store("y", i * k.lanes, k.load("x", place * k.lanes))

    n, at = target.lanes, np.array([3, 0, 2, 2], np.int64)
    x, y = np.random.default_rng(1).random((4, n), np.float32), np.empty((4, n), np.float32)
    run(Small((4,), n, (X, Argument("at", I64), Y), body), target, x, at, y)
    np.testing.assert_array_equal(y, x[at])


def test_loops_obey_bounds_known_only_at_run_time(target: Target) -> None:
    """y[i] = sum of x[j] for j in [max(0, i - 2), min(8, i + 1)), step 1; empty for i > 9."""

    def body(k: Printer) -> None:
        (i,) = k.ids
        total = k.register(k.constant(0, lanes=1))
        with k.loop(k.smaller(i + 1, 8), start=k.larger(i - 2, 0)) as j:
            total.value = total.value + k.scalar("x", j)
        k.store("y", i, total.value)

    x, y = np.arange(1, 9, dtype=np.float32), np.full(12, np.nan, np.float32)
    run(Small((12,), target.lanes, (X, Y), body), target, x, y)
    assert y.tolist() == [x[max(0, i - 2) : min(8, i + 1)].sum() for i in range(12)]


def test_integers_shift_and_select(target: Target) -> None:
    def body(k: Printer) -> None:
        x = k.load("x", 0)
        high = k.binary("shr", x, 28)
        k.store("y", 0, k.select(k.both(high > 3, k.negate(high >= 9)), 1, k.like(x, 0)))

    n = target.lanes
    x = (np.arange(n, dtype=np.uint32) << 28).view(np.int32)
    y = np.empty(n, np.int32)
    run(Small((1,), n, (Argument("x", I32), Argument("y", I32, written=True)), body), target, x, y)
    assert y.tolist() == [int(3 < i % 16 < 9) for i in range(n)]


@pytest.mark.parametrize("count", range(1, 16))
def test_a_part_of_a_vector_touches_no_more(count: int, target: Target) -> None:
    if count >= target.lanes:
        return

    def body(k: Printer) -> None:
        k.store("y", 0, k.load("x", 0, count=count) + 1.0, count=count)
        k.store("whole", 0, k.load("x", 0, count=count))

    n = target.lanes
    x, y = np.full(count, 2, np.float32), np.full(n, np.nan, np.float32)
    whole = np.full(n, np.nan, np.float32)
    buffers = (X, Y, Argument("whole", written=True))
    run(Small((1,), n, buffers, body), target, x, y, whole)
    assert y[:count].tolist() == [3] * count
    assert np.isnan(y[count:]).all()
    assert whole.tolist() == [2] * count + [0] * (n - count)


def test_tiles_cover_a_length_once(target: Target) -> None:
    def body(k: Printer) -> None:
        for tile, width in tiles(k, 13, 4, "tile"):
            for i in range(width):
                at = tile * 4 + i
                k.store("y", at, k.scalar("y", at) + 1.0)

    y = np.zeros(13, np.float32)
    run(Small((1,), target.lanes, (Y,), body), target, y)
    assert y.tolist() == [1] * 13


def test_a_grid_counts_its_last_dimension_fastest(target: Target) -> None:
    def body(k: Printer) -> None:
        a, b, c = k.ids
        k.store("y", a * 12 + b * 4 + c, k.index_value(a * 100 + b * 10 + c, F32))

    y = np.zeros((2, 3, 4), np.float32)
    run(Small((2, 3, 4), target.lanes, (Y,), body), target, y)
    assert y.tolist() == [
        [[a * 100 + b * 10 + c for c in range(4)] for b in range(3)] for a in range(2)
    ]


def test_the_other_printer_spells_the_same_description() -> None:
    def body(k: Printer) -> None:
        (i,) = k.ids
        with k.when(k.within(i, 1, 3)), k.loop(4, name="lane") as lane:
            k.prefetch("x", i * 64)
            k.store("y", i * 16, k.fma(k.broadcast("x", i * 4 + lane), k.load("x", 0), 1.0))

    text = opencl_text(Small((4,), 16, (X, Y), body), Target(lanes=16))
    for part in ("__global const float* restrict x", "if (", "for (int lane_", "fma(", "vstore16("):
        assert part in text


def test_a_buffer_too_large_for_opencl_is_refused() -> None:
    def body(k: Printer) -> None:
        k.store("y", 1 << 31, k.constant(0))

    with pytest.raises(UnsupportedError, match="2\\^31 elements"):
        opencl_text(Small((1,), 16, (Y,), body), Target(lanes=16))


def test_an_unknown_argument_is_our_bug(target: Target) -> None:
    kernel = Small((1,), target.lanes, (Y,), lambda k: k.store("z", 0, k.constant(0)))
    with pytest.raises(InternalError, match="no argument 'z'"):
        jit.ir(kernel, target)
