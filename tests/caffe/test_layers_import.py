"""Every layer type imports: shapes, names and records as the recorded cases of real Caffe have
them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from nnconv.converter.caffe.layers import READERS
from nnconv.converter.caffe.layers.known import KNOWN
from nnconv.converter.caffe.reader import import_caffe, import_files
from nnconv.schemas.dims import evaluate_shape
from nnconv.schemas.errors import InputError, MissingExtraError, NnconvError, Report
from nnconv.schemas.types import DType
from tests.golden.harness import Case, cases, covered, part, recipe_parameters, set_parameters
from tests.places import shared

CASES = [case for folder in ("layers", "fuzz") for case in covered(folder)]
DATA_LAYERS = {"Data", "HDF5Data", "ImageData", "MemoryData", "WindowData"}
FORK_LAYERS = {"ConvolutionDepthwise", "DepthwiseConvolution", "Permute", "ReLU6"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_blobs_and_parameters_have_the_recorded_shapes(case: Case) -> None:
    model, arrays = case.model(), case.arrays()
    sizes = model.graph.sizes | picked(model, part(arrays, "in"))
    for name, array in part(arrays, "out").items():
        value = model.graph.values[name]
        assert evaluate_shape(value.known_shape, sizes) == array.shape
        assert value.dtype is DType.FLOAT32
    set_parameters(model, part(arrays, "param"))


@pytest.mark.parametrize("case", [case for case in CASES if case.steps > 1], ids=str)
def test_one_import_serves_all_recorded_sizes(case: Case) -> None:
    """Of a case whose inputs are reshaped between calls, every size follows from the first
    import."""
    model, arrays = case.model(), case.arrays()
    for step in range(case.steps):
        inputs = {key: array.shape for key, array in part(arrays, "in", step).items()}
        sizes = bound(model, inputs) | picked(model, part(arrays, "in", step))
        for name, array in part(arrays, "out", step).items():
            assert evaluate_shape(model.graph.values[name].known_shape, sizes) == array.shape


def picked(model: Any, inputs: dict[str, Any]) -> dict[str, int]:
    """The sizes that a Filter makes of its selector."""
    return {
        node.size: int(np.count_nonzero(inputs[node.required(1).name]))
        for node in model.graph.nodes
        if node.op == "nnconv.Select"
    }


def bound(model: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes that make the model's inputs have these shapes."""
    sizes: dict[str, int] = {}
    for value in model.inputs:
        for dim, size in zip(value.known_shape, shapes[value.name], strict=True):
            if isinstance(dim, int):
                assert dim == size
            else:
                assert sizes.setdefault(str(dim), size) == size
    return sizes


def test_every_rule_for_a_layer_of_bvlc_is_met_by_a_case() -> None:
    met = {name for folder in ("layers", "fuzz") for case in cases(folder) for name in case.types}
    assert READERS.keys() - met == DATA_LAYERS | FORK_LAYERS | {"Input", "Split"}
    assert met - READERS.keys() <= KNOWN.keys()
    assert not READERS.keys() & KNOWN.keys()


SMALL = [case for case in covered("nets") if case.entry["params"] < 20_000_000]


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_nets_take_the_weights_of_the_recipe(case: Case) -> None:
    """The large ones take theirs in test_nets_forward, once."""
    model = case.model()
    weights = recipe_parameters(case, model)
    assert list(weights) == list(model.parameters)
    set_parameters(model, weights)
    assert sum(array.size for array in model.weights.values()) == case.entry["params"]


def test_the_recipe_gives_the_bits_that_its_page_states() -> None:
    (lenet,) = [case for case in cases("nets") if case.name == "lenet"]
    weights = recipe_parameters(lenet, lenet.model())
    expected = np.array([-0.3528748, 0.40689772, -0.19887051], np.float32)
    np.testing.assert_array_equal(weights["conv1/0"].ravel()[:3], expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_layer_has_one_record_with_its_place(case: Case) -> None:
    report = Report(case.name)
    model = import_caffe(case.prototxt, phase=case.phase, report=report)
    records = model.graph.layers
    assert {id(node.layer) for node in model.graph.nodes} <= {id(record) for record in records}
    for record in records:
        assert record.span.file == str(case.prototxt) and record.span.line > 0
        assert record.fingerprint and record.message
    left_out = sum(problem.rule == "left-out" for problem in report)
    assert len(records) + left_out == case.prototxt.read_text().count("layer {")


def net(*layers: str) -> bytes:
    head = (
        'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: [2, 4, 9, 7] } } }\n'
    )
    return (head + "\n".join(layers)).encode()


def test_of_an_in_place_chain_the_last_writer_keeps_the_name() -> None:
    graph = import_caffe(
        net(
            'layer { name: "c" type: "Convolution" bottom: "x" top: "c" '
            "convolution_param { num_output: 4 kernel_size: 1 } }",
            'layer { name: "b" type: "BatchNorm" bottom: "c" top: "c" }',
            'layer { name: "s" type: "Scale" bottom: "c" top: "c" '
            "scale_param { bias_term: true } }",
            'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }',
        )
    ).graph
    ops = {name: graph.values[name].producer.op for name in ("c@c", "c@b", "c@s", "c")}  # type: ignore[union-attr]
    assert ops == {"c@c": "Conv", "c@b": "nnconv.BatchNorm", "c@s": "Add", "c": "Relu"}
    assert [value.name for value in graph.outputs] == ["c"]
    assert list(graph.parameters) == ["c/0", "c/1", "b/0", "b/1", "b/2", "s/0", "s/1"]


def test_an_input_keeps_its_name_when_a_layer_works_on_it_in_place() -> None:
    model = import_caffe(net('layer { name: "r" type: "ReLU" bottom: "x" top: "x" }'))
    assert [value.name for value in model.inputs] == ["x"]
    assert [value.name for value in model.outputs] == ["x@r"]


def test_batch_statistics_are_state_that_only_training_writes() -> None:
    graph = import_caffe(net('layer { name: "b" type: "BatchNorm" bottom: "x" top: "y" }')).graph
    assert [(state.name, state.read.name) for state in graph.state] == [
        ("b/0", "b/0"),
        ("b/1", "b/1"),
        ("b/2", "b/2"),
    ]
    assert all(value.parameter and value.parameter.frozen for value in graph.parameters.values())


def test_statistics_shared_by_name_pass_from_layer_to_layer() -> None:
    shared_names = "".join(f'param {{ name: "{name}" lr_mult: 0 }}' for name in ("m", "v", "f"))
    graph = import_caffe(
        net(
            f'layer {{ name: "a" type: "BatchNorm" bottom: "x" top: "y" {shared_names} }}',
            f'layer {{ name: "b" type: "BatchNorm" bottom: "y" top: "z" {shared_names} }}',
        )
    ).graph
    first, second = graph.nodes
    assert second.inputs[1:] == first.outputs[1:]
    assert [state.write for state in graph.state] == second.outputs[1:]


def test_inputs_share_names_of_sizes_while_their_sizes_agree() -> None:
    model = import_caffe(
        net(
            'layer { name: "l" type: "Input" top: "label" input_param { shape { dim: 2 } } }',
            'layer { name: "o" type: "Input" top: "other" '
            "input_param { shape { dim: [5, 4, 9, 8] } } }",
        )
    )
    shapes = {value.name: tuple(map(str, value.known_shape)) for value in model.inputs}
    assert shapes == {
        "x": ("N", "4", "H", "W"),
        "label": ("N",),
        "other": ("N_other", "4", "H", "W_other"),
    }
    assert model.graph.sizes == {"N": 2, "H": 9, "W": 7, "N_other": 5, "W_other": 8}


DATA = """
layer { name: "d" type: "%s" top: "data" top: "label" %s
        transform_param { crop_size: 24 mean_value: [104, 117, 123] scale: 0.5 mirror: true } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
        convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "s" type: "Silence" bottom: "label" }
"""


@pytest.mark.parametrize(
    ("kind", "param", "batch"),
    [
        ("Data", 'data_param { source: "nowhere" batch_size: 5 }', 5),
        ("ImageData", 'image_data_param { source: "nowhere" batch_size: 6 }', 6),
        ("WindowData", 'window_data_param { source: "nowhere" batch_size: 7 }', 7),
    ],
)
def test_a_data_layer_becomes_inputs_and_preprocessing(kind: str, param: str, batch: int) -> None:
    report = Report("net")
    model = import_caffe((DATA % (kind, param)).encode(), report=report)
    assert [model.default_shape(value) for value in model.inputs] == [(batch, 3, 24, 24), (batch,)]
    found = model.preprocessing["data"]
    assert (found.mean, found.scale, found.crop) == ((104, 117, 123), 0.5, 24)
    assert any("inputs to feed" in problem.message for problem in report)


def test_sizes_that_a_data_layer_leaves_open_come_from_weights_or_the_caller() -> None:
    folder = shared("models", "caffe", "arm_cifar10_m4_rounded")
    files = [folder / "cifar10_m4_train_test.prototxt", *folder.glob("*.caffemodel")]
    assert import_files(files).parameters["conv1/0"].shape == (32, 3, 5, 5)
    opened = import_caffe(files[0], shapes={"data": (100, 3, 32, 32)})
    assert opened.parameters["conv1/0"].shape == (32, 3, 5, 5)
    with pytest.raises(NnconvError, match="depends on an input whose size the net does not state"):
        import_caffe(files[0])


def test_files_are_told_apart_by_content_in_any_order() -> None:
    folder = shared("models", "caffe", "cnn_3dobj_triplet")
    files = [
        folder / "triplet_mean.binaryproto",
        folder / "3d_triplet_iter_30000.caffemodel",
        folder / "3d_triplet_testIMG.prototxt",
    ]
    models = [import_files(order) for order in (files, files[::-1])]
    for model in models:
        assert model.preprocessing["data"].mean_image is not None
        assert model.preprocessing["data"].mean_image.shape == (1, 64, 64)
    first, second = (model.weights for model in models)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_weights_are_views_of_the_file() -> None:
    folder = shared("models", "caffe", "lpr_character")
    model = import_files([*folder.glob("*.prototxt"), *folder.glob("*.caffemodel")])
    for array in model.weights.values():
        assert not array.flags.owndata and not array.flags.writeable


def test_old_weights_are_seen_in_the_shapes_of_the_net() -> None:
    folder = shared("models", "caffe", "v1_cifar10_quick")
    model = import_files([*folder.glob("*.prototxt"), *folder.glob("*.caffemodel")])
    assert model.weights["ip1/0"].shape == (64, 1024)
    assert model.weights["ip1/1"].shape == (64,)


def test_half_precision_weights_stay_as_they_are_and_are_cast_by_nodes() -> None:
    folder = shared("models", "caffe", "lpr_finemapping_fp16")
    model = import_files([*folder.glob("*.prototxt"), *folder.glob("*.caffemodel")])
    assert {value.dtype for value in model.parameters.values()} == {DType.FLOAT16}
    assert {node.op for value in model.parameters.values() for node in value.consumers} == {"Cast"}


def test_weights_in_hdf5_without_h5py_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    folder = shared("models", "caffe", "arm_cifar10_m4_hdf5")
    with pytest.raises(MissingExtraError, match=r'pip install "nnconv\[hdf5\]"'):
        import_files([folder / "deploy_made_here.prototxt", *folder.glob("*.h5")])


def test_links_out_of_an_hdf5_file_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["0"] = np.ones((3, 2), np.float32)
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.create_group("data/ip")["0"] = h5py.ExternalLink("other.h5", "/0")
    net = b"""layer { name: "in" type: "Input" top: "x" input_param { shape { dim: [1, 2] } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
            inner_product_param { num_output: 3 bias_term: false } }"""
    with pytest.raises(InputError, match="link to another place, which is not followed"):
        import_caffe(net, [tmp_path / "weights.h5"])


def test_a_data_set_that_claims_more_than_it_stores_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.create_dataset("data/ip/0", (1 << 20, 1 << 20), np.float32, chunks=(1, 1 << 10))
    net = b'layer { name: "ip" type: "Input" top: "x" }'
    with pytest.raises(InputError, match="claims 4,398,046,511,104 bytes it does not have"):
        import_caffe(net, [tmp_path / "weights.h5"])
