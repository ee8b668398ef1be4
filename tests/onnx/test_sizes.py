"""Default sizes go through ONNX as a metadata entry, and a damaged one is ignored."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from nnconv.converter.onnx.reader import import_onnx
from nnconv.converter.onnx.writer import export_onnx
from nnconv.schemas.errors import Report
from tests.onnx.support import stored_model
from tests.onnx.test_writer import filled, golden_net

KEY = "nnconv.sizes"


def entries(path: Path) -> dict[str, str]:
    return {e.key: e.value for e in onnx.load(path, load_external_data=False).metadata_props}


@pytest.mark.parametrize("name", ["lenet", "squeezenet_v11"])
def test_default_sizes_come_back(name: str, tmp_path: Path) -> None:
    model = filled(golden_net(name))
    assert model.graph.sizes
    export_onnx(model, tmp_path / "net.onnx")
    again = import_onnx(tmp_path / "net.onnx")

    assert again.graph.sizes == model.graph.sizes
    assert again.metadata == model.metadata
    assert json.loads(entries(tmp_path / "net.onnx")[KEY]) == model.graph.sizes
    onnx.checker.check_model(tmp_path / "net.onnx", full_check=True)


def test_what_the_caller_says_comes_first(tmp_path: Path) -> None:
    export_onnx(filled(golden_net("lenet")), tmp_path / "net.onnx")
    model = import_onnx(tmp_path / "net.onnx", shapes={"data": (9, 1, 30, 30)})
    assert model.graph.sizes == {"N": 9, "H": 30, "W": 30}


def test_without_open_sizes_there_is_no_entry(tmp_path: Path) -> None:
    export_onnx(filled(golden_net("lenet_loss")), tmp_path / "net.onnx")
    assert KEY not in entries(tmp_path / "net.onnx")
    export_onnx(import_onnx(stored_model("onnx/yunet_n_dynamic")), tmp_path / "net.onnx")
    assert KEY not in entries(tmp_path / "net.onnx")


DAMAGED = [
    "{", "7", '["N"]', '{"N": "1"}', '{"N": -1}', '{"N": true}', '{"N": 1.5}', '{"N": 2147483648}',
    "[" * 50_000, '{"N": 1' + " " * 70_000 + "}", '{"N": ' + "9" * 5000 + "}",
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED, ids=lambda text: text[:12])
def test_a_damaged_entry_is_ignored_with_a_word(text: str, tmp_path: Path) -> None:
    export_onnx(filled(golden_net("lenet")), tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    next(entry for entry in proto.metadata_props if entry.key == KEY).value = text
    report = Report()
    model = import_onnx(proto.SerializeToString(), report=report)
    assert model.graph.sizes == {}
    assert KEY not in model.metadata
    assert f"{KEY} is damaged" in str(report)


def test_names_that_no_input_has_are_passed_over(tmp_path: Path) -> None:
    export_onnx(filled(golden_net("lenet")), tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    next(entry for entry in proto.metadata_props if entry.key == KEY).value = '{"N": 3, "Q": 4}'
    assert import_onnx(proto.SerializeToString()).graph.sizes == {"N": 3}
