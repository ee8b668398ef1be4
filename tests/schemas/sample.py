"""A small model with something of everything that a model can hold."""

from __future__ import annotations

import numpy as np

from nnconv.schemas.dims import Symbolic
from nnconv.schemas.errors import SourceSpan
from nnconv.schemas.graph import (
    Filler,
    Graph,
    LayerRecord,
    Loss,
    Model,
    Parameter,
    Preprocessing,
    Source,
    State,
)  # fmt: skip
from nnconv.schemas.types import DType


def sample() -> Model:
    graph = Graph("sample")
    n, h = Symbolic.name("N"), Symbolic.name("H")
    data = graph.add_input("data", DType.FLOAT32, (n, 3, h, h))
    label = graph.add_input("label", DType.FLOAT32, (n,))
    graph.sizes = {"N": 2, "H": 9}
    conv = LayerRecord(
        "conv", "Convolution", b"\x0a\x04conv\xff",
        SourceSpan("net.prototxt", 3, 7, "conv", "layer {"),
        ("conv/0", "conv/1"), "f00d",
    )  # fmt: skip
    norm = LayerRecord("norm", "BatchNorm", parameters=("norm/0", "norm/1", "norm/2"))
    graph.layers = [conv, norm]
    rng = np.random.default_rng(0)
    filler = Filler("xavier", {"variance_norm": "FAN_IN", "std": 0.1})
    with graph.source(conv):
        weights = graph.add_parameter(
            "conv/0", (4, 3, 3, 3), rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
            parameter=Parameter(0.5, 0.0, filler),
        )  # fmt: skip
        bias = graph.add_parameter("conv/1", (4,))
        x = graph.emit("Conv", data, weights, bias, outputs=["x"], strides=(2, 2), name="node 1")
    blobs = [
        graph.add_parameter(
            f"norm/{i}", (size,), np.ones(size, np.float32), parameter=Parameter(0, 0)
        )
        for i, size in enumerate((4, 4, 1))
    ]
    with graph.source(norm):
        y, *following = graph.emit("nnconv.BatchNorm", x, *blobs, outputs=4)
    graph.state = [
        State(read.name, read, write) for read, write in zip(blobs, following, strict=True)
    ]
    clipped = graph.emit("Clip", y, None, graph.constant(6.0, DType.FLOAT32))
    table = graph.constant(rng.integers(0, 9, (7, 30)), name="table")
    half = graph.emit("Constant", value=np.array([0.5, 2], np.float16), outputs=["half"])
    assert table.shape == (7, 30) and half.dtype is DType.FLOAT16
    flat = graph.emit("nnconv.Flatten", clipped)
    ip = graph.add_parameter("ip/0", (16 * 4, 5), rng.standard_normal((64, 5)).astype(np.float32))
    scores = graph.emit("MatMul", flat, ip, outputs=["scores"])
    loss = graph.emit("nnconv.SoftmaxWithLoss", scores, label, ignore_label=255, outputs=["loss"])
    graph.losses = [Loss(loss, 0.25)]
    graph.outputs = [scores, loss]
    model = Model(graph, name="sample net", mode="train")
    mean = rng.standard_normal((3, 9, 9)).astype(np.float32)
    model.preprocessing = {"data": Preprocessing("RGB", (1.0, 2.5, 3.0), mean, 0.017, 9)}
    model.labels = ("cat", "dög", "")
    model.source = Source("caffe", "bvlc", ("net.prototxt", "net.caffemodel"))
    model.metadata = {"license": "none", "author": "me"}
    return model
