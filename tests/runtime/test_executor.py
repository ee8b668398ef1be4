"""Compiling and running: results, plans, state, threads, and what is said about misuse."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from nnconv.runtime.executor import compile_model
from nnconv.schemas.dims import Symbolic
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import Graph, Model, State
from nnconv.schemas.types import DType
from tests.runtime.nets import Builder, H, N, W, batch_norm_net, lenet, numbers

DIGITS = numbers(4, 1, 28, 28)


def test_lenet_gives_what_the_formulas_give_in_double_precision() -> None:
    model = lenet()
    p = {name: array.astype(np.float64) for name, array in model.weights.items()}
    x = DIGITS.astype(np.float64)
    for layer in ("conv1", "conv2"):
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), (2, 3))
        x = np.einsum("nchwij,mcij->nmhw", windows, p[f"{layer}/0"]) + p[f"{layer}/1"].reshape(
            -1, 1, 1
        )
        x = x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).max((3, 5))
    x = np.maximum(x.reshape(4, -1) @ p["ip1@relu1/0"].T + p["ip1@relu1/1"], 0)
    x = np.exp(x @ p["ip2/0"].T + p["ip2/1"])
    result = compile_model(model, "reference")(DIGITS)
    np.testing.assert_allclose(result, x / x.sum(1, keepdims=True), rtol=1e-5)


def test_double_precision_is_nearer_and_comes_back_as_float32() -> None:
    net = Builder("sum", 200_000).add("y", "ReduceSum", keepdims=0).model()
    x = np.full(200_000, 0.1, np.float32)
    precise = compile_model(net, "reference", precision="f64")(x)
    assert precise.dtype == np.float32
    assert precise == np.float32(x.astype(np.float64).sum())


def test_double_precision_covers_state_and_casts() -> None:
    model = batch_norm_net()
    model.graph.outputs = [model.graph.emit("Cast", model.graph.outputs[0], to=int(DType.FLOAT32))]
    x = numbers(2, 3, 6, 5)
    wide = compile_model(model, "reference", "train", precision="f64")
    assert {value.dtype for step in wide.plan().steps for value in step.writes} == {DType.FLOAT64}
    result = wide(x)
    assert result.dtype == np.float32
    np.testing.assert_allclose(
        result, compile_model(model, "reference", "train")(x), rtol=1e-4, atol=1e-5
    )


def test_one_import_runs_at_two_sizes() -> None:
    net = Builder("any", N, 3, H, W, N=1, H=8, W=8)
    net.add("conv", "Conv", (4, 3, 3, 3), pads=(1, 1, 1, 1)).add("mean", "GlobalAveragePool")
    executable = compile_model(net.model(), "reference")
    assert executable(numbers(2, 3, 8, 8)).shape == executable(numbers(2, 3, 11, 5)).shape


def test_a_batch_of_nothing_gives_nothing() -> None:
    assert compile_model(lenet(), "reference")(DIGITS[:0]).shape == (0, 10)


def test_results_are_fresh_and_the_inputs_stay_as_they_are() -> None:
    net = Builder("view", N, 4, N=2).add("flat", "nnconv.Flatten", axis=0).model()
    executable = compile_model(net, "reference")
    x = numbers(2, 4)
    before = x.copy()
    first = executable(x)
    first[...] = 7
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(executable(x), before.reshape(-1))


def test_the_users_model_is_never_changed() -> None:
    model = batch_norm_net()
    text, state = str(model), [(s.name, s.write.name) for s in model.graph.state]
    for mode in ("test", "train"):
        compile_model(model, "reference", mode, optimise=True)(numbers(2, 3, 6, 5))
    assert str(model) == text
    assert [(s.name, s.write.name) for s in model.graph.state] == state


# --- outputs --------------------------------------------------------------------------------------


def test_outputs_may_name_any_value_of_the_model() -> None:
    executable = compile_model(lenet(), "reference", outputs=["ip1@relu1", "pool1", "prob"])
    results = executable.run({"data": DIGITS})
    assert {name: array.shape for name, array in results.items()} == {
        "ip1@relu1": (4, 500), "pool1": (4, 20, 12, 12), "prob": (4, 10),
    }  # fmt: skip
    assert results["ip1@relu1"].min() < 0


@pytest.mark.parametrize("optimise", [False, True])
def test_all_returns_every_value_by_name(optimise: bool) -> None:
    model = batch_norm_net()
    results = compile_model(model, "reference", outputs="all", optimise=optimise).run(
        {"data": numbers(2, 3, 6, 5)}
    )
    written = {state.write.name for state in model.graph.state}
    assert list(results) == [
        v.name for n in model.graph.nodes for v in n.outputs if v.name not in written
    ]
    assert results["conv"].shape == results["out"].shape
    assert not np.allclose(results["conv"], results["bn"])


def test_only_the_inputs_that_the_outputs_need_must_be_given() -> None:
    model = lenet()
    label = model.graph.add_input("label", DType.FLOAT32, (N,))
    loss = model.graph.emit(
        "nnconv.SoftmaxWithLoss", model.graph.values["ip2"], label, outputs=["loss"]
    )
    model.graph.outputs.append(loss)
    executable = compile_model(model, "reference", outputs="prob")
    assert [port.name for port in executable.inputs] == ["data"]
    assert executable(DIGITS).shape == (4, 10)
    assert executable.run({"data": DIGITS, "label": numbers(4)}).keys() == {"prob"}
    assert (
        compile_model(model, "reference").run({"data": DIGITS, "label": np.zeros(4)})["loss"].shape
        == ()
    )


def test_an_input_of_unknown_size_that_is_not_needed_may_stay_away() -> None:
    model = lenet()
    model.graph.add_input("other", DType.FLOAT32, (Symbolic.name("M"), 3))
    assert compile_model(model, "reference")(DIGITS).shape == (4, 10)


def test_an_unknown_output_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match="'prop'") as caught:
        compile_model(lenet(), "reference", outputs=["prop"])
    assert "'prob'" in str(caught.value)


# --- inputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int64, bool])
def test_real_numbers_of_any_type_are_taken(dtype: Any) -> None:
    executable = compile_model(lenet(), "reference")
    x = (np.abs(DIGITS) * 3).astype(dtype)
    np.testing.assert_array_equal(executable(x), executable(x.astype(np.float32)))


MISUSE: list[tuple[Any, str, str]] = [
    ({}, "input 'data' is missing", "data: float32 Nx1xHxW"),
    ({"dta": DIGITS}, "there is no input 'dta'", "did you mean 'data'"),
    ({"data": DIGITS[0]}, "must be Nx1xHxW, got 1x28x28", "batch axis"),
    ({"data": numbers(4, 3, 28, 28)}, "must be Nx1xHxW, got 4x3x28x28", ""),
    ({"data": DIGITS.astype(np.complex64)}, "must be float32, got complex64", ""),
    ({"data": np.array(["a"])}, "must be float32, got <U1", ""),
    ({"data": [[1], [1, 2]]}, "'data' is no array", ""),
    (None, "takes a dictionary", "data: float32"),
    (DIGITS, "takes a dictionary", "data: float32"),
]


@pytest.mark.parametrize(("inputs", "message", "hint"), MISUSE, ids=lambda case: str(case)[:30])
def test_misuse_is_told_with_what_the_model_wants(inputs: Any, message: str, hint: str) -> None:
    executable = compile_model(lenet(), "reference")
    with pytest.raises(InputError) as caught:
        executable.run(inputs)
    assert message in str(caught.value)
    assert hint in str(caught.value)


def test_floats_are_no_integers_and_too_large_ones_are_refused() -> None:
    graph = Graph("ids")
    graph.outputs = [graph.emit("Neg", graph.add_input("ids", DType.INT32, (N,)))]
    executable = compile_model(Model(graph), "reference")
    assert executable(np.array([1, 2], np.int64)).tolist() == [-1, -2]
    for wrong in (np.array([1.5]), np.array([2**40])):
        with pytest.raises(InputError, match="ids"):
            executable(wrong)


def test_inputs_that_disagree_about_a_size_are_both_named() -> None:
    graph = Graph("two")
    a, b = (graph.add_input(name, DType.FLOAT32, (N, 3)) for name in "ab")
    graph.outputs = [a + b]
    with pytest.raises(InputError, match="'a' and 'b' must agree in N, got 2 and 4"):
        compile_model(Model(graph), "reference").run({"a": numbers(2, 3), "b": numbers(4, 3)})


def test_a_size_that_does_not_fit_the_weights_names_layer_and_input() -> None:
    with pytest.raises(InputError) as caught:
        compile_model(lenet(), "reference")(numbers(1, 1, 36, 36))
    text = str(caught.value)
    assert "layer 'ip1@relu1'" in text
    assert "1x1x36x36" in text and "64x1x28x28" in text


def test_missing_weights_are_named_with_the_layer_before_anything_runs() -> None:
    model = lenet()
    for name in ("conv1/0", "ip2/1"):
        model.graph.values[name].data = None
    with pytest.raises(InputError) as caught:
        compile_model(model, "reference")
    text = str(caught.value)
    assert "no weights for 'conv1/0' (20x1x5x5) of layer 'conv1'" in text and "1 more" in text
    assert "--weights" in text


@pytest.mark.parametrize(
    "wrong", [{"mode": "tests"}, {"precision": "f16"}, {"disable": ["bind_mode"]}], ids=str
)
def test_options_that_do_not_exist_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        compile_model(lenet(), "reference", **wrong)


def test_calling_takes_inputs_in_order_or_by_name_but_not_both() -> None:
    executable = compile_model(lenet(), "reference")
    np.testing.assert_array_equal(executable(DIGITS), executable(data=DIGITS))
    with pytest.raises(InputError, match="twice"):
        executable(DIGITS, data=DIGITS)
    with pytest.raises(InputError, match="2 inputs given"):
        executable(DIGITS, DIGITS)


# --- modes and state ------------------------------------------------------------------------------


def test_batch_norm_uses_its_statistics_in_test_and_moves_them_in_training() -> None:
    model, x = batch_norm_net(), numbers(2, 3, 6, 5)
    weights = {name: array.astype(np.float64) for name, array in model.weights.items()}
    tested = compile_model(model, "reference", "test", outputs=["conv", "bn"])
    assert tested.state == {}
    results = tested.run({"data": x})
    mean, variance = (weights[f"bn/{i}"].reshape(-1, 1, 1) / 2 for i in (0, 1))
    np.testing.assert_allclose(
        results["bn"], (results["conv"] - mean) / np.sqrt(variance + 1e-5), rtol=2e-5, atol=1e-6
    )

    trained = compile_model(model, "reference", "train", outputs=["conv"])
    conv = trained.run({"data": x})["conv"].astype(np.float64)
    np.testing.assert_allclose(trained.state["bn/2"], [0.999 * 2 + 1], rtol=1e-6)
    np.testing.assert_allclose(
        trained.state["bn/0"], 0.999 * weights["bn/0"] + conv.mean((0, 2, 3)), rtol=1e-5, atol=1e-6
    )


def test_state_can_be_read_and_set_and_a_run_can_be_repeated() -> None:
    executable, x = compile_model(batch_norm_net(), "reference", "train"), numbers(2, 3, 6, 5)
    start = executable.state
    executable.run({"data": x})
    after = executable.state
    executable.state = start
    executable.run({"data": x})
    for name, array in after.items():
        np.testing.assert_array_equal(executable.state[name], array)
        assert not np.array_equal(start[name], array)


@pytest.mark.parametrize("wrong", [{"bn/7": np.zeros(4)}, {"bn/0": np.zeros(5)}], ids=str)
def test_state_of_another_name_or_shape_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        compile_model(batch_norm_net(), "reference", "train").state = wrong


def growing(*starts: int) -> Model:
    """Ones are added to each state for every element of the input; its sizes are N."""
    graph = Graph("growing")
    x = graph.add_input("x", DType.FLOAT32, (Symbolic.name("N"),))
    for start in starts:
        read = graph.constant(np.zeros(start, np.float32), DType.FLOAT32)
        graph.state.append(State("total", read, graph.emit("Add", x, read)))
    graph.outputs = [x + 1.0]
    return Model(graph=graph, mode="train")


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_what_would_write_over_more_than_a_state_is_refused(device: str) -> None:
    with pytest.raises(InputError, match="two states are called 'total'"):
        compile_model(growing(1, 4), device)
    executable = compile_model(growing(1), device, recycle=True)
    with pytest.raises(InputError, match="state 'total' is 1 before a run and 9 after it"):
        executable.run({"x": np.ones(9, np.float32)})


def test_dropout_is_the_identity_in_test_and_follows_seed_and_step_in_training() -> None:
    model = lenet()
    tested = compile_model(model, "reference", outputs=["ip1", "drop"]).run({"data": DIGITS})
    np.testing.assert_array_equal(tested["ip1"], tested["drop"])
    executable = compile_model(model, "reference", "train", outputs=["ip1", "drop"], seed=5)
    first, second = (executable.run({"data": DIGITS})["drop"] for _ in range(2))
    assert (first != second).any()
    executable.step = 0
    np.testing.assert_array_equal(executable.run({"data": DIGITS})["drop"], first)
    other = compile_model(model, "reference", "train", outputs=["drop"], seed=6).run(
        {"data": DIGITS}
    )["drop"]
    assert (other != first).any()


@pytest.mark.parametrize("optimise", [False, True])
def test_dropout_drops_the_same_whatever_is_optimised(optimise: bool) -> None:
    plain = compile_model(lenet(), "reference", "train")(DIGITS)
    other = compile_model(lenet(), "reference", "train", optimise=optimise, outputs=["prob"])(
        DIGITS
    )
    np.testing.assert_allclose(other, plain, rtol=1e-5)


# --- plans, threads, determinism ------------------------------------------------------------------


def test_the_cache_of_plans_is_bounded_and_drops_the_least_recently_used() -> None:
    executable = compile_model(lenet(), "reference", cache_size=2)
    one, two = (executable.plan({"data": (n, 1, 28, 28)}) for n in (1, 2))
    assert executable.plan({"data": (1, 1, 28, 28)}) is one
    executable.plan({"data": (3, 1, 28, 28)})
    assert executable.plan({"data": (1, 1, 28, 28)}) is one
    assert executable.plan({"data": (2, 1, 28, 28)}) is not two


def test_a_plan_says_what_runs_how_much_and_with_how_much_memory() -> None:
    plan = compile_model(lenet(), "reference").plan({"data": (1, 1, 28, 28)})
    assert [step.kernel for step in plan.steps][:2] == ["reference:Conv", "reference:MaxPool"]
    convolutions, products = 20 * 24 * 24 * 25 + 50 * 8 * 8 * 500, 800 * 500 + 500 * 10
    pools_and_rest = 4 * (20 * 12 * 12 + 50 * 4 * 4) + 500 + 10
    assert plan.cost.macs == convolutions + products + pools_and_rest
    assert plan.peak_bytes == 4 * (28 * 28 + 20 * 24 * 24 + 20 * 12 * 12)
    assert "conv1" in str(plan) and plan.to_dict()["steps"][0]["layers"] == ["conv1"]


def test_values_are_freed_after_their_last_use() -> None:
    net = Builder("chain", N, N=1)
    for index in range(20):
        net.add(f"y{index}", "Relu")
    plan = compile_model(net.model(), "reference").plan({"data": (1000,)})
    assert plan.peak_bytes == 3 * 4000  # the input, which the caller holds, and two values


def test_eight_threads_at_once_get_what_one_gets() -> None:
    executable = compile_model(lenet(), "reference")
    batches = [numbers(n, 1, 28, 28, seed=n) for n in (1, 2, 3)]
    wanted = [executable(batch) for batch in batches]
    gate = threading.Barrier(8)

    def work(_: int) -> list[Any]:
        gate.wait()
        return [executable(batch) for batch in batches]

    previous = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(work, range(8)))
    finally:
        sys.setswitchinterval(previous)
    for result in results:
        for got, expected in zip(result, wanted, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_training_runs_from_many_threads_lose_no_update() -> None:
    executable, x = compile_model(batch_norm_net(), "reference", "train"), numbers(2, 3, 6, 5)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: executable.run({"data": x}), range(12)))
    factor = 2.0
    for _ in range(12):
        factor = 0.999 * factor + 1
    np.testing.assert_allclose(executable.state["bn/2"], [factor], rtol=1e-6)
    assert executable.step == 12


def test_the_same_run_gives_the_same_bytes() -> None:
    one, two = (compile_model(lenet(), "reference")(DIGITS) for _ in range(2))
    assert one.tobytes() == two.tobytes()


def test_parameters_that_lie_unaligned_or_apart_are_read_rightly() -> None:
    model = lenet()
    wanted = compile_model(model, "reference")(DIGITS)
    for value in model.parameters.values():
        data = value.data
        assert data is not None
        records = np.zeros(
            data.size, np.dtype([("tag", "u1"), ("value", "<f4")])
        )  # unpacked floats of old files
        records["value"] = data.reshape(-1)
        value.data = records["value"].reshape(data.shape)
    np.testing.assert_array_equal(compile_model(model, "reference")(DIGITS), wanted)


def test_a_watcher_is_told_of_every_step() -> None:
    seen: list[str] = []
    compile_model(lenet(), "reference").run(
        {"data": DIGITS}, watch=lambda step, _: seen.append(step.kernel)
    )
    assert len(seen) == 9 and seen[0] == "reference:Conv"


def test_debug_levels_show_the_plan_and_then_the_timings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NNCONV_DEBUG", "1")
    compile_model(lenet(), "reference")(DIGITS)
    assert "plan on reference" in caplog.text and " ms" not in caplog.text
    monkeypatch.setenv("NNCONV_DEBUG", "2")
    compile_model(lenet(), "reference")(DIGITS)
    assert "conv1" in caplog.text and " ms" in caplog.text


def test_an_output_that_is_an_input_is_returned_as_a_copy() -> None:
    graph = Graph("through")
    x = graph.add_input("x", DType.FLOAT32, (N,))
    graph.outputs = [graph.emit("Identity", x, outputs=["y"])]
    given = numbers(3)
    result = compile_model(Model(graph), "reference")(given)
    assert result is not given and not np.shares_memory(result, given)
    np.testing.assert_array_equal(result, given)


@pytest.mark.parametrize(
    ("op", "settings", "words"),
    [
        ("AveragePool", {"kernel_shape": (10**9, 10**9), "pads": (10**9 - 1,) * 4}, "of memory"),
        ("AveragePool", {"kernel_shape": (10**9, 10**9), "pads": (5 * 10**8,) * 4}, "never end"),
    ],
)
@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_work_without_end_is_refused_before_it_starts(
    device: str, op: str, settings: dict[str, Any], words: str
) -> None:
    net = Builder("hostile", N, 1, 8, 8).add("y", op, **settings).model()
    with pytest.raises(InputError, match=words):
        compile_model(net, device).run({"data": numbers(1, 1, 8, 8)})
