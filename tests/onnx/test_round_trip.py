"""A model read and written again computes the same in ONNX Runtime, and here what ONNX Runtime
computes.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from nnconv.converter.onnx.reader import import_onnx
from nnconv.converter.onnx.writer import export_onnx
from nnconv.runtime.executor import compile_model
from tests.onnx.support import (
    CONVOLUTION_NETS,
    LIGHT,
    OTHER_NETS,
    QUANTISED_NETS,
    cases,
    is_telling,
    light_model,
    random_input,
    run,
    stored_model,
    worst,
)

DEVICES = {"reference": 2e-5, "cpu": 1e-4}  # device -> error, as a part of the largest element


@pytest.mark.parametrize("name", LIGHT)
def test_light_models_with_random_weights_survive_the_way_in_and_out(
    name: str, tmp_path: Path
) -> None:
    proto = light_model(name)
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(proto, before)
    inputs = random_input(proto)
    wanted = run(before, inputs)
    assert any(is_telling(array) for array in wanted.values())

    model = import_onnx(before)
    assert not list(export_onnx(model, after))

    assert worst(run(after, inputs), wanted) <= 1e-6
    for device, limit in DEVICES.items():
        here = compile_model(model, device=device).run(inputs)
        assert worst(dict(here), wanted) <= limit, device


@pytest.mark.parametrize("name", CONVOLUTION_NETS + OTHER_NETS)
def test_a_stored_model_written_again_runs_alike_at_every_stored_shape(
    name: str, tmp_path: Path
) -> None:
    path, again = stored_model(name), tmp_path / "again.onnx"

    export_onnx(import_onnx(path), again)

    onnx.checker.check_model(again, full_check=True)
    limit = 1e-3 if name.endswith("fp16") else 1e-6
    for case in cases(name):
        inputs = case.inputs
        assert worst(run(again, inputs), run(path, inputs)) <= limit


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CONVOLUTION_NETS + QUANTISED_NETS)
def test_a_device_gives_the_recorded_outputs_at_every_stored_shape(name: str, device: str) -> None:
    executable = compile_model(import_onnx(stored_model(name)), device=device)
    for case in cases(name):
        case.assert_matches(executable.run(case.inputs))


@pytest.mark.parametrize("name", CONVOLUTION_NETS + OTHER_NETS)
def test_weights_come_back_bit_for_bit_under_their_names(name: str, tmp_path: Path) -> None:
    model = import_onnx(stored_model(name))
    export_onnx(model, tmp_path / "again.onnx")
    again = import_onnx(tmp_path / "again.onnx")

    assert list(again.weights) == list(model.weights)
    for key, array in model.weights.items():
        assert again.weights[key].dtype == array.dtype
        assert again.weights[key].tobytes() == array.tobytes()


@pytest.mark.parametrize("name", CONVOLUTION_NETS)
def test_what_is_written_can_be_loaded_by_onnx_runtime_1_31(name: str, tmp_path: Path) -> None:
    export_onnx(import_onnx(stored_model(name)), tmp_path / "again.onnx")

    proto = onnx.load(tmp_path / "again.onnx", load_external_data=False)
    assert proto.ir_version <= 13
    assert max(entry.version for entry in proto.opset_import if not entry.domain) <= 26


def test_the_same_model_is_written_as_the_same_bytes(tmp_path: Path) -> None:
    model = import_onnx(stored_model("onnx/yunet_n_dynamic"))
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"

    export_onnx(model, first)
    export_onnx(model, second)

    assert first.read_bytes() == second.read_bytes()
