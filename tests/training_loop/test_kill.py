"""A run that is killed, however often and whenever, ends with the bits of one that is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnconv.cli.finetune import _interruptible
from nnconv.runtime.training.metrics import read_metrics
from tests.places import REPOSITORY
from tests.training_loop.nets import clusters, tiny_net

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "NNCONV_DEVICE": "reference"}


@pytest.mark.parametrize("device", ["reference", "cpu", "opencl"])
@pytest.mark.parametrize("solver", ["adam", "nesterov"])
def test_twenty_kills_change_not_a_bit(tmp_path: Path, solver: str, device: str) -> None:
    """Parameters, momenta and the loss curve of a run that was killed so often, and of one that
    was not."""
    program = [sys.executable, "-m", "tests.training_loop.endless_kill"]
    done = subprocess.run(
        [*program, str(tmp_path), "20", solver, device], env=ENVIRONMENT, cwd=REPOSITORY,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert len(found["iterations"]) == 20
    assert found["iterations"] == sorted(found["iterations"])  # nothing is ever lost again
    assert found["digests"][0] == found["digests"][1]
    assert found["checkpoints"][0] == found["checkpoints"][1]
    runs = [read_metrics(tmp_path / name) for name in ("killed", "whole")]
    figures = [
        [(r["kind"], r["iteration"], r["epoch"], r["loss"], r.get("lr")) for r in run]
        for run in runs
    ]
    assert figures[0] == figures[1]


@pytest.fixture
def run(tmp_path: Path) -> list[str]:
    """A command line that trains long enough to be interrupted."""
    import numpy as np

    import nnconv

    nnconv.save(tiny_net(), tmp_path / "tiny.nnir")
    held = clusters().held
    np.savez(tmp_path / "points.npz", x=held["data"], y=held["label"])
    command = [sys.executable, "-m", "nnconv", "finetune", "tiny.nnir", "--data", "points.npz"]
    return [*command, "--epochs", "5000", "--report", "1", "-o", "out.nnir"]


def begin(command: list[str], folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    metrics = folder / "out.run" / "metrics.jsonl"
    limit = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_saves_and_stops_and_resume_goes_on(
    tmp_path: Path, run: list[str], number: signal.Signals
) -> None:
    process = begin(run, tmp_path)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "nnconv finetune --resume out.run goes on" in err
    assert not (tmp_path / "out.nnir").exists()
    stopped = read_metrics(tmp_path / "out.run")[-1]["iteration"]
    again = subprocess.Popen(
        [*run[:4], "--resume", "out.run"], cwd=tmp_path, env=ENVIRONMENT, text=True,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert again.stderr is not None
    assert int(again.stderr.readline().split()[1].split("/")[0]) == stopped + 1
    again.kill()
    again.communicate()


def test_the_second_signal_kills() -> None:
    class Stoppable:
        stopped = 0

        def stop(self) -> None:
            self.stopped += 1

    session = Stoppable()
    before = signal.getsignal(signal.SIGINT)
    with _interruptible(session):  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)
        assert session.stopped == 1
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before
