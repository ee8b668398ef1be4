"""What people watch: the metrics file, plots in the terminal and in files, and the display."""

from __future__ import annotations

import io
import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnconv.cli.braille import chart
from nnconv.cli.display import LiveDisplay, PlainDisplay, describe
from nnconv.runtime.training.metrics import Lap, MetricsFile, Validation, read_metrics, series
from nnconv.schemas.errors import InputError
from tests.cli.support import CommandLine

LAP = Lap(100, 1.5, 0.25, 0.001, 1234.5, 10.0)
CHECK = Validation(100, 1.5, 0.3, 0.925, 400)


@pytest.fixture
def run(in_folder: Path) -> Path:
    """A run of forty reports whose loss halves every ten."""
    metrics = MetricsFile(in_folder / "metrics.jsonl")
    for i in range(40):
        metrics.saw(Lap(i * 10, i / 10, 2.0 ** (-i / 10), 0.01, 100.0, float(i)))
    metrics.saw(Validation(390, 3.9, 0.1, 0.9, 50))
    return in_folder


# --- the metrics file -----------------------------------------------------------------------------


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.saw(LAP)
    metrics.saw(CHECK)
    assert read_metrics(tmp_path) == [
        {"kind": "train", "iteration": 100, "epoch": 1.5, "loss": 0.25, "lr": 0.001,
         "samples_per_second": 1234.5, "seconds": 10.0},
        {"kind": "validation", "iteration": 100, "epoch": 1.5, "loss": 0.3, "accuracy": 0.925,
         "samples": 400},
    ]  # fmt: skip


def test_what_json_has_no_word_for_is_null_and_not_drawn(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "m").saw(Lap(1, 0.1, float("nan"), 0.1, float("inf"), 1.0))
    records = read_metrics(tmp_path / "m")
    assert json.loads((tmp_path / "m").read_text())["loss"] is None
    assert series(records, "train", "loss") == ([], [])


def test_a_torn_last_line_is_left_out(run: Path) -> None:
    file = run / "metrics.jsonl"
    whole = read_metrics(run)
    file.write_bytes(file.read_bytes()[:-7])
    assert read_metrics(run) == whole[:-1]


def test_rewinding_cuts_what_came_later_and_goes_on_from_there(run: Path) -> None:
    metrics = MetricsFile(run / "metrics.jsonl")
    with metrics.path.open("ab") as file:
        file.write(b'{"kind": "tr')
    metrics.rewind(200)
    metrics.saw(LAP)
    iterations = [record["iteration"] for record in read_metrics(run)]
    assert iterations == [*range(0, 210, 10), 100]


@pytest.mark.parametrize("line", [b"\xff\n", b"3\n", b"{}\n", b"[" * 60_000 + b"\n", b"\n"])
def test_a_damaged_line_is_named(run: Path, line: bytes) -> None:
    file = run / "metrics.jsonl"
    file.write_bytes(line + file.read_bytes())
    with pytest.raises(InputError, match=r"metrics\.jsonl:1: this is no record"):
        read_metrics(run)


# --- curves ---------------------------------------------------------------------------------------


def dots(line: str) -> list[bool]:
    """Whether each cell of a line has any dot."""
    return [ord(cell) > 0x2800 for cell in line if 0x2800 <= ord(cell) < 0x2900]


def test_a_rising_line_rises_without_gaps() -> None:
    lines = chart([([0, 10], [0.0, 5.0])], width=30, height=6)
    drawn = np.array([dots(line) for line in lines[:-1]])
    assert drawn.shape == (6, 27)
    assert drawn.any(axis=0).all()
    tops = drawn.argmax(axis=0)
    assert (np.diff(tops) <= 0).all()
    assert (tops[0], tops[-1]) == (5, 0)
    assert lines[0].startswith("5 ┤")
    assert lines[-1].split() == ["0", "10"]


@pytest.mark.parametrize(
    "curve", [([1], [2.0]), ([1, 2], [3.0, 3.0]), ([1, 2], [1e30, -1e30]), ([1, 1], [0.0, 1.0])]
)
def test_odd_curves_are_drawn_too(curve: tuple[list[float], list[float]]) -> None:
    assert any(any(dots(line)) for line in chart([curve]))


def test_nothing_finite_draws_nothing() -> None:
    assert chart([([1, 2], [float("nan"), float("inf")])]) == []


def test_plot_shows_the_run_in_the_terminal(command_line: CommandLine, run: Path) -> None:
    shown = command_line("plot", run)
    assert shown.code == 0
    assert "loss: training 0.06699, validation 0.1" in shown.out
    assert "learning rate: rate 0.01" in shown.out
    assert sum(any(dots(line)) for line in shown.out.splitlines()) >= 16


def test_plot_as_json_gives_the_records(command_line: CommandLine, run: Path) -> None:
    assert len(command_line("plot", run, "--json").json["records"]) == 41


def test_plot_draws_an_svg_with_both_curves_and_the_same_bytes_again(
    command_line: CommandLine, run: Path
) -> None:
    for name in ("a.svg", "b.svg"):
        assert command_line("plot", run, "-o", name).code == 0
    drawn = Path("a.svg").read_bytes()
    assert drawn == Path("b.svg").read_bytes()
    assert ET.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    assert {"training", "validation", "iteration"} <= set(re.findall(r"<!-- (\w+) -->", str(drawn)))


def test_plot_draws_a_png(command_line: CommandLine, run: Path) -> None:
    assert command_line("plot", run, "-o", "a.png").code == 0
    assert Image.open("a.png").size[0] > 500


def test_without_matplotlib_plot_says_what_to_install(
    command_line: CommandLine, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = command_line("plot", run, "-o", "a.svg")
    assert (done.code, 'pip install "nnconv[plot]"' in done.err) == (2, True)
    assert not Path("a.svg").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [(("nowhere.run",), "no such run"), ((".", "-o", "a.bmp"), "drawn into .svg, .png, .pdf")],
)
def test_plots_that_cannot_be_are_explained(
    command_line: CommandLine, run: Path, words: tuple[str, ...], message: str
) -> None:
    done = command_line("plot", *words)
    assert (done.code, message in done.err) == (2, True)


# --- the display ----------------------------------------------------------------------------------


def test_a_report_is_one_line_with_everything_in_it() -> None:
    assert describe(LAP, 1000) == (
        "iteration  100/1000  epoch 1.50  loss 0.2500  lr 0.001  1,234 samples/s  1:30 left"
    )
    assert describe(CHECK, 1000) == (
        "iteration  100/1000  epoch 1.50  validation loss 0.3000  accuracy 92.50%  (400 samples)"
    )


def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainDisplay(1000) as shown:
        shown.saw(LAP)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", describe(LAP, 1000) + "\n")


def test_at_a_terminal_a_live_line_and_lasting_validations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with LiveDisplay(1000) as shown:
        shown.saw(LAP)
        shown.saw(CHECK)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert describe(CHECK, 1000) in text
    assert "100/1000" in text
    assert "loss 0.2500" in text
