"""`nnconv show` and `nnconv FILE`: figures checked against hand-counted and published ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.support import CommandLine
from tests.places import shared


def test_lenet_figures_are_those_counted_by_hand(nnconv: CommandLine) -> None:
    model = nnconv("show", "zoo:lenet", "--json").json["model"]
    rows = {row["layer"]: row for row in model["rows"] if row["op"] != "Flatten"}
    assert rows["conv1"]["macs"] == 20 * 24 * 24 * 5 * 5
    assert rows["conv2"]["macs"] == 50 * 8 * 8 * 20 * 5 * 5
    assert (rows["ip1"]["macs"], rows["ip2"]["macs"]) == (500 * 800, 10 * 500)
    assert {name: row["parameters"] for name, row in rows.items() if row["parameters"]} == {
        "conv1": 520, "conv2": 25050, "ip1": 400500, "ip2": 5010,
    }  # fmt: skip
    assert model["parameters"] == 431080


def test_every_row_says_where_its_layer_stands(nnconv: CommandLine, lenet: Path) -> None:
    lines = (lenet / "lenet.prototxt").read_text().splitlines()
    for row in nnconv("show", "zoo:lenet", "--json").json["model"]["rows"]:
        number = int(row["where"].split(":")[1])
        assert row["layer"] in lines[number]  # the name stands below `layer {`


@pytest.mark.parametrize(
    "net", ["lenet", "cifar10_quick", "alexnet", "squeezenet_v11", "googlenet"]
)
def test_parameters_and_shapes_are_those_of_real_caffe(
    nnconv: CommandLine, golden: Path, net: str
) -> None:
    cases = json.loads((golden / "nets/index.json").read_text())
    (case,) = [case for case in cases if case["name"] == net]
    model = nnconv("show", golden / f"nets/{net}.prototxt", "--json").json["model"]
    assert model["parameters"] == _count(case["param_shapes"])
    shapes = {row["name"]: row["shape"] for row in model["rows"]}
    for output in model["outputs"]:
        assert shapes[output["name"]] == output["bound"]


def _count(shapes: object) -> int:
    total = 0
    items = shapes.values() if isinstance(shapes, dict) else shapes
    for item in items:  # type: ignore[attr-defined]
        shape = item[-1] if isinstance(item[-1], list) else item
        size = 1
        for dim in shape:
            size *= dim
        total += size
    return total


def test_another_input_size_scales_the_cost(nnconv: CommandLine) -> None:
    one = nnconv("show", "zoo:lenet", "--json").json["model"]
    eight = nnconv("show", "zoo:lenet", "--json", "--input-shape", "data:8,1,28,28").json["model"]
    assert eight["macs"] == 8 * one["macs"]
    assert eight["activation_bytes"] == 8 * one["activation_bytes"]
    assert eight["parameters"] == one["parameters"]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("data:1,3,28,28", "input 'data' is 1x1x28x28, it cannot be 1x3x28x28"),
        ("data:1,1,28", "it cannot be 1x1x28"),
        ("dat:1,1,28,28", "no input called 'dat'"),
        ("data-1,1,28,28", "this is not NAME:N,C,H,W"),
        ("data:", "this is not NAME:N,C,H,W"),
        ("data:1,1,9,28", "conv2"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(nnconv: CommandLine, shape: str, message: str) -> None:
    result = nnconv("show", "zoo:lenet", "--input-shape", shape)
    assert (result.code, message in result.err) == (2, True), result.err


def test_tables_in_a_pipe_are_plain_text(nnconv: CommandLine) -> None:
    out = nnconv("show", "zoo:lenet").out
    assert "\x1b" not in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_a_net_without_weights_is_shown_and_says_so(nnconv: CommandLine, lenet: Path) -> None:
    assert "(no weights)" in nnconv("show", lenet / "lenet.prototxt").out


@pytest.mark.parametrize(
    ("file", "says", "suggests"),
    [
        ("lenet.prototxt", "is a Caffe net as text.", "nnconv caffe2ir"),
        ("lenet.caffemodel", "is Caffe weights.", "nnconv caffe2ir"),
        ("digits/two.png", "is a picture.", "nnconv run zoo:lenet --image"),
    ],
)
def test_a_file_alone_is_explained(
    nnconv: CommandLine, lenet: Path, file: str, says: str, suggests: str
) -> None:
    result = nnconv(lenet / file)
    assert result.code == 0
    assert says in result.out
    assert suggests in result.out


def test_env_and_devices_are_facts_for_people_and_programs(nnconv: CommandLine) -> None:
    facts = nnconv("env", "--json").json
    assert facts["version"] == "0.1.0"
    assert facts["packages"]["numpy"] in nnconv("env").out
    devices = nnconv("devices", "--json").json["devices"]
    assert {"name", "available"} <= devices[0].keys()
    assert "reference" in {device["name"] for device in devices}
    assert "reference" in nnconv("devices").out


TRAIN_VAL = """
layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "s" batch_size: 64 } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
        convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "ip" type: "InnerProduct" bottom: "c" top: "ip" inner_product_param { num_output: 5} }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_a_training_net_is_shown_once_its_size_is_said(
    nnconv: CommandLine, in_folder: Path
) -> None:
    Path("train_val.prototxt").write_text(TRAIN_VAL)
    refused = nnconv("show", "train_val.prototxt")
    assert refused.code == 2 and "--input-shape NAME:N,C,H,W" in refused.err
    shown = nnconv("show", "train_val.prototxt", "--input-shape", "data:1,3,8,8", "--json").json
    rows = {row["name"]: row["shape"] for row in shown["model"]["rows"]}
    assert rows["c"] == [1, 2, 6, 6]


def test_sizes_that_nobody_states_are_named_and_asked_for(
    nnconv: CommandLine, in_folder: Path
) -> None:
    Path("net.prototxt").write_text(TRAIN_VAL.split('layer { name: "c"')[0])
    asked = "open: C_data, H_data, W_data; give numbers for ?: --input-shape data:64,?,?,?"
    assert asked in nnconv("show", "net.prototxt").out.splitlines()


YUNET = "models", "onnx", "yunet_n_dynamic", "yunet_n_dynamic.onnx"


def test_a_model_of_open_sizes_is_listed_with_their_names(nnconv: CommandLine) -> None:
    shown = nnconv("show", shared(*YUNET))
    first = next(line for line in shown.out.splitlines() if " Conv " in line)
    assert "batchx16x(height + 1)//2x(width + 1)//2" in first
    assert first.split().count("?") == 2  # multiply-adds and memory
    assert "  output cls_8: float32 batchx?x1" in shown.out.splitlines()
    assert shown.out.splitlines()[-1] == (
        "open: batch, height, width; give numbers for ?: --input-shape input:?,3,?,?"
    )


def test_open_figures_are_null_for_programs(nnconv: CommandLine) -> None:
    model = nnconv("show", shared(*YUNET), "--json").json["model"]
    assert (model["macs"], model["activation_bytes"]) == (None, None)
    assert model["open_sizes"] == ["batch", "height", "width"]
    conv = next(row for row in model["rows"] if row["op"] == "Conv")
    assert (conv["macs"], conv["bytes"]) == (None, None)
    assert conv["shape"] == ["batch", 16, "(height + 1)//2", "(width + 1)//2"]


def test_sizes_given_for_open_ones_make_figures(nnconv: CommandLine) -> None:
    given = "--input-shape", "input:2,3,64,96"
    model = nnconv("show", shared(*YUNET), *given, "--json").json["model"]
    conv = next(row for row in model["rows"] if row["op"] == "Conv")
    assert (conv["shape"], conv["macs"]) == ([2, 16, 32, 48], 2 * 16 * 32 * 48 * 27)
    assert model["open_sizes"] == [] and model["macs"] > 0


def test_one_size_of_several_may_be_given(nnconv: CommandLine) -> None:
    silero = shared("models", "onnx", "silero_vad", "silero_vad.onnx")
    lines = nnconv("show", silero, "--input-shape", "input:1,512").out.splitlines()
    assert lines[-1] == "open: state_1; give numbers for ?: --input-shape state:2,?,128"


def test_a_plan_of_open_sizes_asks_for_them(nnconv: CommandLine) -> None:
    refused = nnconv("show", shared(*YUNET), "--plan", "--device", "reference")
    assert refused.code == 2
    assert "leaves the sizes batch, height, width of its inputs open" in refused.err
    assert "--input-shape input:?,3,?,?" in refused.err


def test_a_plan_shows_kernels_and_memory(nnconv: CommandLine) -> None:
    plan = nnconv("show", "zoo:lenet", "--plan", "--device", "cpu", "--json").json["plan"]
    assert (plan["device"], plan["inputs"]) == ("cpu", {"data": [1, 1, 28, 28]})
    assert plan["steps"][0]["kernel"].startswith("cpu:conv direct")
    assert plan["peak_bytes"] > 4 * 20 * 24 * 24  # conv1's result
    text = nnconv("show", "zoo:lenet", "--plan", "--device", "cpu").out
    assert all(step["kernel"] in text for step in plan["steps"])
