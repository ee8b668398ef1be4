"""The lecture's network of examples/: the same losses as PyTorch's, step by step."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.places import REPOSITORY

STEPS = 500


def two_layer() -> Any:
    """The script as a module."""
    path = REPOSITORY / "examples" / "two_layer.py"
    spec = importlib.util.spec_from_file_location("two_layer", path)
    assert spec is not None and spec.loader is not None
    example: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


@cache
def losses_of_torch(solver: str) -> list[float]:
    found: list[float] = two_layer().train_torch(solver, STEPS)
    return found


@pytest.mark.parametrize("device", ["reference", "cpu", "opencl"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_the_two_layer_network_trains_as_in_pytorch(solver: str, device: str) -> None:
    ours, theirs = two_layer().train(solver, STEPS, device), losses_of_torch(solver)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours[-1] < 0.01 * ours[0]


def test_the_script_says_how_near_it_is_and_draws_the_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "loss.svg"
    monkeypatch.setattr("sys.argv", ["two_layer.py", "20", "--plot", str(file)])
    two_layer().main()
    assert capsys.readouterr().out.count("furthest from PyTorch, relative: ") == 2
    assert ET.parse(file).getroot().tag == "{http://www.w3.org/2000/svg}svg"
