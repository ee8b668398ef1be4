"""A tiny net and tiny data for tests of the loop: fast enough to be trained dozens of times."""

from __future__ import annotations

import numpy as np

from nnconv.runtime import data
from nnconv.schemas.dims import Symbolic
from nnconv.schemas.graph import Graph, Model, Parameter
from nnconv.schemas.types import DType


def tiny_net(dropout: bool = True, rate: float = 1.0) -> Model:
    """6 -> 8 -> 3 with ReLU, Dropout and Softmax; weights by a fixed generator."""
    random = np.random.default_rng(11)
    graph = Graph("tiny")
    x = graph.add_input("data", DType.FLOAT32, (Symbolic.name("N"), 6))
    for layer, (inputs, outputs) in enumerate([(6, 8), (8, 3)], 1):
        shape = (outputs, inputs)
        weights = random.normal(0, 0.5, shape).astype(np.float32)
        w = graph.add_parameter(f"ip{layer}/0", shape, weights, parameter=Parameter(rate))
        b = graph.add_parameter(f"ip{layer}/1", (outputs,), np.zeros(outputs, np.float32))
        x = graph.emit("Gemm", x, w, b, transB=1, outputs=[f"ip{layer}"])
        if layer == 1:
            x = graph.emit("Relu", x)
            x = graph.emit("nnconv.Dropout", x, ratio=0.3) if dropout else x
    graph.outputs = [graph.emit("Softmax", x, axis=1, outputs=["prob"])]
    return Model(graph)


def two_headed_net() -> Model:
    """`tiny_net` whose hidden layer is an output too, `ip1`."""
    model = tiny_net(dropout=False)
    model.graph.outputs.append(model.graph.values["ip1"])
    return model


def clusters(count: int = 90, seed: int = 5) -> data.ArrayDataset:
    """Three clouds of points in six dimensions, by class."""
    random = np.random.default_rng(seed)
    label = np.arange(count) % 3
    centres = np.random.default_rng(1).normal(0, 3, (3, 6))
    points = centres[label] + random.normal(0, 1, (count, 6))
    return data.arrays(data=points.astype(np.float32), label=label)
