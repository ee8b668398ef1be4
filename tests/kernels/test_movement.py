"""Reordering, borders and strided copies: every element where it belongs, nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnconv.runtime.kernels.arrays import Array, Border
from nnconv.runtime.kernels.copying import Copy
from nnconv.runtime.kernels.elementwise import Step, Strided, chain
from nnconv.runtime.kernels.movement import (
    FillBorder,
    Reorder,
    blocked,
    copy,
    plain,
)
from nnconv.runtime.kernels.target import Target
from tests.kernels.harness import (
    buffer,
    close,
    few,
    memory_of,
    placed,
    random,
    read,
    run,
    same_on_two_threads,
    untouched,
    view,
)


@few
@given(data=st.data())
def test_reordering_moves_every_element(target: Target, data: st.DataObject) -> None:
    draw = data.draw
    n, c = draw(st.integers(1, 2)), draw(st.integers(1, 40))
    h, w = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    flat = draw(st.booleans())
    sides = [1, target.lanes] if draw(st.booleans()) else [target.lanes, 1]
    x, y = (
        Array.dense(n, c, h, w, lanes) if flat else draw(placed(n, c, h, w, lanes, Border()))
        for lanes in sides
    )
    values, memory = random((n, c, h, w), 1), memory_of(y)
    run(Reorder(x, y), target, source := memory_of(x, values), memory)
    np.testing.assert_array_equal(read(y, memory), values)
    assert untouched(y, memory)
    assert same_on_two_threads(Reorder(x, y), target, source, memory)
    lanes_past = view(y, memory)[:, -1, :, :, y.tail :]
    assert (lanes_past == 0).all()


@few
@given(data=st.data())
def test_filling_a_border_touches_nothing_else(target: Target, data: st.DataObject) -> None:
    draw = data.draw
    edge = Border(*(draw(st.integers(0, 3)) for _ in range(4)))
    lanes = draw(st.sampled_from([1, target.lanes]))
    x = Array.dense(2, 20, draw(st.integers(1, 4)), draw(st.integers(1, 9)), lanes, edge)
    if not edge:
        return
    value = draw(st.sampled_from([0.0, -np.inf]))
    memory = memory_of(x)
    run(FillBorder(x, target.lanes, value), target, memory)
    assert np.isnan(view(x, memory)).all()
    filled = view(x, memory, with_border=True)
    assert ((filled == value) | np.isnan(filled)).all()
    assert (filled == value).sum() == filled.size - view(x, memory).size


def test_a_copy_transposes_slices_and_joins(target: Target) -> None:
    x, memory = random((5, 7, 9), 1), buffer(np.full(5 * 7 * 9, np.nan))
    run(
        copy((9, 5, 7), Strided((1, 63, 9)), Strided((35, 7, 1)), target.lanes),
        target,
        buffer(x),
        memory,
    )
    np.testing.assert_array_equal(memory.reshape(9, 5, 7), x.transpose(2, 0, 1))


def test_a_plain_image_gets_its_border_by_a_copy_and_a_fill(target: Target) -> None:
    x = Array.dense(2, 3, 5, 6)
    y = Array.dense(2, 3, 5, 6, 1, Border(1, 1, 1, 1))
    values, memory = random((2, 3, 5, 6), 1), buffer(np.full(y.size, np.nan))
    run(copy((2, 3, 5, 6), plain(x), plain(y), target.lanes), target, buffer(values), memory)
    run(FillBorder(y, target.lanes), target, memory)
    want = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)))
    np.testing.assert_array_equal(memory.reshape(2, 3, 7, 8), want)


def test_a_chain_on_blocked_arrays_scales_each_channel(target: Target) -> None:
    lanes = target.lanes
    x = Array.dense(2, 20, 3, 4, lanes, Border(1, 1, 1, 1))
    y = Array.dense(2, 20, 3, 4, lanes)
    values, scale = random((2, 20, 3, 4), 1), np.ones(y.blocks * lanes, np.float32)
    scale[:20] = random((20,), 2)
    kernel = chain(
        (2, y.blocks, 3, 4, lanes),
        [blocked(x), Strided((0, lanes, 0, 0, 1))],
        [blocked(y)],
        [Step("Mul", (0, 1))],
        [2],
        lanes,
    )
    memory = memory_of(y)
    run(kernel, target, memory_of(x, values), buffer(scale), memory)
    close(read(y, memory), values.astype(np.float64) * scale[:20, None, None], 1e-7)


@st.composite
def moved(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """An array and a view of it or of what repeats it, as numpy has them: any order of the axes,
    steps forwards and backwards, a broadcast axis.
    """
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 5, 8, 17, 33, 70]), min_size=1, max_size=4))
    while np.prod(sizes) > 40_000:
        sizes = sizes[1:]
    x = random(sizes, 1)
    view = x.transpose(draw(st.permutations(range(x.ndim))))
    steps = draw(st.lists(st.sampled_from([1, 1, 1, -1, 2, 3, -2]), min_size=1, max_size=x.ndim))
    view = view[tuple(slice(None, None, step) for step in steps)]
    if draw(st.booleans()):
        axis = draw(st.integers(0, x.ndim))
        times = draw(st.integers(1, 20))
        view = np.broadcast_to(
            np.expand_dims(view, axis), (*view.shape[:axis], times, *view.shape[axis:])
        )
    return x, view


def strided(view: np.ndarray, start: int = 0) -> Strided:
    return Strided(tuple(step // 4 for step in view.strides), start)


@settings(max_examples=60)
@given(data=moved(), spread=st.sampled_from([1, 1, 2, 5]))
def test_a_copy_follows_any_strides(
    target: Target, data: tuple[np.ndarray, np.ndarray], spread: int
) -> None:
    x, view = data
    first = (view.ctypes.data - x.ctypes.data) // 4
    around = np.empty((*view.shape[:-1], view.shape[-1] * spread), np.float32)
    y, memory = around[..., ::spread], buffer(np.full(around.size, np.nan))
    kernel = copy(view.shape, strided(view, first), strided(y), target.lanes)
    run(kernel, target, buffer(x), memory)
    whole = memory.reshape(around.shape)
    np.testing.assert_array_equal(whole[..., ::spread], view)
    assert np.isnan(whole).sum() == whole.size - view.size
    assert same_on_two_threads(kernel, target, buffer(x), memory)


@pytest.mark.parametrize(
    ("shape", "order", "way"),
    [
        ((3, 40, 50), (0, 2, 1), "square"),
        ((2, 2, 300), (0, 2, 1), "join"),
        ((2, 300, 2), (0, 2, 1), "part"),
        ((2, 3, 4, 70), (0, 2, 1, 3), "line"),
    ],
)
def test_transposes_go_through_registers(
    target: Target, shape: tuple[int, ...], order: tuple[int, ...], way: str
) -> None:
    x = random(shape, 1)
    view = x.transpose(order)
    y = np.empty(view.shape, np.float32)
    kernel = copy(view.shape, strided(view), strided(y), target.lanes)
    assert isinstance(kernel, Copy) and kernel.way == way
    memory = buffer(np.full(y.size, np.nan))
    run(kernel, target, buffer(x), memory)
    np.testing.assert_array_equal(memory.reshape(view.shape), view)
