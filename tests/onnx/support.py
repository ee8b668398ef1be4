"""Models to read and write, and ONNX Runtime to compare with.

The light_* models of the onnx package make their weights by ConstantOfShape, all alike, which hides
mistakes; `with_random_weights` puts seeded random numbers there, scaled so that signals keep their
size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from tests.places import shared

Array = np.ndarray[Any, Any]

LIGHT = ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet",
    "squeezenet",
         "vgg19", "zfnet512")  # fmt: skip
CONVOLUTION_NETS = (
    "onnx/basic_pitch_nmp", "onnx/factorio_mnist", "onnx/fastestdet", "onnx/mnist_8",
    "onnx/mtcnn_onet",
    "onnx/mtcnn_pnet", "onnx/mtcnn_rnet", "onnx/onnxjs_matting", "onnx/speech_embedding",
    "onnx/super_resolution_10", "onnx/ultraface_rfb_320", "onnx/yunet_n_dynamic",
    "onnx_derived/yunet_external_data",
)  # fmt: skip
QUANTISED_NETS = (
    "onnx/factorio_mnist_int8", "onnx_derived/fastestdet_qdq", "onnx_derived/yunet_qdq_perchannel",
)  # fmt: skip
OTHER_NETS = (
    "onnx/atspm_funcnet_head", "onnx/atspm_funcnet_pair", "onnx/dtln_stage1",
    "onnx/factorio_mnist_int8",
    "onnx/gtcrn_stream", "onnx/gtcrn_stream_simplified", "onnx/nnsplit_en", "onnx/silero_vad",
    "onnx/silero_vad_fp16_weights", "onnx/silero_vad_v3", "onnx_derived/fastestdet_fp16",
    "onnx_derived/yunet_qdq_perchannel",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One recorded run of a stored model."""

    folder: Path
    entry: Mapping[str, Any]

    @property
    def inputs(self) -> dict[str, Array]:
        stored_in = self.entry.get("inputs_stored_in", "").partition(" ")[0]
        path = shared("models", stored_in) if stored_in else self.folder / self.entry["file"]
        shapes = self.entry["shapes"]["in"]
        return {name: array.astype(shapes[name][0]) for name, array in _group(path, "in").items()}

    @property
    def outputs(self) -> dict[str, Array]:
        return _group(self.folder / self.entry["file"], "out")

    def assert_matches(self, got: Mapping[str, Array]) -> None:
        """Compare with the recorded outputs by the tolerance that goes with them."""
        for name, wanted in self.outputs.items():
            stride = self.entry.get("subsample", {}).get(f"out/{name}", {}).get("stride", 1)
            limit = self.entry["suggested_tolerance"][name]
            found = got[name].reshape(-1)[::stride].reshape(wanted.shape)
            if "rtol" in limit:
                np.testing.assert_allclose(
                    found, wanted, limit["rtol"], limit["atol"], err_msg=name
                )
                continue
            difference = np.abs(found - wanted)  # quantised: one rounding moves a whole branch
            assert difference.mean() <= limit["mean_abs"] and difference.max() <= limit["max_abs"]


def stored_model(name: str) -> Path:
    (path,) = shared("models", name).glob("*.onnx")
    return path


def cases(name: str) -> Iterator[Case]:
    folder = shared("models", name)
    for entry in json.loads((folder / "model.json").read_text("utf-8"))["reference"]["cases"]:
        yield Case(folder, entry)


def light_model(name: str) -> onnx.ModelProto:
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    return with_logits(with_random_weights(onnx.load(path), name))


def with_random_weights(model: onnx.ModelProto, seed: str) -> onnx.ModelProto:
    """The model with an initializer of random numbers in place of each ConstantOfShape."""
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    roles = _roles(model.graph.node)
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        name, shape = node.output[0], tuple(shapes[node.input[0]])
        generator = np.random.default_rng(crc32(f"{seed}/{name}".encode()))
        array = _random(generator, roles[name], shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.ir_version = 4  # initializers need not be inputs
    return model


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with what its last Softmax reads as an output too: random weights make some of
    them so sure of a class that the probabilities are 0 and 1, whatever comes before."""
    last = model.graph.node[-1]
    if last.op_type == "Softmax":
        logits = helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None)
        model.graph.output.append(logits)
    return model


def is_telling(array: Array) -> bool:
    """Whether elements differ enough that a mistake in one of them would show."""
    return bool(array.std() > 0.01 * np.abs(array).max())


def random_input(model: onnx.ModelProto) -> dict[str, Array]:
    stored = {tensor.name for tensor in model.graph.initializer}
    generator = np.random.default_rng(0)
    return {
        info.name: generator.standard_normal(
            [dim.dim_value for dim in info.type.tensor_type.shape.dim], np.float32
        )
        for info in model.graph.input
        if info.name not in stored
    }


def run(model: Path | bytes, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs by ONNX Runtime, unoptimised so that it computes what is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(model) if isinstance(model, Path) else model, options
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def node_model(
    op: str,
    opset: int,
    inputs: Mapping[str, Array],
    *,
    outputs: int = 1,
    order: Sequence[str] = (),
    stored: Sequence[str] = (),
    dims: Mapping[str, Sequence[int | str]] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node; `order` gives its inputs where some are left out (""), `stored` its
    initializers.
    """
    names = [f"y{place}" for place in range(outputs)]
    node = helper.make_node(op, list(order or inputs), names, **attributes)
    ports = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), (dims or {}).get(name, array.shape)
        )
        for name, array in inputs.items()
        if name not in stored
    ]
    results = [onnx.ValueInfoProto(name=name) for name in names]
    tensors = [numpy_helper.from_array(inputs[name], name) for name in stored]
    graph = helper.make_graph([node], "one", ports, results, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
    return onnx.shape_inference.infer_shapes(model) if opset >= 7 else model


def worst(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """The largest difference, as a part of the largest element of its tensor."""
    assert got.keys() == wanted.keys()
    return max(_distance(got[name], wanted[name]) for name in wanted)


def _distance(got: Array, wanted: Array) -> float:
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    if not wanted.size or np.array_equal(got, wanted, equal_nan=wanted.dtype.kind == "f"):
        return 0.0
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


def _group(path: Path, group: str) -> dict[str, Array]:
    with np.load(path) as stored:
        return {
            key.partition("/")[2]: stored[key]
            for key in stored.files
            if key.startswith(group + "/")
        }


def _roles(nodes: Sequence[Any]) -> dict[str, tuple[str, int]]:
    """Name -> the operator that reads it first, and at which place."""
    found: dict[str, tuple[str, int]] = {}
    for node in nodes:
        for place, name in enumerate(node.input):
            found.setdefault(name, (node.op_type, place))
    return found


_STATISTICS = {1: (0.8, 1.2), 2: (-0.2, 0.2), 3: (-0.2, 0.2), 4: (0.5, 1.5)}


def _random(generator: np.random.Generator, role: tuple[str, int], shape: tuple[int, ...]) -> Array:
    op, place = role
    if op == "BatchNormalization":
        return generator.uniform(*_STATISTICS[place], shape)
    if len(shape) > 1:
        limit = np.sqrt(6 / (np.prod(shape) / shape[0]))
        return generator.uniform(-limit, limit, shape)
    return (
        generator.uniform(0.8, 1.2, shape)
        if op == "Unsqueeze"
        else generator.uniform(-0.1, 0.1, shape)
    )
