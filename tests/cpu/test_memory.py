"""What compiling and many shapes leave in memory."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnconv
from nnconv.runtime.devices import jit
from nnconv.runtime.devices.jobs import aligned
from nnconv.runtime.executor import compile_model
from nnconv.runtime.kernels.arrays import Array, Border
from nnconv.runtime.kernels.conv import Window, every_conv, pack_weights
from nnconv.runtime.kernels.winograd import pack_winograd, winograd
from nnconv.runtime.mapped import give_back
from nnconv.schemas.files import map_file
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType
from tests.cpu.alone import alone
from tests.cpu.nets import Net
from tests.cpu.test_plans import pictures, resident, small_net

ROOT = Path(__file__).parents[2]


def growth_over_new_shapes() -> int:
    executable = nnconv.compile(small_net(), device="cpu", threads=1, winograd=0)
    # in no order of size: the plans that are kept would else grow by themselves
    order = [divmod(int(n), 20) for n in np.random.default_rng(1).permutation(240)]

    def work(sizes: list[tuple[int, int]]) -> None:
        for height, width in sizes:
            executable(pictures(1, 3, 8 + height, 9 + width))

    work(order[:60])
    before = resident()
    work(order[60:])
    return resident() - before


def test_plans_for_ever_new_shapes_leave_nothing_behind(tmp_path: Path) -> None:
    """180 shapes of some 6 kernels, all compiled anew: an unloaded kernel used to leave 9 kB, so 9
    MB here. The plans that are kept differ by 2 MB.
    """
    assert alone(growth_over_new_shapes, NNCONV_CACHE=str(tmp_path)) < 4 << 20


def growth_over_a_thousand_runs(threads: int) -> int:
    executable = nnconv.compile(small_net(), device="cpu", threads=threads)
    picture = pictures(1, 3, 16, 16)
    held = []
    for _ in range(11):
        for _ in range(1000):
            executable(picture)
        held.append(resident())
    return int(np.median(np.diff(held)))


@pytest.mark.parametrize("threads", [1, 2])
def test_ten_thousand_runs_leave_nothing_behind(threads: int) -> None:
    """Python takes memory in pieces of 1 MB now and then; a leak of even 32 bytes a run would show
    in every thousand of them.
    """
    assert alone(growth_over_a_thousand_runs, threads) < 16 << 10


def test_an_executable_keeps_the_plans_of_the_last_shapes_only() -> None:
    executable = compile_model(small_net(), device="cpu", threads=1, winograd=0, cache_size=3)
    plans = []
    gc.collect()
    gc.disable()  # plans hold much memory: they go at once, not with the next collection
    for width in range(8, 16):
        executable.run({"x": pictures(1, 3, 9, width)})
        plans.append(weakref.ref(executable.plan({"x": (1, 3, 9, width)}).program))
    gc.enable()
    assert [plan() is not None for plan in plans] == [False] * 5 + [True] * 3


def test_a_kernel_that_two_plans_share_outlives_the_first() -> None:
    from tests.kernels.test_jit import relu, works

    first = jit.load_all([relu(81), relu(82)])
    shared = jit.load_all([relu(82), relu(83)])
    assert shared[0] is first[1]
    del first
    assert works(relu(82))


# -- packing


def whole(batch: int, channels: int, lanes: int, border: int = 0) -> Array:
    return Array.dense(batch, channels, 12, 12, lanes, Border(border, border, border, border))


@pytest.mark.parametrize(
    ("outputs", "inputs", "groups"),
    [(32, 16, 1), (40, 20, 1), (16, 64, 1), (48, 24, 3), (64, 8, 8)],
)
@pytest.mark.parametrize("kind", ["avx512", "avx2"])
def test_packed_weights_are_the_source_in_another_order(
    outputs: int, inputs: int, groups: int, kind: str
) -> None:
    target = jit.target(kind)
    x, y = (whole(1, n, target.lanes, 1) for n in (inputs, outputs))
    window = Window((3, 3), pad=(1, 1))
    weights = np.random.default_rng(outputs).random((outputs, inputs // groups, 3, 3), np.float32)
    for kernel in islice(every_conv(target, x, y, window, groups=groups), 6):
        packed = pack_weights(kernel, weights, groups)
        assert packed.ctypes.data % 64 == 0
        # the kernel reads element [group, panel, block, kh, kw, lane, vector]
        shape = (kernel.groups, kernel.panels, kernel.in_blocks, 3, 3, target.lanes, -1)
        rows = packed.reshape(shape).transpose(0, 1, 6, 2, 5, 3, 4)
        rows = rows.reshape(kernel.groups, -1, kernel.in_blocks * target.lanes, 3, 3)
        own = rows[:, : outputs // kernel.groups, : inputs // kernel.groups]
        assert np.array_equal(own, block_diagonal(weights, kernel.groups, groups))
        assert np.count_nonzero(packed) == weights.size  # tails are zeros


def block_diagonal(weights: Any, kept: int, groups: int) -> Any:
    """Weights of `groups` groups as `kept` ones: merged groups meet only zeros."""
    outputs, inputs = weights.shape[0] // groups, weights.shape[1]
    merged = groups // kept
    full = np.zeros((kept, outputs * merged, inputs * merged, *weights.shape[2:]), np.float32)
    for group, part in enumerate(weights.reshape(groups, outputs, *weights.shape[1:])):
        at = group % merged
        place = (slice(at * outputs, (at + 1) * outputs), slice(at * inputs, (at + 1) * inputs))
        full[(group // merged, *place)] = part
    return full


def test_winograd_weights_are_packed_as_the_formula_says() -> None:
    target = jit.target("avx512")
    x, y = whole(1, 20, 16, 3), whole(1, 40, 16)
    plan = winograd(target, x, y, Window((3, 3), pad=(1, 1)), 4)
    weights = np.random.default_rng(3).standard_normal((40, 20, 3, 3)).astype(np.float32)
    product = plan.product
    packed = pack_winograd(plan, weights)
    assert packed.ctypes.data % 64 == 0
    points = packed.reshape(36, product.panels, product.steps, product.panel_width)
    points = points.transpose(0, 1, 3, 2).reshape(36, -1, product.steps)[:, :40, :20]
    g = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
    wanted = np.einsum("pi,ocij,qj->pqoc", g, weights.astype(np.float64), g).reshape(36, 40, 20)
    assert np.allclose(points, wanted, rtol=1e-6, atol=1e-8)


# -- peaks


def heavy_net(batch_norm: bool) -> Model:
    """One convolution with 37 MB of weights, scaled by channel three times."""
    net = Net(3)
    graph = net.graph = Graph("heavy")
    x = graph.add_input("x", DType.FLOAT32, (1, 1024, 4, 4))
    y = graph.emit("Conv", x, net.parameter(1024, 1024, 3, 3), pads=(1, 1, 1, 1))
    for _ in range(3 if batch_norm else 0):
        y = graph.emit("Mul", y, net.parameter(1, 1024, 1, 1))
    graph.outputs = [y]
    return Model(graph=graph)


MEASURE = """
import sys, numpy as np, nnconv
from nnconv.runtime.devices import jit
def held(what):
    lines = open('/proc/self/status').read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) // 1024
jit.require()  # LLVM itself
small = nnconv.compile(sys.argv[1], device='cpu', threads=1)
small(np.ones((1, 3, 16, 16), np.float32))
before, anonymous = held('VmRSS'), held('RssAnon')
executable = nnconv.compile(sys.argv[2], device='cpu', threads=1)
executable(np.ones((1, 1024, 4, 4), np.float32))
print(held('VmHWM') - before, held('RssAnon') - anonymous)
"""


@pytest.mark.parametrize(("batch_norm", "copies"), [(False, 1), (True, 2)])
def test_compiling_keeps_the_packed_weights_alone(
    tmp_path: Path, batch_norm: bool, copies: int
) -> None:
    """At its peak there are the layer in the file, and scaled, too."""
    model = heavy_net(batch_norm)
    nnconv.save(small_net(), tmp_path / "small.nnir")
    nnconv.save(model, tmp_path / "heavy.nnir")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "small.nnir", tmp_path / "heavy.nnir"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak, kept = map(int, done.stdout.split())
    assert peak < 36 * (copies + 1) + 16
    assert kept < 36 + 16


def test_pages_that_were_given_back_hold_what_they_held(tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal(1 << 20)
    (tmp_path / "data").write_bytes(data.tobytes())
    mapped = np.frombuffer(map_file(tmp_path / "data"), np.float64)
    assert mapped.sum() == data.sum()
    before = resident()
    give_back(mapped)
    assert resident() <= before - (7 << 20)
    assert np.array_equal(mapped, data)


def test_memory_that_is_no_mapped_file_is_left_alone() -> None:
    data = aligned(1 << 20, fill=3.0)
    give_back(data)
    give_back(np.frombuffer(bytearray(1 << 16), np.float32))
    assert (data == 3).all()
