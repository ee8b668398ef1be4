"""Convolutions, products and pools of every rank run by kernels, and give what ONNX says.

The reference device in double precision is the measure; plans must hold no host step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Graph, Model, Value
from nnconv.schemas.types import DType

Array = np.ndarray[Any, Any]
some = settings(max_examples=25)


class Case:
    """A graph of one operator or two, and random feeds for its inputs."""

    def __init__(self) -> None:
        self.graph = Graph("case")
        self.random = np.random.default_rng(0)
        self.feeds: dict[str, Array] = {}

    def numbers(self, shape: tuple[int, ...]) -> Array:
        return self.random.standard_normal(shape).astype(np.float32)

    def input(self, *shape: int, ties: bool = False) -> Value:
        name = f"x{len(self.feeds)}"
        data = self.numbers(shape)
        self.feeds[name] = np.rint(data).astype(np.float32) if ties else data
        return self.graph.add_input(name, DType.FLOAT32, shape)

    def operand(self, shape: tuple[int, ...], stored: bool) -> Value:
        if not stored:
            return self.input(*shape)
        name = f"p{len(self.graph.values)}"
        return self.graph.add_parameter(name, shape, self.numbers(shape))

    def check(self, *outputs: Value, rel: float = 2e-6) -> list[str]:
        """Kernels agree with the reference, and with themselves on two threads."""
        self.graph.outputs = list(outputs)
        model = Model(graph=self.graph)
        wanted = compile_model(model, device="reference", precision="f64").run(self.feeds)
        runs = [compile_model(model, device="cpu", threads=threads) for threads in (1, 2)]
        given = {name: array.shape for name, array in self.feeds.items()}
        names = [step.kernel for step in runs[0].plan(given).steps]
        assert not any(name.startswith("reference") for name in names), names
        one, two = (run.run(self.feeds) for run in runs)
        for name, want in wanted.items():
            scale = max(float(np.abs(want).max(initial=0)), 1e-30)
            assert float(np.abs(one[name] - want).max(initial=0)) <= rel * scale, names
            assert one[name].tobytes() == two[name].tobytes()
        return names


def several(low: int, high: int, rank: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(low, high)] * rank)


@st.composite
def windows(draw: st.DrawFn, ranks: tuple[int, ...]) -> dict[str, Any]:
    """A batch, channels in groups, cells and a window over so many axes."""
    rank = draw(st.sampled_from(ranks))
    group = draw(st.sampled_from([1, 1, 2, 3, 16]))
    return {
        "group": group,
        "batch": draw(st.sampled_from([1, 3, 17])),
        "inputs": group * draw(st.sampled_from([1, 2, 5, 16] if group < 16 else [1])),
        "each": draw(st.sampled_from([1, 3, 16] if group < 16 else [1])),
        "cells": draw(several(1, 6, rank)),
        "kernel": draw(several(1, 4, rank)),
        "strides": draw(several(1, 3, rank)),
        "dilations": draw(several(1, 3, rank)),
        "pads": draw(several(0, 2, 2 * rank)),
        "stored": draw(st.booleans()),
    }


def settings_of(w: dict[str, Any]) -> dict[str, Any]:
    return {name: w[name] for name in ("group", "strides", "dilations", "pads")}


def fits(w: dict[str, Any]) -> bool:
    rank = len(w["cells"])
    ends = [a + b for a, b in zip(w["pads"][:rank], w["pads"][rank:], strict=True)]
    reach = [(k - 1) * d + 1 for k, d in zip(w["kernel"], w["dilations"], strict=True)]
    hanging = zip(w["cells"], ends, reach, w["strides"], strict=True)
    return all(r - n - e < s for n, e, r, s in hanging)


@some
@given(windows((0, 1, 2, 3, 4)))
def test_convolutions_and_their_gradients_take_any_number_of_axes(w: dict[str, Any]) -> None:
    assume(fits(w))
    case, more = Case(), settings_of(w)
    outputs = w["group"] * w["each"]
    shape = (outputs, w["inputs"] // w["group"], *w["kernel"])
    x = case.input(w["batch"], w["inputs"], *w["cells"])
    weights, bias = (case.operand(s, w["stored"]) for s in (shape, (outputs,)))
    y = case.graph.emit("Conv", x, weights, bias, **more)
    dy = case.input(*(int(str(dim)) for dim in y.known_shape))
    told = [case.graph.constant(list(map(int, s)), DType.INT64) for s in (x.known_shape, shape)]
    dx = case.graph.emit("nnconv.ConvGradData", dy, weights, told[0], **more)
    dw = case.graph.emit("nnconv.ConvGradWeights", x, dy, told[1], **more)
    case.check(case.graph.emit("Relu", y), dx, dw, rel=1e-5)


@some
@given(windows((1, 2, 2, 3)), st.booleans())
def test_transposed_convolutions_take_any_stride_and_dilation(
    w: dict[str, Any], overhang: bool
) -> None:
    rank = len(w["cells"])
    steps = list(zip(w["strides"], w["dilations"], strict=True))
    extra = tuple(max(pair) - 1 if overhang else 0 for pair in steps)
    axes = enumerate(zip(w["cells"], w["kernel"], steps, extra, strict=True))
    out = [
        s * (n - 1) + d * (k - 1) + 1 + more - w["pads"][i] - w["pads"][i + rank]
        for i, (n, k, (s, d), more) in axes
    ]
    assume(min(out) > 0)
    case = Case()
    x = case.input(w["batch"], w["inputs"], *w["cells"])
    weights = case.operand((w["inputs"], w["each"], *w["kernel"]), w["stored"])
    bias = case.operand((w["group"] * w["each"],), w["stored"])
    y = case.graph.emit("ConvTranspose", x, weights, bias, output_padding=extra, **settings_of(w))
    case.check(case.graph.emit("LeakyRelu", y, alpha=0.25), rel=5e-6)


@pytest.mark.parametrize(
    ("x", "weights", "group", "more"),
    [
        ((2, 32, 7, 7), (32, 20, 4, 4), 1, {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
        ((1, 21, 5, 6), (21, 21, 16, 16), 1, {"strides": (8, 8)}),
        ((2, 21, 5, 6), (21, 1, 16, 16), 21, {"strides": (8, 8), "pads": (4, 4, 4, 4)}),
        ((1, 48, 12, 12), (48, 32, 3, 3), 1, {"pads": (1, 1, 1, 1)}),
        ((1, 16, 6, 6), (16, 8, 1, 1), 1, {"strides": (3, 2)}),
        ((2, 3, 5, 5), (3, 8, 2, 2), 1, {"strides": (2, 2)}),
    ],
    ids=str,
)
def test_upsampling_adds_what_follows_in_the_same_kernels(
    x: tuple[int, ...], weights: tuple[int, ...], group: int, more: dict[str, Any]
) -> None:
    case = Case()
    w, bias = (case.operand(s, True) for s in (weights, (weights[1] * group,)))
    y = case.graph.emit("ConvTranspose", case.input(*x), w, bias, group=group, **more)
    other = case.input(*(int(str(dim)) for dim in y.known_shape))
    names = case.check(case.graph.emit("Relu", y + other), rel=2e-5)
    assert any("transposed" in name for name in names)
    assert not any("chain" in name for name in names)


@pytest.mark.parametrize(
    ("x", "weights", "group", "more"),
    [
        ((1, 32, 3, 4, 5), (32, 16, 2, 2, 2), 1, {"strides": (2, 2, 2)}),
        ((2, 5, 4, 3, 4), (5, 20, 4, 4, 4), 1, {"strides": (2, 2, 2), "pads": (1,) * 6}),
        ((1, 16, 4, 4, 4), (16, 8, 3, 3, 3), 1, {"pads": (1,) * 6}),
        ((1, 4, 5, 4, 3), (4, 6, 3, 2, 5), 1, {"strides": (1, 2, 3), "dilations": (2, 1, 2)}),
        ((2, 32, 2, 3, 3), (32, 1, 3, 3, 3), 32, {"strides": (2, 2, 2), "pads": (1,) * 6}),
        ((1, 64, 2, 3, 4), (64, 16, 2, 3, 2), 2, {"strides": (2,) * 3, "output_padding": (1,) * 3}),
        ((1, 3, 6, 6, 6), (3, 4, 3, 3, 3), 1, {"strides": (2, 1, 3), "pads": (2, 1, 2, 0, 2, 2)}),
    ],
    ids=str,
)  # fmt: skip
def test_volumes_are_upsampled_phase_by_phase(
    x: tuple[int, ...], weights: tuple[int, ...], group: int, more: dict[str, Any]
) -> None:
    case = Case()
    w, bias = (case.operand(s, True) for s in (weights, (weights[1] * group,)))
    y = case.graph.emit("ConvTranspose", case.input(*x), w, bias, group=group, **more)
    names = case.check(case.graph.emit("LeakyRelu", y, alpha=0.25), rel=5e-6)
    assert any("transposed volume" in name for name in names)


@some
@given(windows((1, 2, 3, 4)), st.booleans(), st.booleans(), st.sampled_from([1, 2, 3]))
def test_pools_and_their_gradients_take_any_number_of_axes(
    w: dict[str, Any], maximum: bool, forward: bool, flag: int
) -> None:
    kernel = w["kernel"]
    pads = tuple(min(p, k - 1) for p, k in zip(w["pads"], kernel * 2, strict=True))
    w = {**w, "pads": pads}
    assume(fits(w))
    case = Case()
    x = case.input(w["batch"], w["inputs"], *w["cells"], ties=True)
    more = {
        "kernel_shape": kernel, "strides": w["strides"], "pads": pads,
        "dilations": w["dilations"], "ceil_mode": flag % 2,
    }  # fmt: skip
    if not maximum:
        more["count_include_pad"] = flag // 2
    y = case.graph.emit("MaxPool" if maximum else "AveragePool", x, **more)
    dy = case.input(*(int(str(dim)) for dim in y.known_shape))
    if maximum:
        dx = case.graph.emit("nnconv.MaxPoolGrad", x, dy, **more)
    else:
        shape = case.graph.constant([int(str(d)) for d in x.known_shape], DType.INT64)
        dx = case.graph.emit("nnconv.AveragePoolGrad", dy, shape, **more)
    case.check(*([y, dx] if forward else [dx]))


# batch of a, batch of b
BATCHES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((), ()), ((4,), (4,)), ((3,), ()), ((), (5,)), ((2, 3), (2, 3)), ((2, 1), (3,)),
    ((2, 1, 3), (1, 4, 1)), ((1, 3), (2, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), BATCHES, ids=str)
@pytest.mark.parametrize("extent", [(1, 7, 5), (13, 64, 17), (40, 130, 70), (3, 1, 33)], ids=str)
def test_products_of_computed_matrices_broadcast_their_batches(
    left: tuple[int, ...], right: tuple[int, ...], extent: tuple[int, int, int]
) -> None:
    rows, inputs, columns = extent
    case = Case()
    a, b = case.input(*left, rows, inputs), case.input(*right, inputs, columns)
    names = case.check(case.graph.emit("Relu", case.graph.emit("MatMul", a, b)), rel=5e-6)
    assert any("product" in name for name in names)


@pytest.mark.parametrize(
    "shapes", [((9,), (9, 4)), ((6, 9), (9,)), ((9,), (9,)), ((2, 6, 9), (9,))]
)
def test_products_with_vectors(shapes: tuple[tuple[int, ...], ...]) -> None:
    case = Case()
    case.check(case.graph.emit("MatMul", *(case.input(*shape) for shape in shapes)))


@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("addend", [None, (), (1,), (70,), (50, 1), (50, 70), (1, 70)], ids=str)
def test_products_take_any_transposes_and_addends(
    turned: tuple[int, int], addend: tuple[int, ...] | None
) -> None:
    case, shapes = Case(), [(50, 37), (37, 70)]
    a, b = (case.input(*(s[::-1] if t else s)) for s, t in zip(shapes, turned, strict=True))
    c = [] if addend is None else [case.input(*addend)]
    more: dict[str, Any] = {"alpha": 0.5, "beta": 2.0, "transA": turned[0], "transB": turned[1]}
    case.check(case.graph.emit("Gemm", a, b, *c, **more), rel=5e-6)


def test_layers_over_three_axes_follow_each_other_without_plain_values_in_between() -> None:
    case = Case()
    x = case.input(2, 3, 5, 6, 7)
    for inputs, outputs in ((3, 32), (32, 16)):
        weights = case.operand((outputs, inputs, 3, 3, 3), True)
        x = case.graph.emit("Relu", case.graph.emit("Conv", x, weights, pads=(1,) * 6))
    names = case.check(case.graph.emit("MaxPool", x, kernel_shape=(2, 2, 2)), rel=5e-6)
    assert [name.split()[0] for name in names].count("cpu:reorder") == 1


@pytest.mark.parametrize("a_shape", [(1, 2, 7, 8), (3, 40, 8), (7, 8)], ids=str)
@pytest.mark.parametrize(
    ("op", "factor", "turned", "fused"),
    [
        ("Mul", 0.3, False, True),
        ("Mul", -2.5, True, True),
        ("Div", 8.0, False, True),
        ("Div", 3.0, False, False),
        ("Div", 8.0, True, False),
    ],
)
def test_products_are_scaled_where_they_are_stored(
    a_shape: tuple[int, ...], op: str, factor: float, turned: bool, fused: bool
) -> None:
    case = Case()
    product = case.graph.emit("MatMul", case.input(*a_shape), case.input(*a_shape[:-2], 8, 20))
    number = case.graph.add_parameter("scale", (1,), np.full(1, factor, np.float32))
    y = case.graph.emit(op, *((number, product) if turned else (product, number)))
    names = case.check(y, rel=2e-5 if op == "Mul" or not turned else 1e-2)
    assert any("chain" in name for name in names) is not fused
