"""YAML is read within bounds, with positions, and as the core schema of YAML 1.2 says."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import yaml

from nnconv.converter.yaml.compose import MOST_DEPTH, Item, Mapping, Scalar, Sequence, read
from nnconv.converter.yaml.scalars import quoted, resolve
from nnconv.schemas.errors import InputError, Report


def plain(item: Item) -> Any:
    """A tree of plain Python values, for comparing."""
    if isinstance(item, Scalar):
        return item.value
    if isinstance(item, Sequence):
        return [plain(part) for part in item.items]
    assert isinstance(item, Mapping)
    return {key: plain(part) for key, (_, part) in item.pairs.items()}


def refused(data: bytes) -> str:
    report = Report("f.yaml")
    with pytest.raises(InputError) as caught:
        read(data, "f.yaml", report)
        report.raise_if_errors()
    return str(caught.value)


# text, what YAML 1.2's core schema makes of it (specification 1.2.2, section 10.3.2)
SCALARS = [
    ("no", "no"), ("yes", "yes"), ("on", "on"), ("true", True), ("FALSE", False), ("~", None),
    ("null", None), ("1e-8", 1e-8), ("3e-4", 3e-4), ("017", 17), ("0o17", 15), ("0xff", 255),
    ("12:30:00", "12:30:00"), ("2001-01-01", "2001-01-01"), ("-7", -7), ("+7", 7), (".5", 0.5),
    ("1.", 1.0), (".inf", math.inf), ("-.INF", -math.inf), ("1_000", "1_000"), ("0b1", "0b1"),
    ("True ", "True "), ("nan", "nan"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_plain_scalars_are_those_of_the_core_schema(text: str, value: object) -> None:
    found = resolve(text)
    assert found == value
    assert type(found) is type(value)


AWKWARD = [
    "no", "1", "a: b", "x #y", "", "conv 20 5x5", "N", "é", "- a", "a,b", "{", "null", "&a", "*a",
    "!t", "a\nb", "\t", "'", '"',
]  # fmt: skip


@pytest.mark.parametrize("text", AWKWARD)
def test_quoted_text_reads_back_as_itself_here_and_in_pyyaml(text: str) -> None:
    assert plain(read(f"[{quoted(text)}]".encode(), "f", Report()).root) == [text]
    assert yaml.safe_load(f"[{quoted(text)}]") == [text]


def test_every_node_knows_its_line_and_column() -> None:
    root = read(b"a: 1\nb:\n  - x\n  - {c: y}\n", "f", Report()).root
    assert isinstance(root, Mapping)
    items = root.pairs["b"][1]
    assert isinstance(items, Sequence)
    inner = items.items[1]
    assert isinstance(inner, Mapping)
    assert [(n.line, n.column) for n in (root, items, inner, inner.pairs["c"][1])] == [
        (1, 1), (3, 3), (4, 5), (4, 9),
    ]  # fmt: skip


def test_quotes_and_tags_make_text_of_numbers() -> None:
    root = read(b"['1', \"2\", !!str 3, !Int 4, 5]", "f", Report()).root
    assert isinstance(root, Sequence)
    scalars = [item for item in root.items if isinstance(item, Scalar)]
    assert [item.value for item in scalars] == ["1", "2", "3", "4", 5]
    assert scalars[3].tag == "Int"


def test_aliases_mean_what_they_stand_for() -> None:
    root = read(b"a: &x {b: [1, 2]}\nc: *x\nd: [*x, *x]\n", "f", Report()).root
    one = {"b": [1, 2]}
    assert plain(root) == {"a": one, "c": one, "d": [one, one]}


REFUSED = [
    (b"a: 1\nb: 2\na: 3\n", "f.yaml:3:1: the key 'a' stands here twice, first in line 1"),
    (b"a: {b: 1, 'b': 2}\n", "f.yaml:1:11: the key 'b' stands here twice"),
    (b"a: &x [*x]", "f.yaml:1:8: the alias *x would hold itself"),
    (b"a: *y", "f.yaml:1:4: the alias *y is not defined before it"),
    (b"a: 1\n b: 2", "f.yaml:2:3: not YAML: mapping values are not allowed"),
    (b"[1, 2", "not YAML"),
    (b"? [a]\n: 1", "f.yaml:1:3: a key must be a word"),
    (b"a\n---\nb", "f.yaml:2:1: the file holds a second document"),
    (b"", "the file holds nothing"),
    (b"a: \x01", "not YAML"),
    (b"\xff\xfe\x00", "not YAML"),
    (b"a: " + b"9" * 70, "a number of 70 digits"),
]


@pytest.mark.parametrize(("data", "message"), REFUSED)
def test_what_is_no_sound_yaml_is_refused_at_its_place(data: bytes, message: str) -> None:
    assert message in refused(data)


def test_all_duplicate_keys_are_told_at_once() -> None:
    assert refused(b"{a: 1, a: 2, b: 1, b: 2}").count("twice") == 2


@pytest.mark.parametrize("opening", [b"[", b"{a: ", b"- ", b"[[{a: ["], ids=repr)
def test_deep_nesting_is_refused_at_the_limit_and_costs_nothing(opening: bytes) -> None:
    begin = time.process_time()
    assert f"nested more than {MOST_DEPTH} deep" in refused(opening * 50_000)
    assert time.process_time() - begin < 5  # a scanner that reads on takes minutes; this, 2 ms


def test_aliases_that_unfold_beyond_measure_are_refused() -> None:
    lines = [b"a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"]
    lines += [
        b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 20)
    ]
    assert "nodes, aliases unfolded" in refused(b"".join(lines))


def test_aliases_do_not_nest_deeper_than_what_is_written_out() -> None:
    lines = [b"a0: &a0 [1]\n"]
    lines += [b"a%d: &a%d [*a%d]\n" % (i, i, i - 1) for i in range(1, 100)]
    assert f"nested more than {MOST_DEPTH} deep, aliases unfolded" in refused(b"".join(lines))
