"""What a user can get wrong: one clear message, the documented exit code, no traceback, no
litter.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnconv.cli.main import explain, main
from nnconv.schemas.errors import (
    InputError,
    InternalError,
    MismatchError,
    Problem,
    UnsupportedError,
)
from tests.cli.support import CommandLine, contents

WRONG_LAYER = 'layer { name: "c" type: "Convolutoin" top: "y" }\n'


@pytest.fixture
def files(in_folder: Path, lenet: Path) -> Path:
    """A folder with the usual suspects."""
    for name in ("lenet.prototxt", "lenet.caffemodel"):
        (in_folder / name).write_bytes((lenet / name).read_bytes())
    weights = (lenet / "lenet.caffemodel").read_bytes()
    Path("short.caffemodel").write_bytes(weights[: len(weights) // 2])
    Path("garbage.prototxt").write_bytes(bytes(range(256)) * 8)
    Path("prose.prototxt").write_text("this is not a net at all\n")
    Path("unknown.prototxt").write_text(WRONG_LAYER)
    Path("empty.prototxt").write_bytes(b"")
    Path("lines.txt").write_text("root:x:0:0\nzero\none\n")
    Path("empty.caffemodel").write_bytes(b"")
    Path("net.onnx").write_bytes(b"\x08\x07")
    other = Path("lenet.prototxt").read_text().replace("num_output: 500", "num_output: 400")
    Path("other.prototxt").write_text(other)
    return in_folder


CASES = [
    # arguments, what stderr must say
    ("show missing.prototxt", "missing.prototxt: no such file"),
    ("show lenet.prototxt lenet.prototxt", "unexpected extra argument"),
    ("caffe2ir lenet.prototxt lenet.prototxt -o o.nnir", "lenet.prototxt is given twice"),
    ("caffe2ir lenet.prototxt -o o.nnir --mean 1,2,3", "the mean has 3 numbers"),
    ("caffe2ir lenet.prototxt -o o.nnir --mean nan", "the mean must be numbers"),
    ("caffe2ir lenet.prototxt -o o.nnir --mean no.binaryproto", "no.binaryproto: no such file"),
    ("caffe2ir lenet.prototxt -o o.nnir --scale inf", "the scale must be a number"),
    ("caffe2ir lenet.prototxt -o o.nnir --labels lenet.caffemodel", "this is no text"),
    ("caffe2ir lenet.prototxt -o o.nnir --input-shape dat:1,1,28,28", "did you mean 'data'"),
    ("caffe2ir lenet.prototxt -o o.nnir --input-shape data:1,3,28,28", "cannot be 1x3x28x28"),
    ("show lines.txt", "cannot tell what kind of file this is"),
    ("run lenet.caffemodel --input data=", "no file is named"),
    ("show lenet.protoxt", "did you mean 'lenet.prototxt'"),
    ("show .", "this is a folder"),
    ("show net.onnx", "this is no ONNX model, or it is damaged"),
    ("show garbage.prototxt", "garbage.prototxt"),
    ("show prose.prototxt", "prose.prototxt:1:"),
    ("show unknown.prototxt", "did you mean 'Convolution'"),
    ("show short.caffemodel", "short.caffemodel"),
    ("show empty.caffemodel", "empty"),
    ("show zoo:lenett", "did you mean 'lenet'"),
    ("run lenet.prototxt --image lenet.prototxt", "lenet.prototxt"),
    ("run zoo:lenet --image missing.png", "missing.png: no such file"),
    ("run zoo:lenet --image x.png --device gpu", "gpu"),
    ("run zoo:lenet --image x.png --output no/where.npz", "there is no folder no"),
    ("run zoo:lenet --image x.png --output x.txt", "results are written as .npz"),
    ("caffe2ir other.prototxt lenet.caffemodel -o x.nnir", "ip1"),
    ("caffe2ir lenet.prototxt lenet.caffemodel -o no/x.nnir", "there is no folder no"),
    ("caffe2ir lenet.prototxt lenet.caffemodel -o x.onnx", "caffe2ir writes .nnir"),
    ("caffe2ir lenet.prototxt missing.caffemodel -o x.nnir", "missing.caffemodel: no such file"),
    ("caffe2ir lenet.prototxt lenet.caffemodel --labels no.txt -o x.nnir", "no.txt"),
    ("caffe2ir lenet.prototxt lenet.caffemodel --mean no.binaryproto -o x.nnir", "no.binaryproto"),
    ("caffe2ir", "Missing argument"),
    ("shwo zoo", "did you mean 'show'"),
    ("run zoo:lenet --phase test", "No such option"),
    ("run zoo:lenet --top 0", "--top"),
    ("diff zoo:lenet zoo:lenet --tolerance -1", "--tolerance"),
    ("finetune zoo:lenet --data . -o o.nnir --lr -1", "--lr"),
]


@pytest.mark.parametrize(("line", "message"), CASES, ids=[line for line, _ in CASES])
def test_mistakes_get_a_short_message_and_exit_code_2(
    nnconv: CommandLine, files: Path, line: str, message: str
) -> None:
    (files / "x.png").write_bytes((Path(__file__).parents[2] / _DIGIT).read_bytes())
    before = set(contents())
    result = nnconv(*line.split())
    assert (result.code, result.out) == (2, ""), result.err
    assert message in result.err
    assert "Traceback" not in result.err
    assert "internal error" not in result.err
    assert set(contents()) == before


_DIGIT = "nnconv/zoo/models/lenet/digits/two.png"


def test_all_problems_of_a_file_are_told_at_once(nnconv: CommandLine, in_folder: Path) -> None:
    Path("two.prototxt").write_text(
        WRONG_LAYER + WRONG_LAYER.replace('"c"', '"d"').replace('"y"', '"z"')
    )
    err = nnconv("show", "two.prototxt").err
    assert "layer 'c'" in err
    assert "layer 'd'" in err
    assert err.endswith("2 problems, nothing written\n")


def test_debug_shows_the_traceback_before_and_after_the_verb(nnconv: CommandLine) -> None:
    assert "Traceback" in nnconv("--debug", "show", "missing.nnir").err
    assert "Traceback" in nnconv("show", "missing.nnir", "--debug").err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("wrong"), 2, "wrong\n"),
        (UnsupportedError("not yet"), 2, "not yet\n"),
        (MismatchError("they differ"), 1, "they differ\n"),
        (InternalError("oh"), 70, "oh\n"),
        (InputError([Problem("a"), Problem("b")]), 2, "a\nb\n2 problems, nothing written\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (FileNotFoundError(2, "No such file", "x"), 2, "x: no such file\n"),
        (OSError(28, "No space left on device", "x"), 2, "x: no space left on device\n"),
        (MemoryError(), 2, "there is not enough memory for this\n"),
        (
            KeyError("x"), 70,
            "internal error: KeyError: 'x' (run with --debug, and please report it)\n",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_each_kind_of_error_has_its_message_and_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    assert explain(error) == code
    assert capsys.readouterr().err == message


def test_a_reader_that_stops_reading_is_no_error() -> None:
    command = (
        f"{sys.executable} -m nnconv show zoo:lenet | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_an_interrupt_is_exit_code_130(tmp_path: Path) -> None:
    fifo = tmp_path / "slow.prototxt"
    os.mkfifo(fifo)  # opening it for reading waits for a writer that never comes
    code = "import sys; from nnconv.cli.main import main; print(flush=True); sys.exit(main())"
    command = [sys.executable, "-c", code, "show", str(fifo)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        run.stdout.readline()
        time.sleep(0.5)  # it is waiting for the file by now; earlier is as good, later is the test
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=30)
    assert (run.returncode, err) == (130, "interrupted\n")


def test_main_never_raises_for_nonsense() -> None:
    assert main(["\0"]) == 2


def test_control_characters_of_a_file_never_reach_the_terminal(
    nnconv: CommandLine, in_folder: Path
) -> None:
    net = 'input: "x" input_shape { dim: 1 } layer { name: "a\\033[31m" type: "%s" '
    Path("bad.prototxt").write_text(net % "R\\033[2J" + "}")
    Path("good.prototxt").write_text(net % "ReLU" + 'bottom: "x" top: "y\\r\\033[1A" }')
    bad, good = nnconv("show", "bad.prototxt"), nnconv("show", "good.prototxt")
    assert "a\\x1b[31m" in bad.err and "a\\x1b[31m" in good.out
    for printed in (bad.err, good.out):
        assert printed.replace("\n", "").isprintable()


def test_a_name_of_a_megabyte_is_cut(nnconv: CommandLine, in_folder: Path) -> None:
    Path("long.prototxt").write_text(f'layer {{ name: "c" type: "{"Q" * 2**20}" top: "y" }}')
    assert len(nnconv("show", "long.prototxt").err) < 2000


def test_output_that_the_caller_closed_is_no_error(lenet: Path) -> None:
    code = "import os, sys; os.close(1); os.execv(sys.executable, sys.argv[1:])"
    line = [sys.executable, "-m", "nnconv", "show", str(lenet / "lenet.prototxt")]
    done = subprocess.run(
        [sys.executable, "-c", code, *line], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
