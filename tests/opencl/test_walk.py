"""Plans on PoCL's processors are one launch: counters, threads, several callers, and what is
compiled.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from nnconv.runtime.devices.opencl.platform import Place
from nnconv.runtime.executor import compile_model
from nnconv.runtime.kernels.elementwise import Strided
from nnconv.runtime.kernels.movement import copy
from nnconv.runtime.kernels.opencl_walk import walk_text
from tests.cpu.test_plans import pictures, small_net

SHAPE = (3, 3, 24, 24)


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_results_do_not_depend_on_the_number_of_threads(place: Place, threads: int) -> None:
    x = pictures(*SHAPE)
    executable = compile_model(small_net(), device=place.name, threads=threads)
    assert np.array_equal(executable(x), compile_model(small_net(), device=place.name)(x))
    program: Any = executable.plan({"x": SHAPE}).program
    assert program.threads == min(threads, place.found.device.max_compute_units)


def test_more_callers_than_processors_do_not_wait_for_each_other_for_ever(
    place: Place,
) -> None:
    inputs = [pictures(*SHAPE[:2], 16 + i % 3, 24) for i in range(48)]
    executable = compile_model(small_net(), device=place.name)
    wanted = [executable(x) for x in inputs]
    with ThreadPoolExecutor(12) as pool:
        got = list(pool.map(executable, inputs))
    assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_plans_with_the_same_kernels_share_a_program(place: Place) -> None:
    nets = [compile_model(small_net(), device=place.name) for _ in range(2)]
    first, second = (net.plan({"x": SHAPE}).program for net in nets)
    assert first.built is second.built  # type: ignore[attr-defined]


def test_a_program_has_every_kernel_once_and_one_entry(place: Place) -> None:
    kernels = [copy((n,), Strided((1,)), Strided((1,)), 4) for n in (101, 102)]
    text = walk_text(kernels, place.target)
    assert text.count("__kernel ") == 1 and "get_global_id" not in text
    for kernel in kernels:
        assert text.count(f"void {kernel.name}(") == 1


def test_nothing_is_moved(place: Place) -> None:
    plan: Any = compile_model(small_net(), device=place.name).plan({"x": SHAPE})
    assert plan.facts["bytes_to_device"] == plan.facts["bytes_to_host"] == 0
    assert not [step.kernel for step in plan.steps if step.kernel.startswith("opencl:to ")]
