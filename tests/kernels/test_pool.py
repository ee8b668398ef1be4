"""Pooling against windows taken one by one, with ONNX's rules for edges and divisors."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nnconv.runtime.kernels.arrays import Array, Border
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.pool import Pool, global_pool
from nnconv.runtime.kernels.target import Target
from tests.kernels.harness import (
    Doubles,
    Floats,
    close,
    memory_of,
    placed,
    random,
    read,
    run,
    same_on_two_threads,
    untouched,
)


def pooled(x: Floats, kernel: Pool) -> Doubles:
    """ONNX MaxPool-12 and AveragePool-19: every window clipped, the divisor counted cell by
    cell.
    """
    n, c, height, width = x.shape
    window, y = kernel.window, np.empty((n, c, kernel.y.height, kernel.y.width))
    for row, column in np.ndindex(y.shape[2:]):
        cells = [
            (row * window.stride[0] - window.pad[0] + i * window.dilation[0],
             column * window.stride[1] - window.pad[1] + j * window.dilation[1])
            for i, j in np.ndindex(window.size)
        ]  # fmt: skip
        inside = [cell for cell in cells if 0 <= cell[0] < height and 0 <= cell[1] < width]
        padded = [
            cell for cell in cells
            if cell[0] < height + kernel.pad_end[0] and cell[1] < width + kernel.pad_end[1]
        ]  # fmt: skip
        values = np.stack([x[:, :, i, j].astype(np.float64) for i, j in inside])
        count = len(padded) if kernel.include_pad else len(inside)
        y[:, :, row, column] = values.sum(0) / count if kernel.average else values.max(0)
    return y


def outputs(
    size: int, taps: int, dilation: int, stride: int, begin: int, end: int, ceil: bool
) -> int:
    """ONNX's output extent; a window that starts in the end padding is dropped."""
    span = size + begin + end - (taps - 1) * dilation - 1
    count = -(-span // stride) + 1 if ceil else span // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= size + begin else count


@given(data=st.data())
def test_any_pooling_is_what_its_windows_say(target: Target, data: st.DataObject) -> None:
    draw, lanes = data.draw, target.lanes
    batch, channels = draw(st.integers(1, 2)), draw(st.integers(1, 40))
    axes = []
    for _ in range(2):
        size, taps, dilation = (
            draw(st.integers(1, 14)),
            draw(st.integers(1, 4)),
            draw(st.integers(1, 2)),
        )
        begin, end = (draw(st.integers(0, taps - 1)) for _ in range(2))
        short = (taps - 1) * dilation + 1 - size - begin - end
        size = size + max(0, short)
        stride = draw(st.integers(1, 3))
        count = outputs(size, taps, dilation, stride, begin, end, draw(st.booleans()))
        axes.append((size, taps, dilation, stride, begin, end, count))
    heights, widths = axes
    x = draw(placed(batch, channels, heights[0], widths[0], lanes, Border()))
    y = draw(placed(batch, channels, heights[6], widths[6], lanes, Border()))
    window = Window(*((heights[i], widths[i]) for i in (1, 3, 2, 4)))
    kernel = Pool(x, y, window, draw(st.booleans()), draw(st.booleans()), (heights[5], widths[5]))
    every = [
        any(0 <= o * s - b + t * d < n for t in range(k))
        for n, k, d, s, b, _, c in axes
        for o in range(c)
    ]
    if not all(every):  # with dilation a window can miss the image: no maximum, no mean
        return
    values, memory = random((batch, channels, heights[0], widths[0]), 1), memory_of(y)
    run(kernel, target, source := memory_of(x, values), memory)
    close(read(y, memory), pooled(values, kernel), rel=1e-6)
    assert untouched(y, memory)
    assert same_on_two_threads(kernel, target, source, memory)


def test_a_divisor_counts_padding_but_not_what_hangs_over_it(target: Target) -> None:
    """Ones of width 6, 3 taps, stride 2, one pixel of padding on one side only, ceil mode."""
    for begin, end, want in ((0, 1, [1, 1, 2 / 3]), (1, 0, [2 / 3, 1, 1, 1]), (0, 0, [1, 1, 1])):
        x, y = (
            Array.dense(1, 4, 6, 6, target.lanes),
            Array.dense(1, 4, len(want), len(want), target.lanes),
        )
        window = Window((3, 3), (2, 2), pad=(begin, begin))
        memory = memory_of(y)
        kernel = Pool(x, y, window, average=True, include_pad=True, pad_end=(end, end))
        run(kernel, target, memory_of(x, np.ones((1, 4, 6, 6), np.float32)), memory)
        close(read(y, memory)[0, 0], np.outer(want, want), rel=1e-6)


def test_a_global_pool_takes_the_whole_image(target: Target) -> None:
    x, y = Array.dense(2, 20, 13, 17, target.lanes), Array.dense(2, 20, 1, 1, target.lanes)
    values = random((2, 20, 13, 17), 1)
    for average, want in ((True, values.mean((2, 3), np.float64)), (False, values.max((2, 3)))):
        memory = memory_of(y)
        run(global_pool(x, y, average), target, memory_of(x, values), memory)
        close(read(y, memory)[:, :, 0, 0], want.astype(np.float64), rel=1e-6)


def test_a_maximum_keeps_infinity_and_is_at_least_the_lowest_number(target: Target) -> None:
    x, y = Array.dense(1, 4, 4, 4, target.lanes), Array.dense(1, 4, 2, 2, target.lanes)
    values = np.full((1, 4, 4, 4), -np.inf, np.float32)
    values[0, 0, 3, 3] = np.inf
    memory = memory_of(y)
    run(Pool(x, y, Window((2, 2), (2, 2))), target, memory_of(x, values), memory)
    lowest = float(np.finfo(np.float32).min)  # Caffe's -FLT_MAX
    assert read(y, memory)[0, 0].tolist() == [[lowest, lowest], [lowest, np.inf]]
