"""Direct and depthwise convolution against the definition in double precision."""

from __future__ import annotations

import dataclasses
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnconv.runtime.kernels.arrays import Array, Border
from nnconv.runtime.kernels.conv import (
    Conv,
    Window,
    conv,
    every_conv,
    merged_groups,
    pack_bias,
    pack_weights,
)
from nnconv.runtime.kernels.depthwise import depthwise, pack_depthwise
from nnconv.runtime.kernels.functions import NONE, Activation
from nnconv.runtime.kernels.schedule import Tile
from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import InternalError
from tests.kernels.harness import (
    Doubles,
    Floats,
    buffer,
    close,
    convolve,
    extent,
    few,
    memory_of,
    placed,
    random,
    read,
    run,
    same_on_two_threads,
    untouched,
    write,
)

ACTIVATIONS = {
    NONE: lambda y: y,
    Activation("Relu"): lambda y: np.maximum(y, 0),
    Activation("Clip", (0.0, 6.0)): lambda y: np.clip(y, 0, 6),
    Activation("LeakyRelu", (0.1,)): lambda y: np.where(y < 0, y * np.float32(0.1), y),
}


@st.composite
def windows(draw: st.DrawFn, height: int, width: int) -> tuple[Window, tuple[int, int]]:
    """A window and the extent of its output, both at least one pixel."""
    size = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    least = [
        max(0, (s - 1) * d + 1 - e) for s, d, e in zip(size, dilation, (height, width), strict=True)
    ]
    pad = tuple(-(-m // 2) + draw(st.integers(0, 1)) for m in least)
    window = Window(size, stride, dilation, (pad[0], pad[1]))
    ends = [p + draw(st.integers(0, 1)) for p in pad]
    return window, (extent(height, window, 0, ends[0]), extent(width, window, 1, ends[1]))


@st.composite
def convolutions(draw: st.DrawFn, target: Target) -> tuple[Conv, int]:
    """Any convolution, with any schedule that fits the registers, and the operator's groups."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 4]))
    channels = groups * draw(st.integers(1, 40 // groups))
    outputs = groups * draw(st.integers(1, 70 // groups))
    batch, height, width = (
        draw(st.integers(1, 2)),
        draw(st.integers(1, 9)),
        draw(st.integers(1, 19)),
    )
    window, (rows, columns) = draw(windows(height, width))
    lanes = target.lanes
    plain = draw(st.booleans())
    bare = Array.dense(batch, channels, height, width, 1 if plain else lanes)
    small = Array.dense(batch, outputs, rows, columns, lanes)
    edge = window.reach(bare, small)
    x = draw(placed(batch, channels, height, width, bare.lanes, edge))
    y = draw(placed(batch, outputs, rows, columns, lanes, Border()))
    kernel = conv(
        target,
        x,
        y,
        window,
        groups=groups,
        bias=draw(st.booleans()),
        residual=draw(st.none() | placed(batch, outputs, rows, columns, lanes, Border())),
        activation=draw(st.sampled_from(list(ACTIVATIONS))),
        clip=draw(st.booleans()),
    )
    tile = Tile(draw(st.integers(1, 3)), draw(st.integers(1, 14)), draw(st.integers(1, 4)))
    if draw(st.booleans()) and tile.fits(target):
        most = -(-kernel.in_blocks // 1)
        kernel = dataclasses.replace(
            kernel, tile=tile, depth=draw(st.integers(1, most)), band=draw(st.integers(1, 4))
        )
    return kernel, groups


def answer(
    kernel: Conv, x: Floats, w: Floats, bias: Floats | None, residual: Floats | None, groups: int
) -> Doubles:
    y = convolve(x, w, kernel.window, (kernel.y.height, kernel.y.width), groups)
    if bias is not None:
        y += bias[None, :, None, None]
    if residual is not None:
        y += residual
    result: Doubles = ACTIVATIONS[kernel.activation](y)
    return result


def check(kernel: Conv, groups: int, target: Target) -> None:
    shape = (kernel.x.batch, kernel.x.channels, kernel.x.height, kernel.x.width)
    outputs = (kernel.y.batch, kernel.y.channels, kernel.y.height, kernel.y.width)
    x, bias = random(shape, 1), random((kernel.y.channels,), 2)
    w = random((kernel.y.channels, kernel.x.channels // groups, *kernel.window.size), 3)
    residual = random(outputs, 4)
    y = memory_of(kernel.y)
    buffers = [memory_of(kernel.x, x), buffer(pack_weights(kernel, w, groups))]
    buffers += [buffer(pack_bias(kernel, bias))] if kernel.bias else []
    buffers += [memory_of(kernel.residual, residual)] if kernel.residual else []
    run(kernel, target, *buffers, y)
    want = answer(
        kernel, x, w, bias if kernel.bias else None, residual if kernel.residual else None, groups
    )
    close(read(kernel.y, y), want)
    assert untouched(kernel.y, y)
    assert same_on_two_threads(kernel, target, *buffers, y)


@few
@given(data=st.data())
def test_any_convolution_with_any_schedule_is_what_the_definition_says(
    target: Target, data: st.DataObject
) -> None:
    kernel, groups = data.draw(convolutions(target))
    check(kernel, groups, target)


# What the prototype got wrong, and shapes of real nets: (channels, outputs, size, taps, stride,
# pad)
SHAPES = {
    "bias is added in one chunk of several": (200, 20, 6, 3, 1, 1),
    "the last tile of a row is narrower": (32, 40, 13, 3, 1, 1),
    "the last panel has fewer vectors": (16, 80, 8, 1, 1, 0),
    "the first layer of ResNet": (3, 64, 30, 7, 2, 3),
    "the first layer of AlexNet": (3, 96, 35, 11, 4, 0),
    "a pointwise layer over an odd map": (48, 96, 7, 1, 1, 0),
    "a strided pointwise layer": (64, 128, 14, 1, 2, 0),
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_known_hard_shape(case: str, target: Target) -> None:
    channels, outputs, size, taps, stride, pad = SHAPES[case]
    window = Window((taps, taps), (stride, stride), (1, 1), (pad, pad))
    rows = (size + 2 * pad - taps) // stride + 1
    x = Array.dense(
        1, channels, size, size, 1 if channels == 3 else target.lanes, Border(pad, pad, pad, pad)
    )
    y = Array.dense(1, outputs, rows, rows, target.lanes)
    kernels = list(islice(every_conv(target, x, y, window, activation=Activation("Relu")), 2))
    chunked = dataclasses.replace(kernels[0], depth=2, band=1)
    for kernel in (*kernels, chunked):
        check(kernel, 1, target)


def test_groups_are_merged_until_they_fill_blocks() -> None:
    assert merged_groups(2, 48, 128, 16, 16) == 2
    assert merged_groups(32, 4, 4, 16, 16) == 8
    assert merged_groups(3, 10, 10, 8, 8) == 1


def test_a_missing_border_is_refused(target: Target) -> None:
    x, y = (Array.dense(1, 16, 5, 5, target.lanes) for _ in range(2))
    with pytest.raises(InternalError, match="border"):
        conv(target, x, y, Window((3, 3), pad=(1, 1)))


def test_the_residual_may_be_the_output_itself(target: Target) -> None:
    x, y = (Array.dense(1, 32, 6, 6, target.lanes) for _ in range(2))
    kernel = conv(target, x, y, Window(), residual=y)
    values, before, w = (
        random((1, 32, 6, 6), 1),
        random((1, 32, 6, 6), 2),
        random((32, 32, 1, 1), 3),
    )
    memory = memory_of(y, before)
    bias = buffer(pack_bias(kernel, random((32,), 4)))
    run(kernel, target, memory_of(x, values), buffer(pack_weights(kernel, w)), bias, memory, memory)
    want = convolve(values, w, Window(), (6, 6)) + before + random((32,), 4)[None, :, None, None]
    close(read(y, memory), want)


@few
@given(data=st.data())
def test_any_depthwise_convolution_is_what_the_definition_says(
    target: Target, data: st.DataObject
) -> None:
    draw, lanes = data.draw, target.lanes
    batch, channels = draw(st.integers(1, 2)), draw(st.integers(1, 40))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 20))
    window, (rows, columns) = draw(windows(height, width))
    x = draw(placed(batch, channels, height, width, lanes, Border()))
    y = draw(placed(batch, channels, rows, columns, lanes, Border()))
    activation = draw(st.sampled_from(list(ACTIVATIONS)))
    kernel = depthwise(
        target, x, y, window, activation=activation, residual=draw(st.sampled_from([None, y]))
    )
    values, w = random((batch, channels, height, width), 1), random((channels, 1, *window.size), 2)
    bias = np.zeros(y.blocks * lanes, np.float32)
    bias[:channels] = random((channels,), 3)
    before = random((batch, channels, rows, columns), 4)
    memory = memory_of(y)
    write(y, memory, before)
    buffers = [memory_of(x, values, np.nan), buffer(pack_depthwise(kernel, w)), buffer(bias)]
    run(kernel, target, *buffers, *([memory] if kernel.residual else []), memory)
    want = (
        convolve(values, w, window, (rows, columns), channels) + bias[None, :channels, None, None]
    )
    close(read(y, memory), ACTIVATIONS[activation](want + before if kernel.residual else want))
    assert untouched(y, memory)
