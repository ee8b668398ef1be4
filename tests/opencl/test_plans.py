"""What a plan on an OpenCL device promises: the cpu device's bits, few programs, few transfers."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from nnconv.api import save
from nnconv.cli.main import cli
from nnconv.runtime.devices import jit
from nnconv.runtime.devices.opencl import OpenCLDevice
from nnconv.runtime.devices.opencl.platform import Place, translated
from nnconv.runtime.executor import Executable, compile_model
from nnconv.runtime.kernels.opencl import Form
from nnconv.schemas.errors import UnsupportedError
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType
from tests.cpu.nets import random_model
from tests.cpu.test_plans import pictures, resident, small_net

RUNS = 10_000 if os.environ.get("NNCONV_FULL") else 1000
SHAPES = [(1, 3, 24, 24), (5, 3, 24, 24), (2, 3, 17, 31)]


@pytest.fixture(scope="module")
def executable(device: OpenCLDevice) -> Executable:
    return compile_model(small_net(), device=device)


@pytest.fixture(scope="module")
def buffers(place: Place) -> OpenCLDevice:
    """As if the device had memory of its own."""
    return OpenCLDevice(replace(place, walks=False))


def same_kernels(place: Place) -> bool:
    """Whether the cpu device prints the same kernels here."""
    ours, host = place.target, jit.host()
    return (ours.lanes, ours.registers, ours.fma) == (host.lanes, host.registers, host.fma)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_executable_gives_the_cpu_devices_bits_at_every_size(
    executable: Executable, device: OpenCLDevice, shape: tuple[int, ...]
) -> None:
    x = pictures(*shape)
    got, wanted = executable(x), compile_model(small_net(), device="cpu")(x)
    limit = 0.0 if same_kernels(device.place) else 1e-5 * np.abs(wanted).max()
    assert np.abs(got - wanted).max() <= limit


def test_a_plan_is_one_program(device: OpenCLDevice) -> None:
    plan: Any = compile_model(small_net(), device=device).plan({"x": SHAPES[0]})
    facts = plan.program.facts
    assert facts["programs"] == 1 < facts["kernels"]
    assert facts["host_steps"] == 0
    assert f"programs 1, kernels {facts['kernels']}" in str(plan)


def test_a_plan_moves_inputs_and_results_only(buffers: OpenCLDevice) -> None:
    plan: Any = compile_model(small_net(), device=buffers).plan({"x": SHAPES[0]})
    facts = plan.facts
    assert facts["bytes_to_device"] == 4 * 3 * 24 * 24
    assert facts["bytes_to_host"] == 4 * 7
    moves = [step.kernel for step in plan.steps if step.kernel.startswith("opencl:to ")]
    assert moves == ["opencl:to device", "opencl:to host"]


def test_parameters_are_on_the_device_once_for_all_sizes(buffers: OpenCLDevice) -> None:
    executable = compile_model(small_net(), device=buffers)
    programs: list[Any] = [executable.plan({"x": (n, 3, 24, 24)}).program for n in (1, 5)]
    first, second = ({id(memory) for memory, _ in p.stored.values()} for p in programs)
    assert first & second


def test_eight_threads_run_one_executable(executable: Executable) -> None:
    inputs = [pictures(*SHAPES[i % 2]) for i in range(24)]
    wanted = [executable(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            got = list(pool.map(executable, inputs))
            assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_results_are_the_callers_own_and_inputs_may_have_any_layout(
    executable: Executable,
) -> None:
    x = pictures(*SHAPES[0])
    first = executable(x)
    kept = first.copy()
    executable(2 * x)
    assert np.array_equal(first, kept)
    wide = np.zeros((1, 3, 24, 48), np.float32)
    wide[..., ::2] = x
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    assert np.array_equal(executable(wide[..., ::2]), kept)
    assert np.array_equal(executable(unaligned), kept)


def test_what_no_kernel_claims_runs_on_the_host_and_is_listed(device: OpenCLDevice) -> None:
    graph = Graph("sine")
    x = graph.add_input("x", DType.FLOAT32, (2, 3))
    graph.outputs = [graph.emit("Relu", graph.emit("Sin", graph.emit("Tanh", x)))]
    executable = compile_model(Model(graph=graph), device=device)
    given = pictures(2, 3)
    assert np.allclose(executable(given), np.maximum(np.sin(np.tanh(given)), 0), atol=1e-6)
    plan: Any = executable.plan({"x": (2, 3)})
    assert plan.program.facts["host_steps"] == 1
    assert [step.kernel.split(":")[0] for step in plan.steps if step.nodes] == [
        "opencl", "reference", "opencl",
    ]  # fmt: skip
    moves = sum(step.kernel == "opencl:to host" for step in plan.steps)
    assert moves == (0 if device.place.walks else 2)


def test_random_nets_give_the_cpu_devices_bits(device: OpenCLDevice) -> None:
    model, x = random_model(11)
    got = compile_model(model, device=device).run({"x": x})
    wanted = compile_model(model, device="cpu").run({"x": x})
    for name, array in wanted.items():
        limit = 0.0 if same_kernels(device.place) else 1e-4 * np.abs(array).max()
        np.testing.assert_allclose(got[name], array, rtol=0, atol=limit)


def test_the_schedule_for_graphics_cards_computes_the_same(place: Place) -> None:
    """Work-groups that the grid does not fill, four lanes, vloadN: on whatever device is here."""
    target = replace(place.target, cpu="card", lanes=4, registers=16)
    card = replace(place, target=target, form=Form(offsets=True, group=64), walks=False)
    x = pictures(1, 3, 12, 12)
    got = compile_model(small_net(), device=OpenCLDevice(card))(x)
    wanted = compile_model(small_net(), device="reference")(x)
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_a_profile_times_every_step_by_the_devices_clock(executable: Executable) -> None:
    seen: list[tuple[Any, float]] = []
    x = pictures(*SHAPES[0])
    watched = executable.run({"x": x}, watch=lambda step, spent: seen.append((step, spent)))
    plan = executable.plan({"x": SHAPES[0]})
    assert [step for step, _ in seen] == list(plan.steps)
    assert all(spent >= 0 for _, spent in seen) and sum(spent for _, spent in seen) > 0
    assert np.array_equal(next(iter(watched.values())), executable(x))


def test_a_profile_says_how_near_the_devices_limits_steps_come(place: Place, tmp_path: Any) -> None:
    save(small_net(), tmp_path / "small.nnir")
    arguments = ["bench", str(tmp_path / "small.nnir"), "--input-shape", "x:1,3,24,24", "--json"]
    arguments += ["--device", place.name, "--profile", "--seconds", "0.05"]
    shown = CliRunner().invoke(cli, arguments, obj={})
    assert shown.exit_code == 0, shown.output
    facts = json.loads(shown.stdout)
    assert facts["plan"]["programs"] == 1 and facts["plan"]["kernels"] > 1
    assert facts["ceilings"]["operations"] > 1e9 and facts["ceilings"]["bytes"] > 1e8
    for step in facts["steps"]:
        assert step["of_limit"] >= 0 and step["gigabytes_per_second"] >= 0
    assert any(step["of_limit"] > 0 for step in facts["steps"])


def test_tuning_times_on_the_device_and_keeps_the_results_right(
    place: Place, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNCONV_CACHE", str(tmp_path))
    graph = Graph("product")
    x = graph.add_input("x", DType.FLOAT32, (4, 40))
    weights = np.random.default_rng(1).standard_normal((40, 20)).astype(np.float32)
    graph.outputs = [graph.emit("MatMul", x, graph.add_parameter("w", (40, 20), weights))]
    given = pictures(4, 40)
    tuned = compile_model(Model(graph=graph), device=place.name, tune=True)(given)
    assert np.allclose(tuned, given.astype(np.float64) @ weights, atol=1e-4)
    assert list(tmp_path.rglob("opencl-*.json"))


def test_memory_stays_flat_over_many_runs(executable: Executable) -> None:
    """10,000 of them with NNCONV_FULL=1."""
    x = pictures(*SHAPES[0])
    for _ in range(RUNS):
        executable(x)
    before = resident()
    for _ in range(RUNS):
        executable(x)
    assert resident() - before < 4 << 20


# -- faults


class Small:
    """A device that says it holds little."""

    max_mem_alloc_size = 10_000

    def __init__(self, device: Any) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)


def test_what_does_not_fit_the_device_is_one_clear_error(place: Place) -> None:
    found = replace(place.found, device=Small(place.found.device))
    small = replace(place, found=found, walks=False)
    with pytest.raises(UnsupportedError, match=f"do not fit a buffer of {place.name}") as caught:
        compile_model(small_net(), device=OpenCLDevice(small), winograd=0)(pictures(*SHAPES[1]))
    assert "smaller batch" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("MEM_OBJECT_ALLOCATION_FAILURE", "is out of memory"),
        ("DEVICE_NOT_AVAILABLE", "failed while running"),
    ],
)
def test_opencl_errors_name_the_device_and_what_was_done(
    place: Place, code: str, words: str
) -> None:
    import pyopencl as cl

    number = getattr(cl.status_code, code)
    record = cl._cl._ErrorRecord(msg="", code=number, routine="clFinish")
    with (
        pytest.raises(UnsupportedError, match=words) as caught,
        translated(place.found, "running"),
    ):
        raise cl.RuntimeError(record)
    assert place.name in str(caught.value) and code in str(caught.value)


def test_a_run_that_failed_leaves_the_executable_usable(
    executable: Executable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyopencl as cl

    x = pictures(*SHAPES[0])
    wanted = executable(x)
    number = cl.status_code.OUT_OF_RESOURCES
    record = cl._cl._ErrorRecord(msg="", code=number, routine="clEnqueueNDRangeKernel")

    def fail(*given: Any) -> None:
        raise cl.RuntimeError(record)

    with monkeypatch.context() as patch:
        patch.setattr(cl, "enqueue_nd_range_kernel", fail)
        with pytest.raises(UnsupportedError, match="out of memory"):
            executable(x)
    assert np.array_equal(executable(x), wanted)
