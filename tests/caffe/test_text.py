"""The prototxt reader: 167 verdicts of real Caffe, then places, recoveries and dialects."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from nnconv.converter.caffe import schema
from nnconv.converter.caffe.text import Parsed, parse
from nnconv.schemas.errors import InputError, Report
from tests.places import shared

PARSE = shared("golden", "parse")
CASES = json.loads((PARSE / "index.json").read_text())["cases"]
PROTOTXT_ONLY = sorted(shared("models", "prototxt_only").glob("*.prototxt"))


def read(text: str | bytes, message: str = "NetParameter", **options: Any) -> Parsed:
    source = text.encode() if isinstance(text, str) else text
    return parse(
        source, message, file="net.prototxt", report=options.pop("report", Report()), **options
    )


def refusal(text: str | bytes, message: str = "NetParameter", **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(text, message, **options)
    return str(caught.value)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_strict_reading_gives_the_verdict_and_message_of_caffe(case: dict[str, Any]) -> None:
    source = (PARSE / case["input"]).read_bytes()
    if case["verdict"] == "refused":
        refusal(source, case["message"], strict=True)
        return
    expected = schema.dialect().new(case["message"])
    expected.ParseFromString((PARSE / case["output"]).read_bytes())
    got = read(source, case["message"], strict=True).message
    assert got.SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )


# Caffe's places, where both name the same thing (it also counts what it only finds later).
PLACED = ["tpye", "slope", "permute_param", "foo", "MEDIAN", "Name"]


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if any(f'"{word}"' in str(c.get("errors")) for word in PLACED)],
    ids=lambda case: case["name"],
)
def test_errors_name_the_line_of_caffe(case: dict[str, Any]) -> None:
    line = case["errors"][0].split(": ")[2].split(":")[0]
    source = (PARSE / case["input"]).read_bytes()
    assert f"net.prototxt:{line}:" in refusal(source, case["message"], strict=True)


@pytest.mark.parametrize("path", PROTOTXT_ONLY, ids=lambda path: path.stem)
def test_every_published_prototxt_is_read_and_understood(path: Path) -> None:
    message = "SolverParameter" if "solver" in path.name else "NetParameter"
    assert read(path.read_bytes(), message).unknown == []


NET = """name: "n"
layer {
  name: "norm1"
  type: "LRN"
  bottom: "a" bottom: "b"
  lrn_param { local_size: 5
    alpha: 1e-4 }
}
layer { name: "c" convolution_param { pad: [1, 2] } }
"""


@pytest.mark.parametrize(
    ("path", "line", "column"),
    [
        (("name",), 1, 1),
        (("layer", 0), 2, 1),
        (("layer", 0, "bottom", 1), 5, 15),
        (("layer", 0, "lrn_param", "local_size"), 6, 15),
        (("layer", 0, "lrn_param", "alpha"), 7, 5),
        (("layer", 0, "lrn_param", "beta"), 6, 3),
        (("layer", 0, "no_such_param", "beta"), 2, 1),
        (("layer", 1, "convolution_param", "pad", 1), 9, 39),
        (("layer", 7), 9, 1),
        ((), 1, 1),
    ],
)
def test_a_span_is_the_field_or_what_holds_it(path: Any, line: int, column: int) -> None:
    span = read(NET).span(*path)
    assert (span.line, span.column) == (line, column)
    assert span.excerpt == NET.splitlines()[line - 1]


def test_a_span_names_its_layer() -> None:
    parsed = read(NET)
    assert parsed.span("layer", 0, "lrn_param").layer == "norm1"
    assert parsed.span("name").layer == ""
    v0 = read('layers { layer { name: "old" type: "relu" } }')
    assert v0.span("layers", 0, "layer", "type").layer == "old"


def test_columns_count_characters_and_long_lines_have_no_excerpt() -> None:
    assert read('name: "é" state {}').span("state").column == 11
    span = read("#" + "x" * 300 + "\nname: '" + "y" * 300 + "' state {}").span("state")
    assert (span.line, span.column, span.excerpt) == (2, 310, "")


def test_all_errors_of_a_file_come_at_once() -> None:
    text = """layer {
  name: 5
  pooling_param { pool: MEDIAN kernel_size: -1 stride: 1.5 }
  convolution_param: 3
  top: "a" phase: TESTS
  bias_term { a: 1 }
}
force_backward: maybe  force_backward: true
layer { clip_param { min: 0 } }
"""
    report = Report()
    message = refusal(text, report=report)
    expected = [
        (2, "expected a string in quotes, found 5"),
        (3, "has no value MEDIAN"),
        (3, "expected an integer of at least 0"),
        (3, "expected an integer of at least 0, found 1.5"),
        (4, 'expected "{", found 3'),
        (5, "did you mean 'TEST'?"),
        (8, "expected true or false, found maybe"),
        (8, "given twice"),
        (9, "layer[1].clip_param.max is missing"),
    ]
    assert len(report.errors) == len(expected)
    for (line, words), problem in zip(expected, report.errors, strict=True):
        assert problem.span is not None and problem.span.line == line
        assert words in str(problem)
    assert message.count("net.prototxt:") == len(expected)


def test_broken_syntax_ends_the_reading_with_one_error() -> None:
    report = Report()
    refusal('layer { name: 5 }\nlayer { name "x" }\nlayer { type: 5 }', report=report)
    assert [problem.span.line for problem in report.errors if problem.span] == [1, 2]


def test_unknown_fields_are_kept_and_reported_with_layer_and_hint() -> None:
    report = Report()
    text = 'layer { densblock { a: 1 b: [1, <c: "}">] } name: "d" type: "ReLU" relu_parm { } }'
    parsed = read(text, report=report)
    first, second = parsed.unknown
    assert (first.path, first.message_name, first.name) == (
        ("layer", 0),
        "LayerParameter",
        "densblock",
    )
    assert first.raw == 'densblock { a: 1 b: [1, <c: "}">] }'
    assert (first.span.line, first.span.column, first.span.layer) == (1, 9, "d")
    warnings = [str(p) for p in report if p.severity == "warning"]
    assert "layer 'd': LayerParameter has no field 'relu_parm'" in warnings[1]
    assert "did you mean 'relu_param'" in warnings[1]
    assert second.raw == "relu_parm { }" and report.ok
    assert parsed.message.layer[0].type == "ReLU"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ('layer { type: "Permute" permute_param { order: 0 } }', "ssd"),
        ("layer { upsample_param { scale: 2 } }", "mobilenet-yolo"),
        ("layer { upsample_param { scale: 2 upsample_h: 3 } }", "segnet"),
        ("layer { convolution_param { engine: MKLDNN } }", "intel"),
        ('layer { engine: "MKLDNN" }', "intel"),
        ("layer { psroi_pooling_param { spatial_scale: 1 output_dim: 1 group_size: 2 } }", "r-fcn"),
        ("layer { bn_param { bn_mode: LEARN } }", "segnet"),
        ('layer { name: "plain" }', "bvlc"),
        ("layer { permute_param { order: 0 } nobody_knows: 1 }", "ssd"),
    ],
)
def test_a_file_is_read_with_the_fork_that_explains_it(text: str, dialect: str) -> None:
    report = Report()
    parsed = read(text, report=report)
    assert parsed.dialect.name == dialect
    assert ("nobody_knows" in text) == bool(parsed.unknown)
    assert (dialect == "bvlc") == (not any(dialect in p.message for p in report))


def test_a_given_dialect_is_kept_and_the_hint_names_the_others() -> None:
    report = Report()
    parsed = read("layer { permute_param { } }", dialect=schema.dialect(), report=report)
    assert parsed.dialect.name == "bvlc" and len(parsed.unknown) == 1
    assert "known to the Caffe forks ssd" in str(report)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a" * 5000 + ": 1", "..."),
        ("zz: " + "{" * 100, "expected a field name"),
        ("zz { " * 70, "nested more than 64"),
        ("zz: [1 2]", 'expected "," or "]"'),
        ("zz: { > }", "mismatched"),
        ("zz { a 1 }", 'expected ":"'),
        ("zz { 1: 1 }", "expected a field name"),
        ("zz { [a b]: 1 }", "name of an extension"),
        ("zz: -", "expected a value"),
        ("zz: - 'x'", "expected a number"),
        ("zz 1", 'expected ":"'),
        ("layer { name: 'x'", 'ends where "}" is expected'),
        ("name: '\\q'", "invalid escape"),
        ("dim: é", "non-ASCII"),
        ("name: 1.5.2", "one decimal point"),
    ],
)
def test_unknown_fields_must_still_be_well_formed(text: str, words: str) -> None:
    report = Report()
    try:
        read(text, report=report)
    except InputError as error:
        assert words in str(error)
    else:
        assert words in str(report)


@pytest.mark.parametrize(
    "value",
    [
        "1",
        "- 2",
        "'a' \"b\"",
        "[]",
        "[1, -2.5, 'x' 'y', inf]",
        "{ }",
        "{ a #\n { } }",
        "< a: <> b: [{}, <>] >",
        "{ [x.y/z]: 1 c: 'd' 'e', f: 1; g: -inf h: - inf }",
        "[{ a: 1 }, { b: [1, 2] }]",
    ],
)
def test_any_value_of_an_unknown_field_is_stepped_over(value: str) -> None:
    parsed = read(f"zz: {value} , name: 'after'")
    assert parsed.message.name == "after"  # type: ignore[attr-defined]
    assert parsed.unknown[0].raw == f"zz: {value}"


def test_a_byte_order_mark_is_forgiven_unless_strict() -> None:
    report = Report()
    text = b"\xef\xbb\xbfname: 'n'"
    assert read(text, report=report).message.name == "n"  # type: ignore[attr-defined]
    assert "byte order mark" in str(report)
    assert "non-ASCII" in refusal(text, strict=True)


def test_strings_that_are_not_utf8_become_text_with_a_warning() -> None:
    report = Report()
    parsed = read(b"layer { name: 'caf\xe9' top: '\xff' }", report=report)
    assert parsed.message.layer[0].name == "caf\\xe9"  # type: ignore[attr-defined]
    assert str(report).count("not valid UTF-8") == 2


def test_too_many_problems_end_the_reading() -> None:
    assert "more than 100 problems" in refusal("layer { name: 1 }" * 500)
    report = Report()
    assert len(read("zz: 1 " * 500, report=report).unknown) == 500
    assert "400 more unknown fields" in str(report) and len(report.problems) == 101


def test_a_long_list_costs_memory_in_proportion() -> None:
    tracemalloc.start()
    parsed = read(b"layer { blobs { data: [" + b"0.5," * 200_000 + b"1] } }")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(parsed.message.layer[0].blobs[0].data) == 200_001  # type: ignore[attr-defined]
    assert peak < 50_000_000


@pytest.mark.parametrize(
    ("text", "message", "words"),
    [
        ("input_dim: [1, 2, 99999999999]", "NetParameter", "out of range"),
        ("input_dim: [1, 1.5]", "NetParameter", "expected an integer, found 1.5"),
        (f"input_dim: {'9' * 5000}", "NetParameter", "out of range"),
        ("force_backward: 2", "NetParameter", "expected true or false"),
        ("layer { phase: 'TEST' }", "NetParameter", "expected a name"),
        ("layer { phase: 7 }", "NetParameter", "has no value 7"),
        ("base_lr: 017", "SolverParameter", "expected a decimal number"),
    ],
)
def test_values_that_do_not_fit_say_what_does(text: str, message: str, words: str) -> None:
    assert words in refusal(text, message)


def test_plain_bytes_booleans_and_special_floats_take_the_short_way() -> None:
    datum: Any = read('data: "\xe9 ok" encoded: f label: -0', "Datum").message
    assert (datum.data, datum.encoded, datum.label) == ("\xe9 ok".encode(), False, 0)
    solver: Any = read("base_lr: inf gamma: - 2 debug_info: #\n t", "SolverParameter").message
    assert (solver.base_lr, solver.gamma, solver.debug_info) == (float("inf"), -2, True)
    net: Any = read(f"input_dim: {'0' * 5000}17 input_dim: 0xFf").message
    assert list(net.input_dim) == [15, 255]


def test_schemas_that_nest_without_end_are_read_sixty_four_deep() -> None:
    opencl = schema.dialect("bvlc-opencl")  # its moe_param holds whole nets
    text = "layer { moe_param { gating_net { "
    read(text * 21 + "} } } " * 21, dialect=opencl)
    assert "nested more than 64" in refusal(text * 40 + "} } } " * 40, dialect=opencl)
