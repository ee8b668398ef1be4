"""LRN and softmax against numpy in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnconv.runtime.kernels.arrays import Border
from nnconv.runtime.kernels.norm import LRN
from nnconv.runtime.kernels.reduce import Axis, Softmax
from nnconv.runtime.kernels.target import Target
from tests.kernels.harness import (
    Doubles,
    Floats,
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
)


def lrn(x: Floats, kernel: LRN) -> Doubles:
    """ONNX LRN-13, channel by channel."""
    squares, y = x.astype(np.float64) ** 2, np.empty(x.shape)
    for c in range(x.shape[1]):
        near = squares[:, max(0, c - (kernel.size - 1) // 2) : c + kernel.size // 2 + 1].sum(1)
        y[:, c] = x[:, c] / (kernel.bias + kernel.alpha / kernel.size * near) ** kernel.beta
    return y


@few
@given(data=st.data())
def test_lrn_is_what_its_formula_says(target: Target, data: st.DataObject) -> None:
    draw, lanes = data.draw, target.lanes
    batch, channels = draw(st.integers(1, 2)), draw(st.integers(1, 80))
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    x, y = (draw(placed(batch, channels, height, width, lanes, Border())) for _ in range(2))
    beta = draw(st.sampled_from([0.5, 0.75, 1.0, 0.6]))
    kernel = LRN(x, y, draw(st.integers(1, 7)), draw(st.sampled_from([0.5, 3.0])), beta, 2.0)
    values, memory = random((batch, channels, height, width), 1), memory_of(y)
    run(kernel, target, source := memory_of(x, values), memory)
    close(read(y, memory), lrn(values, kernel), rel=1e-6)
    assert untouched(y, memory)
    assert same_on_two_threads(kernel, target, source, memory)


@pytest.mark.parametrize("logarithm", [False, True])
@few
@given(
    outer=st.integers(1, 4),
    length=st.integers(1, 150),
    inner=st.sampled_from([1, 1, 5, 16, 20]),
    scale=st.sampled_from([1.0, 30.0, 1e30]),
)
def test_softmax_is_what_its_formula_says(
    target: Target, logarithm: bool, outer: int, length: int, inner: int, scale: float
) -> None:
    axis = Axis.dense(outer, length, inner)
    kernel = Softmax(axis, axis, target.lanes, logarithm)
    values = random((outer, length, inner), 1) * np.float32(scale)
    x, y = buffer(values), buffer(np.full(values.size, np.nan))
    run(kernel, target, x, y)
    shifted = values.astype(np.float64) - values.max(1, keepdims=True)
    total = np.exp(shifted).sum(1, keepdims=True)
    want = shifted - np.log(total) if logarithm else np.exp(shifted) / total
    close(y.reshape(values.shape), want, rel=1e-6)
    assert same_on_two_threads(kernel, target, x, y)


def test_softmax_may_write_over_its_input(target: Target) -> None:
    values = random((3, 37), 1)
    memory, axis = buffer(values), Axis.dense(3, 37)
    run(Softmax(axis, axis, target.lanes), target, memory, memory)
    powers = np.exp(values.astype(np.float64))
    close(memory.reshape(3, 37), powers / powers.sum(1, keepdims=True), rel=1e-6)
