"""`nnconv run`: pictures and arrays in, the right answers out, against OpenCV's results and
numpy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.support import CommandLine

DIGITS = ["zero", "one", "two", "four", "five", "seven"]


@pytest.mark.parametrize("name", DIGITS)
def test_reads_each_shipped_digit(nnconv: CommandLine, lenet: Path, name: str) -> None:
    result = nnconv("run", "zoo:lenet", "--image", lenet / "digits" / f"{name}.png")
    assert result.code == 0
    assert result.out.splitlines()[1].split()[0] == name


def test_a_folder_of_pictures_is_one_batch(nnconv: CommandLine, lenet: Path) -> None:
    result = nnconv("run", "zoo:lenet", "--image", lenet / "digits")
    best = {line.split()[0]: line.split()[1] for line in result.out.splitlines()[1:]}
    assert best == {f"{name}.png": name for name in DIGITS}


def test_pictures_that_a_shell_pattern_made_are_one_batch(nnconv: CommandLine, lenet: Path) -> None:
    pictures = [lenet / "digits" / f"{name}.png" for name in ("two", "five")]
    found = nnconv("run", "zoo:lenet", "--json", "--image", *pictures).json["outputs"][0]
    assert found["shape"] == [2, 10]
    assert [sample["best"][0]["label"] for sample in found["samples"]] == ["two", "five"]


def test_agrees_with_opencv_on_the_recorded_digits(
    nnconv: CommandLine, shared: Path, in_folder: Path
) -> None:
    folder = shared / "models/caffe/arm_lenet_weights_only"
    recorded = np.load(folder / "reference.npz")
    np.savez("in.npz", data=recorded["in/data"])
    (model,) = folder.glob("*.caffemodel")
    assert nnconv("run", model, "--input", "in.npz", "--output", "out.npz").code == 0
    np.testing.assert_allclose(
        np.load("out.npz")["prob"], recorded["out/prob"], rtol=1e-4, atol=1e-5
    )


def test_dump_all_returns_inner_values_by_their_caffe_names(
    nnconv: CommandLine, lenet: Path, in_folder: Path
) -> None:
    picture = lenet / "digits/two.png"
    result = nnconv("run", "zoo:lenet", "--image", picture, "--dump-all", "--output", "all.npz")
    assert result.code == 0
    arrays = np.load("all.npz")
    assert arrays["conv1"].shape == (1, 20, 24, 24)
    assert {"pool1", "conv2", "pool2", "ip1", "ip2", "prob"} <= set(arrays.files)


def test_the_same_run_writes_the_same_bytes(
    nnconv: CommandLine, lenet: Path, in_folder: Path
) -> None:
    for name in ("a.npz", "b.npz"):
        nnconv("run", "zoo:lenet", "--image", lenet / "digits/two.png", "--output", name)
    assert Path("a.npz").read_bytes() == Path("b.npz").read_bytes()


def test_top_says_how_many_classes(nnconv: CommandLine, lenet: Path) -> None:
    result = nnconv("run", "zoo:lenet", "--image", lenet / "digits/two.png", "--top", "2")
    assert len(result.out.splitlines()) == 3


def test_without_input_it_says_what_the_model_wants(nnconv: CommandLine) -> None:
    result = nnconv("run", "zoo:lenet")
    assert result.code == 2
    assert "data: float32 Nx1xHxW  (grey picture, pixels x 0.00390625)" in result.err
    assert "nnconv run zoo:lenet --image PICTURE.png" in result.err


def test_outputs_that_are_no_scores_are_summarised(nnconv: CommandLine, in_folder: Path) -> None:
    Path("double.prototxt").write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }\n'
        'layer { name: "y" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }\n'
    )
    np.save("x.npy", np.array([[1.0, 4.0]], np.float32))
    result = nnconv("run", "double.prototxt", "--input", "x=x.npy")
    assert result.out.splitlines()[1].split() == ["y", "1x2", "2.0", "8.0", "5.0"]


def array_files() -> dict[str, tuple[np.ndarray, str]]:
    return {
        "rank": (np.zeros((28, 28), np.float32), "input 'data' is Nx1xHxW, the file holds 28x28"),
        "channels": (np.zeros((1, 3, 28, 28), np.float32), "the file holds 1x3x28x28"),
        "dtype": (np.zeros((1, 1, 28, 28), np.complex64), "is float32, the file holds complex64"),
        "size": (np.zeros((1, 1, 9, 28), np.float32), "layer 'conv2'"),
    }


@pytest.mark.parametrize("case", array_files())
def test_an_array_that_does_not_fit_is_refused(
    nnconv: CommandLine, in_folder: Path, case: str
) -> None:
    array, message = array_files()[case]
    np.save("x.npy", array)
    result = nnconv("run", "zoo:lenet", "--input", "data=x.npy")
    assert (result.code, message in result.err) == (2, True), result.err
    assert "Traceback" not in result.err


def test_pickled_arrays_are_never_loaded(nnconv: CommandLine, in_folder: Path) -> None:
    np.save("x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    result = nnconv("run", "zoo:lenet", "--input", "data=x.npy")
    assert (result.code, "Python objects" in result.err) == (2, True)


def test_a_header_that_promises_more_than_the_file_holds_is_refused_unread(
    nnconv: CommandLine, in_folder: Path
) -> None:
    np.save("x.npy", np.zeros((1, 1, 28, 28), np.float32))
    data = Path("x.npy").read_bytes().replace(b"(1, 1, 28, 28)", b"(9**9,1,28,28)", 1)
    Path("x.npy").write_bytes(data)
    assert nnconv("run", "zoo:lenet", "--input", "data=x.npy").code == 2
    data = data.replace(b"(9**9,1,28,28)", b"(99999999,1,1)", 1)
    Path("x.npy").write_bytes(data)
    result = nnconv("run", "zoo:lenet", "--input", "data=x.npy")
    assert "the header states 399,999,996 bytes of data, there are 3,136" in result.err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("dat=x.npy", "no input 'dat'"),
        ("data=missing.npy", "missing.npy: no such file"),
        ("data=labels.png", "this is not a picture"),
    ],
)
def test_input_options_that_mean_nothing_are_refused(
    nnconv: CommandLine, in_folder: Path, option: str, message: str
) -> None:
    Path("labels.png").write_text("no picture")
    result = nnconv("run", "zoo:lenet", "--input", option)
    assert (result.code, message in result.err) == (2, True), result.err


def test_pictures_are_made_grey_upright_and_small(
    nnconv: CommandLine, lenet: Path, in_folder: Path
) -> None:
    digit = Image.open(lenet / "digits/seven.png").convert("RGB").resize((112, 112))
    lying = digit.rotate(90)
    exif = lying.getexif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise to look at it
    lying.save("lying.jpg", exif=exif, quality=95)
    result = nnconv("run", "zoo:lenet", "--image", "lying.jpg")
    assert result.out.splitlines()[1].split()[0] == "seven"


def test_a_decompression_bomb_is_refused(nnconv: CommandLine, in_folder: Path) -> None:
    Image.new("1", (30000, 30000)).save("bomb.png")
    result = nnconv("run", "zoo:lenet", "--image", "bomb.png")
    assert (result.code, "too large" in result.err) == (2, True)


def test_an_array_is_taken_where_a_picture_is(nnconv: CommandLine, in_folder: Path) -> None:
    np.save("x.npy", np.zeros((2, 1, 28, 28), np.float32))
    assert nnconv("run", "zoo:lenet", "x.npy", "--json").json["outputs"][0]["shape"] == [2, 10]


def test_inner_values_are_listed_when_no_file_takes_them(nnconv: CommandLine, lenet: Path) -> None:
    printed = nnconv("run", "zoo:lenet", lenet / "digits" / "two.png", "--dump-all").out
    assert printed.startswith("prob ")
    assert "\nconv2        1x50x8x8 " in printed


def test_a_net_without_weights_says_how_to_give_them(nnconv: CommandLine, lenet: Path) -> None:
    result = nnconv("run", lenet / "lenet.prototxt", lenet / "digits" / "two.png")
    assert result.code == 2 and "(--weights FILE)" in result.err
