"""Code for ARM, run under an emulator: equal bit for bit to what x86 computes with four lanes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnconv.runtime.devices import jit
from nnconv.runtime.kernels.arrays import Array, Border
from nnconv.runtime.kernels.conv import Window, conv, pack_weights
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.target import KINDS, Target
from tests.kernels import qemu
from tests.kernels.harness import (
    Floats,
    buffer,
    close,
    convolve,
    memory_of,
    random,
    read,
    run,
    runnable_targets,
    untouched,
)
from tests.kernels.samples import samples

CORES = ("cortex-a72", "apple-m1")


def arm(core: str) -> Target:
    return replace(KINDS["neon"], cpu=core)


@pytest.fixture(scope="module")
def four_lanes() -> Target:
    """An x86 that computes as NEON does: four lanes, fused multiply-add, factors from a vector."""
    assert "avx2" in runnable_targets(), "this comparison needs an x86 with AVX2 and FMA"
    x86 = jit.target("avx2")
    return replace(KINDS["neon"], triple=x86.triple, cpu=x86.cpu, features=x86.features)


Work = list[tuple[Kernel, list[Floats]]]


def every_family(target: Target) -> tuple[list[str], Work]:
    found = list(samples(target))
    return [name for name, _, _ in found], [(kernel, given) for _, kernel, given in found]


@pytest.mark.parametrize("core", CORES)
def test_every_family_gives_the_same_bits_on_arm(
    core: str, four_lanes: Target, tmp_path: Path
) -> None:
    names, there = every_family(arm(core))
    _, here = every_family(four_lanes)
    qemu.run(there, arm(core), tmp_path)
    for name, (kernel, given), (same, wanted) in zip(names, there, here, strict=True):
        assert kernel == same
        run(kernel, four_lanes, *wanted)
        assert not np.isnan(wanted[-1]).all(), name
        assert given[-1].tobytes() == wanted[-1].tobytes(), name


WINDOWS = {
    "1x1": Window(),
    "3x3 stride 2": Window((3, 3), (2, 2), pad=(1, 1)),
    "5x5": Window((5, 5), pad=(2, 2)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_convolutions_on_arm_follow_the_formula(name: str, tmp_path: Path) -> None:
    window = WINDOWS[name]
    side = (13 + 2 * window.pad[0] - window.size[0]) // window.stride[0] + 1
    x = Array.dense(2, 20, 13, 13, 4, Border(2, 2, 2, 2))
    y = Array.dense(2, 36, side, side, 4)
    kernel = conv(arm("cortex-a72"), x, y, window, bias=False)
    data, weights = random((2, 20, 13, 13), 1), random((36, 20, *window.size), 2)
    out = memory_of(y)
    given = [memory_of(x, data), buffer(pack_weights(kernel, weights)), out]
    qemu.run([(kernel, given)], arm("cortex-a72"), tmp_path)
    close(read(y, out), convolve(data, weights, window, (side, side)))
    assert untouched(y, out)
