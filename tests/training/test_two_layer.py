"""The lecture's network of examples/: the same losses as PyTorch's, step by step."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from tests.places import REPOSITORY


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_the_two_layer_network_trains_as_in_pytorch(solver: str) -> None:
    path = REPOSITORY / "examples" / "two_layer.py"
    spec = importlib.util.spec_from_file_location("two_layer", path)
    assert spec is not None and spec.loader is not None
    example: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    ours, theirs = example.train(solver, 100), example.train_torch(solver, 100)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours[-1] < 0.5 * ours[0]
