"""One kernel of each family with inputs, for tests that treat all families alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from nnconv.runtime.kernels.arrays import Array, Border, Matrix
from nnconv.runtime.kernels.axis import Axis as WindowAxis
from nnconv.runtime.kernels.batch_norm import (
    ChannelMoments,
    ChannelSlopes,
    PlaneMoments,
    PlaneSums,
)
from nnconv.runtime.kernels.conv import Window, conv, pack_bias, pack_weights
from nnconv.runtime.kernels.depthwise import depthwise, pack_depthwise
from nnconv.runtime.kernels.elementwise import Step, Strided, chain
from nnconv.runtime.kernels.fold import Fold
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.gemm import gemm, pack_kernels, pack_matrix, packed_size
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.losses import Hits, SoftmaxLoss, SoftmaxLossGrad
from nnconv.runtime.kernels.movement import FillBorder, Reorder
from nnconv.runtime.kernels.norm import LRN
from nnconv.runtime.kernels.pool import Pool
from nnconv.runtime.kernels.random import dropout
from nnconv.runtime.kernels.reduce import Axis, Softmax
from nnconv.runtime.kernels.samples.lanes import samples_array
from nnconv.runtime.kernels.samples.norm import Response, SampleLRN
from nnconv.runtime.kernels.samples.pool import SampleAveragePoolGrad, SampleMaxPoolGrad
from nnconv.runtime.kernels.samples.windows import (
    Volume,
    WindowsConv,
    WindowsConvData,
    windows_conv_weights,
)
from nnconv.runtime.kernels.target import Target
from nnconv.runtime.kernels.winograd import pack_winograd, winograd
from nnconv.runtime.random import threshold
from tests.kernels.harness import Floats, buffer, memory_of, random

_DROP = (threshold(0.4), 1 / 0.6, (0x12345678, 0x9ABCDEF0))  # threshold, scale, key

Sample = tuple[str, Kernel, list[Floats]]  # the last buffer is written


def samples(target: Target) -> Iterator[Sample]:
    """(name, kernel, buffers); the buffers are new at every call."""
    lanes, border = target.lanes, Border(1, 1, 1, 1)
    x = Array.dense(1, 40, 9, 11, lanes, border)
    y = Array.dense(1, 24, 9, 11, lanes)
    same, plain = Array.dense(1, 40, 9, 11, lanes), Array.dense(1, 40, 9, 11)
    values, relu = random((1, 40, 9, 11), 1), Activation("Relu")
    window = Window((3, 3), pad=(1, 1))

    direct = conv(target, x, y, window, activation=relu)
    w, bias = random((24, 40, 3, 3), 2), random((24,), 3)
    packed = [buffer(pack_weights(direct, w)), buffer(pack_bias(direct, bias))]
    yield "conv", direct, [memory_of(x, values), *packed, memory_of(y)]

    for outputs in (2, 4):
        plan = winograd(target, x, y, window, outputs, activation=relu)
        strip = plan.strips[0]
        v, m = random((plan.v_size,), 4), random((plan.m_size,), 5)
        padded = buffer(np.resize(bias, y.blocks * lanes))
        enter = replace(strip.enter, image=x)  # not from a base address inside the buffer
        yield f"winograd {outputs} input", enter, [memory_of(x, values), buffer(v * np.nan)]
        weights = buffer(pack_winograd(plan, w))
        yield (
            f"winograd {outputs} products",
            strip.product,
            [buffer(v), weights, buffer(m * np.nan)],
        )
        yield f"winograd {outputs} output", strip.leave, [buffer(m), padded, memory_of(y)]

    each = depthwise(target, x, same, window, bias=False)
    taps = buffer(pack_depthwise(each, random((40, 1, 3, 3), 6)))
    yield "depthwise", each, [memory_of(x, values), taps, memory_of(same)]

    product = gemm(target, Matrix.dense(7, 50), Matrix.dense(7, 70))
    b = buffer(pack_matrix(product, random((50, 70), 7)))
    yield "gemm", product, [buffer(random((7, 50), 8)), b, buffer(np.full(490, np.nan))]

    turned = Matrix.dense(70, 50).transposed
    pack = pack_kernels(product, turned, 0.5)[0]
    room = buffer(np.full(packed_size(product), np.nan))
    yield "pack turned", pack, [buffer(random((70, 50), 11)), room]
    unpacked = gemm(target, Matrix.dense(7, 50), Matrix.dense(7, 70), b=Matrix.dense(50, 70))
    operands = [buffer(random((7, 50), 8)), buffer(random((50, 70), 7))]
    yield "gemm unpacked", unpacked, [*operands, buffer(np.full(490, np.nan))]

    yield from _over_axes(target)

    half = Array.dense(1, 40, 5, 6, lanes)
    for average in (False, True):
        pool = Pool(x, half, Window((3, 3), (2, 2), pad=(1, 1)), average, average, (1, 1))
        yield f"pool {average}", pool, [memory_of(x, values), memory_of(half)]

    yield "lrn", LRN(x, same, 5, 0.1, 0.6, 2.0), [memory_of(x, values), memory_of(same)]
    yield "lrn by roots", LRN(x, same, 5, 0.1, 0.75, 2.0), [memory_of(x, values), memory_of(same)]
    yield from _by_sample(lanes)
    rows, columns = Axis.dense(3, 45), Axis.dense(2, 9, 21)
    for name, axis in (("rows", rows), ("columns", columns)):
        size = axis.outer * axis.length * axis.inner
        data, empty = random((size,), 9), np.full(size, np.nan, np.float32)
        yield f"softmax {name}", Softmax(axis, axis, lanes), [buffer(data), buffer(empty)]
        yield from _over_labels(name, axis, lanes, data)
    yield from _folds(lanes)

    steps = [
        Step(op, (i,)) for i, op in enumerate(("Exp", "Log", "Tanh", "Erf", "Softplus", "Gelu"))
    ]
    one = [Strided((1,))]
    every = chain([2003], one, one, steps, [len(steps)], lanes)
    data = random((2003,), 10) * 20
    yield "functions", every, [buffer(data), buffer(data * np.nan)]

    yield "reorder in", Reorder(plain, x), [buffer(values), memory_of(x)]
    yield "reorder out", Reorder(x, plain), [memory_of(x, values), memory_of(plain)]
    yield "border", FillBorder(x, lanes, -np.inf), [memory_of(x)]


def _over_labels(
    name: str, axis: Axis, lanes: int, data: Floats
) -> Iterator[tuple[str, Kernel, list[Floats]]]:
    positions = axis.outer * axis.inner
    short, labels = Axis.dense(axis.outer, 1, axis.inner), np.arange(positions) % axis.length
    label, one, number = buffer(labels.astype("f4")), np.full(1, 0.5, "f4"), np.full(1, 3, "f4")
    empty = np.full(positions, np.nan, np.float32)
    loss = SoftmaxLoss(axis, short, lanes, "f32", 1)
    yield f"softmax loss {name}", loss, [buffer(data), label, buffer(empty)]
    slope = SoftmaxLossGrad(axis, axis, lanes, "f32", 1)
    operands = [buffer(data), label, buffer(one), buffer(number), buffer(data * np.nan)]
    yield f"softmax loss gradient {name}", slope, operands
    hits = Hits(axis, short, lanes, "f32", 1, 2)
    yield f"hits {name}", hits, [buffer(data), label, buffer(empty), buffer(empty)]


def _folds(lanes: int) -> Iterator[tuple[str, Kernel, list[Floats]]]:
    """Images and pixels joined, and what is kept in lanes; with steps, and a divisor."""
    x, y, divisor = random((3, 5, 37), 11), random((37,), 12), np.full(1, 7, np.float32)
    dense, row = Strided((185, 37, 1)), Strided((0, 0, 1))
    steps = (Step("Sub", (0, 1)), Step("Square", (2,)))
    for join in ("add", "mul", "max", "min"):
        fold = Fold((3, 5, 37), (dense, row), Strided((0, 1, 0)), steps, join, lanes)
        yield f"fold rows {join}", fold, [buffer(x), buffer(y), buffer(np.full(5, np.nan))]
    fold = Fold((3, 5, 37), (dense, row), Strided((37, 0, 1)), steps, "add", lanes, divided=True)
    memory = [buffer(x), buffer(y), buffer(divisor), buffer(np.full(111, np.nan))]
    yield "fold columns", fold, memory


def _over_axes(target: Target) -> Iterator[Sample]:
    """A convolution over three axes and its gradients, samples in lanes; stride and dilation share
    a factor along one axis."""
    axes = (WindowAxis(3, 2, 1, 1), WindowAxis(2, 1, 2, 0), WindowAxis(3, 4, 2, 2))
    x, y = (
        Volume.over(Array.dense(2, count * target.lanes, 1, math.prod(cells), target.lanes), cells)
        for count, cells in ((4, (5, 6, 9)), (6, (3, 4, 3)))
    )
    w, bias = random((6, 2, 3, 2, 3), 12), random((6,), 13)
    size = {v: v.batch * v.channels * v.cells * v.lanes for v in (x, y)}
    xs, ys = (buffer(random((size[v],), 14)) for v in (x, y))
    forward = WindowsConv(x, y, axes, 2, 2, 2, True, Activation("Relu"))
    yield "windows", forward, [xs, buffer(w), buffer(bias), buffer(ys * np.nan)]
    back = WindowsConvData(y, x, axes, 2, 1, 2)
    yield "windows data", back, [ys, buffer(w), buffer(xs * np.nan)]
    samples = 2 * target.lanes - 1
    slope = windows_conv_weights(target, x, y, axes, samples, 2)
    yield "windows weights", slope, [xs, ys, buffer(w * np.nan)]
    plane = Array.dense(2, 3 * target.lanes, 6, 7, target.lanes)
    small = Array.dense(2, 3 * target.lanes, 4, 3, target.lanes)
    window = Window((2, 3), (1, 2), (2, 1), (0, 0))
    dy = random((small.size,), 15)
    mean = SampleAveragePoolGrad(small, plane, window, False)
    yield "average pool gradient", mean, [buffer(dy), buffer(np.full(plane.size, np.nan))]
    won = buffer(np.floor(np.abs(random((small.size,), 16)) * 3) % 6)
    most = SampleMaxPoolGrad(small, plane, window)
    yield "max pool gradient", most, [buffer(dy), won, buffer(np.full(plane.size, np.nan))]


def _by_sample(lanes: int) -> Iterator[Sample]:
    """What normalises and drops with samples in lanes, some lanes of the last group empty."""
    n, c, h, w = lanes + 3, 5, 4, 6
    array = samples_array(n, c, h, w, lanes)
    parts, numbers = random((array.batch, c, 3), 11), random((c,), 12)
    x, y = random((array.size,), 13), random((array.size,), 14)
    empty, few, three = np.full(array.size, np.nan), np.full(c, np.nan), np.full(3 * c, np.nan)
    known, joining = random((3 * c,), 15), (c, n, lanes, h * w, lanes)

    moments = PlaneMoments(array, n, lanes)
    yield "plane moments", moments, [buffer(x), buffer(parts * np.nan)]
    yield "channel moments", ChannelMoments(*joining, 1e-5), [buffer(parts), buffer(three)]
    sums = PlaneSums(array, n, lanes, array, True)
    given = [buffer(each) for each in (x, y, known, numbers, numbers)]
    yield "plane sums", sums, [*given, buffer(parts[..., :2] * np.nan)]
    slopes = ChannelSlopes(*joining, True, (False, True))
    given = [buffer(each) for each in (parts, known, numbers, three)]
    yield "channel slopes", slopes, [*given, buffer(few)]

    step = np.array([7, 1], np.uint32).view(np.float32)
    for name, one in (("fours", c * h * w), ("one by one", c * h * w + 3)):
        strides = Strided((one * lanes, lanes, 1)), Strided((one * lanes, 1, one))
        drop = dropout((2, c * h * w, lanes), (strides[0], strides[0], strides[1]), _DROP, lanes)
        room = np.full(2 * one * lanes, np.nan)
        yield (
            f"dropout in {name}",
            drop,
            [buffer(random((room.size,), 16)), buffer(step), buffer(room)],
        )

    response = Response(4, 0.3, 0.75, 2.0)
    lrn = SampleLRN(array, response, array)
    yield "samples lrn", lrn, [buffer(x), buffer(empty)]
