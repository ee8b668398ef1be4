"""Bodies and shapes of nnconv operators against recorded results of real Caffe, run by ONNX
Runtime."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from nnconv.schemas.dims import Symbolic, evaluate_shape
from nnconv.schemas.functions import expand
from nnconv.schemas.graph import Graph, LayerRecord, State
from nnconv.schemas.types import DType

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "layers"


TOLERANCE = {
    case["name"]: case.get("tol", {})
    for path in GOLDEN.glob("index.json")
    for case in json.loads(path.read_text())["cases"]
}  # relative to the largest value of a tensor


def cases(*prefixes: str) -> list[str]:
    """Names of recorded cases; without the recordings the tests that read them must fail."""
    found = [path.stem for prefix in prefixes for path in sorted(GOLDEN.glob(f"{prefix}__*.npz"))]
    return found or [f"nothing recorded in {GOLDEN}"]


def recorded(name: str) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The arrays of a case, and the fields of its last layer."""
    assert GOLDEN.is_dir(), f"the recorded results of Caffe are missing: {GOLDEN}"
    text = (GOLDEN / f"{name}.prototxt").read_text().rpartition("\nlayer {")[2]
    fields: dict[str, list[str]] = {}
    for key, value in re.findall(r'(\w+): "?([-\w.]+)', text):
        fields.setdefault(key, []).append(value)
    return dict(np.load(GOLDEN / f"{name}.npz")), fields


def run(graph: Graph, feeds: dict[str, Any]) -> list[Any]:
    """The outputs of a graph of standard operators, computed by ONNX Runtime."""
    nodes = []
    for node in graph.nodes:
        inputs = ["" if value is None else value.name for value in node.inputs]
        outputs = [value.name for value in node.outputs]
        nodes.append(helper.make_node(node.op, inputs, outputs, **node.attributes))
    stored = [
        numpy_helper.from_array(value.data, value.name)
        for value in graph.values.values() if value.data is not None
    ]  # fmt: skip
    ends = [
        [helper.make_tensor_value_info(v.name, v.dtype.value, v.shape) for v in values]
        for values in (graph.inputs, graph.outputs)
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "body", *ends, stored),
        opset_imports=[helper.make_opsetid("", 21)], ir_version=10,
    )  # fmt: skip
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def check(
    op: str,
    name: str,
    arrays: dict[str, Any],
    outputs: int = 1,
    phase: str = "test",
    **attributes: Any,
) -> None:
    """The body of `op` gives what Caffe gave; the same shapes follow from symbols."""
    results = [value for key, value in arrays.items() if key.startswith("out/")]
    feeds = {key[3:]: value for key, value in arrays.items() if key.startswith("in/")}
    graph = Graph("case")
    inputs = [graph.add_input(name, DType.FLOAT32, array.shape) for name, array in feeds.items()]
    stored = [value for key, value in arrays.items() if key.startswith("param/")]
    inputs += [graph.constant(value, name=f"blob{index}") for index, value in enumerate(stored)]
    found = graph.emit(op, *inputs, outputs=outputs, **attributes)
    graph.outputs = [found] if outputs == 1 else list(found)
    names = [value.name for value in graph.outputs]
    assert [value.shape for value in graph.outputs[: len(results)]] == [r.shape for r in results]
    assert expand(next(graph.nodes), phase)
    assert [value.name for value in graph.outputs] == names
    assert not any("nnconv" in node.op for node in graph.nodes)
    wanted = [item for item in arrays.items() if item[0].startswith(("out/", "param_after/"))]
    for mine, (key, caffe) in zip(run(graph, feeds), wanted, strict=False):
        error = np.abs(np.float64(mine) - caffe).max() / max(np.abs(caffe).max(), 1e-30)
        assert error <= TOLERANCE[name].get(key.partition("/")[0], 1e-5), key
    symbolic_shapes_agree(op, inputs, results, outputs, attributes)


def symbolic_shapes_agree(
    op: str, inputs: Any, results: Any, outputs: int, attributes: Any
) -> None:
    graph, named = Graph("symbols"), []
    sizes: dict[str, int] = {}
    for index, value in enumerate(inputs):
        if value.is_stored:
            named.append(graph.constant(value.data, name=value.name))
            continue
        places = [f"s{index}_{place}" for place in range(len(value.shape))]
        sizes.update(zip(places, value.shape, strict=True))
        named.append(graph.add_input(value.name, value.dtype, tuple(map(Symbolic.name, places))))
    found = graph.emit(op, *named, outputs=outputs, **attributes)
    values = [found] if outputs == 1 else found
    for value, result in zip(values, results, strict=False):
        assert evaluate_shape(value.known_shape, sizes) == result.shape


def one_label_axis(fields: dict[str, list[str]], default: str) -> dict[str, Any]:
    """Attributes of a loss or Accuracy from the fields of the layer."""
    found: dict[str, Any] = {}
    for key in ("axis", "top_k", "ignore_label"):
        if key in fields:
            found[key] = int(fields[key][0])
    if default:
        normalize = {"true": "VALID", "false": "BATCH_SIZE"}[fields.get("normalize", ["true"])[0]]
        chosen = normalize if "normalize" in fields else default
        found["normalization"] = fields.get("normalization", [chosen])[0]
    return found


@pytest.mark.parametrize("name", cases("accuracy"))
def test_accuracy(name: str) -> None:
    arrays, fields = recorded(name)
    check("nnconv.Accuracy", name, arrays, len(fields["top"]), **one_label_axis(fields, ""))


@pytest.mark.parametrize("name", cases("softmaxwithloss"))
def test_softmax_with_loss(name: str) -> None:
    arrays, fields = recorded(name)
    check("nnconv.SoftmaxWithLoss", name, arrays, **one_label_axis(fields, "VALID"))


@pytest.mark.parametrize("name", cases("sigmoidcrossentropyloss"))
def test_sigmoid_cross_entropy_loss(name: str) -> None:
    arrays, fields = recorded(name)
    check("nnconv.SigmoidCrossEntropyLoss", name, arrays, **one_label_axis(fields, "BATCH_SIZE"))


@pytest.mark.parametrize("ignored", [{}, {"ignore_label": 1}])
def test_targets_of_a_sigmoid_cross_entropy_loss_may_be_integers(ignored: dict[str, Any]) -> None:
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    target = np.arange(12).reshape(4, 3) % 2
    found = []
    for dtype in (DType.FLOAT32, DType.INT32):
        graph = Graph("loss")
        operands = [
            graph.add_input("x", DType.FLOAT32, (4, 3)),
            graph.add_input("t", dtype, (4, 3)),
        ]
        graph.outputs = [graph.emit("nnconv.SigmoidCrossEntropyLoss", *operands, **ignored)]
        assert expand(next(graph.nodes), "test")
        found += run(graph, {"x": x, "t": target.astype(dtype.numpy)})
    assert found[0] == found[1]


@pytest.mark.parametrize("name", cases("euclideanloss"))
def test_euclidean_loss(name: str) -> None:
    check("nnconv.EuclideanLoss", name, recorded(name)[0])


SINGLE_BATCH_NORMS = [
    n for n in cases("batchnorm") if not re.search("conv_bn|inplace|scale_relu", n)
]


@pytest.mark.parametrize("name", SINGLE_BATCH_NORMS)
def test_batch_norm(name: str) -> None:
    arrays, fields = recorded(name)
    arrays = {key: value for key, value in arrays.items() if not key.startswith("step")}
    attributes: dict[str, Any] = {}
    if "eps" in fields:
        attributes["epsilon"] = float(fields["eps"][0])
    if "moving_average_fraction" in fields:
        attributes["moving_average_fraction"] = float(fields["moving_average_fraction"][0])
    if "use_global_stats" in fields:
        attributes["use_global_stats"] = int(fields["use_global_stats"][0] == "true")
    phase = "train" if "train" in name else "test"
    check("nnconv.BatchNorm", name, arrays, 4, phase, **attributes)


FLAT = [name for name in cases("flatten") if "bug" not in name]


@pytest.mark.parametrize("name", FLAT)
def test_flatten(name: str) -> None:
    arrays, fields = recorded(name)
    wanted: dict[str, Any] = {
        key: int(fields[key][0]) for key in ("axis", "end_axis") if key in fields
    }
    check("nnconv.Flatten", name, arrays, **wanted)


@pytest.mark.parametrize("name", cases("reshape"))
def test_reshape(name: str) -> None:
    arrays, fields = recorded(name)
    wanted: dict[str, Any] = {
        key: int(fields[key][0]) for key in ("axis", "num_axes") if key in fields
    }
    check("nnconv.Reshape", name, arrays, dims=tuple(map(int, fields.get("dim", []))), **wanted)


POOLING = [n for n in cases("pooling") if not re.search("global|stochastic|mask", n)]


@pytest.mark.parametrize("name", POOLING)
def test_pooling(name: str) -> None:
    arrays, fields = recorded(name)

    def pair(key: str, default: int) -> tuple[int, int]:
        both = fields.get("kernel_size" if key == "kernel" else key, [str(default)])[0]
        h, w = (int(fields.get(f"{key}_{side}", [both])[0]) for side in "hw")
        return h, w

    attributes: dict[str, Any] = {
        "mode": fields.get("pool", ["MAX"])[0],
        "round_mode": fields.get("round_mode", ["CEIL"])[0],
        "kernel_shape": pair("kernel", 0),
        "strides": pair("stride", 1),
        "pads": pair("pad", 0) * 2,
    }
    if "quirk_ave" in name:  # an average over nothing: NaN, which standard operators do not say
        graph = Graph("quirk")
        y = graph.emit("nnconv.Pool", graph.constant(arrays["in/x"]), **attributes)
        assert y.shape == arrays["out/y"].shape
        assert not expand(y.producer) and [node.op for node in graph.nodes] == ["nnconv.Pool"]
        return
    check("nnconv.Pool", name, arrays, **attributes)


def test_dropout_is_a_copy_in_test_mode_only() -> None:
    graph = Graph("g")
    x = graph.add_input("x", DType.FLOAT32, (Symbolic.name("N"), 3))
    y = graph.emit("nnconv.Dropout", x, outputs=["y"])
    assert not expand(y.producer, "train")
    assert expand(y.producer, "test") and [node.op for node in graph.nodes] == ["Identity"]


def test_open_sizes_stay_open_in_a_reshape() -> None:
    graph = Graph("g")
    n, h = Symbolic.name("N"), Symbolic.name("H")
    x = graph.add_input("x", DType.FLOAT32, (n, 3, h, h))
    y = graph.emit("nnconv.Flatten", x)
    assert expand(y.producer)
    (node,) = graph.nodes
    assert node.op == "Reshape" and node.inputs[1].data.tolist() == [0, -1]  # type: ignore[union-attr]
    assert graph.values["flatten"].shape == (n, 3 * h * h)


def test_a_body_that_cannot_be_said_yet_leaves_no_nodes() -> None:
    graph = Graph("g")
    n = Symbolic.name("N")
    x = graph.add_input("x", DType.FLOAT32, (n, 3))
    label = graph.add_input("label", DType.FLOAT32, (n,))
    loss = graph.emit("nnconv.SoftmaxWithLoss", x, label)
    flat = graph.emit("nnconv.Reshape", x, dims=(1, 0, -1, 1))
    assert flat.shape == (1, 3, n, 1)
    assert not expand(loss.producer) and len(graph) == 2


def test_state_and_layer_records_move_to_the_body() -> None:
    graph = Graph("g")
    layer = LayerRecord("norm", "BatchNorm")
    x = graph.add_input("x", DType.FLOAT32, (Symbolic.name("N"), 4))
    blobs = [graph.add_parameter(f"norm/{i}", (size,)) for i, size in enumerate((4, 4, 1))]
    with graph.source(layer):
        y, *following = graph.emit("nnconv.BatchNorm", x, *blobs, outputs=["y", "a", "b", "c"])
    graph.outputs = [y]
    graph.state = [State(v.name, v, w) for v, w in zip(blobs, following, strict=True)]
    assert expand(y.producer, "test")
    assert [value.name for value in graph.outputs] == ["y"]
    assert [state.write.name for state in graph.state] == ["a", "b", "c"]
    assert all(state.write.producer.op == "Identity" for state in graph.state)  # type: ignore[union-attr]
    assert {id(node.layer) for node in graph.nodes} == {id(layer)}
