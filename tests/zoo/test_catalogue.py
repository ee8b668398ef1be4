"""The catalogue says where models are and what their files should be."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest

from nnconv.schemas.errors import InputError
from nnconv.zoo import catalogue as zoo
from nnconv.zoo import find, is_zoo_name, names
from tests.places import REPOSITORY
from tests.zoo.support import described, model

Catalogue = Callable[..., Path]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = REPOSITORY / "tools" / "zoo_catalogue.py"
    spec = importlib.util.spec_from_file_location("zoo_catalogue", path)
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def sources(shared: Path) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = json.loads((shared / "zoo_sources.json").read_text())["models"]
    return models


def test_the_catalogue_is_what_its_tool_would_write(tool: ModuleType, shared: Path) -> None:
    assert zoo.CATALOGUE.read_text("utf-8") == tool.render()


def test_every_file_that_the_sources_name_can_be_had(sources: list[dict[str, Any]]) -> None:
    """By its digest, or, where a poorer list was left out, by its address."""
    files = [file for entry in zoo.entries() for file in entry.files]
    digests = {digest for file in files for digest in file.digests.values()}
    urls = {url for file in files for url in file.urls}
    lost = [
        file["path"]
        for given in sources
        for file in given["files"]
        if not file.get("holds")
        and digests.isdisjoint(file.get(kind) for kind in ("sha256", "sha384", "sha1"))
        and urls.isdisjoint(file["urls"])
    ]
    assert lost == []


def test_what_is_checked_has_the_digests_of_the_copy_at_hand(
    sources: list[dict[str, Any]], shared: Path
) -> None:
    files = {url: file for entry in zoo.entries() for file in entry.files for url in file.urls}
    compared = 0
    for given in (file for entry in sources for file in entry["files"] if file.get("same_as")):
        file, data = files[given["urls"][0]], (shared / given["same_as"]).read_bytes()
        assert file.checked
        assert file.size == len(data)
        assert file.digests["sha256"] == hashlib.sha256(data).hexdigest()
        compared += 1
    assert compared == 22


def test_what_no_copy_was_at_hand_for_is_marked_not_checked() -> None:
    assert not find("vgg16").checked
    assert find("mtcnn-p").checked
    assert not any(file.checked for file in find("vgg16").files)
    some = find("squeezenet1.1")  # its net was compared, its weights were not
    assert [file.checked for file in some.files] == [True, False]
    assert not some.checked


def test_all_addresses_are_http_and_all_names_are_found() -> None:
    for entry in zoo.entries():
        assert find(entry.name).name == entry.name
        assert all(find(alias).name == entry.name for alias in entry.aliases)
        for file in entry.files:
            assert all(urlsplit(url).scheme in ("http", "https") for url in file.urls)
            assert entry.folder is not None or file.digest
    assert len(names()) == len(zoo.entries())


@pytest.mark.parametrize(
    ("name", "preprocessing"),
    [
        ("squeezenet1.1", {"channels": "BGR", "mean": [104.0, 117.0, 123.0]}),
        ("mtcnn-o", {"channels": "BGR", "mean": [127.5] * 3, "divide": [128.0]}),
        ("yolo-v3-onnx", {"channels": "RGB", "divide": [255.0]}),
        ("background-matting-mobilenetv2", {"channels": "RGB", "divide": [255.0]}),
        ("pelee-coco", {"channels": "BGR", "mean": [103.94, 116.78, 123.68], "divide": [58.8235]}),
        ("mnist-8", {}),
    ],
)
def test_preprocessing_is_as_the_lists_state_it(name: str, preprocessing: dict[str, Any]) -> None:
    assert find(name).preprocessing == preprocessing


@pytest.mark.parametrize("name", ["lenet", "zoo:lenet", "LeNet", "zoo:LENET"])
def test_a_name_is_found_in_any_case_of_letters(name: str) -> None:
    assert find(name).name == "lenet"


def test_another_name_of_the_same_file_is_found() -> None:
    assert find("densenet-9").name == "densenet-6"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"the zoo has no model 'squeezenet1\.2'") as caught:
        find("zoo:squeezenet1.2")
    assert "'squeezenet1.1'" in str(caught.value)


def test_only_a_prefix_makes_a_zoo_name() -> None:
    assert is_zoo_name("zoo:lenet")
    assert not is_zoo_name("lenet")
    assert not is_zoo_name(b"zoo:lenet")


def test_own_entries_come_before_the_catalogue(catalogue: Catalogue) -> None:
    catalogue(model("vgg16", described("a.onnx", b"x", "http://127.0.0.1/a"), title="ours"))
    assert find("vgg16").title == "ours"
    assert find("vgg19").title == "vgg19"


FILE = described("a.onnx", b"x", "http://127.0.0.1/a")
BAD: dict[str, tuple[Any, str]] = {
    "no list": ([], "list indices"),
    "no models": ({}, "no 'models'"),
    "an entry without files": ({"models": [{"name": "a", "format": "onnx"}]}, "no 'files'"),
    "a name with a path": ({"models": [model("../a", FILE)]}, "cannot be the name of a model"),
    "an empty name": ({"models": [model("", FILE)]}, "cannot be the name of a model"),
    "a hidden file": ({"models": [model("a", FILE | {"path": ".a"})]}, "cannot be the name of a f"),
    "a path": ({"models": [model("a", FILE | {"path": "b/../c"})]}, "cannot be the name of a file"),
    "no digest": ({"models": [model("a", {"path": "a", "urls": []})]}, "has no sha256 or"),
    "half a digest": ({"models": [model("a", FILE | {"sha256": "ab"})]}, "'ab' is no sha256"),
    "a negative size": ({"models": [model("a", FILE | {"bytes": -1})]}, "cannot have -1 bytes"),
    "one address": ({"models": [model("a", FILE | {"urls": "http"})]}, "the urls of a.onnx are a"),
    "an option": ({"models": [model("a", FILE, options={"x": 1})]}, "there is no option x"),
    "a divisor": ({"models": [model("a", FILE, preprocessing={"divide": [0]})]}, "divisor finite"),
    "a member outside": (
        {"models": [model("a", FILE | {"members": [{"path": "../b"}]})]}, "leads out of a.onnx"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_catalogue_with_a_fault_is_refused_by_name(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, reason = BAD[case]
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content))
    monkeypatch.setenv("NNCONV_ZOO", str(path))
    with pytest.raises(InputError) as caught:
        find("lenet")
    assert str(caught.value).startswith(f"{path}: this is no catalogue: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"models": 3}'])
def test_what_is_no_json_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.json").write_text(text)
    monkeypatch.setenv("NNCONV_ZOO", str(tmp_path / "own.json"))
    with pytest.raises(InputError, match="this is no catalogue"):
        names()


def test_a_catalogue_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNCONV_ZOO", "/nowhere/own.json")
    with pytest.raises(InputError, match=r"/nowhere/own\.json: No such file"):
        names()
