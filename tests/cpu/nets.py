"""Small random nets of everything the cpu device claims, made from a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnconv.schemas.graph import Graph, Model, Value
from nnconv.schemas.types import DType

Array = np.ndarray[Any, Any]


class Net:
    """A graph that grows by random layers; `values` are the images made so far."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.graph = Graph(f"net {seed}")
        sizes = tuple(int(n) for n in self.random.integers((1, 1, 4, 4), (6, 40, 20, 20)))
        self.shape = sizes
        self.values = [self.graph.add_input("x", DType.FLOAT32, sizes)]

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def parameter(self, *shape: int) -> Value:
        scale = 1 / np.sqrt(max(1, int(np.prod(shape[1:]))))
        data = (self.random.standard_normal(shape) * scale).astype(np.float32)
        return self.graph.add_parameter(f"p{len(self.graph.values)}", shape, data)

    def emit(self, op: str, *inputs: Value | None, **attributes: Any) -> Value:
        value: Value = self.graph.emit(op, *inputs, **attributes)
        return value

    def image(self) -> Value:
        """One of the last values, so that nets grow deep and still branch."""
        return self.values[-1 - min(int(self.random.geometric(0.7)) - 1, len(self.values) - 1)]

    def grow(self) -> None:
        layer = LAYERS[int(self.random.integers(len(LAYERS)))]
        made = layer(self, self.image())
        if made is not None:
            self.values.append(made)


def sizes(value: Value) -> tuple[int, ...]:
    return tuple(int(str(dim)) for dim in value.known_shape)


def _conv(net: Net, x: Value) -> Value | None:
    _, channels, height, width = sizes(x)
    kernel = int(net.pick(1, 1, 3, 3, 3, 5, 7))
    dilation = int(net.pick(1, 1, 1, 2))
    reach = (kernel - 1) * dilation + 1
    pad = int(net.random.integers(0, reach // 2 + 2))
    if min(height, width) + 2 * pad < reach:
        return None
    group = int(net.pick(*(g for g in (1, 1, 2, 3, channels) if channels % g == 0)))
    outputs = group * int(net.pick(1, 1, 3, 8, 16, 20)) if group > 1 else int(net.pick(5, 16, 33))
    bias = [net.parameter(outputs)] if net.random.random() < 0.7 else []
    weights = net.parameter(outputs, channels // group, kernel, kernel)
    stride = int(net.pick(1, 1, 2, 3))
    return net.emit(
        "Conv", x, weights, *bias, group=group, pads=(pad, pad, pad, pad),
        strides=(stride, stride), dilations=(dilation, dilation),
    )  # fmt: skip


def _pool(net: Net, x: Value) -> Value | None:
    kernel = int(net.pick(2, 3))
    pad = int(net.random.integers(0, kernel // 2 + 1))
    if min(sizes(x)[2:]) + 2 * pad < kernel:
        return None
    op = net.pick("MaxPool", "AveragePool")
    more = {"count_include_pad": int(net.pick(0, 1))} if op == "AveragePool" else {}
    return net.emit(
        op, x, kernel_shape=(kernel, kernel), strides=(int(net.pick(1, 2)),) * 2,
        pads=(pad,) * 4, ceil_mode=int(net.pick(0, 1)), **more,
    )  # fmt: skip


def _unary(net: Net, x: Value) -> Value:
    return net.emit(str(net.pick("Relu", "Sigmoid", "Tanh", "HardSwish", "Elu")), x)


def _leaky(net: Net, x: Value) -> Value:
    return net.emit("LeakyRelu", x, alpha=0.1)


def _clip(net: Net, x: Value) -> Value:
    low, high = (net.graph.constant(np.float32(n)) for n in (-0.5, 0.75))
    return net.emit("Clip", x, low, high)


def _scale(net: Net, x: Value) -> Value:
    channels = sizes(x)[1]
    shape = net.pick((1, channels, 1, 1), (channels, 1, 1), (1,), sizes(x)[2:])
    return net.emit(str(net.pick("Mul", "Add", "Sub")), x, net.parameter(*shape))


def _combine(net: Net, x: Value) -> Value:
    same = [value for value in net.values if sizes(value) == sizes(x)]
    return net.emit(str(net.pick("Add", "Add", "Mul", "Max")), x, net.pick(*same))


def _concat(net: Net, x: Value) -> Value:
    fits = [v for v in net.values if (sizes(v)[0], *sizes(v)[2:]) == (sizes(x)[0], *sizes(x)[2:])]
    members = [net.pick(*fits) for _ in range(int(net.random.integers(1, 4)))]
    if sum(sizes(value)[1] for value in members) > 120:
        return net.emit("Relu", x)
    return net.emit("Concat", x, *members, axis=1)


def _lrn(net: Net, x: Value) -> Value:
    return net.emit("LRN", x, size=int(net.pick(3, 5)), alpha=0.5, beta=0.75, bias=1.0)


def _squeeze_and_excite(net: Net, x: Value) -> Value:
    mean = net.emit("GlobalAveragePool", x)
    return x * net.emit("Sigmoid", mean)


def _reference_only(net: Net, x: Value) -> Value:
    """Something no kernel claims, so that plans change between kernels and numpy."""
    return net.emit("Sin", x)


LAYERS: tuple[Callable[[Net, Value], Value | None], ...] = (
    _conv, _conv, _conv, _conv, _pool, _unary, _leaky, _clip, _scale, _combine, _combine, _concat,
    _lrn, _squeeze_and_excite, _reference_only,
)  # fmt: skip


def random_model(seed: int, layers: int = 10) -> tuple[Model, Array]:
    """A model and an input for it; its outputs are a classifier's and one image in the middle."""
    net = Net(seed)
    for _ in range(layers):
        net.grow()
    last = net.values[-1]
    flat = net.emit("Flatten", last, axis=1)
    count = sizes(flat)[1]
    scores = net.emit("Gemm", flat, net.parameter(10, count), net.parameter(10), transB=1)
    net.graph.outputs = [net.emit("Softmax", scores, axis=1), scores, net.image()]
    net.graph.outputs = list(dict.fromkeys(net.graph.outputs))
    x = net.random.standard_normal(net.shape).astype(np.float32)
    return Model(graph=net.graph), x
