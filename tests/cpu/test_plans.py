"""What a plan promises its callers: fresh results, untouched inputs, any number of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnconv.runtime.devices import available
from nnconv.runtime.executor import Executable, compile_model
from nnconv.schemas.dims import Symbolic
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType
from tests.cpu.alone import alone
from tests.cpu.extents import outside
from tests.cpu.nets import Net, random_model
from tests.cpu.planner import Planner

Array = np.ndarray[Any, Any]


def small_net() -> Model:
    """Padded convolutions, a residual, a concatenation and a dense layer over the mean."""
    net = Net(5)
    graph = Graph("small")
    net.graph = graph
    free = (Symbolic.name("N"), 3, Symbolic.name("H"), Symbolic.name("W"))
    x = graph.add_input("x", DType.FLOAT32, free)
    pads = (1, 1, 1, 1)
    a = graph.emit("Relu", graph.emit("Conv", x, net.parameter(32, 3, 3, 3), pads=pads))
    b = graph.emit("Conv", a, net.parameter(32, 32, 3, 3), net.parameter(32), pads=pads)
    c = graph.emit("Relu", b + a)
    d = graph.emit("Concat", c, graph.emit("MaxPool", a, kernel_shape=(3, 3), pads=pads), axis=1)
    e = graph.emit("GlobalAveragePool", graph.emit("Conv", d, net.parameter(20, 64, 1, 1)))
    y = graph.emit("Gemm", graph.emit("Flatten", e, axis=1), net.parameter(7, 20), transB=1)
    graph.outputs = [y]
    return Model(graph=graph)


def pictures(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> Model:
    return small_net()


@pytest.fixture(scope="module")
def executable(model: Model) -> Executable:
    return compile_model(model, device="cpu")


SHAPES = [(1, 3, 24, 24), (5, 3, 24, 24), (2, 3, 17, 31), (1, 3, 8, 9)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_executable_runs_many_shapes(
    model: Model, executable: Executable, shape: tuple[int, ...]
) -> None:
    x = pictures(*shape)
    wanted = compile_model(model, device="reference")(x)
    assert np.abs(executable(x) - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_parameters_are_packed_once_for_all_shapes(model: Model) -> None:
    executable = compile_model(model, device="cpu", winograd=0)
    executable(pictures(1, 3, 24, 24))
    packed = _packed_bytes(executable)
    for batch in (2, 3, 4):
        executable(pictures(batch, 3, 24, 24))
    assert _packed_bytes(executable) == packed


def _packed_bytes(executable: Executable) -> int:
    shared = executable._settings.shared
    return sum(entry[0].nbytes for key, entry in shared.items() if key[0] == "packed")


def test_eight_threads_run_one_executable(executable: Executable) -> None:
    inputs = [pictures(1 + i % 3, 3, 20, 20) for i in range(24)]
    wanted = [executable(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            got = list(pool.map(executable, inputs))
            assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_results_are_the_callers_own(executable: Executable) -> None:
    x = pictures(2, 3, 24, 24)
    first = executable(x)
    kept = first.copy()
    executable(2 * x)
    assert np.array_equal(first, kept)
    first[...] = 0
    assert np.array_equal(executable(x), kept)


def test_inputs_are_left_alone_and_may_have_any_layout(executable: Executable) -> None:
    x = pictures(2, 3, 24, 24)
    wanted, kept = executable(x), x.copy()
    wide = np.zeros((2, 3, 24, 48), np.float32)
    wide[..., ::2] = x
    turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    backwards = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    for same in (wide[..., ::2], turned, backwards, unaligned):
        assert np.array_equal(executable(same), wanted)
    x.flags.writeable = False
    assert np.array_equal(executable(x), wanted)
    assert np.array_equal(x, kept)


def dense_net() -> Model:
    """y = relu(x w): at a batch of 1 all its work is done by the caller's thread alone."""
    net = Net(3)
    net.graph = graph = Graph("dense")
    x = graph.add_input("x", DType.FLOAT32, (Symbolic.name("N"), 48))
    graph.outputs = [graph.emit("Relu", graph.emit("MatMul", x, net.parameter(48, 20)))]
    return Model(graph=graph)


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_work_too_small_to_share_gives_the_same_as_shared_work(batch: int) -> None:
    model, x = dense_net(), pictures(batch, 48)
    (weights,) = (v.data for v in model.graph.values.values() if v.data is not None)
    wanted = np.maximum(x.astype(np.float64) @ weights.astype(np.float64), 0)
    found = [compile_model(model, "cpu", threads=threads)(x) for threads in (1, 2, 3)]
    assert np.allclose(found[0], wanted, rtol=1e-5, atol=1e-5)
    assert all(np.array_equal(found[0], other) for other in found)


@pytest.mark.parametrize("batch", [1, 300])  # a small input is copied, a large one read in place
def test_inputs_that_change_places_or_cannot_be_written_are_read_anew(batch: int) -> None:
    executable = compile_model(dense_net(), "cpu")
    first, second = pictures(batch, 48), pictures(batch, 48) + 1
    wanted = [executable(first), executable(second)]
    second.flags.writeable = False
    for _ in range(2):
        assert np.array_equal(executable(first), wanted[0])
        assert np.array_equal(executable(second), wanted[1])
        assert np.array_equal(executable(np.asfortranarray(second)), wanted[1])


def test_nothing_is_left_to_numpy_in_a_plain_classifier(executable: Executable) -> None:
    kernels = [step.kernel for step in executable.plan({"x": (1, 3, 24, 24)}).steps]
    assert all(kernel.startswith("cpu:") for kernel in kernels)
    assert any("winograd4" in kernel for kernel in kernels)
    assert "cpu:concat in place" in kernels


def test_winograd_is_used_only_where_it_is_allowed(model: Model) -> None:
    def kernels(winograd: int) -> str:
        plan = compile_model(model, device="cpu", winograd=winograd).plan({"x": (1, 3, 24, 24)})
        return " ".join(step.kernel for step in plan.steps)

    assert "winograd" not in kernels(0)
    assert "winograd2" in kernels(2)
    with pytest.raises(InputError, match="winograd must be 0, 2 or 4"):
        compile_model(model, device="cpu", winograd=3)


def test_a_plan_is_the_same_every_time(model: Model) -> None:
    first, second = (
        compile_model(small_net(), device="cpu").plan({"x": (3, 3, 24, 24)}) for _ in range(2)
    )
    assert str(first) == str(second)


def test_double_precision_is_computed_by_the_reference_kernels(model: Model) -> None:
    x = pictures(1, 3, 24, 24)
    exact = compile_model(model, device="cpu", precision="f64")(x)
    assert np.array_equal(exact, compile_model(model, device="reference", precision="f64")(x))


def test_results_that_are_inputs_or_constants_are_copies() -> None:
    graph = Graph("through")
    x = graph.add_input("x", DType.FLOAT32, (2, 3))
    constant = graph.constant(np.arange(6, dtype=np.float32).reshape(2, 3))
    graph.outputs = [x, graph.emit("Reshape", x, graph.constant([3, 2])), constant]
    given = pictures(2, 3)
    results = compile_model(Model(graph=graph), device="cpu").run({"x": given})
    assert not any(np.may_share_memory(array, given) for array in results.values())
    assert np.array_equal(results["x"], given)


def test_the_cpu_device_is_the_default_and_says_what_it_is() -> None:
    first = available()[0]
    assert (first.name, first.available) == ("cpu", True)
    assert "lanes" in first.description


def test_without_llvmlite_the_reference_device_runs_and_the_reason_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from nnconv.runtime.devices import jit, open_device
    from nnconv.schemas.errors import MissingExtraError

    def absent() -> None:
        raise MissingExtraError("the cpu device needs llvmlite, which cannot be imported")

    monkeypatch.setattr(jit, "host", absent)
    monkeypatch.delenv("NNCONV_DEVICE", raising=False)
    info = next(info for info in available() if info.name == "cpu")
    assert not info.available and "llvmlite" in info.reason
    assert open_device().name == "reference"


def resident() -> int:
    """Bytes of memory this process holds."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4096


def test_memory_stays_flat_over_many_runs(executable: Executable) -> None:
    x = pictures(1, 3, 16, 16)

    def work() -> None:
        for _ in range(2000):
            executable(x)

    work()
    before = resident()
    work()
    assert resident() - before < 1 << 20


def growth_over_wider_pictures() -> int:
    executable = compile_model(small_net(), device="cpu")

    def work(width: int) -> None:
        for i in range(40):
            executable(pictures(1, 3, 64 + i, width))

    work(64)
    before = resident()
    work(65)
    return resident() - before


def test_a_plan_that_is_dropped_gives_its_arena_back() -> None:
    """40 plans of two megabytes each, 8 of them kept."""
    assert alone(growth_over_wider_pictures) < 40 << 20


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_random_nets_run_from_several_threads(seed: int) -> None:
    random, x = random_model(seed)
    executable = compile_model(random, device="cpu")
    wanted = executable.run({"x": x})
    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(lambda _: executable.run({"x": x}), range(16)):
            for name, array in wanted.items():
                assert np.array_equal(results[name], array, equal_nan=True)


def test_a_stored_factor_of_one_channel_is_read_within_its_memory() -> None:
    """Blocks have room for more channels than an image of one channel has."""
    graph = Graph("one channel")
    x = graph.add_input("x", DType.FLOAT32, (2, 1, 3, 5))
    factors = graph.constant(np.ones((1, 1, 3, 5), np.float32))
    graph.outputs = [graph.emit("LRN", graph.emit("LRN", x, size=3) * factors, size=3)]
    planner = Planner("cpu")
    compile_model(Model(graph=graph), device=planner).plan({"x": (2, 1, 3, 5)})
    assert [problem for made in planner.made for problem in outside(made)] == []
