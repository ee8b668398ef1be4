"""Weights go in by name, and the report says what fitted, what not, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nnconv as door
from nnconv.converter.formats import read_weights
from nnconv.converter.weights import Loaded, load_weights, parse_rename
from nnconv.converter.yaml.reader import import_yaml
from nnconv.schemas.checkpoint import Checkpoint
from nnconv.schemas.errors import InputError, MismatchError
from nnconv.schemas.graph import Model

TEXT = b"input: {x: [N, 3]}\nlayers: [{fc1: dense 4}, relu, {fc2: dense 2}]\n"


def model() -> Model:
    return import_yaml(TEXT)


def arrays(*names: str, prefix: str = "", dtype: str = "f4") -> Checkpoint:
    shapes = {"fc1/0": (4, 3), "fc1/1": (4,), "fc2/0": (2, 4), "fc2/1": (2,)}
    chosen = names or tuple(shapes)
    return Checkpoint({prefix + n: np.full(shapes[n], len(n), dtype) for n in chosen})


def test_all_that_fits_goes_in() -> None:
    target = model()
    report = load_weights(target, arrays(), strict=True)
    assert report == Loaded(["fc1/0", "fc1/1", "fc2/0", "fc2/1"])
    assert sorted(target.weights) == report.matched


def test_the_four_kinds_are_told_apart() -> None:
    given = dict(arrays("fc1/0", "fc2/0").parameters)
    given["fc1/1"] = np.zeros((4, 1), np.float32)
    given["extra"] = np.zeros(1, np.float32)
    target = model()
    report = load_weights(target, Checkpoint(given))
    assert (report.matched, report.missing) == (["fc1/0", "fc2/0"], ["fc2/1"])
    assert report.unexpected == ["extra"]
    assert [(m.name, m.wanted, m.got) for m in report.misfits] == [
        ("fc1/1", "float32 4", "float32 4x1")
    ]
    assert target.parameters["fc1/1"].data is None


def test_strict_changes_nothing_when_something_is_wrong() -> None:
    target = model()
    with pytest.raises(MismatchError) as caught:
        load_weights(target, arrays("fc1/0"), strict=True)
    assert "the file has no array for 'fc1/1', 'fc2/0', 'fc2/1'" in str(caught.value)
    assert target.weights == {}


RENAMES = [
    ("net.", ["net.*=*"]),
    ("module.features.", ["module.features.fc1*=fc1*", "module.features.*=*"]),
    ("", []),
]


@pytest.mark.parametrize(("prefix", "rules"), RENAMES)
def test_patterns_turn_names(prefix: str, rules: list[str]) -> None:
    report = load_weights(model(), arrays(prefix=prefix), [parse_rename(rule) for rule in rules])
    assert report.complete


@pytest.mark.parametrize("text", ["a", "=b", "a=", "a=b*", "a*=*b*", "a*b*=c*"])
def test_patterns_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="does not say what becomes what"):
        parse_rename(text)


def test_two_names_may_not_become_one() -> None:
    with pytest.raises(InputError, match="'fc1/0' and 'fc2/0' of the file would both be 'fc1/0'"):
        load_weights(model(), arrays("fc1/0", "fc2/0"), [("fc2/0", "fc1/0")])


def test_nothing_fitting_is_an_error() -> None:
    with pytest.raises(InputError, match="no array of the file fits the model"):
        load_weights(model(), arrays(prefix="other/"))


def test_doubles_become_floats_and_integers_do_not() -> None:
    target = model()
    load_weights(target, arrays(dtype="f8"))
    assert {value.data.dtype.name for value in target.parameters.values()
            if value.data is not None} == {"float32"}  # fmt: skip
    with pytest.raises(InputError):
        load_weights(model(), arrays(dtype="i4"))


@pytest.mark.parametrize("suffix", ["npz", "pb", "safetensors", "onnx", "yaml", "nnir",
                                    "caffemodel"])  # fmt: skip
def test_every_file_with_weights_gives_them_back(in_folder: Path, suffix: str) -> None:
    source = door.load("zoo:lenet")
    door.save(source, f"w.{suffix}")
    target = door.load("zoo:lenet")
    for value in target.parameters.values():
        value.data = None
    load_weights(target, read_weights(f"w.{suffix}"), strict=True)
    for name, array in source.weights.items():
        np.testing.assert_array_equal(target.weights[name], array, strict=True)
