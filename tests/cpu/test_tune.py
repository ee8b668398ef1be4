"""Tuning: choices are made once, kept, and repeated; they change speed and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from nnconv.cli.main import cli
from nnconv.runtime.devices import jit
from nnconv.runtime.executor import compile_model
from nnconv.runtime.tune import Tuner, machine_limit, tuning_file
from nnconv.schemas.container import save
from tests.cpu.test_plans import pictures, small_net

SHAPE = {"x": (1, 3, 16, 16)}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("NNCONV_CACHE", str(tmp_path))
    return tmp_path


def test_tuned_plans_give_the_same_results(cache: Path) -> None:
    x = pictures(1, 3, 16, 16)
    model = small_net()
    tuned, ruled = (compile_model(model, device="cpu", tune=t)(x) for t in (True, False))
    assert np.abs(tuned - ruled).max() <= 1e-4 * np.abs(ruled).max()


def test_choices_are_kept_and_repeated_without_timing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compile_model(small_net(), device="cpu", tune=True).plan(SHAPE)
    assert json.loads(tuning_file(jit.host()).read_text("utf-8"))["choices"]

    def refuse(self: Tuner, trial: object) -> float:
        raise AssertionError("timed again")

    monkeypatch.setattr(Tuner, "_seconds", refuse)
    again = compile_model(small_net(), device="cpu", tune=True).plan(SHAPE)
    assert str(again) == str(first)


def test_without_tuning_a_tuning_file_changes_nothing(cache: Path) -> None:
    before = str(compile_model(small_net(), device="cpu").plan(SHAPE))
    compile_model(small_net(), device="cpu", tune=True).plan(SHAPE)
    assert str(compile_model(small_net(), device="cpu").plan(SHAPE)) == before


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 1, "choices": 3}', "\0\0"])
def test_a_damaged_tuning_file_counts_as_absent(cache: Path, damage: str) -> None:
    file = tuning_file(jit.host())
    file.parent.mkdir(parents=True)
    file.write_text(damage, "utf-8")
    assert compile_model(small_net(), device="cpu", tune=True).plan(SHAPE).steps
    assert json.loads(file.read_text("utf-8"))["choices"]


def test_a_choice_that_no_kernel_has_any_more_is_made_anew(cache: Path) -> None:
    compile_model(small_net(), device="cpu", tune=True).plan(SHAPE)
    file = tuning_file(jit.host())
    stored = json.loads(file.read_text("utf-8"))
    stored["choices"] = dict.fromkeys(stored["choices"], "direct 99x99x99")
    file.write_text(json.dumps(stored), "utf-8")
    plan = compile_model(small_net(), device="cpu", tune=True).plan(SHAPE)
    assert "99x99" not in str(plan)


def test_the_limit_of_the_machine_is_a_plausible_number() -> None:
    assert machine_limit(1) > 1e9


@pytest.fixture
def model_file(tmp_path: Path) -> str:
    path = tmp_path / "small.nnir"
    save(small_net(), path)
    return str(path)


def test_bench_reports_latency_and_every_step(cache: Path, model_file: str) -> None:
    trace = cache / "trace.json"
    shown = CliRunner().invoke(
        cli,
        ["bench", model_file, "--input-shape", "x:2,3,16,16", "--seconds", "0.05", "--json",
         "--threads", "1", "--trace", str(trace)],
        obj={},
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    facts = json.loads(shown.stdout)
    assert facts["inputs"] == {"x": [2, 3, 16, 16]}
    assert set(facts["latency_ms"]) == {"p1", "p50", "p90", "p99"}
    assert abs(sum(step["share"] for step in facts["steps"]) - 1) < 1e-6
    events = json.loads(trace.read_text("utf-8"))["traceEvents"]
    assert len(events) == len(facts["steps"])


def test_bench_compares_with_another_engine(cache: Path, model_file: str) -> None:
    shown = CliRunner().invoke(
        cli,
        ["bench", model_file, "--input-shape", "x:1,3,16,16", "--seconds", "0.1", "--json",
         "--threads", "1", "--with", "onnxruntime"],
        obj={},
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    peer = json.loads(shown.stdout)["peers"]["onnxruntime"]
    assert peer["difference"] < 1e-4
    assert peer["lead_least"] <= peer["lead"] <= peer["lead_most"]


def test_tune_says_what_it_changed_and_where_it_keeps_it(cache: Path, model_file: str) -> None:
    arguments = ["tune", model_file, "--input-shape", "x:1,3,16,16", "--json"]
    shown = CliRunner().invoke(cli, arguments, obj={})
    assert shown.exit_code == 0, shown.output
    facts = json.loads(shown.stdout)
    assert Path(facts["file"]).is_file()
    assert all(change["rule"] != change["tuned"] for change in facts["changed"])
