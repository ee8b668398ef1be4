"""Kernels for graphics cards, on PoCL: products of groups against double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.devices import jit
from nnconv.runtime.kernels.arrays import Array, Matrix
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.groups.operands import Factors, Pixels, Windows
from nnconv.runtime.kernels.groups.product import (
    BLOCKS,
    Block,
    Ending,
    Goal,
    Product,
    every_product,
    split_sum,
)
from nnconv.runtime.kernels.llvm import LLVMPrinter
from nnconv.runtime.kernels.target import Groups
from nnconv.schemas.errors import InternalError
from tests.kernels.cards import queue, run
from tests.kernels.harness import Doubles, Floats, close, convolve, random

__all__ = ["queue"]
SMALL = Block(8, 32, 16, 4, 4, 1.0)


def compute(queue: Any, product: Product, size: int, *given: Floats) -> Floats:
    """The product's y, of so many elements, its parts added up where it has some."""
    y = np.full(size, np.nan, np.float32)
    if product.parts == 1:
        run(queue, product, *given, y)
        return y
    whole = product.parts * product.items * product.rows * product.columns
    parts = np.full(whole, np.nan, np.float32)
    run(queue, product, *given[:2], parts)
    run(queue, split_sum(product), parts, *given[2:], y)
    return y


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_every_block_multiplies(block: Block, queue: Any) -> None:
    m, n, d = 70, 100, 40
    a, b = random((m, d), 1), random((d, n), 2)
    factors = Factors.rows(Matrix.dense(m, d)), Factors.rows(Matrix.dense(d, n).transposed)
    product = Product(*factors, Goal.matrix(Matrix.dense(m, n)), block)
    got = compute(queue, product, m * n, a, b).reshape(m, n)
    close(got, a.astype(np.float64) @ b)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
def test_matrices_lie_either_way_in_items(
    transposed: tuple[int, int], parts: int, queue: Any
) -> None:
    items, m, n, d = 2, 9, 33, 50
    a, b, c, skip = (
        random(shape, seed)
        for seed, shape in enumerate([(items, m, d), (items, d, n), (n,), (items, m, n)])
    )
    left, right = Matrix.dense(m, d, items), Matrix.dense(d, n, items).transposed
    given = [a, b]
    if transposed[0]:
        left, given[0] = Matrix.dense(d, m, items).transposed, a.swapaxes(1, 2).copy()
    if transposed[1]:
        right, given[1] = Matrix.dense(n, d, items), b.swapaxes(1, 2).copy()
    goal = Goal.matrix(Matrix.dense(m, n, items))
    ending = Ending(0.5, (0, 0, 1), 2.0, goal, Activation("Relu"))
    product = Product(Factors.rows(left), Factors.rows(right), goal, SMALL, items, ending, parts)
    got = compute(queue, product, items * m * n, *given, c, skip).reshape(items, m, n)
    close(got, np.maximum(0.5 * (a.astype(np.float64) @ b) + 2.0 * c + skip, 0))


CONVOLUTIONS = {
    "3x3": (2, 16, 9, 7, 10, Window((3, 3), (1, 1), (1, 1), (1, 1)), 1),
    "pointwise": (3, 5, 4, 4, 33, Window(), 1),
    "stride": (2, 3, 11, 12, 9, Window((3, 3), (2, 2), (1, 1), (1, 1)), 1),
    "skipping": (1, 32, 9, 9, 9, Window((1, 1), (2, 2)), 1),
    "odd": (2, 3, 12, 11, 5, Window((5, 2), (3, 1), (1, 3), (2, 0)), 1),
    "groups": (2, 12, 6, 6, 18, Window((3, 3), (1, 1), (2, 2), (2, 2)), 3),
}


def _extents(case: Any) -> tuple[int, int]:
    _, _, h, w, _, window, _ = case
    found = [
        (size + 2 * pad - (k - 1) * d - 1) // s + 1
        for size, pad, k, d, s in zip(
            (h, w), window.pad, window.size, window.dilation, window.stride, strict=True
        )
    ]
    return found[0], found[1]


def _weights(case: Any, back: bool = False) -> Factors:
    """Weights as they are stored, [outputs, inputs, taps], by outputs or by inputs."""
    _, c, _, _, m, window, groups = case
    taps, item = window.size[0] * window.size[1], m * c // groups**2
    inputs, outputs = c // groups, m // groups
    if back:
        return Factors(inputs, outputs, taps, inputs * taps, taps, 1, item * taps)
    return Factors(outputs, inputs, inputs * taps, taps, taps, 1, item * taps)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_pictures_are_convolved_where_they_lie(name: str, queue: Any) -> None:
    case = CONVOLUTIONS[name]
    n, c, h, w, m, window, groups = case
    extent = _extents(case)
    x, weights, bias = (
        random((n, c, h, w), 1),
        random((m, c // groups, *window.size), 2),
        random((m,), 3),
    )
    picture = Array.dense(n, c // groups, h, w)
    picture = Array.dense(n, c, h, w).slice_channels(0, c // groups)
    goal = Goal.pixels(Array.dense(n, m, *extent), groups)
    ending = Ending(bias=(m // groups, 1, 0), activation=Activation("Relu"))
    product = Product(_weights(case), Pixels(picture, window, extent), goal, SMALL, groups, ending)
    got = compute(queue, product, n * m * extent[0] * extent[1], weights, x, bias)
    want = convolve(x, weights, window, extent, groups) + bias[:, None, None]
    close(got.reshape(n, m, *extent), np.maximum(want, 0))


def spread(
    dy: Floats, weights: Floats, window: Window, size: tuple[int, int], groups: int
) -> Doubles:
    """The gradient of a picture: every product goes where its pixel came from."""
    n, m, oh, ow = dy.shape
    c = weights.shape[1] * groups
    room = [
        s + 2 * (k - 1) * d + p + e * t
        for s, k, d, p, e, t in zip(
            size, window.size, window.dilation, window.pad, (oh, ow), window.stride, strict=True
        )
    ]
    wide = np.zeros((n, c, *room))
    each, outputs = c // groups, m // groups
    for g in range(groups):
        mine = slice(g * outputs, (g + 1) * outputs)
        for i, j in np.ndindex(*window.size):
            rows = slice(
                i * window.dilation[0],
                i * window.dilation[0] + (oh - 1) * window.stride[0] + 1,
                window.stride[0],
            )
            columns = slice(
                j * window.dilation[1],
                j * window.dilation[1] + (ow - 1) * window.stride[1] + 1,
                window.stride[1],
            )
            part = np.einsum(
                "nohw,oi->nihw", dy[:, mine].astype(np.float64), weights[mine, :, i, j]
            )
            wide[:, g * each : (g + 1) * each, rows, columns] += part
    top, left = window.pad
    return wide[:, :, top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradients_come_back_to_their_pixels(name: str, queue: Any) -> None:
    case = CONVOLUTIONS[name]
    n, c, h, w, m, window, groups = case
    extent = _extents(case)
    dy, weights = random((n, m, *extent), 1), random((m, c // groups, *window.size), 2)
    slopes = Array.dense(n, m, *extent).slice_channels(0, m // groups)
    goal = Goal.pixels(Array.dense(n, c, h, w), groups)
    product = Product(
        _weights(case, back=True), Pixels(slopes, window, (h, w), back=True), goal, SMALL, groups
    )
    got = compute(queue, product, n * c * h * w, weights, dy).reshape(n, c, h, w)
    close(got, spread(dy, weights, window, (h, w), groups))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradients_of_weights_add_up_all_pixels(name: str, parts: int, queue: Any) -> None:
    case = CONVOLUTIONS[name]
    n, c, h, w, m, window, groups = case
    extent = _extents(case)
    x, dy = random((n, c, h, w), 1), random((n, m, *extent), 2)
    slopes = Array.dense(n, m, *extent).slice_channels(0, m // groups)
    picture = Array.dense(n, c, h, w).slice_channels(0, c // groups)
    inputs = c // groups * window.size[0] * window.size[1]
    goal = Goal.matrix(Matrix.dense(m // groups, inputs, groups))
    product = Product(
        Windows(slopes, Window(), extent), Windows(picture, window, extent), goal, SMALL, groups,
        parts=parts,
    )  # fmt: skip
    got = compute(queue, product, m * inputs, dy, x).reshape(m, c // groups, *window.size)
    want = np.zeros(got.shape)
    for index in np.ndindex(*got.shape[:2], *window.size):
        one = np.zeros((m, c // groups, *window.size), np.float32)
        one[index] = 1
        want[index] = (convolve(x, one, window, extent, groups) * dy).sum() if m * c < 120 else 0
    if m * c < 120:
        close(got, want)
    else:
        probe = random(got.shape, 5)
        slope = (convolve(x, probe, window, extent, groups) * dy).sum()
        assert abs((got.astype(np.float64) * probe).sum() - slope) <= 1e-4 * abs(got).max() * 100


def test_a_small_product_of_great_depth_is_split_by_its_shape_alone() -> None:
    a, b = (Factors.rows(Matrix.dense(40, 5000)) for _ in range(2))
    first, *_ = every_product(Groups(), a, b, Goal.matrix(Matrix.dense(40, 40)))
    again, *_ = every_product(Groups(), a, b, Goal.matrix(Matrix.dense(40, 40)))
    assert first.parts > 1 and first == again
    assert (first.parts - 1) * first.steps * first.block.depth < 5000


def test_blocks_fit_the_device() -> None:
    a, b = (Factors.rows(Matrix.dense(1000, 1000)) for _ in range(2))
    goal = Goal.matrix(Matrix.dense(1000, 1000))
    for groups in (Groups(256, 8 << 10), Groups(64, 32 << 10), Groups(16, 16 << 10)):
        product = next(every_product(groups, a, b, goal))
        assert product.block.items <= groups.items
        assert 4 * sum(array.size for array in product.shared) <= groups.local_bytes


def test_a_processor_does_not_print_kernels_that_work_in_groups() -> None:
    factors = Factors.rows(Matrix.dense(4, 4))
    product = Product(factors, factors, Goal.matrix(Matrix.dense(4, 4)), SMALL)
    with pytest.raises(InternalError, match="works in groups, which LLVMPrinter cannot print"):
        LLVMPrinter(product, jit.host())
