"""Layers that became several nodes or operators of our own, through other formats and back: what
comes back computes what real Caffe recorded, from run to run where a state goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import nnconv as door
from nnconv.converter.onnx.writer import export_onnx
from nnconv.runtime.executor import compile_model
from tests.golden.harness import Case, covered, distance, part, set_parameters

TYPES = (
    "MVN", "HingeLoss", "InfogainLoss", "MultinomialLogisticLoss", "ContrastiveLoss", "Embed",
    "SPP", "Im2col", "BatchReindex", "Filter", "RNN", "LSTM", "LSTMUnit",
)  # fmt: skip
ALL = [case for case in covered("layers") if case.entry["layer"] in TYPES]
FIRST = [next(case for case in ALL if case.entry["layer"] == kind) for kind in TYPES]
CARRIED = [case for case in ALL if case.steps > 1 and "call" in case.name]
IN_TEST_MODE = [case for case in ALL if not case.flags & {"ill"}]


def model_of(case: Case, arrays: dict[str, Any]) -> Any:
    model = case.model()
    set_parameters(model, part(arrays, "param"))
    names = [value.name for value in model.outputs if value.producer is not None]
    model.graph.outputs = [model.graph.values[name] for name in names]
    return model


def check(case: Case, arrays: dict[str, Any], got: Any, step: int = 0) -> None:
    for name, array in got.items():
        limit = case.tolerance("out")
        assert limit is not None
        assert distance(np.asarray(array), part(arrays, "out", step)[name]) <= limit, name


@pytest.mark.parametrize("suffix", ["nnir", "nnirtxt", "yaml"])
@pytest.mark.parametrize("case", [*FIRST, *CARRIED], ids=str)
def test_what_comes_back_computes_what_caffe_computes(
    case: Case, suffix: str, tmp_path: Path
) -> None:
    arrays = case.arrays()
    door.save(model_of(case, arrays), tmp_path / f"m.{suffix}")
    executable = compile_model(
        door.load(tmp_path / f"m.{suffix}"), device="reference", mode=case.phase
    )
    for step in range(case.steps):
        check(case, arrays, executable.run(part(arrays, "in", step)), step)


@pytest.mark.parametrize("case", IN_TEST_MODE, ids=str)
def test_onnx_runtime_computes_what_caffe_computes(case: Case, tmp_path: Path) -> None:
    arrays = case.arrays()
    export_onnx(model_of(case, arrays), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    taken = {item.name for item in session.get_inputs()}
    feeds = {name: x for name, x in part(arrays, "in").items() if name in taken}
    check(case, arrays, dict(zip(names, session.run(names, feeds), strict=True)))
