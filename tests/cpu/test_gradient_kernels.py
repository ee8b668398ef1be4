"""Every gradient operator that the cpu device claims, against the reference device in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType

Array = np.ndarray[Any, Any]
BATCHES = (1, 16, 37)


def single(
    op: str, *shapes: tuple[int, ...], sizes: tuple[int, ...] = (), **settings: Any
) -> Model:
    """One node whose operands are all inputs, so that no weight is stored; `sizes` is what a
    gradient operator is told of the shape of its result."""
    graph = Graph(op)
    values = [graph.add_input(f"x{i}", DType.FLOAT32, shape) for i, shape in enumerate(shapes)]
    told = [graph.constant(list(sizes), DType.INT64)] if sizes else []
    graph.outputs = [graph.emit(op, *values, *told, **settings)]
    return Model(graph=graph)


def agree(model: Model, feeds: dict[str, Array], *, kernel: str, rel: float = 2e-6) -> None:
    """The claimed kernel's results equal the reference's, and themselves on two threads."""
    wanted = compile_model(model, device="reference", precision="f64").run(feeds)
    runs = [compile_model(model, device="cpu", threads=threads) for threads in (1, 2)]
    names = [step.kernel for step in runs[0].plan(shapes(feeds)).steps]
    assert any(kernel in name for name in names), names
    one, two = (run.run(feeds) for run in runs)
    for name, want in wanted.items():
        scale = max(float(np.abs(want).max(initial=0)), 1e-30)
        assert float(np.abs(one[name] - want).max(initial=0)) <= rel * scale, name
        assert one[name].tobytes() == two[name].tobytes()


def shapes(feeds: dict[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in feeds.items()}


def numbers(*sizes: tuple[int, ...], seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {f"x{i}": rng.standard_normal(s).astype(np.float32) for i, s in enumerate(sizes)}


# input, outputs, kernel, settings
CONVOLUTIONS: list[tuple[tuple[int, int, int], int, tuple[int, int], dict[str, Any]]] = [
    ((1, 12, 12), 5, (5, 5), {}),
    ((7, 9, 10), 11, (3, 3), {"pads": (1, 1, 1, 1)}),
    ((6, 8, 7), 4, (3, 2), {"pads": (2, 0, 1, 1), "strides": (2, 1)}),
    ((4, 11, 9), 6, (3, 3), {"dilations": (2, 2), "pads": (2, 2, 2, 2)}),
    ((5, 10, 9), 3, (2, 4), {"strides": (3, 2)}),
    ((8, 7, 7), 12, (3, 3), {"group": 4, "pads": (1, 1, 1, 1)}),
    ((6, 6, 6), 6, (3, 3), {"group": 6}),
    ((13, 5, 4), 17, (1, 1), {}),
    ((3, 20, 20), 4, (11, 11), {"strides": (4, 4), "pads": (2, 2, 2, 2)}),
]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("x", "outputs", "kernel", "settings"), CONVOLUTIONS, ids=str)
def test_convolutions_with_changing_weights(
    batch: int, x: tuple[int, int, int], outputs: int, kernel: tuple[int, int],
    settings: dict[str, Any],
) -> None:  # fmt: skip
    source = (batch, *x)
    weights = (outputs, x[0] // settings.get("group", 1), *kernel)
    forward = single("Conv", source, weights, (outputs,), **settings)
    agree(forward, numbers(source, weights, (outputs,)), kernel="sample conv ")
    shape = forward.graph.outputs[0].shape
    assert shape is not None
    slope = tuple(int(str(dim)) for dim in shape)
    data = single("nnconv.ConvGradData", slope, weights, sizes=source, **settings)
    agree(data, numbers(slope, weights), kernel="sample conv data")
    dw = single("nnconv.ConvGradWeights", source, slope, sizes=weights, **settings)
    agree(dw, numbers(source, slope), kernel="sample conv weights", rel=1e-5)


@pytest.mark.parametrize("samples", [1, 5, 16, 50])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 10), (50, 7), (33, 48), (100, 1)])
def test_dense_layers_with_changing_weights(samples: int, inputs: int, outputs: int) -> None:
    x, y = (samples, inputs), (samples, outputs)
    rows, columns = (outputs, inputs), (inputs, outputs)
    cases: list[tuple[tuple[tuple[int, ...], ...], dict[str, Any], str]] = [
        ((x, rows, (outputs,)), {"transB": 1, "beta": 0.5}, "sample gemm "),
        ((x, columns, (1,)), {"alpha": 2.0}, "sample gemm "),
        ((y, rows), {}, "sample gemm "),
        ((y, x), {"transA": 1}, "sample gemm weights"),
        ((x, y), {"transA": 1, "alpha": 0.25}, "sample gemm weights"),
    ]
    for operands, settings, kernel in cases:
        agree(single("Gemm", *operands, **settings), numbers(*operands), kernel=kernel)


# size, kernel, settings
WINDOWS: list[tuple[tuple[int, int], tuple[int, int], dict[str, Any]]] = [
    ((8, 8), (2, 2), {"strides": (2, 2)}),
    ((7, 9), (2, 2), {"strides": (2, 2), "ceil_mode": 1}),
    ((9, 8), (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((6, 7), (3, 2), {"pads": (1, 0, 1, 1)}),
    ((8, 8), (2, 3), {"strides": (3, 3)}),
]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("size", "kernel", "settings"), WINDOWS, ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pooling_sends_gradients_to_the_first_of_the_largest(
    batch: int, size: tuple[int, int], kernel: tuple[int, int], settings: dict[str, Any], ties: bool
) -> None:
    graph = Graph("pool")
    x = graph.add_input("x0", DType.FLOAT32, (batch, 3, *size))
    y = graph.emit("MaxPool", x, kernel_shape=kernel, **settings)
    slope = tuple(int(str(dim)) for dim in y.known_shape)
    dy = graph.add_input("x1", DType.FLOAT32, slope)
    dx = graph.emit("nnconv.MaxPoolGrad", x, dy, kernel_shape=kernel, **settings)
    graph.outputs = [y, dx]
    feeds = numbers((batch, 3, *size), slope)
    if ties:
        feeds["x0"] = np.sign(feeds["x0"])
    agree(Model(graph=graph), feeds, kernel="sample max pool gradient")


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("size", "kernel", "settings"), WINDOWS, ids=str)
@pytest.mark.parametrize("counted", [0, 1])
def test_gradients_of_means_over_windows(
    batch: int, size: tuple[int, int], kernel: tuple[int, int], settings: dict[str, Any],
    counted: int,
) -> None:  # fmt: skip
    settings = {**settings, "kernel_shape": kernel, "count_include_pad": counted}
    x = (batch, 4, *size)
    shape = single("AveragePool", x, **settings).graph.outputs[0].known_shape
    slope = tuple(int(str(dim)) for dim in shape)
    model = single("nnconv.AveragePoolGrad", slope, sizes=x, **settings)
    agree(model, numbers(slope), kernel="sample average pool gradient")


POOLS = [
    ("MAX", (2, 2), (2, 2), ()),
    ("MAX", (3, 3), (2, 2), (1, 1, 1, 1)),
    ("AVE", (3, 3), (2, 2), (1, 1, 1, 1)),
    ("AVE", (2, 2), (2, 2), ()),
]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("mode", "kernel", "strides", "pads"), POOLS)
def test_pooling_as_caffe_does_it_and_its_gradient(
    batch: int, mode: str, kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, ...]
) -> None:
    settings: dict[str, Any] = {"mode": mode, "kernel_shape": kernel, "strides": strides}
    settings["pads"] = pads
    graph = Graph("pool")
    x = graph.add_input("x0", DType.FLOAT32, (batch, 3, 7, 7))
    y = graph.emit("nnconv.Pool", x, **settings)
    slope = tuple(int(str(dim)) for dim in y.known_shape)
    dy = graph.add_input("x1", DType.FLOAT32, slope)
    graph.outputs = [y, graph.emit("nnconv.PoolGrad", x, dy, **settings)]
    agree(Model(graph=graph), numbers((batch, 3, 7, 7), slope), kernel="pool gradient")


@pytest.mark.parametrize("batch", [1, 16, 21])
@pytest.mark.parametrize("pixels", [(), (2, 3)])
@pytest.mark.parametrize("ignore", [None, 2])
@pytest.mark.parametrize("normalization", ["VALID", "FULL", "BATCH_SIZE", "NONE"])
@pytest.mark.parametrize("labels", [DType.FLOAT32, DType.INT64])
@pytest.mark.parametrize("kernel", ["cpu:softmax loss", "cpu:sample softmax loss"])
def test_softmax_loss_and_its_gradient(
    batch: int, pixels: tuple[int, ...], ignore: int | None, normalization: str, labels: DType,
    kernel: str,
) -> None:  # fmt: skip
    shape = (batch, 7, *(pixels or (1, 1)))
    graph, x = in_lanes(*shape)
    if "sample" not in kernel:
        graph = Graph("loss")
        x = graph.add_input("x0", DType.FLOAT32, (batch, 7, *pixels))
    label = graph.add_input("label", labels, (batch, *pixels))
    dy = graph.add_input("dy", DType.FLOAT32, ())
    settings: dict[str, Any] = {"normalization": normalization}
    if ignore is not None:
        settings["ignore_label"] = ignore
    loss = graph.emit("nnconv.SoftmaxWithLoss", x, label, **settings)
    graph.outputs = [loss, graph.emit("nnconv.SoftmaxWithLossGrad", x, label, dy, **settings)]
    feeds = {"dy": np.asarray(0.7, np.float32), "x0": numbers(shape)["x0"].reshape(x.known_shape)}
    if "sample" in kernel:
        feeds |= {"x1": np.ones((7, 1, 1, 1), np.float32)}
    rng = np.random.default_rng(1)
    feeds["label"] = rng.integers(0, 7, (batch, *pixels)).astype(labels.numpy)
    agree(Model(graph=graph), feeds, kernel=kernel)
    agree(Model(graph=graph), feeds, kernel=f"{kernel} gradient")


def test_a_label_that_is_no_class_makes_the_loss_nan() -> None:
    model = single("nnconv.SoftmaxWithLoss", (3, 5), (3,))
    feeds = numbers((3, 5)) | {"x1": np.array([0, 5, 1], np.float32)}
    assert np.isnan(compile_model(model, device="cpu")(**feeds))


def in_lanes(*shape: int) -> tuple[Graph, Any]:
    """A graph with a value whose samples are in lanes: the result of a convolution by ones."""
    graph = Graph("chain")
    x = graph.add_input("x0", DType.FLOAT32, shape)
    w = graph.add_input("x1", DType.FLOAT32, (shape[1], 1, 1, 1))
    return graph, graph.emit("Conv", x, w, group=shape[1])


@pytest.mark.parametrize("batch", BATCHES)
def test_chains_over_samples_broadcast_and_choose(batch: int) -> None:
    graph, x = in_lanes(batch, 5, 3, 4)
    scale = graph.add_input("x2", DType.FLOAT32, (1, 5, 1, 1))
    shift = graph.constant(np.arange(4, dtype=np.float32), DType.FLOAT32)
    each = graph.add_input("x3", DType.FLOAT32, (batch, 1, 3, 1))
    other = graph.add_input("x4", DType.FLOAT32, (batch, 5, 3, 4))
    y = (x * scale + shift) * each
    above = graph.emit("Greater", y, other)
    inside = graph.emit("And", above, graph.emit("Less", x, graph.constant(1.0, DType.FLOAT32)))
    first = graph.emit("Where", inside, y, x)
    graph.outputs = [y, first, graph.emit("Where", above, other, first)]
    given = ((batch, 5, 3, 4), (5, 1, 1, 1), (1, 5, 1, 1), (batch, 1, 3, 1), (batch, 5, 3, 4))
    agree(Model(graph=graph), numbers(*given), kernel="chain")


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("keep", [(5, 12), (20, 3), (3, 5, 4), (60,)])
def test_features_of_samples_are_seen_under_another_shape(
    batch: int, keep: tuple[int, ...]
) -> None:
    graph, x = in_lanes(batch, 5, 3, 4)
    y = graph.emit("Reshape", x, graph.constant([batch, *keep], DType.INT64))
    graph.outputs = [graph.emit("Relu", y), graph.emit("Neg", y)]
    agree(Model(graph=graph), numbers((batch, 5, 3, 4), (5, 1, 1, 1)), kernel="view")


@pytest.mark.parametrize("batch", BATCHES)
def test_sums_over_samples_leave_empty_lanes_out(batch: int) -> None:
    graph, x = in_lanes(batch, 5, 3, 4)
    y = graph.emit("Log", x * x)  # -inf in lanes without a sample
    graph.outputs = [graph.emit("ReduceSum", y, graph.constant([0, 2, 3], DType.INT64), keepdims=0)]
    model = Model(graph=graph)
    agree(model, numbers((batch, 5, 3, 4), (5, 1, 1, 1)), kernel="sample sum", rel=1e-5)


@pytest.mark.parametrize("batch", BATCHES)
def test_blocks_and_samples_pass_values_to_each_other(batch: int) -> None:
    """A convolution with stored weights is blocked, one with changing weights has samples in
    lanes."""
    graph = Graph("both")
    x = graph.add_input("x0", DType.FLOAT32, (batch, 20, 6, 6))
    w = graph.add_input("x1", DType.FLOAT32, (20, 20, 3, 3))
    stored = graph.constant(numbers((20, 20, 3, 3), seed=3)["x0"], DType.FLOAT32)
    first = graph.emit("Conv", x, stored, pads=(1, 1, 1, 1))
    second = graph.emit("Conv", first, w, pads=(1, 1, 1, 1))
    graph.outputs = [first, graph.emit("Conv", second + first, stored)]
    agree(
        Model(graph=graph), numbers((batch, 20, 6, 6), (20, 20, 3, 3)), kernel="sample conv",
        rel=2e-5,
    )  # fmt: skip
