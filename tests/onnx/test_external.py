"""Side files: read where they lie beside the model, refused where their path leads elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nnconv.converter.onnx.reader import import_onnx
from nnconv.converter.onnx.writer import export_onnx
from nnconv.schemas.errors import InputError
from tests.onnx.support import stored_model

WEIGHTS = np.arange(6, dtype=np.float32)


def save(folder: Path, location: str, offset: str | None = None, length: str | None = "24") -> Path:
    """A model whose weights lie at `location`."""
    tensor = TensorProto(name="w", dims=[6], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", offset), ("length", length)):
        if text is not None:
            tensor.external_data.add(key=key, value=text)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [6]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, with weights inside it and beside it."""
    inside = tmp_path / "model"
    (inside / "part").mkdir(parents=True)
    for place in (inside / "w.bin", inside / "part" / "w.bin", tmp_path / "secret.bin"):
        place.write_bytes(WEIGHTS.tobytes())
    return inside


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "part/w.bin", "part/./w.bin"])
def test_weights_inside_the_folder_are_read(folder: Path, location: str) -> None:
    model = import_onnx(save(folder, location))
    np.testing.assert_array_equal(model.weights["w"], WEIGHTS)


def test_a_hard_link_is_an_ordinary_file(folder: Path) -> None:
    os.link(folder / "w.bin", folder / "hard.bin")
    np.testing.assert_array_equal(import_onnx(save(folder, "hard.bin")).weights["w"], WEIGHTS)


def test_offset_and_length_select_a_part(folder: Path) -> None:
    (folder / "big.bin").write_bytes(bytes(64) + WEIGHTS.tobytes() + bytes(9))
    np.testing.assert_array_equal(import_onnx(save(folder, "big.bin", "64")).weights["w"], WEIGHTS)


def test_a_model_named_without_its_folder_finds_its_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    np.testing.assert_array_equal(import_onnx(save(folder, "w.bin").name).weights["w"], WEIGHTS)


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "part/../../secret.bin", "part/../w.bin", "/etc/passwd", "..\\secret.bin",
     "C:\\secret.bin", "C:secret.bin", "\\\\host\\share\\w.bin", "", ".", "w.bin:stream",
     "w\0.bin"],
)  # fmt: skip
def test_a_path_that_leads_out_of_the_folder_is_refused(folder: Path, location: str) -> None:
    with pytest.raises(InputError, match="not inside the model's folder"):
        import_onnx(save(folder, location))


@pytest.mark.parametrize("step", ["file", "folder"])
def test_a_symbolic_link_is_refused_as_file_and_as_folder(folder: Path, step: str) -> None:
    target = folder.parent / "secret.bin" if step == "file" else folder.parent
    (folder / "link").symlink_to(target)
    with pytest.raises(InputError) as caught:
        import_onnx(save(folder, "link" if step == "file" else "link/secret.bin"))
    assert "link" in str(caught.value)


def test_a_folder_a_pipe_and_a_missing_file_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for location, words in (
        ("part", "ordinary file"),
        ("pipe", "ordinary file"),
        ("none.bin", "No such"),
    ):
        with pytest.raises(InputError, match=words):
            import_onnx(save(folder, location))


def test_a_device_file_is_refused(folder: Path) -> None:
    """/dev/zero by its number; without the right to make a device, a link to it."""
    device = folder / "zero"
    try:
        os.mknod(device, 0o20666, os.makedev(1, 5))
    except PermissionError:
        device.symlink_to("/dev/zero")
    with pytest.raises(InputError):
        import_onnx(save(folder, "zero"))


@pytest.mark.parametrize(
    ("offset", "length", "words"),
    [("4", "24", "has 24"), (str(1 << 60), "24", "has 24"), ("-4", "24", "offset"), ("x", "24",
        "offset"),
     ("0", "20", "20 are stated"), ("0", str(1 << 62), "are stated"), ("0", "-1", "length"),
     ("9" * 30, "24", "offset")],
)  # fmt: skip
def test_offset_and_length_are_held_against_the_file(
    folder: Path, offset: str, length: str, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        import_onnx(save(folder, "w.bin", offset, length))
    assert "'w'" in str(caught.value)


def test_a_model_given_as_bytes_has_no_folder(folder: Path) -> None:
    with pytest.raises(InputError, match="given as bytes"):
        import_onnx(save(folder, "w.bin").read_bytes())


def test_weights_written_to_a_side_file_come_back_bit_for_bit(tmp_path: Path) -> None:
    model = import_onnx(stored_model("onnx/mtcnn_onet"))
    target = tmp_path / "onet.onnx"

    export_onnx(model, target, external=True)

    onnx.checker.check_model(target, full_check=True)
    assert target.stat().st_size < 20_000 < (tmp_path / "onet.onnx.data").stat().st_size
    again = import_onnx(target).weights
    assert {name: array.tobytes() for name, array in again.items()} == {
        name: array.tobytes() for name, array in model.weights.items()
    }
    for tensor in onnx.load(target, load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert not entries or int(entries["offset"]) % 64 == 0


def test_a_failing_write_leaves_the_old_files(tmp_path: Path) -> None:
    model = import_onnx(stored_model("onnx/mtcnn_onet"))
    target = tmp_path / "onet.onnx"
    target.write_bytes(b"old")
    next(iter(model.parameters.values())).data = None

    with pytest.raises(InputError, match="has no data yet"):
        export_onnx(model, target, external=True)

    assert [path.name for path in tmp_path.iterdir()] == ["onet.onnx"]
    assert target.read_bytes() == b"old"
