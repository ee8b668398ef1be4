"""What a user can get wrong: one clear message, the documented exit code, no traceback, no
litter.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nnconv.cli.main import explain, main
from nnconv.schemas.errors import (
    InputError,
    InternalError,
    MismatchError,
    Problem,
    UnsupportedError,
)
from tests.cli.support import CommandLine

WRONG_LAYER = 'layer { name: "c" type: "Convolutoin" top: "y" }\n'


DIGIT = Path(__file__).parents[2] / "nnconv/zoo/models/lenet/digits/two.png"


def _npz() -> bytes:
    """The weights of LeNet's first layer."""
    with io.BytesIO() as file:
        arrays = {"conv1/0": (20, 1, 5, 5), "conv1/1": (20,)}
        np.savez(file, **{k: np.ones(v, np.float32) for k, v in arrays.items()})  # type: ignore[arg-type]
        return file.getvalue()


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
    Path("x.png").write_bytes(DIGIT.read_bytes())
    Path("empty.prototxt").write_bytes(b"")
    Path("weights.npz").write_bytes(_npz())
    for name in ("zero", "one"):
        (in_folder / "pictures" / name).mkdir(parents=True)
        for number in range(6):
            (in_folder / f"pictures/{name}/{number}.png").write_bytes(DIGIT.read_bytes())
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
    ("caffe2ir lenet.prototxt -o o.nnir --scale inf", "--scale inf: this is not a number"),
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
    ("caffe2ir", "FILE... is missing"),
    ("shwo zoo", "did you mean 'show'"),
    ("run zoo:lenet --phase test", "there is no option --phase"),
    ("run zoo:lenet --top 0", "--top"),
    ("diff zoo:lenet zoo:lenet --tolerance -1", "--tolerance"),
    ("finetune zoo:lenet --data . -o o.nnir --lr -1", "--lr"),
    # what would otherwise be passed over in silence
    ("show zoo:lenet --input-shape data:1,1,28,28 --input-shape data:2,1,28,28", "given twice"),
    ("show zoo:lenet --all --plan", "--plan shows the steps"),
    ("show zoo:lenet --phase tset", "did you mean 'test'"),
    ("run zoo:lenet --input-shape data:4,1,28,28 x.png", "what is given for it is 1,1,28,28"),
    ("run zoo:lenet x.png --dump-all --output", "--output"),
    ("load-weights lenet.prototxt weights.npz --map foo*=bar*", "no name of the file is like"),
    ("load-weights lenet.prototxt weights.npz --map cnv1/0=a", "did you mean 'conv1/0'"),
    ("load-weights lenet.prototxt weights.npz --map conv1", "--map conv1: this does not say"),
    ("grad zoo:lenet --of loss -o g.nnir", "the outputs are prob"),
    ("grad zoo:lenet --of prob --wrt label -o g.nnir", "the inputs are data"),
    ("grad zoo:lenet --of , -o g.nnir", "a name is missing"),
    ("bench zoo:lenet --input-shape dat:1,1,28,28", "did you mean 'data'"),
    ("bench zoo:lenet --batch 2 --input-shape data:1,1,28,28", "differ"),
    ("bench zoo:lenet --device reference --tune", "--tune: the device reference has no such"),
    ("bench zoo:lenet --device reference --threads 2", "--threads: the device reference"),
    ("bench zoo:lenet --with onnxrutime", "did you mean 'onnxruntime'"),
    ("bench zoo:lenet --seconds nan", "--seconds nan: this is not a number"),
    ("tune zoo:lenet --input-shape dat:1,1,28,28", "did you mean 'data'"),
    ("ir2onnx zoo:lenet -o o.onnx --opset 0", "--opset must be at least 1"),
    ("ir2onnx zoo:lenet -o o.onnx --opset 99", "opset 99 cannot be written"),
    ("diff zoo:lenet zoo:lenet --tolerance nan", "--tolerance nan: this is not a number"),
    ("finetune zoo:lenet --data pictures -o o.nnir --freeze conv1,cnv2", "did you mean 'conv2'"),
    ("finetune zoo:lenet --data pictures -o o.nnir --epochs inf", "--epochs inf"),
    ("finetune zoo:lenet --data pictures -o o.nnir --epochs 0", "--epochs must be more than 0"),
    ("finetune zoo:lenet --data pictures -o o.nnir --jitter -3", "--jitter must be at least 0"),
    ("finetune zoo:lenet --data pictures -o o.nnir --snapshot -3", "--snapshot must be at least"),
    ("finetune zoo:lenet --data pictures -o o.nnir --seed -1", "--seed must be at least 0"),
    ("finetune zoo:lenet --data pictures -o o.nnir --epochs 1 --iterations 2", "how long to train"),
    ("finetune lenet.prototxt --weights lenet.caffemodel --data pictures -o o.nnir --scratch",
     "--scratch starts from random weights"),
    ("finetune zoo:lenet --data pictures", "-o OUT is missing"),
    ("finetune --data pictures", "MODEL and -o OUT are missing"),
    ("finetune --resume o.run --lr 3", "--lr cannot change"),
    ("zoo list lenett", "did you mean 'lenet'"),
    ("zoo list --format onxn", "did you mean 'onnx'"),
    ("zoo gett", "did you mean 'get'"),
    ("completion tcsh", "there are only bash, zsh, fish"),
    ("plot pictures", "nothing was recorded here"),
    # the command line itself
    ("show", "nnconv show: MODEL is missing"),
    ("show --jsn zoo:lenet", "no option --jsn\n      | did you mean '--json'?"),
    ("show --zzz zoo:lenet", "nnconv show --help lists them"),
    ("show --json=3 zoo:lenet", "nnconv show: option '--json' does not take a value"),
    ("run zoo:lenet --input", "nnconv run: option '--input' requires an argument"),
    ("zoo get --foce lenet", "nnconv zoo get: there is no option --foce"),
    ("--zzz", "nnconv: there is no option --zzz"),
    ("devices twice", "nnconv devices: got unexpected extra argument (twice)"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), CASES, ids=[line for line, _ in CASES])
def test_mistakes_get_a_short_message_and_exit_code_2(
    nnconv: CommandLine, files: Path, line: str, message: str
) -> None:
    before = set(os.listdir())  # noqa: PTH208
    result = nnconv(*line.split())
    assert (result.code, result.out) == (2, ""), result.err
    assert message in result.err
    assert "Traceback" not in result.err
    assert "internal error" not in result.err
    assert result.err.count("\n") <= 3
    assert set(os.listdir()) == before  # noqa: PTH208


@pytest.mark.parametrize(
    "words",
    [
        ["show", ""],
        ["run", "zoo:lenet", ""],
        ["run", "zoo:lenet", "--weights", ""],
        ["diff", "", ""],
    ],
)
def test_an_empty_name_is_no_file(nnconv: CommandLine, words: list[str]) -> None:
    result = nnconv(*words)
    assert (result.code, result.out) == (2, "")
    assert result.err.endswith(": the text given for it is empty\n")


def test_a_file_that_looks_like_an_option_is_told_apart(
    nnconv: CommandLine, in_folder: Path, lenet: Path
) -> None:
    Path("-net.prototxt").write_bytes((lenet / "lenet.prototxt").read_bytes())
    refused = nnconv("show", "-net.prototxt")
    assert (refused.code, "./-net.prototxt" in refused.err) == (2, True)
    assert nnconv("show", "./-net.prototxt").code == nnconv("show", "--", "-net.prototxt").code == 0


def test_top_k_beyond_the_classes_is_told(nnconv: CommandLine, files: Path) -> None:
    result = nnconv("test", "zoo:lenet", "--data", "pictures", "--top", "10")
    assert result.err == "warning: top-10 says nothing, the model tells fewer classes apart\n"


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
