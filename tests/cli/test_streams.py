"""`-` is standard input and output, in every verb that reads or writes a model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.support import CommandLine


def run(*words: object, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    line = [sys.executable, "-m", "nnconv", *map(str, words)]
    return subprocess.run(line, input=given, capture_output=True, check=True)


def test_a_model_passes_through_a_pipe(lenet: Path, in_folder: Path) -> None:
    weights, net = lenet / "lenet.caffemodel", lenet / "lenet.prototxt"
    piped = run("caffe2ir", "-", net, "-o", "-", given=weights.read_bytes())
    assert b"431,080 parameters" in piped.stderr
    run("caffe2ir", weights, net, "-o", "file.nnir")
    direct, through = run("show", "file.nnir"), run("show", "-", given=piped.stdout)
    assert direct.stdout.splitlines()[1:] == through.stdout.splitlines()[1:]


def test_errors_in_what_was_piped_have_their_place(in_folder: Path) -> None:
    line = [sys.executable, "-m", "nnconv", "show", "-"]
    done = subprocess.run(line, input=b"name: 3", capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"-:1:7: ")


def test_a_full_disk_behind_standard_output_is_told(lenet: Path) -> None:
    line = [sys.executable, "-m", "nnconv", "show", str(lenet / "lenet.prototxt")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (2, b"standard output: no space left on device\n")
        silent = subprocess.run([*line[:-1], "missing.nnir"], stderr=full, check=False)
    assert silent.returncode == 2


@pytest.mark.parametrize("columns", ["0", "1", "40", "abc"])
def test_tables_stay_readable_at_any_width(
    nnconv: CommandLine, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    shown = nnconv("diff", "zoo:lenet", "zoo:lenet", "--tolerance", "0"), nnconv("devices")
    assert [outcome.code for outcome in shown] == [0, 0]
    assert "device" in shown[1].out and "reference" in shown[1].out


@pytest.mark.parametrize("verb", [("caffe2ir", "-o"), ("convert",)], ids=lambda verb: verb[0])
def test_links_are_written_through_or_refused(
    nnconv: CommandLine, in_folder: Path, lenet: Path, verb: tuple[str, ...]
) -> None:
    name, *option = verb
    Path("good.nnir").symlink_to("real.nnir")
    Path("bad.nnir").symlink_to("nowhere/real.nnir")
    assert nnconv(name, lenet / "lenet.caffemodel", *option, "good.nnir").code == 0
    assert Path("good.nnir").is_symlink() and Path("real.nnir").is_file()
    refused = nnconv(name, lenet / "lenet.caffemodel", *option, "bad.nnir")
    assert (refused.code, "this is a link into" in refused.err) == (2, True)
    assert "this is a link to nowhere/real.nnir" in nnconv("show", "bad.nnir").err


def test_names_that_are_no_text_are_refused_only_where_a_file_has_to_hold_them(
    in_folder: Path,
) -> None:
    def run(*words: bytes) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
        line = [os.fsencode(sys.executable), b"-m", b"nnconv", *words]
        return subprocess.run(line, env=environment, capture_output=True, check=False)

    done = run(b"convert", b"zoo:lenet", b"a\xff.nnir")
    assert (done.returncode, done.stdout[:12]) == (0, b"a\\udcff.nnir")
    for words in (
        (b"ir2onnx", b"--external", b"-o", b"a\xff.onnx"),
        (b"ir2yaml", b"-o", b"\xff.yaml"),
    ):
        refused = run(words[0], b"zoo:lenet", *words[1:])
        assert (refused.returncode, b"not valid UTF-8" in refused.stderr) == (2, True)
    assert os.listdir(b".") == [b"a\xff.nnir"]  # noqa: PTH208
