"""What the writer chooses (opsets, bodies, open sizes), and Caffe nets on their way to ONNX
Runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from nnconv.converter.caffe.reader import import_caffe
from nnconv.converter.onnx.legal import opsets
from nnconv.converter.onnx.reader import import_onnx
from nnconv.converter.onnx.writer import export_onnx
from nnconv.runtime.executor import compile_model
from nnconv.schemas.errors import InputError, UnsupportedError
from nnconv.schemas.graph import Graph, Model, Preprocessing, State
from nnconv.schemas.types import DType
from tests.cpu.test_hanging_windows import written_out
from tests.golden import harness
from tests.golden.test_models_forward import MODELS, Published, assert_near, outputs, thinned
from tests.onnx.support import Array, cases, run, stored_model, worst

TEST_NETS = (
    "lenet", "cifar10_quick", "cifar10_full", "alexnet", "googlenet", "squeezenet_v11", "resnet18",
    "resnet50", "vgg16", "mobilenet_v1", "mobilenet_v2", "fcn8s",
)  # fmt: skip


def golden_net(name: str) -> harness.Case:
    return next(case for case in harness.cases("nets") if case.name == name)


def filled(case: harness.Case) -> Model:
    model = case.model()
    harness.set_parameters(model, harness.recipe_parameters(case, model))
    return model


@pytest.mark.parametrize("name", TEST_NETS)
def test_a_caffe_net_written_as_onnx_gives_what_caffe_gave(name: str, tmp_path: Path) -> None:
    case = golden_net(name)
    recorded = harness.part(case.arrays(), "out")

    report = export_onnx(filled(case), tmp_path / "net.onnx")

    onnx.checker.check_model(tmp_path / "net.onnx", full_check=True)
    assert not report.errors
    for output, array in run(tmp_path / "net.onnx", harness.recipe_inputs(case)).items():
        wanted = recorded[output]
        got = harness.sampled(array, wanted.size) if array.size > wanted.size else array
        yardstick = case.entry["arrays"][f"out/{output}"]["ulp_rel_l2"]
        assert harness.relative_l2(got.reshape(-1), wanted.reshape(-1)) <= max(1e-5, 10 * yardstick)


@pytest.mark.parametrize("published", MODELS, ids=str)
def test_a_published_caffe_model_written_as_onnx_gives_what_was_recorded(
    published: Published, tmp_path: Path
) -> None:
    model = published.model()
    model.graph.outputs = [model.graph.values[name] for name in outputs(published)]
    export_onnx(model, tmp_path / "net.onnx")
    for case in published.facts["reference"]["cases"]:
        with np.load(published.folder / case["file"]) as stored:
            inputs = {key[3:]: stored[key] for key in stored.files if key.startswith("in/")}
            got = run(tmp_path / "net.onnx", inputs)
            for name, limits in case["suggested_tolerance"].items():
                assert_near(thinned(got[name], case, name), stored[f"out/{name}"], limits)


@pytest.mark.parametrize(
    "name", ["lenet", "googlenet", "resnet18", "squeezenet_v11", "mobilenet_v2"]
)
def test_sizes_stay_open_and_one_file_runs_at_others(name: str, tmp_path: Path) -> None:
    case = golden_net(name)
    model = filled(case)
    export_onnx(model, tmp_path / "net.onnx")
    (data,) = harness.recipe_inputs(case).values()
    batch = np.concatenate([data, data[::-1] * 0.5])

    got = run(tmp_path / "net.onnx", {model.inputs[0].name: batch})

    here = compile_model(model, device="reference").run({model.inputs[0].name: batch})
    assert worst(got, dict(here)) <= 2e-5


@pytest.mark.parametrize("name", ["lenet", "resnet18"])
def test_parameters_keep_their_names_and_bits(name: str, tmp_path: Path) -> None:
    model = filled(golden_net(name))
    export_onnx(model, tmp_path / "net.onnx")
    again = import_onnx(tmp_path / "net.onnx").weights

    # statistics of BatchNorm are divided by their factor on the way
    statistics = {value.name for node in model.graph.nodes if node.op == "nnconv.BatchNorm"
                  for value in node.inputs[1:] if value is not None}  # fmt: skip
    kept = {key: array for key, array in model.weights.items() if key not in statistics}
    assert list(again) == list(kept)
    assert all(again[key].tobytes() == array.tobytes() for key, array in kept.items())


def test_a_loss_fixes_the_sizes_and_says_so(tmp_path: Path) -> None:
    case = golden_net("lenet_loss")
    report = export_onnx(filled(case), tmp_path / "net.onnx")

    assert "sizes are fixed at H = 28, N = 4, W = 28" in str(report)
    got = run(tmp_path / "net.onnx", harness.recipe_inputs(case))
    assert harness.distance(got["loss"], case.arrays()["out/loss"]) <= 1e-5


# --- opsets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [13, 15, 18, 21, 26])
def test_a_wanted_opset_is_written_and_means_the_same(opset: int, tmp_path: Path) -> None:
    name = "onnx/ultraface_rfb_320"
    path = tmp_path / "net.onnx"

    export_onnx(import_onnx(stored_model(name)), path, opset=opset)

    assert onnx.load(path).opset_import[0].version == opset
    onnx.checker.check_model(path, full_check=True)
    (case,) = cases(name)
    assert worst(run(path, case.inputs), run(stored_model(name), case.inputs)) <= 1e-6


def test_an_opset_that_lacks_a_node_is_refused_naming_it(tmp_path: Path) -> None:
    model = import_onnx(stored_model("onnx/mtcnn_pnet"))
    with pytest.raises(UnsupportedError, match=r"opset 9 has no \w+ as '.+' uses it") as caught:
        export_onnx(model, tmp_path / "net.onnx", opset=9)
    assert "needs opset 13" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [6, 29])
def test_an_opset_that_nobody_writes_is_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="7 to 28"):
        export_onnx(Model(Graph()), tmp_path / "net.onnx", opset=opset)


def _image() -> tuple[Graph, Array]:
    graph = Graph("g")
    graph.add_input("x", DType.FLOAT32, (1, 2, 4, 4))
    return graph, np.random.default_rng(0).standard_normal((1, 2, 4, 4), np.float32)


LOWEST = [
    ("Relu", {}, 7), ("Softmax", {"axis": 1}, 13), ("ArgMax", {"axis": -1}, 11), ("ArgMax",
    {"axis": 1}, 7),
    ("Flatten", {"axis": -1}, 11), ("AveragePool", {"kernel_shape": (2, 2)}, 7),
    ("AveragePool", {"kernel_shape": (2, 2), "ceil_mode": 1}, 10),
    ("AveragePool", {"kernel_shape": (2, 2), "dilations": (1, 2)}, 19), ("Gelu", {}, 20),
    ("HardSwish", {}, 14),
    ("Mish", {}, 18), ("ReduceMax", {}, 7), ("Shape", {"start": 1}, 15), ("Shape", {}, 7),
    ("MaxPool", {"kernel_shape": (2, 2), "dilations": (2, 2)}, 10), ("Cast", {"to": 1}, 7),
    ("DepthToSpace", {"blocksize": 1, "mode": "CRD"}, 11), ("Celu", {}, 12),
]  # fmt: skip


@pytest.mark.parametrize(("op", "attributes", "lowest"), LOWEST, ids=str)
def test_the_lowest_opset_that_says_a_node_is_taken(
    op: str, attributes: dict[str, Any], lowest: int, tmp_path: Path
) -> None:
    graph, x = _image()
    graph.outputs = [graph.emit(op, graph.inputs[0], outputs=["y"], **attributes)]
    assert min(opsets(graph.outputs[0].producer)) <= lowest  # type: ignore[arg-type]

    export_onnx(Model(graph), tmp_path / "net.onnx")

    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version == lowest
    onnx.checker.check_model(tmp_path / "net.onnx", full_check=True)
    assert run(tmp_path / "net.onnx", {"x": x})["y"].size


# --- what ONNX cannot hold ------------------------------------------------------------------------


def test_an_operator_without_a_body_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    graph = Graph("g")
    graph.add_input(
        "x", DType.FLOAT32, (1, 2, 5, 5)
    )  # the last window lies behind the data: 0 / 0 in Caffe
    y = graph.emit("nnconv.Pool", graph.inputs[0], kernel_shape=(1, 1), strides=(3, 3), mode="AVE")
    graph.outputs = [y]
    with pytest.raises(UnsupportedError, match=f"Pool '{y.name}' cannot be said in ONNX"):
        export_onnx(Model(graph), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_state_becomes_a_constant_and_the_report_says_so(tmp_path: Path) -> None:
    graph, x = _image()
    read = graph.constant(np.zeros((1, 2, 4, 4), np.float32), name="h")
    y = graph.emit("Add", graph.inputs[0], read, outputs=["y"])
    graph.outputs, graph.state = [y], [State("h", read, y)]

    report = export_onnx(Model(graph), tmp_path / "net.onnx")

    assert "state is written as constants that no longer change: h" in str(report)
    np.testing.assert_array_equal(run(tmp_path / "net.onnx", {"x": x})["y"], x)


def test_labels_and_preprocessing_are_reported_as_left_out(tmp_path: Path) -> None:
    model = filled(golden_net("lenet"))
    model.labels, model.preprocessing = ("zero", "one"), {"data": Preprocessing(scale=0.5)}
    report = export_onnx(model, tmp_path / "net.onnx")
    assert "labels" in str(report) and "preprocessing" in str(report)


def test_a_value_given_out_twice_or_straight_through_is_written(tmp_path: Path) -> None:
    graph, x = _image()
    stored = graph.add_parameter("w", (2,), np.ones(2, np.float32))
    y = graph.emit("Neg", graph.inputs[0], outputs=["y"])
    graph.outputs = [y, stored, y]

    export_onnx(Model(graph), tmp_path / "net.onnx")

    got = run(tmp_path / "net.onnx", {"x": x})
    np.testing.assert_array_equal(got["y"], -x)
    np.testing.assert_array_equal(got["w"], np.ones(2, np.float32))


def test_writing_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = filled(golden_net("resnet18"))
    before = str(model.graph)
    export_onnx(model, tmp_path / "net.onnx")
    assert str(model.graph) == before


def test_inputs_omitted_at_the_end_are_not_written(tmp_path: Path) -> None:
    """OpenCV 4.14 takes a bias that is named "" for one and refuses the convolution."""
    graph = Graph("bare")
    x = graph.add_input("x", DType.FLOAT32, (1, 2, 5, 5))
    graph.outputs = [graph.emit("Conv", x, graph.constant(np.ones((3, 2, 3, 3), "f4")), None)]
    export_onnx(Model(graph=graph), tmp_path / "bare.onnx")
    (node,) = (n for n in onnx.load(tmp_path / "bare.onnx").graph.node if n.op_type == "Conv")
    assert len(node.input) == 2


def test_what_stops_gradients_is_left_out_with_a_word(tmp_path: Path) -> None:
    graph, x = _image()
    graph.outputs = [graph.emit("nnconv.StopGradient", graph.inputs[0], outputs=["y"])]
    report = export_onnx(Model(graph), tmp_path / "net.onnx")
    assert "where gradients stop is not written" in str(report)
    np.testing.assert_array_equal(run(tmp_path / "net.onnx", {"x": x})["y"], x)


HANGING = b"""
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [2, 3, 2, 6] } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "y" convolution_param {
    num_output: 4 kernel_size: 3 stride: 2 bias_term: false weight_filler { type: "xavier" } } }
"""


@pytest.mark.parametrize("size", [(2, 6), (3, 2), (4, 7), (6, 5)])
def test_caffes_windows_that_hang_over_are_computed_at_any_size(size: tuple[int, int]) -> None:
    model, random = import_caffe(HANGING), np.random.default_rng(0)
    weights = random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    harness.set_parameters(model, dict.fromkeys(model.graph.parameters, weights))
    x = random.standard_normal((2, 3, *size)).astype(np.float32)
    (got,) = compile_model(model, device="cpu").run({"x": x}).values()
    want = written_out(x, weights, (2, 2), (1, 1), (0,) * 4)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_window_that_hangs_over_is_padded_for_onnx_runtime(tmp_path: Path) -> None:
    model, random = import_caffe(HANGING), np.random.default_rng(0)
    weights = random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    harness.set_parameters(model, dict.fromkeys(model.graph.parameters, weights))
    export_onnx(model, tmp_path / "net.onnx")
    x = random.standard_normal((2, 3, 2, 6)).astype(np.float32)
    (got,) = run(tmp_path / "net.onnx", {"x": x}).values()
    want = written_out(x, weights, (2, 2), (1, 1), (0,) * 4)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
