"""Models go back to Caffe: unchanged layers as they were read, others by pattern, weights bit
for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnconv.converter.caffe import schema
from nnconv.converter.caffe.layers import WRITERS
from nnconv.converter.caffe.prototxt import print_message
from nnconv.converter.caffe.reader import import_caffe
from nnconv.converter.caffe.source import NetSource, read_caffemodel, read_prototxt
from nnconv.converter.caffe.text import parse
from nnconv.converter.caffe.writer import export_caffe, to_caffe
from nnconv.runtime.executor import compile_model
from nnconv.schemas import container
from nnconv.schemas.dims import evaluate_shape
from nnconv.schemas.errors import InputError, Report, UnsupportedError
from nnconv.schemas.graph import Model
from tests.golden.harness import (
    Case,
    covered,
    distance,
    part,
    recipe_parameters,
    set_parameters,
)
from tests.golden.test_models_forward import MODELS, Published
from tests.places import shared

PHASES = {"TRAIN": 0, "TEST": 1}
LAYERS = [case for folder in ("layers", "fuzz") for case in covered(folder)]


def files(published: Published) -> tuple[Path | None, Path]:
    """Net (None where the weights are their own) and weights."""
    nets = [path for path in published.files if path.suffix == ".prototxt"]
    (weights,) = set(published.files) - set(nets)
    return (nets[0] if nets else None), weights


def layers(source: NetSource) -> list[bytes]:
    return [layer.SerializeToString(deterministic=True) for layer in source.net.layer]


def forget_layers(model: Model) -> None:
    """Leave nothing but the graph, so that only patterns can write it."""
    for node in model.graph.nodes:
        node.name, node.layer = (node.layer.name if node.layer else ""), None
    model.graph.layers = []
    model.metadata.clear()


def through_nnir(model: Model, folder: Path) -> Model:
    """The model as it comes back from disk, where it was written twice to the same bytes."""
    first, second = folder / "first.nnir", folder / "second.nnir"
    container.save(model, first)
    again = container.load(first)
    container.save(again, second)
    assert first.read_bytes() == second.read_bytes()
    return again


@pytest.mark.parametrize("case", covered("nets"), ids=str)
def test_a_whole_net_comes_back_from_nnir_bit_for_bit(case: Case, tmp_path: Path) -> None:
    source = read_prototxt(case.prototxt, report=Report())
    model = case.model()
    set_parameters(model, recipe_parameters(case, model))
    export_caffe(through_nnir(model, tmp_path), tmp_path / "n.prototxt", tmp_path / "n.caffemodel")

    text = read_prototxt(tmp_path / "n.prototxt", report=Report())
    binary = read_caffemodel(tmp_path / "n.caffemodel", report=Report())
    filtered = [
        layer.SerializeToString(deterministic=True)
        for layer in source.net.layer
        if not layer.include or PHASES[case.phase.upper()] in [rule.phase for rule in layer.include]
    ]
    assert layers(text) == layers(binary) == filtered
    again = import_caffe(tmp_path / "n.prototxt", [tmp_path / "n.caffemodel"], phase=case.phase)
    assert list(again.weights) == list(model.weights)
    for name, array in model.weights.items():
        assert again.weights[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("published", MODELS, ids=str)
def test_a_published_net_and_its_weights_come_back(published: Published, tmp_path: Path) -> None:
    net, weights = files(published)
    original = (
        read_prototxt(net, report=Report()) if net else read_caffemodel(weights, report=Report())
    )
    model = published.model()
    written = through_nnir(model, tmp_path)
    export_caffe(written, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")

    text = read_prototxt(tmp_path / "net.prototxt", report=Report())
    binary = read_caffemodel(tmp_path / "net.caffemodel", report=Report())
    assert layers(text) == layers(binary) == layers(original)
    again = import_caffe(tmp_path / "net.prototxt", [tmp_path / "net.caffemodel"])
    assert list(again.weights) == list(model.weights)
    for name, array in model.weights.items():
        assert again.weights[name].dtype == array.dtype
        assert again.weights[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("published", MODELS, ids=str)
def test_the_same_model_gives_the_same_bytes(published: Published, tmp_path: Path) -> None:
    export_caffe(published.model(), tmp_path / "a.prototxt", tmp_path / "a.caffemodel")
    again = import_caffe(tmp_path / "a.prototxt", [tmp_path / "a.caffemodel"])
    export_caffe(again, tmp_path / "b.prototxt", tmp_path / "b.caffemodel")
    for suffix in ("prototxt", "caffemodel"):
        first, second = (tmp_path / f"{name}.{suffix}" for name in "ab")
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_layers_are_written_as_they_were_read(case: Case) -> None:
    model = case.model()
    source = read_prototxt(case.prototxt, report=Report())
    kept = {record.message for record in model.graph.layers}
    written = to_caffe(model, weights=False)
    assert [layer.SerializeToString(deterministic=True) for layer in written.net.layer] == [
        message for message in layers(source) if message in kept
    ]
    assert written.net.force_backward == source.net.force_backward


BY_PATTERN = {
    *("AbsVal", "Accuracy", "BNLL", "BatchNorm", "Bias", "Clip", "Concat", "Convolution", "Crop"),
    *("Deconvolution", "Dropout", "ELU", "Eltwise", "EuclideanLoss", "Exp", "Filter", "Flatten"),
    *("InnerProduct", "Input", "LRN", "Log", "MVN", "PReLU", "Pooling", "Power", "ReLU", "Reshape"),
    *("Scale", "Sigmoid", "SigmoidCrossEntropyLoss", "Slice", "Softmax", "SoftmaxWithLoss"),
    *("Split", "Swish", "TanH"),
}


def test_graphs_without_records_are_written_by_patterns_that_compute_the_same(
    tmp_path: Path,
) -> None:
    """Whatever the patterns agree to write must import again and give the results of real Caffe."""
    types: set[str] = set()
    for case in LAYERS:
        model, arrays = case.model(), case.arrays()
        set_parameters(model, part(arrays, "param"))
        forget_layers(model)
        try:
            written = to_caffe(model)
        except (UnsupportedError, InputError):
            continue
        export_caffe(model, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
        again = import_caffe(
            tmp_path / "net.prototxt", [tmp_path / "net.caffemodel"], phase=case.phase
        )
        types.update(layer.type for layer in written.net.layer)
        compare(case, again, arrays)
    assert types >= BY_PATTERN


def compare(case: Case, model: Model, arrays: dict[str, Any]) -> None:
    if case.flags & {"random", "caffe-bug", "nan"} or case.entry["tol"].get("out") is None:
        return
    outputs = [value.name for value in model.outputs if value.producer is not None]
    results = compile_model(model, device="reference", mode=case.phase, outputs=outputs).run(
        {
            value.name: (part(arrays, "in") | part(arrays, "out"))[value.name]
            for value in model.inputs
        }
    )
    for name in outputs:
        reference = part(arrays, "out")[name]
        assert distance(np.asarray(results[name]), reference) <= case.entry["tol"]["out"], (
            case.name,
            name,
        )


def test_a_changed_layer_is_matched_and_its_neighbours_keep_their_records(golden: Path) -> None:
    model = import_caffe(golden / "nets" / "alexnet.prototxt")
    (first, _) = [node for node in model.graph.nodes if node.op == "LRN"]
    first.attributes["alpha"] = 0.5
    before = import_caffe(golden / "nets" / "alexnet.prototxt").graph.layers
    written = to_caffe(model, weights=False).net.layer
    changed = [
        (layer, record)
        for layer, record in zip(written, before, strict=True)
        if layer.SerializeToString(deterministic=True) != record.message
    ]
    ((layer, record),) = changed
    assert (layer.name, layer.type) == (record.name, "LRN")
    assert (layer.lrn_param.alpha, layer.lrn_param.local_size) == (0.5, 5)


def test_a_changed_layer_in_place_stays_in_place(golden: Path) -> None:
    model = import_caffe(golden / "nets" / "lenet.prototxt")
    (relu,) = [node for node in model.graph.nodes if node.op == "Relu"]
    relu.op, relu.attributes = "LeakyRelu", {"alpha": 0.25}
    layer = next(
        layer for layer in to_caffe(model, weights=False).net.layer if layer.type == "ReLU"
    )
    assert list(layer.bottom) == list(layer.top) == ["ip1"]
    assert layer.relu_param.negative_slope == 0.25


def test_an_input_of_another_size_is_written_with_that_size(golden: Path) -> None:
    net = golden / "nets" / "squeezenet_v11.prototxt"
    model = import_caffe(net, shapes={"data": (1, 3, 160, 99)})
    written = to_caffe(model, weights=False)
    assert list(written.net.layer[0].input_param.shape[0].dim) == [1, 3, 160, 99]
    assert len(written.net.layer) == len(import_caffe(net).graph.layers)


def test_trained_weights_go_out_with_the_records(golden: Path, tmp_path: Path) -> None:
    model = import_caffe(golden / "nets" / "lenet.prototxt")
    rng = np.random.default_rng(1)
    for value in model.parameters.values():
        value.data = rng.random(evaluate_shape(value.known_shape, {}), np.float32)
    export_caffe(model, tmp_path / "a.prototxt", tmp_path / "a.caffemodel")
    again = import_caffe(tmp_path / "a.caffemodel")
    for name, array in model.weights.items():
        assert np.array_equal(again.weights[name], array)


def test_what_caffe_cannot_say_is_refused_and_nothing_is_touched(
    tmp_path: Path, golden: Path
) -> None:
    model = import_caffe(golden / "nets" / "lenet.prototxt")
    last = model.outputs[0]
    model.graph.outputs = [model.graph.emit("Erf", last), model.graph.emit("Sign", last)]
    target = tmp_path / "net.prototxt"
    target.write_text("as it was")
    with pytest.raises(UnsupportedError) as raised:
        export_caffe(model, target)
    assert [problem.message.partition("(")[2][:4] for problem in raised.value.problems] == [
        "Erf)",
        "Sign",
    ]
    assert target.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [target]


def test_a_layer_that_only_forks_have_is_refused_naming_them(tmp_path: Path, golden: Path) -> None:
    model = import_caffe(golden / "nets" / "resnet18.prototxt")
    image = model.graph.inputs[0]
    model.graph.outputs = [model.graph.emit("Transpose", image, perm=(0, 2, 3, 1))]
    with pytest.raises(UnsupportedError, match="needs permute_param, which bvlc Caffe lacks") as e:
        export_caffe(model, tmp_path / "net.prototxt")
    assert "ssd" in e.value.problems[0].hint
    assert not list(tmp_path.iterdir())


def test_a_parameter_without_weights_is_named_and_nothing_is_written(
    tmp_path: Path, golden: Path
) -> None:
    model = import_caffe(golden / "nets" / "lenet.prototxt")
    with pytest.raises(InputError, match="'conv1/0' has no weights to write"):
        export_caffe(model, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert list(tmp_path.iterdir()) == []
    export_caffe(model, tmp_path / "net.prototxt")
    assert import_caffe(tmp_path / "net.prototxt").parameters.keys() == model.parameters.keys()


def test_every_writing_rule_is_for_an_operator_that_exists() -> None:
    from nnconv.schemas.operators import is_operator

    assert all(map(is_operator, WRITERS))


INVALID_UTF8 = "string_invalid_utf8"
"""protobuf hands such a string out with its bytes already spelt as escapes."""


def accepted_texts() -> list[Any]:
    index = json.loads(shared("golden", "parse", "index.json").read_text("utf-8"))["cases"]
    return [
        case for case in index if case["verdict"] == "accepted" and case["name"] != INVALID_UTF8
    ]


@pytest.mark.parametrize("case", accepted_texts(), ids=lambda case: str(case["name"]))
def test_printed_messages_read_back_the_same(case: Any) -> None:
    dialect = schema.dialect()
    message = dialect.new(case["message"])
    message.ParseFromString(shared("golden", "parse", case["output"]).read_bytes())
    text = print_message(message).encode()
    again = parse(text, case["message"], dialect=dialect, report=Report()).message
    assert again.SerializeToString(deterministic=True) == message.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1.0, "1"),
        (1e-10, "1e-10"),
        (16777216.0, "16777216"),
        (1 / 3, "0.33333334"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
        (float("nan"), "nan"),
        (3.4028234663852886e38, "3.4028235e+38"),
    ],
)
def test_floats_are_as_short_as_they_read_back(value: float, text: str) -> None:
    power = schema.dialect().new("PowerParameter", power=value)
    assert print_message(power) == f"power: {text}\n"
