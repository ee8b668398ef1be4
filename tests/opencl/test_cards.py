"""What only graphics cards have: groups of a size, blocks to choose from, and their limits. PoCL
plays the card.
"""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnconv.runtime.devices.opencl import OpenCLDevice
from nnconv.runtime.devices.opencl.platform import Place, as_card
from nnconv.runtime.devices.opencl.program import check_reach
from nnconv.runtime.executor import compile_model
from nnconv.runtime.kernels.elementwise import Strided
from nnconv.runtime.kernels.groups.product import BLOCKS
from nnconv.runtime.kernels.movement import copy
from nnconv.runtime.kernels.opencl import Form, opencl_text
from nnconv.runtime.kernels.target import Groups, Target
from nnconv.runtime.lowering.build import KernelJob
from nnconv.runtime.lowering.layout import Buffer, Home, Operand
from nnconv.schemas.errors import UnsupportedError
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType
from tests.cpu.test_plans import pictures, small_net

SHAPE = (2, 3, 12, 12)


@pytest.fixture
def card(place: Place) -> Place:
    """A card that has built nothing yet."""
    return replace(as_card(place), built=weakref.WeakValueDictionary())


def computes_right(card: Place, tune: bool = False) -> bool:
    x = pictures(*SHAPE)
    got = compile_model(small_net(), device=OpenCLDevice(card), tune=tune)(x)
    wanted = compile_model(small_net(), device="reference")(x)
    return bool(np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max())


def allow(monkeypatch: pytest.MonkeyPatch, items: int) -> None:
    """As if kernels could only run in groups of so many, as a driver says when they are built."""
    import pyopencl as cl

    monkeypatch.setattr(cl.Kernel, "get_work_group_info", lambda *given: items)


def test_tuning_chooses_among_blocks_that_fit(
    card: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNCONV_CACHE", str(tmp_path))
    card.target = replace(card.target, groups=Groups(64, 32 << 10))
    assert computes_right(card, tune=True)
    (kept,) = tmp_path.rglob("opencl-*-1.json")
    choices = json.loads(kept.read_text("utf-8"))["choices"]
    assert choices and all(key.startswith("group_product ") for key in choices)
    assert set(choices.values()) <= {block.name for block in BLOCKS if block.items <= 64}


def test_groups_shrink_where_registers_are_too_few(
    card: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(monkeypatch, 64)
    assert computes_right(card)
    assert card.target.groups is not None and card.target.groups.items == 64


def test_a_device_for_which_no_group_is_small_enough_is_told_apart(
    card: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(monkeypatch, 8)
    with pytest.raises(UnsupportedError, match="in groups of 8 at most, not 16"):
        computes_right(card)


def test_a_value_beyond_32_bits_is_refused() -> None:
    far = Operand(Buffer(Home.ARENA, 1 << 31))
    move = copy((4,), Strided((1,)), Strided((1,)), 1)
    with pytest.raises(UnsupportedError, match="a value of more than 2\\^31 elements"):
        check_reach(KernelJob(move, (far, far)))
    wide = copy((1 << 17, 1 << 17), Strided((0, 1)), Strided((1 << 17, 1)), 1)
    with pytest.raises(UnsupportedError, match="more than 2\\^31 work-items"):
        opencl_text(wide, Target(lanes=1, groups=Groups()), Form(group=64))


def test_values_lie_plain_and_nothing_is_brought_into_another_form(card: Place) -> None:
    plan = compile_model(small_net(), device=OpenCLDevice(card)).plan({"x": SHAPE})
    kinds = [step.kernel for step in plan.steps]
    assert not [kind for kind in kinds if "reorder" in kind or kind.startswith("reference:")]
    assert [kind for kind in kinds if kind.startswith("opencl:group conv ")]


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("transposed", [0, 1])
def test_dense_layers_of_all_heights(card: Place, rows: int, stored: bool, transposed: int) -> None:
    random = np.random.default_rng(rows)
    shape = (9, 70) if transposed else (70, 9)
    a, b, c = (random.standard_normal(s).astype(np.float32) for s in ((rows, 70), shape, (9,)))
    graph = Graph("dense")
    x = graph.add_input("x", DType.FLOAT32, (rows, 70))
    inputs = {"x": a}
    if stored:
        weights = graph.add_parameter("w", shape, b)
    else:
        weights, inputs["w"] = graph.add_input("w", DType.FLOAT32, shape), b
    bias = graph.add_parameter("c", (9,), c)
    product = graph.emit("Gemm", x, weights, bias, alpha=0.5, transB=transposed)
    graph.outputs = [graph.emit("Relu", product)]
    (got,) = compile_model(Model(graph=graph), device=OpenCLDevice(card)).run(inputs).values()
    wanted = np.maximum(0.5 * (a.astype(np.float64) @ (b.T if transposed else b)) + c, 0)
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_concatenations_of_pictures_are_written_in_place(card: Place) -> None:
    graph = Graph("fire")
    x = graph.add_input("x", DType.FLOAT32, SHAPE)
    random = np.random.default_rng(3)
    members = []
    for channels, size in ((5, 1), (3, 3)):
        weights = random.standard_normal((channels, 3, size, size)).astype(np.float32)
        w = graph.add_parameter(f"w{size}", weights.shape, weights)
        members.append(graph.emit("Relu", graph.emit("Conv", x, w, pads=(size // 2,) * 4)))
    members.append(graph.emit("MaxPool", x, kernel_shape=(1, 1), strides=(1, 1)))
    joined = graph.emit("Concat", *members, axis=1)
    graph.outputs = [graph.emit("Softmax", joined, axis=1), members[0]]
    model = Model(graph=graph)
    executable = compile_model(model, device=OpenCLDevice(card))
    given = {"x": pictures(*SHAPE)}
    wanted = compile_model(model, device="reference").run(given)
    for name, got in executable.run(given).items():
        assert np.abs(got - wanted[name]).max() <= 1e-5 * np.abs(wanted[name]).max()
    kinds = [step.kernel for step in executable.plan({"x": SHAPE}).steps]
    assert "opencl:concat in place" in kinds


@pytest.mark.parametrize("op", ["Conv", "nnconv.ConvGradData"])
def test_many_weights_that_change_are_turned_before_they_are_read(card: Place, op: str) -> None:
    random = np.random.default_rng(4)
    shapes = {"Conv": (2, 64, 5, 6), "nnconv.ConvGradData": (2, 128, 5, 6)}
    given = {
        "x": random.standard_normal(shapes[op]).astype(np.float32),
        "w": random.standard_normal((128, 64, 3, 3)).astype(np.float32),
    }
    graph = Graph("changing")
    values = [graph.add_input(name, DType.FLOAT32, a.shape) for name, a in given.items()]
    if op != "Conv":
        size = np.array((2, 64, 5, 6), np.int64)
        values.append(graph.constant(size, DType.INT64))
    graph.outputs = [graph.emit(op, *values, pads=(1, 1, 1, 1), kernel_shape=(3, 3))]
    model = Model(graph=graph)
    executable = compile_model(model, device=OpenCLDevice(card))
    (got,) = executable.run(given).values()
    (wanted,) = compile_model(model, device="reference").run(given).values()
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    plan = executable.plan({name: array.shape for name, array in given.items()})
    assert plan.facts["kernels"] > 1 and not plan.facts["host_steps"]
