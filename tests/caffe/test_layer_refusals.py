"""What the rules of recurrent layers, lookups, pyramids and losses refuse: at the layer, with a
reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnconv.converter.caffe.reader import import_caffe
from nnconv.converter.wire_format import length_delimited, varint
from nnconv.schemas.errors import NnconvError
from nnconv.schemas.graph import Model

INPUTS = "".join(
    f'layer {{ name: "{name}" type: "Input" top: "{name}" '
    f"input_param {{ shape {{ dim: {list(shape)} }} }} }}\n"
    for name, shape in {
        "x": (3, 4, 5, 5), "y": (3, 4), "long": (3, 6), "five": (3, 1, 1, 1, 4), "label": (3,),
        "few": (2,), "cont": (3, 4), "other": (3, 2), "h": (1, 4, 2), "flag": (3, 2), "H": (4, 4),
        "scalar": (),
    }.items()
)  # fmt: skip
TWO = 'top: "t" top: "u"'
REFUSED = {
    'type: "MVN" bottom: "five" top: "t"': "at most 4 axes",
    'type: "HingeLoss" bottom: "y" bottom: "few" top: "t"': "3 items",
    'type: "HingeLoss" bottom: "y" bottom: "flag" top: "t"': "3 items need 3 labels",
    'type: "ContrastiveLoss" bottom: "y" bottom: "long" bottom: "label" top: "t"': "vectors of 4",
    'type: "ContrastiveLoss" bottom: "x" bottom: "x" bottom: "label" top: "t"': "one vector",
    'type: "ContrastiveLoss" bottom: "y" bottom: "y" bottom: "flag" top: "t"': "3 pairs need 3",
    'type: "InfogainLoss" bottom: "y" bottom: "label" top: "t"': "the matrix is missing",
    'type: "InfogainLoss" bottom: "long" bottom: "label" bottom: "H" top: "t"': "6 x 6 elements",
    f'type: "InfogainLoss" bottom: "y" bottom: "label" bottom: "H" {TWO}': "two loss weights",
    'type: "InfogainLoss" bottom: "y" bottom: "label" top: "t" '
    'infogain_loss_param { source: "H.binaryproto" }': "no folder",
    'type: "Embed" bottom: "y" top: "t" embed_param { num_output: 2 }': "input_dim must be 1",
    'type: "Embed" bottom: "y" top: "t" embed_param { input_dim: 2 }': "num_output must be 1",
    'type: "BatchReindex" bottom: "y" bottom: "flag" top: "t"': "must have one axis",
    'type: "BatchReindex" bottom: "scalar" bottom: "few" top: "t"': "no items",
    f'type: "Filter" bottom: "y" bottom: "label" {TWO}': "need 1 tops",
    'type: "Filter" bottom: "y" bottom: "flag" top: "t"': "one number an item",
    'type: "Filter" bottom: "y" bottom: "few" top: "t"': "differ in items",
    'type: "SPP" bottom: "x" top: "t"': "pyramid_height must be 1 to 16",
    'type: "SPP" bottom: "x" top: "t" spp_param { pyramid_height: 3 }': "cut into 4 bins",
    'type: "SPP" bottom: "x" top: "t" spp_param { pyramid_height: 1 pool: STOCHASTIC }': "pyramid",
    'type: "Pooling" bottom: "x" top: "t" '
    "pooling_param { kernel_size: 6 stride: 2 round_mode: FLOOR }": "nothing is left",
    'type: "Im2col" bottom: "y" top: "t" convolution_param { kernel_size: 1 }': "no axes to move",
    'type: "Im2col" bottom: "x" top: "t" convolution_param { kernel_size: 9999 }': "4096 taps",
    'type: "LSTM" bottom: "x" bottom: "cont" top: "t"': "num_output must be 1",
    'type: "LSTM" bottom: "x" bottom: "other" top: "t" recurrent_param { num_output: 2 }': "3x4",
    'type: "RNN" bottom: "y" bottom: "cont" top: "t" recurrent_param { num_output: 2 }': "steps x",
    'type: "LSTM" bottom: "x" bottom: "cont" top: "t" '
    "recurrent_param { num_output: 2 expose_hidden: true }": "4 or 5 bottoms",
    'type: "RNN" bottom: "x" bottom: "cont" bottom: "h" top: "t" '
    "recurrent_param { num_output: 2 expose_hidden: true }": "makes 2 tops",
    f'type: "RNN" bottom: "x" bottom: "cont" bottom: "h" {TWO} '
    "recurrent_param { num_output: 3 expose_hidden: true }": "must be 1x4x3",
    f'type: "LSTMUnit" bottom: "h" bottom: "h" bottom: "cont" {TWO}': "must be 1x4x8",
}


@pytest.mark.parametrize("layer", REFUSED)
def test_a_layer_that_cannot_be_is_refused_with_its_reason(layer: str) -> None:
    with pytest.raises(NnconvError) as raised:
        import_caffe(f'{INPUTS}layer {{ name: "it" {layer} }}'.encode())
    (problem,) = raised.value.problems
    assert REFUSED[layer] in problem.message
    assert problem.span is not None and problem.span.layer == "it"


WITH_MATRIX = 'name: "it" type: "InfogainLoss" bottom: "y" bottom: "label" top: "t"'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a net, with files that are no matrix, and links that lead out of it."""
    inner = tmp_path / "inner"
    (inner / "below").mkdir(parents=True)
    (tmp_path / "H.binaryproto").write_bytes(matrix(4))
    (inner / "linked").symlink_to(tmp_path / "H.binaryproto")
    (inner / "up").symlink_to(tmp_path)
    (inner / "circle").symlink_to("circle")
    (inner / "below" / "good").write_bytes(matrix(4))
    (inner / "within").symlink_to(inner / "below")
    (inner / "text").write_text("1 0 0 1")
    (inner / "empty").write_bytes(b"")
    (inner / "cut").write_bytes(matrix(4)[:-1])
    (inner / "three").write_bytes(matrix(3))
    with (inner / "huge").open("wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    return inner


def matrix(classes: int) -> bytes:
    """An identity of so many classes as a BlobProto."""
    shape = length_delimited(1, varint(classes) * 2)
    return length_delimited(7, shape) + length_delimited(5, np.eye(classes, dtype="<f4").tobytes())


def import_with(folder: Path, source: str) -> Model:
    layer = f'layer {{ {WITH_MATRIX} infogain_loss_param {{ source: "{source}" }} }}'
    (folder / "net.prototxt").write_text(INPUTS + layer)
    return import_caffe(folder / "net.prototxt")


OUTSIDE, UNREADABLE, NAMELESS = "lies outside the folder", "cannot be read: ", "no name of a file"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("../H.binaryproto", OUTSIDE), ("/etc/passwd", OUTSIDE), ("below/../../H", OUTSIDE),
        ("linked", OUTSIDE), ("up/H.binaryproto", OUTSIDE), ("../inner2/H", OUTSIDE),
        ("a\\000b", NAMELESS), ("gone", f"'gone' {UNREADABLE}no such file"),
        ("circle", "circle"), ("-", f"'-' {UNREADABLE}no such file"),
        ("below", f"{UNREADABLE}is a folder"), ("", f"{UNREADABLE}is a folder"),
        ("x" * 5000, "too long"), ("a\\nb", r"'a\nb' cannot be read: no such file"),
        ("text", f"'text' {UNREADABLE}byte "), ("cut", f"'cut' {UNREADABLE}byte "),
        ("empty", f"'empty' {UNREADABLE}the blob "), ("three", "4 x 4 elements, it has 9"),
        ("huge", f"'huge' {UNREADABLE}1,099,511,627,776 bytes are too many"),
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_net_names_no_file_but_a_matrix_of_its_own_folder(
    source: str, why: str, folder: Path
) -> None:
    with pytest.raises(NnconvError) as raised:
        import_with(folder, source)
    (problem,) = raised.value.problems
    assert why in problem.message
    assert problem.span is not None and problem.span.layer == "it"


@pytest.mark.parametrize("source", ["below/good", "../inner/below/good", "within/good"])
def test_a_matrix_in_the_folder_of_the_net_is_read(source: str, folder: Path) -> None:
    stored = [value for value in import_with(folder, source).graph.values.values()
              if value.name.startswith("it:H")]  # fmt: skip
    assert [np.array_equal(np.asarray(value.data), np.eye(4)) for value in stored] == [True]
