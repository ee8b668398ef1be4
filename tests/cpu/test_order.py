"""ArgMax, ArgMin, TopK and places in pooling windows: integers exactly, in every form, no host."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Graph, Model, Value
from nnconv.schemas.types import DType
from tests.cpu.planner import Planner

Array = np.ndarray[Any, Any]
FORMS = ("plain", "blocked", "samples")
SHAPES = [((7,), 0), ((3, 16), 1), ((5, 100), -1), ((2, 40, 3), 1), ((4, 9, 5, 7), 1),
          ((1, 3, 3, 33), 2), ((37, 5), 0)]  # fmt: skip


def few_values(shape: tuple[int, ...], seed: int = 0) -> Array:
    """Many ties, both zeros and infinities among them."""
    values = np.array([-np.inf, -2, -0.0, 0.0, 1, 1, 3, np.inf], np.float32)
    return np.random.default_rng(seed).choice(values, shape)


def in_form(graph: Graph, x: Value, form: str, channels: int) -> tuple[Value, dict[str, Array]]:
    """An image as a convolution with an identity leaves it: blocked, or with samples in lanes."""
    identity = np.eye(channels, dtype=np.float32)[:, :, None, None]
    if form == "plain":
        return x, {}
    if form == "blocked":
        return graph.emit("Conv", x, graph.constant(identity)), {}
    weights = graph.add_input("w", DType.FLOAT32, identity.shape)
    return graph.emit("Conv", x, weights), {"w": identity}


def results(model: Model, feeds: dict[str, Array], **settings: Any) -> list[Array]:
    """On the cpu device, where no step may be a reference kernel."""
    executable = compile_model(model, device=settings.pop("device", "cpu"), **settings)
    plan = executable.plan({name: array.shape for name, array in feeds.items()})
    assert not [step.kernel for step in plan.steps if step.kernel.startswith("reference")]
    return [*executable.run(feeds).values()]


def in_onnxruntime(
    op: str, x: Array, outputs: int, k: int = 0, **settings: Any
) -> list[Array]:  # fmt: skip
    told = [helper.make_tensor("k", TensorProto.INT64, [1], [k])] if k else []
    names = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, ["x", *(t.name for t in told)], names, **settings)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    made = [helper.make_empty_tensor_value_info(name) for name in names]
    graph = helper.make_graph([node], "g", [given], made, told)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: list[Array] = session.run(None, {"x": x})
    return found


def one_node(op: str, x: Array, *more: int, outputs: int = 1, **settings: Any) -> Model:
    graph = Graph(op)
    told = [graph.constant([number], DType.INT64) for number in more]
    source = graph.add_input("x", DType.FLOAT32, x.shape)
    made = graph.emit(op, source, *told, outputs=outputs, **settings)
    graph.outputs = [*made] if outputs > 1 else [made]
    return Model(graph=graph)


def same(got: list[Array], want: list[Array]) -> None:
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_the_place_of_an_extreme(shape: tuple[int, ...], axis: int, op: str, last: int) -> None:
    x, settings = few_values(shape), {"axis": axis, "keepdims": last, "select_last_index": last}
    want = in_onnxruntime(op, x, 1, **settings)
    same(results(one_node(op, x, **settings), {"x": x}), want)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("k", [1, 3])
def test_the_first_of_an_order_and_their_places(
    shape: tuple[int, ...], axis: int, largest: int, k: int
) -> None:
    x, settings = few_values(shape, 1), {"axis": axis, "largest": largest}
    want = in_onnxruntime("TopK", x, 2, k, **settings)
    same(results(one_node("TopK", x, k, outputs=2, **settings), {"x": x}), want)


def test_all_of_a_short_axis_may_be_put_in_order() -> None:
    x = few_values((2, 200), 2)
    same(results(one_node("TopK", x, 200, outputs=2), {"x": x}), in_onnxruntime("TopK", x, 2, 200))


def test_the_host_puts_all_of_a_long_axis_in_order() -> None:
    x = few_values((1, 1000), 2)
    executable = compile_model(one_node("TopK", x, 1000, outputs=2), device="cpu")
    same([*executable.run({"x": x}).values()], in_onnxruntime("TopK", x, 2, 1000))


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin", "TopK"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("turned", [0, 1])
def test_nan_stands_where_the_reference_has_it(op: str, axis: int, turned: int) -> None:
    x = few_values((20, 33), 3)
    x[3::7, 4::5] = np.nan
    settings = {"largest": turned} if op == "TopK" else {"select_last_index": turned}
    more, outputs = ((6,), 2) if op == "TopK" else ((), 1)
    model = one_node(op, x, *more, outputs=outputs, axis=axis, **settings)
    want = [*compile_model(model, device="reference").run({"x": x}).values()]
    same(results(model, {"x": x}), want)


@pytest.mark.parametrize("form", FORMS)
def test_images_are_searched_in_whatever_form_they_come(form: str) -> None:
    x, graph = few_values((20, 19, 3, 4)).clip(-9, 9), Graph("form")
    source, more = in_form(graph, graph.add_input("x", DType.FLOAT32, x.shape), form, 19)
    graph.outputs = [graph.emit("ArgMax", source, axis=1, keepdims=1)]
    same(results(Model(graph=graph), {"x": x, **more}), [x.argmax(1)[:, None]])


def arithmetic(shape: tuple[int, ...], k: int) -> tuple[Model, Value, Value]:
    """What Caffe's importer makes of places, and a little more."""
    graph = Graph("arithmetic")
    x = graph.add_input("x", DType.FLOAT32, shape)
    values, places = graph.emit("TopK", x, graph.constant([k], DType.INT64), outputs=2, axis=1)
    ints = [graph.constant(n, DType.INT64) for n in (2, 100, 7)]
    number = graph.emit("Sub", ints[1], graph.emit("Mul", places, ints[0]))
    number = graph.emit("Unsqueeze", graph.emit("Add", number, ints[2]), graph.constant([0]))
    return Model(graph=graph), values, number


def test_arithmetic_with_places_is_done_with_them() -> None:
    x = few_values((4, 30), 5)
    model, values, number = arithmetic(x.shape, 3)
    graph = model.graph
    graph.outputs = [values, graph.emit("Cast", number, to=int(DType.FLOAT32))]
    order = np.argsort(-x, axis=1, kind="stable")[:, :3]
    want = [np.take_along_axis(x, order, 1), (107 - 2 * order)[None].astype(np.float32)]
    same(results(model, {"x": x}), want)


def test_integers_go_out_as_they_are_and_may_be_read_again() -> None:
    x = few_values((4, 30), 6)
    model, values, number = arithmetic(x.shape, 2)
    graph = model.graph
    half = graph.emit("Cast", number, to=int(DType.FLOAT32)) * 0.5
    graph.outputs = [number, half, graph.emit("Cast", number, to=int(DType.INT32)), values]
    order = np.argsort(-x, axis=1, kind="stable")[:, :2]
    want = (107 - 2 * order)[None]
    executable = compile_model(model, device="cpu")
    for _ in range(2):  # an array of the run, not of the plan
        got = [*executable.run({"x": x}).values()]
        same(got[:3], [want, (want / 2).astype(np.float32), want.astype(np.int32)])


def test_who_reads_values_before_the_places_are_done_is_not_kept_waiting() -> None:
    x = few_values((4, 30), 7).clip(-9, 9)
    graph = Graph("between")
    source = graph.add_input("x", DType.FLOAT32, x.shape)
    values, places = graph.emit("TopK", source, graph.constant([2], DType.INT64), outputs=2)
    doubled = values + values
    graph.outputs = [doubled, graph.emit("Cast", places, to=int(DType.FLOAT32))]
    order = np.argsort(-x, axis=1, kind="stable")[:, :2]
    want = [2 * np.take_along_axis(x, order, 1), order.astype(np.float32)]
    same(results(Model(graph=graph), {"x": x}), want)


WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 7, 9), {"kernel_shape": (3, 2), "strides": (2, 2), "pads": (1, 0, 1, 1)}),
    ((2, 17, 6, 5), {"kernel_shape": (2, 2), "strides": (2, 2), "ceil_mode": 1}),
    ((1, 2, 8, 8), {"kernel_shape": (2, 3), "dilations": (2, 3), "storage_order": 1}),
    ((3, 2, 11), {"kernel_shape": (3,), "strides": (2,)}),
]


@pytest.mark.parametrize(("shape", "settings"), WINDOWS)
def test_pooling_says_where_its_maxima_stand(
    shape: tuple[int, ...], settings: dict[str, Any]
) -> None:
    x = few_values(shape, 8).clip(-9, 9)
    want = in_onnxruntime("MaxPool", x, 2, **settings)
    same(results(one_node("MaxPool", x, outputs=2, **settings), {"x": x}), want)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("shape", "settings"), WINDOWS[:3])
def test_caffes_mask_counts_within_the_plane(
    form: str, shape: tuple[int, ...], settings: dict[str, Any]
) -> None:
    x, graph = few_values(shape, 9).clip(-9, 9), Graph("mask")
    source, more = in_form(
        graph, graph.add_input("x", DType.FLOAT32, x.shape), form, shape[1]
    )  # fmt: skip
    y, places = graph.emit("MaxPool", source, outputs=2, **settings)
    plane = graph.constant(np.int64(shape[2] * shape[3]))
    mask = graph.emit("Cast", graph.emit("Mod", places, plane, fmod=1), to=int(DType.FLOAT32))
    graph.outputs = [y + 1, graph.emit("Neg", mask)]
    best, where = in_onnxruntime("MaxPool", x, 2, **settings)
    want = [best + 1, -(where % (shape[2] * shape[3])).astype(np.float32)]
    same(results(Model(graph=graph), {"x": x, **more}), want)


OUTSIDE = [((2, 2), (3, 3), (6, 6)), ((1, 2), (4, 3), (6, 8)), ((2, 1), (5, 2), (6, 4))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["MAX", "AVE"])
@pytest.mark.parametrize(("kernel", "strides", "size"), OUTSIDE)
def test_windows_outside_the_picture_give_what_caffe_gives(
    form: str, mode: str, kernel: tuple[int, int], strides: tuple[int, int], size: tuple[int, int]
) -> None:
    shape, graph = (17, 5, *size), Graph("outside")
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    source, more = in_form(graph, graph.add_input("x", DType.FLOAT32, shape), form, 5)
    settings: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "mode": mode}
    graph.outputs = [graph.emit("nnconv.Pool", source, **settings)]
    model, feeds = Model(graph=graph), {"x": x, **more}
    (want,) = compile_model(model, device="reference").run(feeds).values()
    assert not np.isfinite(want).all() or (np.abs(want) > 1e38).any() or (want == 0).any()
    (got,) = results(model, feeds)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(3, 5, 7), (18, 20, 4, 5), (2, 3, 2, 3, 4)])
def test_a_planes_maximum_sends_its_gradient_to_the_first_of_the_largest(
    form: str, shape: tuple[int, ...]
) -> None:
    if len(shape) != 4:
        form = "plain"
    x, graph = few_values(shape, 4).clip(-9, 9), Graph("peak")
    source, more = in_form(graph, graph.add_input("x", DType.FLOAT32, shape), form, shape[1])
    slope = (*shape[:2], *(1,) * (len(shape) - 2))
    dy = graph.add_input("dy", DType.FLOAT32, slope)
    graph.outputs = [graph.emit("nnconv.GlobalMaxPoolGrad", source, dy)]
    feeds = {"x": x, "dy": np.arange(1, 1 + np.prod(slope), dtype=np.float32).reshape(slope)}
    want = np.zeros((shape[0] * shape[1], int(np.prod(shape[2:]))), np.float32)
    first = x.reshape(want.shape).argmax(1)
    want[np.arange(len(want)), first] = feeds["dy"].reshape(-1)
    same(results(Model(graph=graph), {**feeds, **more}), [want.reshape(shape)])


@pytest.mark.parametrize("op", ["ArgMax", "TopK"])
@pytest.mark.parametrize("shape", [(2, 50), (2, 5, 3)])
def test_cards_search_by_kernels_too(op: str, shape: tuple[int, ...]) -> None:
    x = few_values(shape)
    more, outputs = ((2,), 2) if op == "TopK" else ((), 1)
    planner = Planner("card")
    model = one_node(op, x, *more, outputs=outputs, axis=1)
    compile_model(model, device=planner).plan({"x": shape})
    assert not planner.host
