"""Operators that only move elements: every element where numpy puts it, and nothing left to the
host.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnconv import save
from nnconv.runtime.devices import jit
from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Graph, Model, Value
from nnconv.schemas.types import DType
from tests.cpu.moved import FORMS, random_moves

Array = np.ndarray[Any, Any]


def plan_of(model: Model, feeds: dict[str, Array], device: str = "cpu") -> list[str]:
    executable = compile_model(model, device=device)
    return [s.kernel for s in executable.plan({n: a.shape for n, a in feeds.items()}).steps]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=30)
@given(seed=st.integers(0, 1_000_000))
def test_random_moves_end_where_numpy_puts_them(form: str, seed: int) -> None:
    net, model = random_moves(seed, form)
    if not net.wanted:
        return
    executable = compile_model(model, device="cpu")
    for _ in range(2):
        got = executable.run(net.feeds)
        for name, wanted in net.wanted.items():
            np.testing.assert_array_equal(got[name], wanted, name)
    kernels = plan_of(model, net.feeds)
    assert not [kernel for kernel in kernels if kernel.startswith("reference:")]


def single(op: str, shape: tuple[int, ...], *numbers: Any, **settings: Any) -> Model:
    """One node between two that compute, so that its result is read by a kernel."""
    graph = Graph(op)
    x = graph.emit("Neg", graph.add_input("x", DType.FLOAT32, shape))
    known = [graph.constant(np.asarray(n, np.int64)) for n in numbers]
    made = graph.emit(op, x, *known, **settings)
    parts = made if isinstance(made, tuple) else (made,)
    graph.outputs = [graph.emit("Neg", part) for part in parts]
    return Model(graph=graph)


CASES: dict[str, tuple[Model, str]] = {
    "slice of one channel": (single("Slice", (1, 3, 4, 5), [1], [2], [1]), "slice view"),
    "slice of columns": (single("Slice", (1, 3, 4, 5), [1], [3], [3]), "slice copy"),
    "backwards": (single("Slice", (3, 40), [-1], [-(2**40)], [1], [-1]), "slice copy"),
    "split of samples": (single("Split", (4, 6), [1, 3], axis=0, outputs=2), "split view"),
    "split of features": (single("Split", (4, 6), [1, 5], axis=1, outputs=2), "split copy"),
    "transpose": (single("Transpose", (2, 3, 20, 20), perm=(0, 2, 3, 1)), "transpose copy"),
    "transpose of one": (single("Transpose", (1, 3, 1, 1), perm=(0, 2, 3, 1)), "transpose view"),
    "transpose of a scalar": (single("Transpose", ()), "transpose view"),
    "tile": (single("Tile", (2, 3), [2, 3]), "tile copy"),
    "expand": (single("Expand", (3, 1), [2, 3, 4]), "expand copy"),
    "pad": (single("Pad", (2, 3, 4), [0, 1, -1, 2, 0, 3]), "pad copy"),
    "deep to wide": (single("DepthToSpace", (2, 12, 3, 5), blocksize=2), "depthtospace copy"),
    "deep to wide, CRD": (
        single("DepthToSpace", (2, 18, 4, 5), blocksize=3, mode="CRD"),
        "depthtospace copy",
    ),
    "wide to deep": (single("SpaceToDepth", (2, 3, 4, 6), blocksize=2), "spacetodepth copy"),
    "one row": (single("Gather", (5, 7), 3, axis=0), "gather view"),
    "some rows": (single("Gather", (5, 7), [4, 0, 1, 2, -1], axis=0), "gather copy"),
    "gradient of a slice": (
        single("nnconv.SliceGrad", (2, 2), [4, 5], [1, 4], [3, 0], [0, 1], [1, -2]),
        "slicegrad copy",
    ),
    "flat from the second axis": (single("nnconv.Flatten", (2, 3, 4), axis=1, end_axis=2), "view"),
    "Caffe's reshape": (single("nnconv.Reshape", (2, 12), dims=(3, -1), axis=1), "view"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_operator_is_one_step_of_kernels(case: tuple[Model, str]) -> None:
    model, kernel = case
    shape = tuple(int(str(dim)) for dim in model.graph.inputs[0].known_shape)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert plan_of(model, {"x": x})[1] == f"cpu:{kernel}"
    wanted = compile_model(model, device="reference").run({"x": x})
    for name, array in compile_model(model, device="cpu").run({"x": x}).items():
        np.testing.assert_array_equal(array, wanted[name])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_is_that_of_onnx_runtime(mode: str, tmp_path: Path) -> None:
    model = single("DepthToSpace", (2, 12, 3, 5), blocksize=2, mode=mode)
    x = np.random.default_rng(0).standard_normal((2, 12, 3, 5)).astype(np.float32)
    save(model, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    (wanted,) = session.run(None, {"x": x})
    (got,) = compile_model(model, device="cpu").run({"x": x}).values()
    np.testing.assert_array_equal(got, wanted)


def image_net(channels: int, batch: int = 2) -> tuple[Graph, Value]:
    """A graph whose first value is a blocked image."""
    graph = Graph("blocked")
    x = graph.add_input("x", DType.FLOAT32, (batch, channels, 5, 6))
    identity = np.eye(channels, dtype=np.float32)[:, :, None, None]
    return graph, graph.emit("Conv", x, graph.constant(identity))


def test_whole_blocks_of_channels_are_seen_where_they_lie() -> None:
    graph, x = image_net(48)
    parts = graph.emit("Split", x, graph.constant([16, 24, 8], DType.INT64), axis=1, outputs=3)
    graph.outputs = [graph.emit("Relu", part) for part in parts]
    data = np.random.default_rng(0).standard_normal((2, 48, 5, 6)).astype(np.float32)
    model = Model(graph=graph)
    for got, want in zip(
        compile_model(model, device="cpu").run({"x": data}).values(),
        np.split(np.maximum(data, 0), [16, 40], axis=1),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)
    lanes = jit.host().lanes
    copied = sum(start % lanes > 0 for start in (0, 16, 40))
    assert f"cpu:split channels, {copied} copied" in plan_of(model, {"x": data})


@pytest.mark.parametrize("groups", [2, 4])
def test_a_channel_shuffle_is_one_kernel(groups: int) -> None:
    graph, x = image_net(116)
    apart = graph.constant([2, groups, 116 // groups, 5, 6], DType.INT64)
    together = graph.constant([2, 116, 5, 6], DType.INT64)
    turned = graph.emit("Transpose", graph.emit("Reshape", x, apart), perm=(0, 2, 1, 3, 4))
    graph.outputs = [graph.emit("Relu", graph.emit("Reshape", turned, together))]
    data = np.random.default_rng(0).standard_normal((2, 116, 5, 6)).astype(np.float32)
    order = np.arange(116).reshape(groups, -1).T.reshape(-1)
    model = Model(graph=graph)
    (got,) = compile_model(model, device="cpu").run({"x": data}).values()
    np.testing.assert_array_equal(got, np.maximum(data[:, order], 0))
    kernels = plan_of(model, {"x": data})
    assert "cpu:channel shuffle" in kernels and "cpu:transpose copy" not in kernels
