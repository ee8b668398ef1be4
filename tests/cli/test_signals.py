"""An interrupt at any moment of any verb: one line, exit code 130, nothing left behind.

The process strikes itself at a named moment (an import, a file being opened or renamed), so that no
test waits for a moment to come.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STRIKE = Path(__file__).parent / "strike.py"
DIGITS = "nnconv/zoo/models/lenet/digits"

# a verb with its words, and the moments to strike at
VERBS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "help": ("--help", [("import", "nnconv.cli.main"), ("import", "click")]),
    "show": ("show net.nnir", [("import", "numpy"), ("open", "net.nnir"), ("import", "rich")]),
    "whatis": ("net.nnir", [("import", "nnconv.converter"), ("open", "net.nnir")]),
    "diff": ("diff net.nnir net.nnir", [("open", "net.nnir")]),
    "caffe2ir": (
        "caffe2ir net.prototxt net.caffemodel -o out.nnir --report report.json",
        [("open", "net.prototxt"), ("open", ".nnconv-"), ("os.rename", ".nnconv-")],
    ),
    "ir2caffe": ("ir2caffe net.nnir -o out.prototxt", [("open", ".nnconv-")]),
    "ir2onnx": ("ir2onnx net.nnir -o out.onnx --external", [("os.rename", ".nnconv-")]),
    "ir2yaml": ("ir2yaml net.nnir -o out.yaml", [("open", ".nnconv-"), ("os.rename", ".nnconv-")]),
    "convert": (
        "convert net.nnir out.onnx",
        [("open", "out.onnx"), ("import", "nnconv.runtime.executor"), ("shutil.rmtree", "")],
    ),
    "load-weights": ("load-weights net.prototxt net.caffemodel -o o.nnir", [("open", ".nnconv-")]),
    "run": (
        "run net.nnir two.png -o out.npz",
        [("import", "PIL"), ("import", "nnconv.runtime.lowering"), ("open", ".nnconv-")],
    ),
    "test": ("test net.nnir --data pictures", [("os.scandir", "pictures"), ("import", "PIL")]),
    "bench": ("bench net.nnir --seconds 9", [("import", "nnconv.runtime.executor")]),
    "grad": ("grad net.nnir --of prob -o g.nnir", [("open", ".nnconv-")]),
    "zoo": ("zoo list", [("import", "nnconv.zoo")]),
    "env": ("env", [("open", "/proc/cpuinfo")]),
}
MOMENTS = [
    pytest.param(words, *moment, id=f"{verb}-{'-'.join(moment)}")
    for verb, (words, moments) in VERBS.items()
    for moment in moments
]


@pytest.fixture
def folder(in_folder: Path, lenet: Path, repository: Path) -> Path:
    from nnconv import load, save

    for name in ("prototxt", "caffemodel"):
        Path(f"net.{name}").write_bytes((lenet / f"lenet.{name}").read_bytes())
    save(load("net.caffemodel"), "net.nnir")
    for number in (1, 2):
        Path(f"pictures/{number}").mkdir(parents=True)
        Path(f"pictures/{number}/x.png").write_bytes((repository / DIGITS / "two.png").read_bytes())
    Path("two.png").write_bytes((repository / DIGITS / "two.png").read_bytes())
    return in_folder


def struck(event: str, text: str, name: str, words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(STRIKE), event, text, name, *words.split()]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(("words", "event", "text"), MOMENTS)
def test_an_interrupt_is_one_line_and_leaves_nothing(
    folder: Path, words: str, event: str, text: str
) -> None:
    before = set(os.listdir())  # noqa: PTH208
    done = struck(event, text, "SIGINT", words)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    left = set(os.listdir()) - before  # noqa: PTH208
    # what took its place whole before the blow may stay
    assert not {name for name in left if name.startswith(".")}
    assert not left or event in ("os.rename", "shutil.rmtree")


@pytest.mark.parametrize(
    ("name", "text"), [("SIGTERM", "terminated"), ("SIGHUP", "the terminal went away")]
)
def test_other_signals_clean_up_as_well(folder: Path, name: str, text: str) -> None:
    before = set(os.listdir())  # noqa: PTH208
    done = struck("open", ".nnconv-", name, "caffe2ir net.caffemodel -o out.nnir")
    assert (done.returncode, done.stderr) == (128 + getattr(signal, name), f"{text}\n")
    assert set(os.listdir()) == before  # noqa: PTH208


def test_a_signal_that_the_caller_ignores_stays_ignored(folder: Path) -> None:
    line = [sys.executable, str(STRIKE), "import", "numpy", "SIGHUP", "show", "net.nnir"]
    done = subprocess.run(["nohup", *line], capture_output=True, text=True, check=True, input="")
    assert "431,080 parameters" in done.stdout


def test_files_that_belong_together_are_both_old_or_both_new(folder: Path) -> None:
    words = "ir2yaml net.nnir -o out.yaml"
    Path("out.yaml").write_text("old")
    done = struck("open", ".nnconv-", "SIGINT", words)
    assert (done.returncode, Path("out.yaml").read_text()) == (130, "old")
    assert not Path("out.npz").exists()


def test_training_that_is_struck_before_its_first_step_can_begin_anew(folder: Path) -> None:
    words = "finetune net.nnir --data pictures -o o.nnir --val 0 --iterations 2 --batch 2"
    done = struck("open", ".nnconv-", "SIGINT", words)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert not list(Path("o.run").glob(".nnconv-*"))
    again = subprocess.run(
        [sys.executable, "-m", "nnconv", *words.split()], capture_output=True, check=False
    )
    assert again.returncode == 0, again.stderr
