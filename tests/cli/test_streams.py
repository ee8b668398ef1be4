"""`-` is standard input and output, in every verb that reads or writes a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


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
