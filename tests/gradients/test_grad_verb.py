"""`nnconv grad`: what it writes shows, runs, is differentiated again and exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import nnconv as door
from nnconv.api.gradients import gradient_model
from tests.cli.support import CommandLine

PICTURE = np.random.default_rng(0).random((1, 1, 28, 28)).astype(np.float32)


@pytest.fixture
def nnconv(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


def test_the_gradient_of_a_model_runs_like_any(nnconv: CommandLine, in_folder: Path) -> None:
    done = nnconv("grad", "zoo:lenet", "--of", "prob", "--wrt", "data,ip2/1", "-o", "g.nnir")
    assert (done.code, done.out) == (0, "")
    assert nnconv("show", "g.nnir").code == 0
    results = door.compile("g.nnir", device="reference").run({"data": PICTURE})
    assert list(results) == ["prob", "data@grad", "ip2/1@grad"]
    # probabilities add up to 1 whatever the picture, so their sum has no slope
    assert np.abs(results["ip2/1@grad"]).max() < 1e-6


def test_what_it_writes_can_be_differentiated_again(nnconv: CommandLine, in_folder: Path) -> None:
    nnconv("grad", "zoo:lenet", "--of", "ip2", "--wrt", "data", "-o", "g.nnir")
    done = nnconv("grad", "g.nnir", "--of", "data@grad", "--wrt", "ip2/0", "-o", "h.nnir")
    assert done.code == 0
    results = door.compile("h.nnir", device="reference").run({"data": PICTURE})
    assert results["ip2/0@grad"].shape == (10, 500)
    assert np.abs(results["ip2/0@grad"]).max() > 0


def test_drawn_the_gradient_nodes_have_a_colour(nnconv: CommandLine, in_folder: Path) -> None:
    assert nnconv("grad", "zoo:lenet", "--of", "prob", "-o", "g.dot").code == 0
    assert "orange" in Path("g.dot").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--of", "porb", "-o", "g.nnir"), "no value 'porb' in the model"),
        (("--of", "prob", "--wrt", "dta", "-o", "g.nnir"), "no value 'dta' in the model"),
        (("-o", "g.nnir"), "no loss to differentiate"),
        (("--of", "prob", "-o", "g.onnx"), "grad writes .nnir, .nnirtxt or .dot"),
    ],
)
def test_mistakes_are_named(
    nnconv: CommandLine, in_folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = nnconv("grad", "zoo:lenet", *arguments)
    assert done.code == 2
    assert message in done.err
    assert list(in_folder.iterdir()) == []


def test_standard_gradients_export_to_onnx(tmp_path: Path) -> None:
    """A perceptron's gradient is standard operators alone; ONNX Runtime gets the same numbers."""
    x, w = door.input("x", (2, 3)), door.input("w", (3, 4))
    loss = door.apply("ReduceSumSquare", door.apply("Tanh", x @ w), keepdims=0)
    model = gradient_model(loss.model(), [loss.model().outputs[0].name], ["w"])
    random = np.random.default_rng(0)
    feeds = {"x": random.random((2, 3), np.float32), "w": random.random((3, 4), np.float32)}
    ours = door.compile(model, device="reference").run(feeds)
    from nnconv.converter.onnx.writer import export_onnx

    export_onnx(model, tmp_path / "g.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "g.onnx"))
    theirs = session.run(["w@grad"], feeds)[0]
    np.testing.assert_allclose(ours["w@grad"], theirs, rtol=1e-5)
