"""One kernel of each family with inputs, for tests that treat all families alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from nnconv.runtime.kernels.arrays import Array, Border, Matrix
from nnconv.runtime.kernels.batch_norm import (
    ChannelMoments,
    ChannelSlopes,
    PlaneMoments,
    PlaneSums,
)
from nnconv.runtime.kernels.conv import Window, conv, pack_bias, pack_weights
from nnconv.runtime.kernels.depthwise import depthwise, pack_depthwise
from nnconv.runtime.kernels.elementwise import Step, Strided, chain
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.gemm import gemm, pack_matrix
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.movement import FillBorder, Reorder
from nnconv.runtime.kernels.norm import LRN
from nnconv.runtime.kernels.pool import Pool
from nnconv.runtime.kernels.random import dropout
from nnconv.runtime.kernels.reduce import Axis, Reduce, Softmax
from nnconv.runtime.kernels.samples import samples_array
from nnconv.runtime.kernels.samples_norm import (
    Response,
    SampleLRN,
    SampleLRNGrad,
    SampleLRNShares,
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
        short = Axis.dense(axis.outer, 1, axis.inner)
        yield f"softmax {name}", Softmax(axis, axis, lanes), [buffer(data), buffer(empty)]
        reduce = Reduce(axis, short, lanes, "ReduceL2")
        yield f"reduce {name}", reduce, [buffer(data), buffer(empty[: axis.outer * axis.inner])]

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
    shares = SampleLRNShares(array, response, array, array, array)
    yield "samples lrn shares", shares, [buffer(x), buffer(y), buffer(empty), buffer(empty)]
    grad = SampleLRNGrad(array, response, array, array)
    yield "samples lrn gradient", grad, [buffer(x), buffer(y), buffer(x)]
