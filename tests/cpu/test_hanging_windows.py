"""Windows that are larger than the padded input by less than the stride have one place, and those
that hold no number at all have no maximum: the same answer on every device.

Convolutions are measured by their sum written out (Caffe's sizes, conv_layer.cpp: C's division),
pools by ONNX Runtime, which refuses such convolutions only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.autodiff import gradients
from nnconv.runtime.executor import compile_model
from nnconv.schemas.dims_text import parse
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import Graph, Model, Value
from nnconv.schemas.types import DType
from tests.cpu.test_order import FORMS, Array, in_form, in_onnxruntime, one_node

LEAST = np.finfo(np.float32).min
DEVICES = ("reference", "cpu")
Sizes = tuple[int, ...]

# x, weights, strides, dilations, pads
CONVOLUTIONS: list[tuple[Sizes, Sizes, Sizes, Sizes, Sizes]] = [
    ((2, 3, 2), (4, 3, 3), (2,), (1,), (0, 0)),
    ((1, 16, 1), (16, 16, 5), (5,), (1,), (0, 1)),
    ((2, 16, 5, 2), (20, 16, 3, 3), (1, 2), (1, 1), (0, 0, 0, 0)),
    ((18, 16, 2, 2), (20, 16, 5, 5), (4, 4), (1, 1), (0, 0, 0, 0)),
    ((2, 3, 2, 4), (4, 3, 3, 3), (3, 2), (2, 1), (1, 0, 0, 0)),
    ((2, 1, 17, 1, 3), (1, 1, 2, 3, 2), (3, 2, 1), (1, 1, 2), (1, 0, 1, 1, 1, 0)),
    ((2, 16, 2, 5, 6), (16, 16, 3, 3, 3), (3, 2, 2), (2, 1, 1), (1, 0, 0, 0, 0, 0)),
    ((2, 3, 0, 4), (4, 3, 3, 3), (2, 2), (1, 1), (1, 0, 1, 0)),
]


def written_out(x: Array, w: Array, strides: Sizes, dilations: Sizes, pads: Sizes) -> Array:
    """The sum over the cells of each window that lie in x; int() cuts towards zero."""
    rank = x.ndim - 2
    axes = zip(x.shape[2:], w.shape[2:], strides, dilations, pads[:rank], pads[rank:], strict=True)
    out = [int((n + a + b - (d * (k - 1) + 1)) / s) + 1 for n, k, s, d, a, b in axes]
    y = np.zeros((x.shape[0], w.shape[0], *out))
    for place in np.ndindex(*out):
        for tap in np.ndindex(*w.shape[2:]):
            cell = np.multiply(place, strides) + np.multiply(tap, dilations) - pads[:rank]
            if (cell >= 0).all() and (cell < x.shape[2:]).all():
                part = x[(..., *cell)].astype(np.float64) @ w[(..., *tap)].T.astype(np.float64)
                y[(..., *place)] += part
    return y


def convolution(case: Any, stored: bool) -> tuple[Graph, Value, list[Value], dict[str, Array]]:
    shape, weights, strides, dilations, pads = case
    random, graph = np.random.default_rng(3), Graph("hanging")
    feeds = {
        "x": random.standard_normal(shape).astype(np.float32),
        "w": random.standard_normal(weights).astype(np.float32),
    }
    x = graph.add_input("x", DType.FLOAT32, shape)
    w = graph.add_parameter("w", weights, feeds["w"]) if stored else None
    w = w or graph.add_input("w", DType.FLOAT32, weights)
    y = graph.emit("Conv", x, w, strides=strides, dilations=dilations, pads=pads)
    return graph, y, [x, w], feeds


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_a_convolution_reads_zeros_where_its_window_hangs_over(
    case: Any, stored: bool, device: Any
) -> None:
    graph, y, _, feeds = convolution(case, stored)
    graph.outputs, want = [y], written_out(feeds["x"], feeds["w"], *case[2:])
    given = {"x": feeds["x"]} if stored else feeds
    (got,) = compile_model(Model(graph=graph), device=device).run(given).values()
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_gradients_of_a_hanging_convolution_are_its_adjoints(case: Any, device: Any) -> None:
    """<dy, conv(x', w)> = <dx, x'> for any x', and so for w."""
    graph, y, moving, feeds = convolution(case, stored=False)
    random = np.random.default_rng(4)
    sizes = tuple(int(str(size)) for size in y.known_shape)
    feeds["dy"] = random.standard_normal(sizes).astype(np.float32)
    slope = graph.add_input("dy", DType.FLOAT32, sizes)
    graph.outputs = list(gradients(graph, {y: slope}, moving).values())
    dx, dw = compile_model(Model(graph=graph), device=device).run(feeds).values()
    assert (dx.shape, dw.shape) == (case[0], case[1])
    x, w = (random.standard_normal(shape).astype(np.float32) for shape in case[:2])
    for made, (a, b) in ((dx * x, (x, feeds["w"])), (dw * w, (feeds["x"], w))):
        want = float((feeds["dy"] * written_out(a, b, *case[2:])).sum())
        assert float(made.sum(dtype=np.float64)) == pytest.approx(want, rel=1e-4, abs=1e-3)


POOLS: list[tuple[Sizes, dict[str, Any]]] = [
    ((2, 3, 2), {"kernel_shape": (3,), "strides": (2,)}),
    ((2, 3, 2), {"kernel_shape": (4,), "strides": (3,)}),
    ((2, 17, 5, 2), {"kernel_shape": (2, 3), "strides": (1, 2)}),
    ((2, 3, 1, 6), {"kernel_shape": (4, 2), "strides": (3, 2), "pads": (1, 0, 0, 1)}),
    ((2, 3, 2, 5, 6), {"kernel_shape": (3, 2, 2), "strides": (2, 2, 3)}),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_a_pool_takes_what_there_is_of_a_window_that_hangs_over(
    case: tuple[Sizes, dict[str, Any]], op: str, ceil_mode: int, device: Any
) -> None:
    shape, settings = case[0], case[1] | {"ceil_mode": ceil_mode}
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    (want,) = in_onnxruntime(op, x, 1, **settings)
    (got,) = compile_model(one_node(op, x, **settings), device=device).run({"x": x}).values()
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool"])
@pytest.mark.parametrize(("size", "stride"), [(2, 1), (1, 1), (1, 2), (0, 3), (0, 1)])
def test_a_window_that_is_larger_by_a_stride_is_refused(op: str, size: int, stride: int) -> None:
    graph = Graph("large")
    x = graph.add_input("x", DType.FLOAT32, (1, 1, parse("n")))
    weights = [graph.constant(np.ones((1, 1, 3), np.float32))] if op == "Conv" else []
    graph.outputs = [graph.emit(op, x, *weights, kernel_shape=(3,), strides=(stride,))]
    for device in DEVICES:
        executable = compile_model(Model(graph=graph), device=device)
        with pytest.raises(InputError, match=f"{op} '.*': a window of 3 does not fit into {size}"):
            executable.run({"x": np.ones((1, 1, size), np.float32)})


NOTHING = [np.nan, -np.inf]


def with_nothing(shape: Sizes) -> Array:
    """Two rows in three hold no number; the others one here and there."""
    random = np.random.default_rng(6)
    x = random.choice(np.array([*NOTHING, -1, 2], np.float32), shape)
    x[:, :, :4] = random.choice(np.array(NOTHING, np.float32), x[:, :, :4].shape)
    return x


def maxima(x: Array, side: int) -> Array:
    """The largest number of each window side by side, but -FLT_MAX at least (pooling_layer.cpp)."""
    n, c, h, w = x.shape
    cells = np.where(x > LEAST, x, LEAST).reshape(n, c, h // side, side, w // side, side)
    return np.asarray(cells.max(axis=(3, 5)))


def pooled(op: str, with_gradient: bool, x: Array) -> tuple[Model, dict[str, Array]]:
    """Windows side by side, and a gradient of ones through them."""
    graph, mode = Graph("nothing"), {"mode": "MAX"} if op == "nnconv.Pool" else {}
    source = graph.add_input("x", DType.FLOAT32, x.shape)
    y = graph.emit(op, source, kernel_shape=(2, 2), strides=(2, 2), **mode)
    graph.outputs = [y]
    if not with_gradient:
        return Model(graph=graph), {"x": x}
    slope = np.ones((*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2), np.float32)
    dy = graph.add_input("dy", DType.FLOAT32, slope.shape)
    graph.outputs += gradients(graph, {y: dy}, [source]).values()
    return Model(graph=graph), {"x": x, "dy": slope}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("op", ["MaxPool", "nnconv.Pool"])
def test_windows_of_nothing_but_nan_and_minus_infinity_have_caffes_maximum(
    op: str, with_gradient: bool, device: Any
) -> None:
    x = with_nothing((18, 5, 6, 4))
    want = maxima(x, 2)
    assert (want == LEAST).any() and (want > LEAST).any()
    model, feeds = pooled(op, with_gradient, x)
    best, *more = compile_model(model, device=device).run(feeds).values()
    np.testing.assert_array_equal(best, want)
    for dx in more:
        assert dx.sum() == (want > LEAST).sum()
        assert not dx[~(x > LEAST)].any()


@pytest.mark.parametrize("device", DEVICES)
def test_such_windows_have_no_place(device: Any) -> None:
    x = with_nothing((18, 5, 6, 4))
    model = one_node("MaxPool", x, outputs=2, kernel_shape=(2, 2), strides=(2, 2))
    best, places = compile_model(model, device=device).run({"x": x}).values()
    want = maxima(x, 2)
    np.testing.assert_array_equal(best, want)
    np.testing.assert_array_equal(places < 0, want == LEAST)
    np.testing.assert_array_equal(x.reshape(-1)[places[want > LEAST]], want[want > LEAST])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 16, 9), (2, 3, 6, 9), (1, 3, 3, 6, 9)])
@pytest.mark.parametrize("bad", [*NOTHING, np.inf])
def test_a_maximum_of_no_number_is_what_onnxruntime_gives(
    bad: float, shape: Sizes, device: Any
) -> None:
    """Over two axes its answer depends on strides and channels: of these it is Caffe's."""
    x, rank = np.full(shape, bad, np.float32), len(shape) - 2
    settings: dict[str, Any] = {"kernel_shape": (3,) * rank, "strides": (3,) * rank}
    (want,) = in_onnxruntime("MaxPool", x, 1, **settings)
    model = one_node("MaxPool", x, **settings)
    (got,) = compile_model(model, device=device).run({"x": x}).values()
    np.testing.assert_array_equal(got, want)


def caffes_mask(form: str, x: Array) -> tuple[Model, dict[str, Array]]:
    graph = Graph("mask")
    source, more = in_form(
        graph, graph.add_input("x", DType.FLOAT32, x.shape), form, x.shape[1]
    )  # fmt: skip
    y, places = graph.emit("MaxPool", source, outputs=2, kernel_shape=(2, 2), strides=(2, 2))
    plane = graph.constant(np.int64(x.shape[2] * x.shape[3]))
    mask = graph.emit("Cast", graph.emit("Mod", places, plane, fmod=1), to=int(DType.FLOAT32))
    graph.outputs = [y, mask]
    return Model(graph=graph), {"x": x, **more}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
def test_the_mask_of_a_window_of_no_number_is_minus_1(form: str, device: Any) -> None:
    x = with_nothing((18, 1, 6, 4))  # one channel: an identity adds no NaN to others
    model, feeds = caffes_mask(form, x)
    best, mask = compile_model(model, device=device).run(feeds).values()
    want = maxima(x, 2)
    np.testing.assert_array_equal(best, want)
    np.testing.assert_array_equal(mask == -1, want == LEAST)
    assert set(mask.reshape(-1)) <= set(range(-1, 24))
