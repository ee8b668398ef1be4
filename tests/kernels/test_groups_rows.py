"""Sums, softmax, losses, pools and elementwise kernels for graphics cards, on PoCL."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import pytest

from nnconv.runtime.kernels.arrays import Array, Matrix
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.elementwise import Step, Strided, chain
from nnconv.runtime.kernels.fold import RECIPES
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.groups.depthwise import GroupwiseConv
from nnconv.runtime.kernels.groups.loss import GroupLabelCount, RowLoss, RowLossGrad
from nnconv.runtime.kernels.groups.pool import ElementLRN, ElementPool
from nnconv.runtime.kernels.groups.product import Ending, Goal
from nnconv.runtime.kernels.groups.reduce import (
    Box,
    GroupReduce,
    GroupSoftmax,
    GroupSquares,
    GroupTotal,
)
from nnconv.runtime.kernels.groups.vector import FewRows
from nnconv.runtime.kernels.samples.pool import (
    SampleAveragePoolGrad,
    SampleMaxPool,
    SampleMaxPoolGrad,
)
from nnconv.runtime.ops.norm import lrn
from nnconv.runtime.ops.pool import average_pool, max_pool, max_pool_grad
from nnconv.runtime.ops.windows import Windows
from tests.kernels.cards import queue, run
from tests.kernels.harness import Floats, close, convolve, random

__all__ = ["queue"]
LOCALS = ((64, 1), (8, 32), (1, 32))


def nothing(*shape: int) -> Floats:
    return np.full(shape, np.nan, np.float32)


@pytest.mark.parametrize("shape", [(8, 8, 4), (3, 5, 7), (1, 1, 1), (4, 64, 5)], ids=str)
def test_a_chain_reaches_every_element_once(shape: tuple[int, ...], queue: Any) -> None:
    """Broadcast, transposed and dense operands; y is written where it was read."""
    n, c, w = shape
    x, factor, other = random(shape, 1), random((c,), 2), random((w, n, c), 3)
    y = x.copy()
    dense = Strided((c * w, w, 1))
    operands = [dense, Strided((0, 1, 0)), Strided((c, 1, n * c))]
    steps = [Step("Mul", (0, 1)), Step("Add", (3, 2)), Step("Relu", (4,))]
    kernel = chain(shape, operands, [dense], steps, [5], 1)
    run(queue, kernel, x, factor, other, y)
    close(y, np.maximum(x.astype(np.float64) * factor[:, None] + other.transpose(1, 2, 0), 0))


@pytest.mark.parametrize(("rows", "depth"), [(1, 5), (3, 64), (3, 700)])
def test_products_of_few_rows_are_sums_of_groups(rows: int, depth: int, queue: Any) -> None:
    a, b, bias, y = (
        random((rows, depth), 1),
        random((9, depth), 2),
        random((9,), 3),
        nothing(rows, 9),
    )
    goal = Goal.matrix(Matrix.dense(rows, 9))
    ending = Ending(2.0, (0, 0, 1), activation=Activation("Relu"))
    run(queue, FewRows(rows, 9, depth, depth, depth, goal, ending, 64), a, b, bias, y)
    close(y, np.maximum(2 * (a.astype(np.float64) @ b.T) + bias, 0))


@pytest.mark.parametrize(("operation", "local"), list(zip(RECIPES, cycle(LOCALS), strict=False)))
def test_reductions_fold_any_axes(operation: str, local: tuple[int, int], queue: Any) -> None:
    x = np.abs(random((6, 50, 7), 1)) + 0.5
    fold, y = RECIPES[operation], nothing(50)
    kept, reduced = Box((50,), (7,)), Box((6, 7), (350, 1))
    before = Activation(fold.before or "Identity")
    kernel = GroupReduce(kept, reduced, fold.join, before, fold.after(42), *local)
    run(queue, kernel, x, y)
    wide = x.astype(np.float64)
    want = {
        "ReduceSum": wide.sum((0, 2)), "ReduceMean": wide.mean((0, 2)),
        "ReduceMax": wide.max((0, 2)), "ReduceMin": wide.min((0, 2)),
        "ReduceProd": wide.prod((0, 2)), "ReduceL1": wide.sum((0, 2)),
        "ReduceL2": np.sqrt((wide**2).sum((0, 2))), "ReduceSumSquare": (wide**2).sum((0, 2)),
        "ReduceLogSum": np.log(wide.sum((0, 2))),
    }  # fmt: skip
    close(y, want[operation])


@pytest.mark.parametrize("parts", [3])
def test_long_sums_are_cut_into_parts(parts: int, queue: Any) -> None:
    x, sums, y = random((2, 1000), 1), nothing(2, parts), nothing(2)
    none = Activation()
    first = GroupReduce(Box((2,), (1000,)), Box((1000,), (1,)), "add", none, none, 32, 1, parts)
    run(queue, first, x, sums)
    last = GroupReduce(Box((2,), (parts,)), Box((parts,), (1,)), "add", none, none, 4, 1)
    run(queue, last, sums, y)
    close(y, x.astype(np.float64).sum(1))


@pytest.mark.parametrize("length", [1, 10, 300])
@pytest.mark.parametrize("logarithm", [False, True])
def test_softmax_of_rows(length: int, logarithm: bool, queue: Any) -> None:
    x, y = 5 * random((4, length), 1), nothing(4, length)
    run(queue, GroupSoftmax(4, length, 16, logarithm), x, y)
    power = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    share = power / power.sum(1, keepdims=True)
    close(y, np.log(share) if logarithm else share)


def test_squares_of_many_arrays_and_their_total(queue: Any) -> None:
    arrays = [random((n,), n) for n in (1, 64, 1000, 2050)]
    squares = GroupSquares(tuple(a.size for a in arrays), 512, 64)
    sums, total, halved = nothing(squares.total), nothing(1), nothing(1)
    run(queue, squares, *arrays, sums)
    run(queue, GroupTotal((squares.total,), 64), sums, total)
    run(queue, GroupTotal((squares.total,), 64, True), sums, np.full(1, 2, np.float32), halved)
    want = sum((a.astype(np.float64) ** 2).sum() for a in arrays)
    close(total, np.array([want]))
    close(halved, np.array([want / 2]))


@pytest.mark.parametrize("labels", ["f32", "i64"])
def test_losses_of_samples_and_their_gradients(labels: str, queue: Any) -> None:
    x = random((6, 21), 1)
    label = np.array([0, 20, 3, 7, 21, 3], {"f32": np.float32, "i64": np.int64}[labels])
    y, dx, count = nothing(6), nothing(6, 21), nothing(1)
    run(queue, RowLoss(6, 21, 16, labels, 7), x, label, y)
    run(queue, GroupLabelCount(6, 7, 64, labels), label, count)
    run(queue, RowLossGrad(6, 21, 16, labels, 7), x, label, np.full(1, 3, np.float32), count, dx)
    power = np.exp(x.astype(np.float64))
    share = power / power.sum(1, keepdims=True)
    hit = np.eye(22)[label.astype(int)][:, :21]
    want = -np.log((share * hit).sum(1), where=hit.any(1), out=np.full(6, np.nan))
    want[3] = 0
    assert np.isnan(y[4]) and np.isnan(want[4])
    close(np.delete(y, 4), np.delete(want, 4))
    slopes = (share - hit) * 3 / 5
    slopes[3] = 0
    assert count[0] == 5
    close(dx, slopes)


POOLS = {
    "tiles": ((2, 3, 6, 8), (2, 2), (2, 2), (0, 0, 0, 0), 0),
    "overlapping": ((1, 2, 9, 7), (3, 3), (2, 2), (1, 1, 1, 1), 0),
    "hanging": ((2, 1, 8, 9), (3, 2), (2, 3), (0, 0, 0, 0), 1),
    "uneven": ((1, 3, 5, 11), (2, 4), (1, 3), (1, 2, 0, 1), 1),
}


def _arrays(name: str) -> tuple[Any, Any, Any, Window, dict[str, Any]]:
    shape, size, stride, pads, ceil = POOLS[name]
    x = random(shape, 4)
    settings = {"windows": Windows("NOTSET", (1, 1), size, pads, stride), "ceil_mode": ceil}
    largest = max_pool(x, storage_order=0, outputs=1, **settings)
    window = Window(size, stride, (1, 1), (pads[0], pads[1]))
    return x, largest, Array.dense(*largest.shape), window, settings


@pytest.mark.parametrize("name", POOLS)
def test_maxima_are_remembered_and_their_gradients_return(name: str, queue: Any) -> None:
    x, largest, made, window, settings = _arrays(name)
    source, y, index = Array.dense(*x.shape), nothing(*largest.shape), nothing(*largest.shape)
    run(queue, ElementPool(source, made, window), x, y)
    np.testing.assert_array_equal(y, largest)
    y[:] = np.nan
    run(queue, SampleMaxPool(source, made, window), x, y, index)
    np.testing.assert_array_equal(y, largest)
    dy, dx = random(y.shape, 5), nothing(*x.shape)
    run(queue, SampleMaxPoolGrad(made, source, window), dy, index, dx)
    close(dx, max_pool_grad(x, dy, storage_order=0, **settings).astype(np.float64))


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("name", POOLS)
def test_averages_and_their_gradients(name: str, include: int, queue: Any) -> None:
    x, largest, made, window, settings = _arrays(name)
    end = tuple(settings["windows"].pads[2:])
    source, y, dx = Array.dense(*x.shape), nothing(*largest.shape), nothing(*x.shape)
    run(queue, ElementPool(source, made, window, True, bool(include), end), x, y)
    close(y, average_pool(x, count_include_pad=include, **settings).astype(np.float64))
    dy = random(y.shape, 5)
    run(queue, SampleAveragePoolGrad(made, source, window, bool(include), end), dy, dx)
    # linear: <average(v), dy> = <v, gradient> for any v
    probe = random(x.shape, 6)
    slope = average_pool(probe, count_include_pad=include, **settings).astype(np.float64) * dy
    assert abs((dx.astype(np.float64) * probe).sum() - slope.sum()) <= 1e-4 * np.abs(slope).sum()


@pytest.mark.parametrize("size", [1, 4, 5])
def test_lrn_of_neighbouring_channels(size: int, queue: Any) -> None:
    x, y = random((2, 7, 3, 5), 1), nothing(2, 7, 3, 5)
    array = Array.dense(*x.shape)
    for beta in (0.75, 0.6):
        run(queue, ElementLRN(array, array, size, 0.5, beta, 2.0), x, y)
        close(y, lrn(x, size=size, alpha=0.5, beta=beta, bias=2.0).astype(np.float64))


@pytest.mark.parametrize("groups", [2, 6])
def test_convolutions_of_few_channels_in_a_group(groups: int, queue: Any) -> None:
    window = Window((3, 2), (2, 1), (1, 2), (1, 1))
    x, weights, bias, skip = (
        random(shape, seed)
        for seed, shape in enumerate([(2, 6, 7, 6), (6, 6 // groups, 3, 2), (6,), (2, 6, 4, 6)])
    )
    y, made = nothing(2, 6, 4, 6), Array.dense(2, 6, 4, 6)
    kernel = GroupwiseConv(
        Array.dense(*x.shape), made, window, groups, True, made, Activation("Relu")
    )
    run(queue, kernel, x, weights, bias, skip, y)
    want = convolve(x, weights, window, (4, 6), groups) + bias[:, None, None] + skip
    close(y, np.maximum(want, 0))
