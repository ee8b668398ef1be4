"""Small models, built by hand, with the same numbers every time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnconv.schemas.dims import Symbolic
from nnconv.schemas.graph import Graph, LayerRecord, Model, State, Value
from nnconv.schemas.types import DType

N, H, W = (Symbolic.name(name) for name in "NHW")


def numbers(*shape: int, seed: int = 3) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Builder:
    """A graph to add layers to, each with its record and its parameters."""

    def __init__(self, name: str, *shape: Any, **sizes: int) -> None:
        self.graph = Graph(name)
        self.graph.sizes = sizes
        self.x: Value = self.graph.add_input("data", DType.FLOAT32, shape)

    def parameter(self, layer: str, *shapes: tuple[int, ...]) -> list[Value]:
        scales = [max(1, math.prod(shape[1:])) ** -0.5 for shape in shapes]
        return [
            self.graph.add_parameter(
                f"{layer}/{i}", shape, (numbers(*shape, seed=i) * scale).astype(np.float32)
            )
            for i, (shape, scale) in enumerate(zip(shapes, scales, strict=True))
        ]

    def add(self, layer: str, op: str, *shapes: tuple[int, ...], **attributes: Any) -> Builder:
        """Emit `op` over what came last and parameters of the given shapes; the result is called
        `layer`.
        """
        with self.graph.source(LayerRecord(layer, op)):
            parameters = self.parameter(layer, *shapes)
            self.x = self.graph.emit(op, self.x, *parameters, outputs=[layer], **attributes)
        return self

    def model(self) -> Model:
        self.graph.outputs = [self.x]
        return Model(self.graph)


def lenet() -> Model:
    net = Builder("lenet", N, 1, H, W, N=64, H=28, W=28)
    net.add("conv1", "Conv", (20, 1, 5, 5), (20,))
    net.add("pool1", "MaxPool", kernel_shape=(2, 2), strides=(2, 2), ceil_mode=1)
    net.add("conv2", "Conv", (50, 20, 5, 5), (50,))
    net.add("pool2", "MaxPool", kernel_shape=(2, 2), strides=(2, 2), ceil_mode=1)
    net.add("flat", "nnconv.Flatten")
    net.add("ip1@relu1", "Gemm", (500, 800), (500,), transB=1).add("ip1", "Relu")
    net.add("drop", "nnconv.Dropout")
    return net.add("ip2", "Gemm", (10, 500), (10,), transB=1).add("prob", "Softmax", axis=1).model()


def batch_norm_net() -> Model:
    """Conv, Caffe's BatchNorm with its three states, Scale as Mul and Add."""
    net = Builder("bn", N, 3, H, W, N=2, H=6, W=5)
    net.add("conv", "Conv", (4, 3, 3, 3))
    graph = net.graph
    starts = {
        "mean": numbers(4),
        "variance": np.abs(numbers(4)) + 1,
        "factor": np.array([2], np.float32),
    }
    state = [
        graph.add_parameter(f"bn/{i}", data.shape, data) for i, data in enumerate(starts.values())
    ]
    names = ["bn", *(f"bn/{i}@next" for i in range(3))]
    net.x, *nexts = graph.emit("nnconv.BatchNorm", net.x, *state, outputs=names)
    graph.state = [State(v.name, v, new) for v, new in zip(state, nexts, strict=True)]
    scale, shift = (
        graph.add_parameter(f"scale/{i}", (4, 1, 1), numbers(4, 1, 1)) for i in range(2)
    )
    net.x = net.x * scale + shift
    graph.rename(net.x, "scale")
    return net.add("out", "Relu").model()
