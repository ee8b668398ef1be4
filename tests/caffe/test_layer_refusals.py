"""What the rules of recurrent layers, lookups, pyramids and losses refuse: at the layer, with a
reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnconv.converter.caffe.reader import import_caffe
from nnconv.schemas.errors import NnconvError

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


@pytest.mark.parametrize(
    ("source", "why"), [("../H.binaryproto", "outside the folder"), ("/etc/passwd", "outside"),
                        ("a\\000b", "no name of a file"), ("gone.binaryproto", "gone")],
)  # fmt: skip
def test_a_net_names_no_file_but_of_its_own_folder(source: str, why: str, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "H.binaryproto").write_bytes(b"")
    layer = 'name: "it" type: "InfogainLoss" bottom: "y" bottom: "label" top: "t"'
    (inner / "net.prototxt").write_text(
        f'{INPUTS}layer {{ {layer} infogain_loss_param {{ source: "{source}" }} }}'
    )
    with pytest.raises(NnconvError, match=why):
        import_caffe(inner / "net.prototxt")
