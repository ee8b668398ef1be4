"""Rewrites: what each one does, and that none changes what a net computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnconv.runtime.executor import compile_model
from nnconv.runtime.passes import PASSES, Binding, run_passes
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType
from tests.ops.check import assert_close
from tests.runtime.nets import Builder, H, N, W, batch_norm_net, numbers


def ops_of(model: Model, optimise: bool = True, mode: str = "test") -> list[str]:
    executable = compile_model(model, "reference", mode, optimise=optimise)
    return [node.op for step in executable.plan().steps for node in step.nodes]


def same(model: Model, shape: tuple[int, ...], rel: float = 1e-5) -> None:
    """Optimised and plain runs agree."""
    x = numbers(*shape)
    plain, optimised = (
        compile_model(model, "reference", optimise=flag)(x) for flag in (False, True)
    )
    assert_close(optimised, plain, rel)


def conv_then(*rest: Any) -> Model:
    """A convolution and what `rest` (op, parameter shapes, attributes) puts behind it."""
    net = Builder("net", N, 3, H, W, N=2, H=7, W=6)
    net.add("conv", "Conv", (4, 3, 3, 3), (4,))
    for index, (op, shapes, attributes) in enumerate(rest):
        net.add(f"after{index}", op, *shapes, **attributes)
    return net.model()


CHANNELS = (4, 1, 1)


@pytest.mark.parametrize(
    "rest",
    [
        [("Mul", [CHANNELS], {}), ("Add", [CHANNELS], {})],
        [("Sub", [CHANNELS], {}), ("Div", [CHANNELS], {})],
        [("Mul", [()], {}), ("Add", [(1, 4, 1, 1)], {})],
    ],
    ids=str,
)
def test_what_is_affine_by_channel_goes_into_the_convolution(rest: Any) -> None:
    model = conv_then(*rest)
    assert ops_of(model) == ["Conv"]
    same(model, (2, 3, 7, 6))


def test_a_constant_minus_the_result_is_affine_too() -> None:
    model = conv_then()
    shift = model.graph.add_parameter("shift", CHANNELS, numbers(*CHANNELS))
    model.graph.outputs = [shift - model.graph.outputs[0]]
    assert ops_of(model) == ["Conv"]
    same(model, (2, 3, 7, 6))


@pytest.mark.parametrize(
    "rest", [("Mul", [(6,)], {}), ("Add", [(1, 1, 5, 1)], {}), ("Pow", [()], {})], ids=str
)
def test_what_is_not_affine_by_channel_stays(rest: Any) -> None:
    model = conv_then(rest) if rest[1] != [(6,)] else conv_then(("Mul", [(4,)], {}))
    assert ops_of(model)[0] == "Conv" and len(ops_of(model)) == 2


def test_caffes_batch_norm_and_scale_go_into_the_convolution_in_test_mode_only() -> None:
    model = batch_norm_net()
    assert ops_of(model) == ["Conv", "Relu"]
    same(model, (2, 3, 6, 5))
    assert ops_of(model, mode="train") == ["Conv", "nnconv.BatchNorm", "Mul", "Add", "Relu"]


def test_a_convolution_whose_result_is_wanted_keeps_it() -> None:
    model = conv_then(("Mul", [CHANNELS], {}))
    results = [
        compile_model(model, "reference", outputs="all", optimise=flag).run(
            {"data": numbers(2, 3, 7, 6)}
        )
        for flag in (False, True)
    ]
    for name, array in results[0].items():
        assert_close(results[1][name], array, 1e-6)


def test_a_gemm_takes_scale_and_shift_in_either_layout() -> None:
    for trans in (0, 1):
        net = Builder("fc", N, 5, N=3).add(
            "ip", "Gemm", (4, 5) if trans else (5, 4), (4,), transB=trans
        )
        model = net.add("scale", "Mul", (4,)).add("shift", "Add", (4,)).model()
        assert ops_of(model) == ["Gemm"]
        same(model, (3, 5))


def test_zeros_around_a_picture_become_the_convolutions_own() -> None:
    net = Builder("padded", N, 3, H, W, N=2, H=7, W=6)
    pads = net.graph.constant(np.array([0, 0, 1, 2, 0, 0, 0, 1]))
    net.x = net.graph.emit("Pad", net.x, pads)
    model = net.add("conv", "Conv", (4, 3, 3, 3), pads=(1, 0, 0, 1)).model()
    assert ops_of(model) == ["Conv"]
    same(model, (2, 3, 7, 6))


def test_ones_around_a_picture_stay() -> None:
    net = Builder("padded", N, 3, H, W, N=2, H=7, W=6)
    pads, one = (
        net.graph.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])),
        net.graph.constant(np.float32(1)),
    )
    net.x = net.graph.emit("Pad", net.x, pads, one)
    model = net.add("conv", "Conv", (4, 3, 3, 3)).model()
    assert ops_of(model) == ["Pad", "Conv"]


def test_transposes_that_cancel_vanish_and_others_become_one() -> None:
    net = Builder("t", N, 3, H, W, N=2, H=4, W=5)
    net.add("a", "Transpose", perm=(0, 2, 3, 1)).add("b", "Transpose", perm=(0, 3, 1, 2)).add(
        "c", "Relu"
    )
    net.add("d", "Transpose", perm=(1, 0, 2, 3)).add("e", "Transpose", perm=(0, 2, 1, 3))
    model = net.model()
    assert ops_of(model) == ["Relu", "Transpose"]
    same(model, (2, 3, 4, 5))


def test_equal_nodes_are_computed_once() -> None:
    net = Builder("twice", N, 3, N=2)
    x = net.x
    net.x = net.graph.emit("Exp", x + 1) * net.graph.emit("Exp", x + 1)
    assert ops_of(net.model()) == ["Add", "Exp", "Mul"]


def test_two_dropouts_of_one_input_stay_two() -> None:
    graph = Graph("drops")
    x = graph.add_input("data", DType.FLOAT32, (N, 100))
    graph.sizes = {"N": 2}
    graph.outputs = [graph.emit("nnconv.Dropout", x) - graph.emit("nnconv.Dropout", x)]
    executable = compile_model(Model(graph), "reference", "train", optimise=True)
    assert np.abs(executable(np.ones((2, 100), np.float32))).max() > 0


def test_arithmetic_on_parameters_is_folded_but_not_in_training() -> None:
    net = Builder("fold", N, 4, N=2)
    (weights,) = net.parameter("w", (4, 3))
    doubled = net.graph.emit("Transpose", net.graph.emit("Transpose", weights * 2))
    net.x = net.graph.emit("MatMul", net.x, doubled)
    assert ops_of(net.model(), optimise=False) == ["MatMul"]
    assert "Mul" in ops_of(net.model(), optimise=False, mode="train")


def test_what_would_grow_too_large_is_not_folded() -> None:
    graph = Graph("large")
    x = graph.add_input("data", DType.FLOAT32, (N, 1))
    graph.sizes = {"N": 1}
    shape = graph.constant(np.array([1, 4_000_000]))
    graph.outputs = [x + graph.emit("ConstantOfShape", shape)]
    assert ops_of(Model(graph)) == ["ConstantOfShape", "Add"]


def test_shapes_computed_in_the_graph_are_known_before_a_run() -> None:
    net = Builder("reshape", N, 4, H, N=2, H=6)
    graph = net.graph
    batch = graph.emit("Gather", graph.emit("Shape", net.x), graph.constant(np.array([0])))
    shape = graph.emit("Concat", batch, graph.constant(np.array([-1])), axis=0)
    net.x = graph.emit("Reshape", net.x, shape)
    model = net.model()
    assert ops_of(model, optimise=False) == ["Reshape"]
    assert compile_model(model, "reference")(numbers(3, 4, 5)).shape == (3, 20)


def test_nothing_that_no_output_needs_is_run() -> None:
    model = conv_then(("Relu", [], {}))
    model.graph.emit("Exp", model.graph.outputs[0])
    assert ops_of(model, optimise=False) == ["Conv", "Relu"]


def test_a_disabled_pass_does_not_run_and_a_semantic_one_cannot_be_disabled() -> None:
    model = conv_then(("Mul", [CHANNELS], {}))
    kept = compile_model(model, "reference", optimise=True, disable=["fold_affine"])
    assert len(kept.plan().steps) == 2
    with pytest.raises(InputError, match="fold_afine"):
        compile_model(model, "reference", disable=["fold_afine"])


def test_the_runner_says_what_each_pass_did(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setenv("NNCONV_DEBUG", "3")
    graph = conv_then(("Mul", [CHANNELS], {})).graph.copy()
    results = {r.name: r for r in run_passes(graph, "model", Binding(), optimise=True)}
    assert (results["fold_affine"].before, results["fold_affine"].after) == (2, 1)
    assert "fold_affine: 2 -> 1 nodes" in caplog.text


@pytest.mark.parametrize("text", ["abc", "-1", "1.5", "\u0663", "9" * 5000], ids=lambda t: t[:4])
def test_a_level_of_debugging_that_is_no_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("NNCONV_DEBUG", text)
    with pytest.raises(InputError, match="NNCONV_DEBUG=") as refused:
        compile_model(conv_then(("Mul", [CHANNELS], {})), "reference")
    assert "0 (silent), 1 (plans)" in refused.value.problems[0].hint


def test_every_pass_states_a_stage() -> None:
    assert {item.stage for item in PASSES} == {"model", "shapes"}


# --- any net --------------------------------------------------------------------------------------

LAYERS: list[tuple[str, Any, dict[str, Any]]] = [
    ("Conv", [(4, 4, 3, 3), (4,)], {"pads": (1, 1, 1, 1)}),
    ("Conv", [(4, 2, 1, 1)], {"group": 2}),
    ("Mul", [CHANNELS], {}),
    ("Add", [CHANNELS], {}),
    ("Sub", [(1, 4, 1, 1)], {}),
    ("Mul", [(6,)], {}),
    ("Relu", [], {}),
    ("Identity", [], {}),
    ("Transpose", [], {"perm": (0, 1, 3, 2)}),
    ("MaxPool", [], {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}),
    ("Softmax", [], {"axis": 1}),
    ("nnconv.Dropout", [], {}),
]


@given(
    st.lists(st.integers(0, len(LAYERS) - 1), min_size=1, max_size=8),
    st.lists(st.integers(0, 20), max_size=3),
)
def test_optimised_nets_compute_what_plain_ones_do(layers: list[int], joins: list[int]) -> None:
    net = Builder("random", N, 4, H, W, N=2, H=6, W=6)
    made = [net.x]
    for index, choice in enumerate(layers):
        op, shapes, attributes = LAYERS[choice]
        net.add(f"l{index}", op, *shapes, **attributes)
        made.append(net.x)
    for join in joins:
        net.x = net.x + made[join % len(made)]
        made.append(net.x)
    same(net.model(), (2, 4, 6, 6))
