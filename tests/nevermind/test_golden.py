"""Every file of golden/nevermind is accepted or refused as stated there, with equal content."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnconv
from nnconv.converter.nevermind.config import OPTIMIZERS, read_config, read_optimizer
from nnconv.converter.nevermind.dataset import read_csv, read_dataset
from nnconv.converter.nevermind.reader import import_nevermind
from nnconv.converter.nevermind.state import read_state, write_state
from nnconv.converter.weight_files import attach
from nnconv.converter.wire_format import length_delimited
from nnconv.runtime.executor import compile_model
from nnconv.schemas import nevermind_pb2 as pb
from nnconv.schemas.errors import MismatchError, NnconvError, Report
from tests.places import shared

HOME = shared("golden", "nevermind")
EXPECTED: dict[str, Any] = json.loads((HOME / "expected.json").read_text())
TRAIN: list[dict[str, Any]] = json.loads((HOME / "train.json").read_text())["runs"]


def of(kind: str) -> list[str]:
    return [name for name, facts in EXPECTED.items() if facts["kind"] == kind]


def test_the_list_names_every_file() -> None:
    files = {str(path.relative_to(HOME)) for path in HOME.rglob("*.*") if path.parent != HOME}
    assert files == set(EXPECTED)


@pytest.mark.parametrize("name", of("model"))
def test_models_say_what_is_stated(name: str) -> None:
    config = read_config((HOME / name).read_bytes(), name, Report(name))
    wanted = EXPECTED[name]["content"]
    assert (config.mdl_type, config.batch_size) == (wanted["mdl_type"], wanted["batch_size"])
    assert [layer.name for layer in config.layers] == [layer["name"] for layer in wanted["layers"]]
    for got, layer in zip(config.layers, wanted["layers"], strict=True):
        assert got.params == layer["params"]


@pytest.mark.parametrize("name", of("optimizer"))
def test_optimizers_say_what_is_stated(name: str) -> None:
    report = Report(name)
    assert read_optimizer((HOME / name).read_bytes(), name, report) == EXPECTED[name]["content"]
    warned = [str(problem).splitlines()[0] for problem in report]
    if EXPECTED[name]["accept"] is True:
        assert warned == []
    else:  # a value of the wrong type, which nevermind-neu ignores in silence
        assert warned == [
            f"{name}:2:16: warning: learning_rate is ignored: it must be Float, not Int"
        ]


@pytest.mark.parametrize("name", of("dataset"))
def test_data_sets_hold_what_is_stated(name: str) -> None:
    found, wanted = read_dataset(HOME / name), EXPECTED[name]["content"]
    assert len(found) == wanted["records"]
    assert found.inputs.tolist() == wanted["input"]
    assert found.expected.tolist() == wanted["expected"]


@pytest.mark.parametrize("name", of("csv"))
def test_tables_hold_what_is_stated(name: str) -> None:
    found = read_csv(HOME / name, EXPECTED[name].get("label_columns", 1))
    assert found.inputs.tolist() == EXPECTED[name]["content"]["input"]
    assert found.expected.tolist() == EXPECTED[name]["content"]["expected"]
    assert len(read_csv(HOME / "data/xor_noheader.csv", 1, header=False)) == 4


@pytest.mark.parametrize("name", of("state"))
def test_states_hold_what_is_stated(name: str) -> None:
    facts, found = EXPECTED[name], read_state(HOME / name)
    wanted = {
        f"layer{position}/{({0: 0, 3: 1})[buffer['buf_id']]}": buffer
        for position, layer in enumerate(facts.get("layers") or facts["layers_as_new"])
        for buffer in layer["bufs"]
    }
    assert set(found.parameters) == set(wanted)
    for key, buffer in wanted.items():
        assert list(found.parameters[key].shape) == buffer["shape"]
        assert found.parameters[key].reshape(-1).tolist() == buffer["vals"]


BAD = of("bad")


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_where_they_are_bad(name: str) -> None:
    path = HOME / name
    with pytest.raises(NnconvError) as caught:
        if "state" in name:
            model = import_nevermind([HOME / "models/m_2_3_2.yaml"])
            attach(model, read_state(path), path)
        elif "data" in name:
            read_dataset(path)
        elif "optim" in name:
            read_optimizer(path.read_bytes(), name, Report(name))
        else:
            read_config(path.read_bytes(), name, Report(name))
    span = caught.value.problems[0].span
    assert span is not None
    assert span.file.endswith(path.name)
    assert span.line > 0 or path.suffix == ".pb"


def title(run: dict[str, Any]) -> str:
    return f"{Path(run['state']).stem}-{run['optimizer']['type']}"


@pytest.mark.parametrize("run", [run for run in TRAIN if "output" in run["steps"][0]], ids=title)
def test_first_outputs_are_those_recorded(run: dict[str, Any]) -> None:
    model = nnconv.load([HOME / run["model"], HOME / run["state"]])
    data = read_dataset(HOME / run["dataset"])
    first = run["steps"][0]
    x = data.inputs[first["batch_index"]]
    got = compile_model(model, device="reference").run({"input": np.ascontiguousarray(x)})
    wanted = np.array(first["output"], np.float32)
    np.testing.assert_allclose(got[model.outputs[0].name].reshape(-1), wanted, atol=1e-6)


def test_an_optimizer_comes_with_its_model() -> None:
    model = nnconv.load([HOME / "optim/adam.yaml", HOME / "models/m_4_5_4_3.yaml"])
    kept = json.loads(model.metadata["nevermind"])
    assert kept["optimizer"] == {"type": "adam", "learning_rate": 3e-4, "theta": 1e-8}
    assert kept["batch_size"] == 6
    assert OPTIMIZERS["adam"]["b2"] == 0.99


def test_dropout_is_left_out_with_a_warning() -> None:
    report = Report()
    nnconv.load(HOME / "models/chess_898.yaml", report=report)
    assert "dropout is left out" in str(report)


def test_a_state_is_written_as_nevermind_writes_it(tmp_path: Path) -> None:
    write_state(read_state(HOME / "state/s_4_5_4_3.pb"), tmp_path / "s.state")
    assert (tmp_path / "s.state").read_bytes() == (HOME / "state/s_4_5_4_3.pb").read_bytes()


def test_large_data_sets_are_views_of_the_file(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    x, y = (
        random.standard_normal((500, 20), np.float32),
        random.standard_normal((500, 3), np.float32),
    )
    storage = pb.DataStorage()
    for row, label in zip(x, y, strict=True):
        storage.data.add(input=row, expected=label)
    (tmp_path / "d.pb").write_bytes(storage.SerializeToString())
    found = read_dataset(tmp_path / "d.pb")
    assert not found.inputs.flags.owndata
    np.testing.assert_array_equal(found.inputs, x)
    np.testing.assert_array_equal(found.expected, y)


def test_records_of_any_layout_are_read_one_by_one(tmp_path: Path) -> None:
    packed = pb.Sample(input=[1, 2], expected=[3]).SerializeToString()
    loose = b"".join(struct.pack("<Bf", *field) for field in ((21, 6), (13, 4), (13, 5)))
    records = [length_delimited(1, record) for record in (packed, loose)]
    (tmp_path / "d.pb").write_bytes(b"".join(records))
    found = read_dataset(tmp_path / "d.pb")
    assert (found.inputs.tolist(), found.expected.tolist()) == ([[1, 2], [4, 5]], [[3], [6]])


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"\x0a\0" * 9, "record 0 is empty"), (b"\x08\x01", "is no message"),
     (length_delimited(1, length_delimited(1, bytes(4))) + b"\x0a\0", "record 1 has 0 inputs")],
    ids=["empty", "numbers", "one empty"],
)  # fmt: skip
def test_records_that_cannot_be_samples_are_refused(
    tmp_path: Path, data: bytes, words: str
) -> None:
    (tmp_path / "d.pb").write_bytes(data)
    with pytest.raises(NnconvError, match=words):
        read_dataset(tmp_path / "d.pb")


def test_a_state_of_another_model_is_refused() -> None:
    with pytest.raises(MismatchError, match="the state has 3 layers, the model 4"):
        nnconv.load([HOME / "models/m_4_5_4_3.yaml", HOME / "state/s_2_3_2.pb"])


@pytest.mark.parametrize("name", ["models/m_2_3_2.yaml", "state/s_4_5_4_3.pb", "data/xor.pb",
                                  "state/legacy_2_3_2.pb", "optim/adam.yaml"])  # fmt: skip
def test_mutated_files_give_clean_errors_or_content(tmp_path: Path, name: str) -> None:
    original = (HOME / name).read_bytes()
    random = np.random.default_rng(23)
    outcomes = set()
    path = tmp_path / Path(name).name
    for _ in range(400):
        data = bytearray(original)
        for position in random.integers(0, len(data), random.integers(1, 4)):
            data[position] = random.integers(0, 256)
        path.write_bytes(data[: random.integers(1, len(data))] if random.random() < 0.2 else data)
        try:
            if name.startswith("state"):
                dict(read_state(path).parameters)
            elif name.startswith("data"):
                read_dataset(path)
            elif name.startswith("models"):
                read_config(path.read_bytes(), name, Report(name))
            else:
                read_optimizer(path.read_bytes(), name, Report(name))
            outcomes.add("read")
        except NnconvError as error:
            assert error.problems
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
