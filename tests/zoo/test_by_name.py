"""`zoo:NAME` wherever a model is taken, and the verbs of `nnconv zoo`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnconv
from nnconv.converter import formats
from nnconv.schemas import container
from nnconv.schemas.errors import InputError, UnsupportedError
from tests.cli.support import CommandLine
from tests.places import REPOSITORY, shared
from tests.zoo.server import Web, status
from tests.zoo.support import BODY, described, model

Catalogue = Callable[..., Path]
PNET = ("det1.prototxt", "det1.caffemodel")
PREPROCESSING = {"channels": "RGB", "mean": [127.5, 127.0, 126.0], "divide": [128.0]}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.delenv("COLUMNS", raising=False)
    return CommandLine(capsys)


def entry(web: Web, name: str, **more: Any) -> dict[str, Any]:
    """MTCNN's first net as a catalogue has it, its files on the server."""
    files = []
    for file in PNET:
        body = shared("models/caffe/mtcnn_pnet", file).read_bytes()
        files.append(described(file, body, web.page(f"/{file}", body)))
    return model(name, *files, format="caffe", **more)


@pytest.fixture
def pnet(web: Web, catalogue: Catalogue) -> str:
    facts = {"preprocessing": PREPROCESSING, "labels": ["no face", "face"]}
    catalogue(entry(web, "pnet", inputs={"data": [1, 3, 12, 12]}, **facts))
    return "zoo:pnet"


def local() -> nnconv.Model:
    return nnconv.load([shared("models/caffe/mtcnn_pnet", file) for file in PNET])


def test_a_model_by_name_is_the_model_of_its_files(pnet: str) -> None:
    fetched, own = nnconv.load(pnet), local()
    assert fetched.weights.keys() == own.weights.keys()
    for name, weights in own.weights.items():
        np.testing.assert_array_equal(fetched.weights[name], weights)
    x = np.random.default_rng(1).standard_normal((1, 3, 24, 20), dtype=np.float32)
    here = nnconv.compile(fetched, device="reference").run({"data": x})
    for name, expected in nnconv.compile(own, device="reference").run({"data": x}).items():
        np.testing.assert_array_equal(here[name], expected)


def test_an_onnx_file_is_a_model_too(web: Web, catalogue: Catalogue, home: Path) -> None:
    body = shared("models/onnx/mnist_8/mnist-8.onnx").read_bytes()
    file = described("mnist-8.onnx", body, web.page("/mnist-8.onnx", body))
    catalogue(model("mnist", file, format="onnx", labels=list("0123456789")))
    stored = np.load(shared("models/onnx/mnist_8/reference.npz"))
    for _ in range(2):  # the second time from the .nnir that the first left
        fetched = nnconv.load("zoo:mnist")
        (got,) = nnconv.compile(fetched, device="cpu").run({"Input3": stored["in/Input3"]}).values()
        np.testing.assert_allclose(got, stored["out/Plus214_Output_0"], rtol=1e-4, atol=1e-3)
        assert fetched.labels == tuple("0123456789")
    assert web.asked("/mnist-8.onnx") == [""]
    assert [path.name for path in (home / "zoo" / "mnist").glob("*.nnir")]


def test_the_catalogue_gives_preprocessing_and_labels(pnet: str) -> None:
    for loaded in (nnconv.load(pnet), nnconv.load(pnet)):  # made, then kept
        how = loaded.preprocessing["data"]
        assert (how.channels, how.mean, how.scale) == ("RGB", (127.5, 127.0, 126.0), 1 / 128)
        assert loaded.labels == ("no face", "face")


def test_options_of_the_caller_win(pnet: str, tmp_path: Path) -> None:
    loaded = nnconv.zoo.load("pnet", scale=0.5, labels=["a", "b"], mean=[1.0, 2.0, 3.0])
    how = loaded.preprocessing["data"]
    assert (how.channels, how.mean, how.scale) == ("BGR", (1.0, 2.0, 3.0), 0.5)
    assert loaded.labels == ("a", "b")
    assert nnconv.load(pnet).preprocessing["data"].scale == 1 / 128


def test_a_model_is_converted_once(
    pnet: str, web: Web, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nnconv.zoo.load("pnet")
    (kept,) = (home / "zoo" / "pnet").glob("pnet-*.nnir")

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(formats, "read", never)
    assert nnconv.zoo.load("pnet").weights.keys() == container.load(kept).weights.keys()
    assert web.asked("/det1.caffemodel") == [""]


@pytest.mark.parametrize("damage", [b"", b"no nnir", b"\x0a\x04nnir" + bytes(100)])
def test_a_damaged_nnir_is_made_anew(damage: bytes, pnet: str, home: Path) -> None:
    nnconv.load(pnet)
    (kept,) = (home / "zoo" / "pnet").glob("*.nnir")
    good = kept.read_bytes()
    kept.write_bytes(damage)
    nnconv.load(pnet)
    assert kept.read_bytes() == good


def test_another_catalogue_entry_is_converted_anew(
    pnet: str, web: Web, catalogue: Catalogue, home: Path
) -> None:
    nnconv.load(pnet)
    before = {path.name for path in home.rglob("*.nnir")}
    catalogue(entry(web, "pnet", labels=["other", "names"]))
    assert nnconv.load(pnet).labels == ("other", "names")
    after = {path.name for path in home.rglob("*.nnir")}
    assert len(after) == 1
    assert before.isdisjoint(after)


def test_a_scale_for_each_channel_is_said_not_guessed(web: Web, catalogue: Catalogue) -> None:
    facts = {"divide": [58.4, 57.1, 57.4], "mean": [1.0, 2.0, 3.0]}
    catalogue(entry(web, "pnet", preprocessing=facts))
    report = nnconv.Report("zoo:pnet")
    assert nnconv.load("zoo:pnet", report=report).preprocessing == {}
    assert "scales each channel by itself" in str(report)


def test_a_full_disk_takes_nothing_from_the_model_in_memory(
    pnet: str, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    def full(*args: Any) -> None:
        raise InputError("the disk is full")

    monkeypatch.setattr(container, "save", full)
    report = nnconv.Report("zoo:pnet")
    assert nnconv.load(pnet, report=report).weights
    assert "zoo:pnet is not kept as .nnir: the disk is full" in str(report)
    assert list(home.rglob("*.nnir")) == []


def test_looking_at_the_zoo_loads_neither_numpy_nor_the_network() -> None:
    code = (
        "import sys, nnconv; nnconv.zoo.find('vgg16'); "
        "print([m for m in ('numpy', 'urllib.request', 'rich', 'filelock') if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


def test_get_prints_the_paths_and_leaves_a_nnir(
    pnet: str, command: CommandLine, home: Path
) -> None:
    done = command("zoo", "get", "pnet")
    assert done.code == 0
    assert done.out.splitlines() == [str(home / "zoo" / "pnet" / file) for file in PNET]
    assert "fetching det1.caffemodel" in done.err
    assert len(list(home.rglob("*.nnir"))) == 1
    assert command("zoo", "path", "pnet").out == done.out
    assert command("show", pnet).code == 0


def test_get_can_leave_converting_for_later(pnet: str, command: CommandLine, home: Path) -> None:
    assert command("zoo", "get", "--no-convert", "pnet").code == 0
    assert list(home.rglob("*.nnir")) == []


def test_get_keeps_what_nnconv_cannot_read(
    pnet: str, command: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*args: Any, **kwargs: Any) -> None:
        raise UnsupportedError("layer 'x' is of a type that nnconv lacks")

    monkeypatch.setattr(formats, "read", refuses)
    done = command("zoo", "get", "pnet")
    assert done.code == 0
    assert "pnet is here, but cannot be converted: layer 'x'" in done.err
    assert command("zoo", "path", "pnet").code == 0


def test_what_comes_along_needs_no_network(
    command: CommandLine, home: Path, lenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNCONV_OFFLINE", "1")
    done = command("zoo", "get", "--force", "lenet")
    assert done.out.splitlines() == [str(lenet / f"lenet.{end}") for end in
                                     ("prototxt", "caffemodel")]  # fmt: skip
    assert not home.exists()


def test_a_failure_tells_where_and_what_to_do_and_exits_2(
    web: Web, catalogue: Catalogue, command: CommandLine
) -> None:
    url = web.page("/gone", BODY, status(404))
    catalogue(model("gone", described("net.onnx", BODY, url)))
    done = command("show", "zoo:gone")
    assert done.code == 2
    assert f"{url}: HTTP 404 Not Found" in done.err
    assert "try later, or put the file there yourself: " in done.err
    assert "Traceback" not in done.err


def test_path_fetches_nothing(pnet: str, web: Web, command: CommandLine) -> None:
    done = command("zoo", "path", "pnet")
    assert (done.code, done.out) == (2, "")
    assert "nnconv zoo get pnet" in done.err
    assert web.asked("/det1.prototxt") == []


def test_list_tells_what_is_shipped_here_or_elsewhere(pnet: str, command: CommandLine) -> None:
    command("zoo", "get", "--no-convert", "pnet")
    rows = {row[0]: row[1:] for row in map(str.split, command("zoo", "list").out.splitlines())}
    assert "shipped" in rows["lenet"]
    assert "here" in rows["pnet"]
    assert not {"here", "shipped"} & set(rows["vgg16"])
    here = command("zoo", "list", "--here", "--json").json["models"]
    assert [found["name"] for found in here] == ["lenet", "pnet"]


def test_list_chooses_by_words_and_format(command: CommandLine) -> None:
    found = command("zoo", "list", "squeezenet", "--format", "caffe", "--json").json["models"]
    assert {"squeezenet1.0", "squeezenet1.1"} <= {one["name"] for one in found}
    assert {one["format"] for one in found} == {"caffe"}
    assert command("zoo", "list", "no such thing").code == 2


def test_info_shows_all_that_is_known(command: CommandLine) -> None:
    text = command("zoo", "info", "squeezenet1.1").out
    facts = command("zoo", "info", "squeezenet1.1", "--json").json
    assert facts["bytes"] == 9678 + 4950080
    assert facts["preprocessing"]["mean"] == [104.0, 117.0, 123.0]
    assert [file["checked"] for file in facts["files"]] == [True, False]
    for shown in ("squeezenet1.1.caffemodel (not checked)", facts["licence"], facts["source"],
                  *facts["files"][1]["urls"], facts["files"][1]["sha384"]):  # fmt: skip
        assert shown in text


def test_verify_exits_1_when_a_file_has_changed(
    pnet: str, command: CommandLine, home: Path
) -> None:
    command("zoo", "get", "pnet")
    assert command("zoo", "verify").code == 0
    path = home / "zoo" / "pnet" / "det1.caffemodel"
    path.write_bytes(bytes(path.stat().st_size))
    done = command("zoo", "verify", "pnet")
    assert done.code == 1
    assert f"{path}: the content has changed" in done.err


def test_clear_wants_names_or_all(pnet: str, command: CommandLine, home: Path) -> None:
    command("zoo", "get", "pnet")
    assert command("zoo", "clear").code == 2
    assert command("zoo", "clear", "pnet", "--all").code == 2
    assert command("zoo", "clear", "--all").code == 0
    assert not (home / "zoo" / "pnet").exists()
    assert command("zoo", "path", "pnet").code == 2


@pytest.mark.parametrize("words", [["lst"], ["info", "vgg61"], ["get"], ["get", "no-such-net"]])
def test_a_mistake_on_the_command_line_exits_2(words: list[str], command: CommandLine) -> None:
    done = command("zoo", *words)
    assert done.code == 2
    assert "Traceback" not in done.err


def test_the_models_of_a_catalogue_are_json_that_json_reads(command: CommandLine) -> None:
    whole = json.loads(command("zoo", "list", "--json").out)
    assert (whole["nnconv"], whole["schema"]) == ("zoo", 1)
    assert len(whole["models"]) > 300
