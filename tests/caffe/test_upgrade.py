"""Upgrading against 89 recorded runs of Caffe's own upgrade tools."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.message import Message

from nnconv.converter.caffe import schema
from nnconv.converter.caffe.text import parse
from nnconv.converter.caffe.upgrade import upgrade_net, upgrade_solver
from nnconv.converter.caffe.wire import read_net
from nnconv.schemas.errors import InputError, Report, UnsupportedError
from tests.places import shared

LEGACY = shared("golden", "legacy")
CASES = json.loads((LEGACY / "index.json").read_text())["cases"]
MASTER = schema.dialect()


def net(text: str) -> Message:
    return parse(text.encode(), "NetParameter", strict=True, report=Report()).message


def read_case(case: dict[str, Any]) -> Message:
    source = (LEGACY / case["input"]).read_bytes()
    kind = "SolverParameter" if case["kind"] == "solver_text" else "NetParameter"
    if case["kind"] != "net_binary":
        return parse(source, kind, strict=True, report=Report()).message
    read_net(source, report=Report())  # refuses what is no net; the blobs are compared below
    message = MASTER.new(kind)
    message.ParseFromString(source)
    return message


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_upgrading_gives_the_verdict_and_message_of_caffe(case: dict[str, Any]) -> None:
    if case["verdict"] == "unparsable":
        with pytest.raises(InputError):
            read_case(case)
        return
    message = read_case(case)
    upgrade = upgrade_solver if case["kind"] == "solver_text" else upgrade_net
    if case["verdict"] == "refused":
        with pytest.raises(InputError):
            upgrade(message, MASTER)
        return
    result = upgrade(message, MASTER)
    expected = type(message)()
    expected.ParseFromString((LEGACY / case["output"]).read_bytes())
    got = result.message.SerializeToString(deterministic=True)
    assert got == expected.SerializeToString(deterministic=True)
    assert (result.needed, result.complete) == (case["upgrade_needed"], case["complete"])
    logged = [line for line in case.get("errors_logged", []) if not line.startswith("Warning")]
    assert [line.lower() for line in result.complaints] == [line.lower() for line in logged]


def test_the_source_stays_as_it_was() -> None:
    message = net("input: 'x' input_dim: [1, 2, 3, 4] layers { type: RELU }")
    before = message.SerializeToString()
    upgrade_net(message, MASTER)
    assert message.SerializeToString() == before


ORIGINS = {
    "layer { } layer { }": [("layer", 0), ("layer", 1)],
    "input: 'x' input_dim: [1, 1, 1, 1] layers { } layers { }": [
        None,
        ("layers", 0),
        ("layers", 1),
    ],
    "input: 'x' layer { }": [("layer", 0)],
    "input: 'x' layers { top: 'p' bottom: 'x' layer { type: 'padding' pad: 1 } } "
    "layers { bottom: 'p' top: 'c' layer { type: 'conv' } }": [("layers", 1)],
}


@pytest.mark.parametrize("text", ORIGINS)
def test_every_layer_knows_the_message_it_came_from(text: str) -> None:
    assert upgrade_net(net(text), MASTER).origin == ORIGINS[text]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("input: 'a' input: 'b' input_dim: [1, 2, 3, 4]", "2 inputs need 8 input_dims"),
        ("input: 'a' input: 'b' input_shape { dim: 1 }", "2 inputs need 2 input_shapes"),
        ("layer { } layers { }", "both `layer` and `layers`"),
        ("layers { bottom: 'x' layer { name: 'l' type: 'relu' } }", "layer 'l': unknown bottom"),
        ("layers { layer { name: 'l' type: 'prelu' } }", "unknown layer type 'prelu'"),
    ],
)
def test_refusals_say_where_and_why(text: str, words: str) -> None:
    parsed = parse(text.encode(), "NetParameter", file="net.prototxt", report=Report())
    with pytest.raises(InputError, match=r"net\.prototxt:1:\d+: ") as caught:
        upgrade_net(parsed.message, MASTER, parsed.span)
    assert words in str(caught.value)


def test_a_padding_layer_takes_and_gives_one_blob() -> None:
    text = (
        "input: 'x' layers { bottom: 'x' top: 'p' top: 'q' layer { type: 'padding' } } "
        "layers { bottom: 'p' layer { type: 'conv' } }"
    )
    with pytest.raises(InputError, match="single bottom and gives a single top"):
        upgrade_net(net(text), MASTER)
    with pytest.raises(InputError, match="takes a single bottom"):
        upgrade_net(net(text.replace("bottom: 'p'", "bottom: 'p' bottom: 'x'")), MASTER)


def test_types_that_only_forks_have_keep_their_names() -> None:
    yolo = schema.dialect("mobilenet-yolo")
    message = parse(
        b"layers { type: RELU6 }", "NetParameter", dialect=yolo, report=Report()
    ).message
    assert upgrade_net(message, yolo).message.layer[0].type == "ReLU6"  # type: ignore[attr-defined]
    nvidia = schema.dialect("nvidia-0.17")
    solver = parse(b"solver_type: SAG", "SolverParameter", dialect=nvidia, report=Report()).message
    assert upgrade_solver(solver, nvidia).message.type == "SAG"  # type: ignore[attr-defined]


def test_a_dialect_with_another_idea_of_layers_is_said_to_be_unsupported() -> None:
    old = schema.dialect("c3d-1.0")
    with pytest.raises(UnsupportedError, match=r"c3d-1\.0"):
        upgrade_net(old.new("NetParameter"), old)
