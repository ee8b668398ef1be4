"""`caffe2ir` and `ir2caffe`: the way in and back, and what is left behind when it fails."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nnconv as door
from tests.cli.support import CommandLine, contents


@pytest.fixture
def model(nnconv: CommandLine, lenet: Path, in_folder: Path) -> Path:
    """lenet.nnir, made by the command line."""
    files = (lenet / "lenet.prototxt", lenet / "lenet.caffemodel")
    options = ("--scale", "0.00390625", "--labels", lenet / "labels.txt")
    result = nnconv("caffe2ir", *files, "-o", "lenet.nnir", *options)
    assert (result.code, result.err) == (0, "")
    assert result.out == "lenet.nnir: 9 layers, 9 operators, 431,080 parameters\n"
    return in_folder / "lenet.nnir"


def test_the_files_may_come_in_any_order(nnconv: CommandLine, model: Path, lenet: Path) -> None:
    options = ("--scale", "0.00390625", "--labels", lenet / "labels.txt")
    files = (lenet / "lenet.caffemodel", lenet / "lenet.prototxt")
    assert nnconv("caffe2ir", *files, "-o", "other.nnir", *options).code == 0
    assert Path("other.nnir").read_bytes() == model.read_bytes()


def test_what_describes_pictures_stays_in_the_model(model: Path) -> None:
    loaded = door.load(model)
    assert loaded.preprocessing["data"].scale == 0.00390625
    assert loaded.labels[7] == "seven"


def test_weights_come_back_bit_for_bit(nnconv: CommandLine, model: Path, lenet: Path) -> None:
    result = nnconv("ir2caffe", model, "-o", "back.prototxt", "--weights", "back.caffemodel")
    assert result.code == 0
    before = door.load(lenet / "lenet.prototxt", lenet / "lenet.caffemodel").weights
    after = door.load("back.prototxt", "back.caffemodel").weights
    assert list(before) == list(after)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_a_caffemodel_alone_comes_back_as_the_same_bytes(
    nnconv: CommandLine, lenet: Path, in_folder: Path
) -> None:
    nnconv("caffe2ir", lenet / "lenet.caffemodel", "-o", "alone.nnir")
    door.save(door.load("alone.nnir"), "back.caffemodel")
    assert Path("back.caffemodel").read_bytes() == (lenet / "lenet.caffemodel").read_bytes()


def test_text_and_binary_hold_the_same_model(model: Path) -> None:
    door.save(door.load(model), "lenet.nnirtxt")
    door.save(door.load("lenet.nnirtxt"), "again.nnir")
    assert Path("again.nnir").read_bytes() == model.read_bytes()


def test_a_model_loaded_from_its_own_file_may_be_saved_over_it(model: Path) -> None:
    before = model.read_bytes()
    door.save(
        door.load(model), model
    )  # the arrays are views of the old file until the new one is whole
    assert model.read_bytes() == before


def test_mean_numbers_reach_the_pixels(nnconv: CommandLine, golden: Path, in_folder: Path) -> None:
    net = golden / "nets/squeezenet_v11.prototxt"
    assert nnconv("caffe2ir", net, "-o", "s.nnir", "--mean", "104,117,123").code == 0
    assert door.load("s.nnir").preprocessing["data"].mean == (104, 117, 123)


def test_the_report_lists_all_findings_even_of_a_failure(
    nnconv: CommandLine, in_folder: Path
) -> None:
    Path("bad.prototxt").write_text('layer { name: "c" type: "Convolutoin" top: "y" }')
    result = nnconv("caffe2ir", "bad.prototxt", "-o", "bad.nnir", "--report", "report.json")
    assert result.code == 2
    report = json.loads(Path("report.json").read_text())
    assert not report["ok"]
    assert report["problems"][-1]["where"]["line"] == 1
    assert not Path("bad.nnir").exists()


@pytest.mark.parametrize(
    "command",
    [
        "caffe2ir lenet.caffemodel -o lenet.caffemodel",
        "ir2caffe lenet.nnir -o other.prototxt --weights lenet.nnir",
        "ir2caffe copy.prototxt -o copy.prototxt",
    ],
)
def test_the_input_is_never_overwritten(
    nnconv: CommandLine, model: Path, lenet: Path, command: str
) -> None:
    for name, source in (("lenet.caffemodel", "caffemodel"), ("copy.prototxt", "prototxt")):
        Path(name).write_bytes((lenet / f"lenet.{source}").read_bytes())
    before = contents()
    result = nnconv(*command.split())
    assert (result.code, "overwrite" in result.err) == (2, True), result.err
    assert contents() == before


VERBS = {
    "caffe2ir": "caffe2ir {lenet}/lenet.caffemodel -o out.nnir",
    "ir2caffe": "ir2caffe lenet.nnir -o out.prototxt --weights out.caffemodel",
    "run": "run lenet.nnir --image {lenet}/digits/two.png --dump-all --output out.npz",
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_leaves_nothing_half_written(model: Path, lenet: Path, verb: str) -> None:
    """A limit on the size of files stands for the full disk: writing fails in the middle."""
    limit = 2_000 if verb == "run" else 100_000
    before = set(contents())
    arguments = VERBS[verb].format(lenet=lenet).split()
    done = subprocess.run(
        [sys.executable, "-m", "nnconv", *arguments],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(door.__file__).parents[1])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "out." in done.stderr
    assert set(contents()) == before


def test_a_converted_model_gives_the_same_numbers_as_its_source(
    nnconv: CommandLine, model: Path, lenet: Path
) -> None:
    picture = lenet / "digits/four.png"
    for number, source in enumerate(("lenet.nnir", "zoo:lenet")):
        nnconv(
            "run", source, "--image", picture, "--device", "reference", "--output", f"{number}.npz"
        )
    np.testing.assert_array_equal(np.load("0.npz")["prob"], np.load("1.npz")["prob"])
