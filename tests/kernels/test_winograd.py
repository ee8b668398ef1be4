"""Winograd convolution against the definition, and its errors against those stated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnconv.runtime.devices.jobs import JobTable
from nnconv.runtime.kernels.arrays import Array, Border
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.target import KINDS, Target
from nnconv.runtime.kernels.winograd import Winograd, best_outputs, fits, pack_winograd, winograd
from nnconv.schemas.errors import InternalError
from tests.kernels.harness import (
    Floats,
    buffer,
    close,
    convolve,
    few,
    job,
    memory_of,
    placed,
    random,
    read,
    untouched,
)

RELATIVE = {2: 4e-6, 4: 3e-5}  # of the largest output, as winograd.py states
BORDER = Border(1, 1, 1, 1)


def compute(
    plan: Winograd,
    target: Target,
    x: Floats,
    w: Floats,
    bias: Floats,
    residual: Floats,
    y: Floats,
    threads: int,
) -> None:
    v, m = (buffer(np.full(size, np.nan)) for size in (plan.v_size, plan.m_size))
    table = []
    for strip in plan.strips:
        leave = [m, bias, *([residual] if strip.leave.residual else []), y]
        offsets = [0, 0, *([strip.residual_offset] if strip.leave.residual else []), strip.y_offset]
        table.append(job(strip.enter, target, x, v, offsets=[strip.x_offset, 0]))
        table.append(job(strip.product, target, v, w, m))
        table.append(job(strip.leave, target, *leave, offsets=offsets))
    JobTable(table, threads=threads, owners=(x, w, bias, residual, y, v, m)).run()


@pytest.mark.parametrize("outputs", [2, 4])
@few
@given(data=st.data())
def test_any_winograd_convolution_is_near_the_definition(
    target: Target, outputs: int, data: st.DataObject
) -> None:
    draw, lanes = data.draw, target.lanes
    batch, channels, maps = (
        draw(st.integers(1, 2)),
        draw(st.integers(1, 40)),
        draw(st.integers(1, 40)),
    )
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    x = draw(placed(batch, channels, height, width, lanes, BORDER))
    y = draw(placed(batch, maps, height, width, lanes, Border()))
    residual = draw(st.booleans())
    plan = winograd(
        target,
        x,
        y,
        Window((3, 3), pad=(1, 1)),
        outputs,
        residual=y if residual else None,
        activation=Activation("Relu"),
        strip_bytes=draw(st.sampled_from([1, 20_000, 1 << 20])),
    )
    values, w = random((batch, channels, height, width), 1), random((maps, channels, 3, 3), 2)
    bias = np.zeros(y.blocks * lanes, np.float32)
    bias[:maps] = random((maps,), 3)
    before = random((batch, maps, height, width), 4)
    want = convolve(values, w, Window((3, 3), pad=(1, 1)), (height, width))
    want += bias[None, :maps, None, None] + residual * before
    results = []
    for threads in (1, 2):
        memory, skip = memory_of(y), memory_of(y, before)
        packed = buffer(pack_winograd(plan, w))
        compute(plan, target, memory_of(x, values), packed, buffer(bias), skip, memory, threads)
        assert untouched(y, memory)
        results.append(read(y, memory))
    scale = float(np.abs(want).max())
    worst = float(np.abs(results[0] - np.maximum(want, 0)).max())
    assert worst <= RELATIVE[outputs] * scale
    assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.parametrize("outputs", [2, 4])
def test_the_error_of_a_deep_layer_stays_within_what_is_stated(
    outputs: int, target: Target
) -> None:
    x = Array.dense(1, 512, 14, 14, target.lanes, BORDER)
    y = Array.dense(1, 64, 14, 14, target.lanes)
    plan = winograd(target, x, y, Window((3, 3), pad=(1, 1)), outputs)
    values, w = random((1, 512, 14, 14), 1), random((64, 512, 3, 3), 2)
    memory, bias = memory_of(y), buffer(np.zeros(64, np.float32))
    packed = buffer(pack_winograd(plan, w))
    compute(plan, target, memory_of(x, values), packed, bias, bias, memory, 1)
    want = convolve(values, w, Window((3, 3), pad=(1, 1)), (14, 14))
    close(read(y, memory), want, rel=RELATIVE[outputs])


def test_equal_strips_share_their_kernels(target: Target) -> None:
    x = Array.dense(1, 16, 64, 64, target.lanes, BORDER)
    y = Array.dense(1, 16, 64, 64, target.lanes)
    plan = winograd(target, x, y, Window((3, 3), pad=(1, 1)), 4, strip_bytes=4 * 36 * 16 * 16 * 4)
    assert len(plan.strips) == 4
    assert len({strip.product for strip in plan.strips}) == 1
    assert len({(strip.enter, strip.leave) for strip in plan.strips}) == 1


@pytest.mark.parametrize(
    ("channels", "size", "want"), [(64, 56, 4), (128, 28, 4), (256, 14, 2), (512, 7, 2), (1, 3, 0)]
)
def test_the_rule_prefers_what_was_measured_faster(channels: int, size: int, want: int) -> None:
    target = KINDS["avx512"]
    x = Array.dense(1, channels, size, size, 16, BORDER)
    y = Array.dense(1, channels, size, size, 16)
    assert best_outputs(target, x, y, Window((3, 3), pad=(1, 1))) == want
    assert best_outputs(target, x, y, Window((3, 3), pad=(1, 1)), most=0) == 0


def test_what_has_no_winograd_form_is_refused(target: Target) -> None:
    x = Array.dense(1, 16, 9, 9, target.lanes, BORDER)
    strided = Window((3, 3), (2, 2), pad=(1, 1))
    assert not fits(x, strided)
    with pytest.raises(InternalError, match="Winograd"):
        winograd(target, x, Array.dense(1, 16, 5, 5, target.lanes), strided, 4)
