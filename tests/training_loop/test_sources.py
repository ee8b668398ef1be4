"""Fine-tuning and testing on every kind of data set, by the command line; figures by numpy."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nnconv
from nnconv.schemas import nevermind_pb2
from nnconv.schemas.dims import Symbolic
from nnconv.schemas.graph import Graph, Model, Preprocessing
from nnconv.schemas.types import DType
from tests.cli.support import CommandLine
from tests.places import shared
from tests.training_loop.nets import clusters, tiny_net

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.usefixtures("reference")

COUNT = 60


def pixels() -> tuple[Array, Array]:
    """Pictures [n, 2, 3] of three classes: another row is bright in each."""
    label = np.arange(COUNT) % 3
    random = np.random.default_rng(0)
    pictures = random.integers(0, 60, (COUNT, 3, 2))
    pictures[np.arange(COUNT), label] += 180
    return pictures.astype(np.uint8), label


def as_idx(folder: Path) -> str:
    pictures, label = pixels()
    head = struct.pack(">4B3I", 0, 0, 8, 3, *pictures.shape)
    (folder / "train-images-idx3-ubyte").write_bytes(head + pictures.tobytes())
    head = struct.pack(">4BI", 0, 0, 8, 1, COUNT)
    packed = gzip.compress(head + label.astype(np.uint8).tobytes())
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(packed)
    return str(folder)


def as_pictures(folder: Path) -> str:
    for number, (picture, label) in enumerate(zip(*pixels(), strict=True)):
        (folder / str(label)).mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / str(label) / f"{number}.png")
    return str(folder)


def as_npz(folder: Path) -> str:
    pictures, label = pixels()
    np.savez(folder / "d.npz", images=pictures[:, None], labels=label)
    return str(folder / "d.npz")


def as_csv(folder: Path) -> str:
    pictures, label = pixels()
    rows = np.hstack([pictures.reshape(COUNT, -1) / 255, label[:, None]])
    names = ",".join([*(f"p{i}" for i in range(6)), "label"])
    np.savetxt(folder / "d.csv", rows, "%g", ",", header=names, comments="")
    return str(folder / "d.csv")


def as_nevermind(folder: Path) -> str:
    """One-hot labels, as its tools write them."""
    pictures, label = pixels()
    held = nevermind_pb2.DataStorage()
    for picture, one in zip(pictures, np.eye(3)[label], strict=True):
        held.data.add(input=(picture.reshape(-1) / 255).tolist(), expected=one.tolist())
    (folder / "d.nmd").write_bytes(held.SerializeToString())
    return str(folder / "d.nmd")


SOURCES: dict[str, Callable[[Path], str]] = {
    "IDX": as_idx, "pictures": as_pictures, "npz": as_npz, "CSV": as_csv,
    "nevermind-neu": as_nevermind,
}  # fmt: skip


def net() -> Model:
    """Pixels, flattened, and `tiny_net` behind them."""
    plain = tiny_net(dropout=False)
    graph = Graph("rows")
    x = graph.add_input("data", DType.FLOAT32, (Symbolic.name("N"), 1, 3, 2))
    y = graph.emit("Flatten", x)
    for layer in (1, 2):
        held = [plain.weights[f"ip{layer}/{i}"] for i in (0, 1)]
        blobs = [graph.add_parameter(f"ip{layer}/{i}", a.shape, a) for i, a in enumerate(held)]
        y = graph.emit("Gemm", y, *blobs, transB=1)
        y = graph.emit("Relu", y) if layer == 1 else y
    graph.outputs = [graph.emit("Softmax", y, axis=1, outputs=["prob"])]
    model = Model(graph)
    model.preprocessing = {"data": Preprocessing(scale=1 / 255)}
    return model


@pytest.mark.parametrize("name", SOURCES)
def test_every_kind_of_data_set_trains_and_tests(
    command_line: CommandLine, in_folder: Path, name: str
) -> None:
    (in_folder / "data").mkdir()
    data = SOURCES[name](in_folder / "data")
    nnconv.save(net(), "net.nnir")
    options = ("--epochs", 15, "--batch", 10, "--lr", 0.02, "--val", 0.2, "-q", "-o", "out.nnir")
    done = command_line("finetune", "net.nnir", "--data", data, *options)
    assert done.code == 0, done.err
    tested = command_line("test", "out.nnir", "--data", data, "--part", "train", "--json").json
    assert (tested["samples"], tested["accuracy"]) == (COUNT, 1.0)
    pictures, label = pixels()
    x = pictures[:, None].astype(np.float32) / 255
    shares = nnconv.compile("out.nnir").run({"data": x})["prob"]
    loss = -np.log(shares[np.arange(COUNT), label].astype(np.float64)).mean()
    assert tested["loss"] == pytest.approx(loss, rel=1e-4)


def test_a_run_on_nevermind_neus_data_is_resumed(
    command_line: CommandLine, in_folder: Path
) -> None:
    data = as_nevermind(in_folder)
    nnconv.save(net(), "net.nnir")
    options = ("--epochs", 2, "--batch", 10, "-q", "-o", "out.nnir")
    assert command_line("finetune", "net.nnir", "--data", data, *options).code == 0
    before = nnconv.load("out.nnir").weights
    done = command_line("finetune", "--resume", "out.run", "-o", "again.nnir")
    assert done.code == 0, done.err
    after = nnconv.load("again.nnir").weights
    assert all((before[key] == after[key]).all() for key in before)


def test_recorded_data_sets_of_nevermind_neu_open(
    command_line: CommandLine, in_folder: Path
) -> None:
    file = shared("golden", "nevermind", "data", "d12_4_3_onehot.pb")
    empty = shared("golden", "nevermind", "data", "empty.pb")
    nnconv.save(tiny_net(), "tiny.nnir")
    done = command_line("test", "tiny.nnir", "--data", empty)
    assert (done.code, "there are no samples" in done.err) == (2, True)
    done = command_line("test", "tiny.nnir", "--data", file)
    assert (done.code, "samples are 4, the model takes 6" in done.err) == (2, True)


def test_the_figures_of_test_are_those_of_numpy(command_line: CommandLine, in_folder: Path) -> None:
    held = clusters().held
    np.savez("points.npz", x=held["data"], y=held["label"])
    nnconv.save(tiny_net(), "tiny.nnir")
    found = command_line(
        "test", "tiny.nnir", "--data", "points.npz", "--top", 2, "--batch", 7, "--json"
    ).json
    shares = nnconv.compile("tiny.nnir").run({"data": held["data"]})["prob"].astype(np.float64)
    label, guess = held["label"], shares.argmax(axis=1)
    table = [[int(((label == t) & (guess == p)).sum()) for p in range(3)] for t in range(3)]
    best = np.argsort(-shares, axis=1)[:, :2]
    assert found["confusion"] == table
    assert found["accuracy"] == pytest.approx((guess == label).mean())
    assert found["top"]["2"] == pytest.approx((best == label[:, None]).any(axis=1).mean())
    assert found["loss"] == pytest.approx(-np.log(shares[np.arange(90), label]).mean(), rel=1e-5)
