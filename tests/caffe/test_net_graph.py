"""Nets are built as Caffe builds them: which layers, blobs, parameters, inputs and outputs
(golden/graph)."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from nnconv.converter.caffe.layers import READERS
from nnconv.converter.caffe.layers.known import KNOWN
from nnconv.converter.caffe.reader import import_caffe
from nnconv.schemas.dims import evaluate_shape
from nnconv.schemas.errors import InputError, UnsupportedError
from nnconv.schemas.graph import Model
from tests.places import shared

GRAPH = "golden", "graph"


class Built(NamedTuple):
    """One net in one state, with Caffe's verdict."""

    name: str
    input: str
    state: Any

    @property
    def types(self) -> set[str]:
        return {layer["type"] for layer in self.state.get("net", {}).get("layers", ())}

    def model(self) -> Model:
        return import_caffe(
            shared(*GRAPH, self.input),
            phase=self.state["phase"].lower(),
            level=self.state["level"],
            stages=self.state["stages"],
            strict=True,
        )

    def __str__(self) -> str:
        state = self.state
        return "-".join([self.name, state["phase"], str(state["level"]), *state["stages"]])


def built() -> list[Built]:
    index = json.loads(shared(*GRAPH, "index.json").read_text("utf-8"))
    return [
        Built(case["name"], case["input"], state)
        for case in index["cases"]
        for state in json.loads(shared(*GRAPH, case["result"]).read_text("utf-8"))["states"]
    ]


ALL = built()
ACCEPTED = [net for net in ALL if net.state["verdict"] == "ok"]
REFUSED = [net for net in ALL if net.state["verdict"] == "refused"]
WITHOUT_RULE = sorted(KNOWN.keys() - READERS.keys())


@pytest.mark.parametrize("net", ACCEPTED, ids=str)
def test_blobs_have_the_shapes_that_caffe_gives_them(net: Built) -> None:
    model, expected = net.model(), net.state["net"]
    splits = split_tops(expected)
    for blob in expected["blobs"]:
        if blob["name"] not in splits and blob["name"] != "(automatic)":
            value = model.graph.values[blob["name"]]
            assert list(evaluate_shape(value.known_shape, model.graph.sizes)) == blob["shape"]


@pytest.mark.parametrize("net", ACCEPTED, ids=str)
def test_layers_are_those_that_the_rules_choose(net: Built) -> None:
    wanted = [
        (layer["name"], layer["type"])
        for layer in net.state["net"]["layers"]
        if not (layer["type"] == "Split" and layer["name"].endswith("_split"))
    ]
    assert [(record.name, record.type) for record in net.model().graph.layers] == wanted


@pytest.mark.parametrize("net", ACCEPTED, ids=str)
def test_inputs_and_outputs_are_those_of_caffe_in_order(net: Built) -> None:
    model, expected = net.model(), net.state["net"]
    splits = split_tops(expected)
    assert [value.name for value in model.inputs] == expected["inputs"]
    assert [blob_name(value.name) for value in model.outputs] == [
        splits.get(name, name) for name in expected["outputs"]
    ]


@pytest.mark.parametrize("net", ACCEPTED, ids=str)
def test_parameters_have_shapes_owners_and_multipliers_of_caffe(net: Built) -> None:
    graph, expected = net.model().graph, net.state["net"]
    uses = [
        (record.name, index, graph.values[name])
        for record in graph.layers
        for index, name in enumerate(record.parameters)
    ]
    first = [value for _, _, value in uses]
    assert [
        (name, index, -1 if first.index(value) == place else first.index(value))
        for place, (name, index, value) in enumerate(uses)
    ] == [(param["layer"], param["index"], param["owner"]) for param in expected["params"]]
    for learnable in expected["learnable"]:
        value, param = first[learnable["param"]], expected["params"][learnable["param"]]
        assert value.parameter is not None
        assert list(value.known_shape) == param["shape"]
        assert value.parameter.lr_mult == learnable["lr_mult"]
        assert value.parameter.decay_mult == learnable["decay_mult"]


@pytest.mark.parametrize("net", ACCEPTED, ids=str)
def test_losses_carry_the_weight_that_their_gradient_gets(net: Built) -> None:
    """Where a split took over an explicit weight, the loss layer's own default of 1 is
    overwritten in Caffe's backward pass and does not count."""
    expected = net.state["net"]
    splits = split_tops(expected)
    weights: dict[str, list[float]] = {}
    for layer in expected["layers"]:
        for top, weight in zip(layer["tops"], layer["loss_weight"], strict=True):
            if weight:
                weights.setdefault(splits.get(top, top), []).append(weight)
    wanted = sorted(found[-1] for found in weights.values())
    assert sorted(loss.weight for loss in net.model().graph.losses) == pytest.approx(wanted)


@pytest.mark.parametrize("net", REFUSED, ids=str)
def test_nets_that_caffe_refuses_are_refused(net: Built) -> None:
    with pytest.raises(InputError) as raised:
        net.model()
    assert raised.value.problems[0].span is not None


def test_layers_without_a_rule_are_all_named_as_not_supported_yet() -> None:
    layers = "".join(
        f'layer {{ name: "{kind}" type: "{kind}" bottom: "x" top: "{kind}" }}\n'
        for kind in WITHOUT_RULE
    )
    with pytest.raises(UnsupportedError) as raised:
        import_caffe(f'input: "x" input_dim: [1, 2, 3, 4]\n{layers}'.encode())
    assert [(problem.span and problem.span.layer, problem.message) for problem in
            raised.value.problems] == [
        (kind, f"layer '{kind}' ({kind}): layers of type {kind} ({KNOWN[kind]}) are not "
         f"supported yet") for kind in WITHOUT_RULE
    ]  # fmt: skip


def test_every_net_that_bvlc_accepts_has_rules_for_all_its_layers() -> None:
    assert {kind for net in ALL for kind in net.types} <= READERS.keys()


def blob_name(value: str) -> str:
    """The Caffe blob that a value is. An input keeps its name, so what a layer then does to it
    in place is called NAME@LAYER."""
    return value.partition("@")[0]


def split_tops(net: Any) -> dict[str, str]:
    """The blob behind each top of a split that Caffe put in."""
    return {
        top: layer["bottoms"][0]
        for layer in net["layers"]
        if layer["type"] == "Split" and layer["name"].endswith("_split")
        for top in layer["tops"]
    }


def test_a_hundred_problems_are_enough() -> None:
    layers = "".join(f'layer {{ name: "l{n}" type: "ReLU" bottom: "b{n}" }}\n' for n in range(5000))
    with pytest.raises(InputError) as caught:
        import_caffe(layers.encode())
    assert len(caught.value.problems) == 100


@pytest.mark.parametrize(
    "layer",
    [
        'type: "Parameter" parameter_param { shape { dim: 65536 dim: 65536 } }',
        'type: "Parameter" parameter_param { shape { dim: -1 } }',
        'type: "InnerProduct" bottom: "x" inner_product_param { num_output: 2147483648 }',
        'type: "Convolution" bottom: "x" convolution_param { num_output: 999999999 kernel_size: 1}',
    ],
)  # fmt: skip
def test_parameters_that_caffe_cannot_hold_are_refused(layer: str) -> None:
    net = f'input: "x" input_shape {{ dim: 1 dim: 3 dim: 4 dim: 4 }} layer {{ top: "y" {layer} }}'
    with pytest.raises(InputError, match=r"elements|negative"):
        import_caffe(net.encode())
