"""Runs the command line in this process and keeps what it printed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nnconv.cli.main import main


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def contents() -> dict[str, bytes]:
    """Every file of the current folder."""
    return {path.name: path.read_bytes() for path in Path().iterdir()}


class CommandLine:
    """`nnconv("show", path)` runs it; arguments become text."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture = capture

    def __call__(self, *args: object) -> Outcome:
        self.capture.readouterr()
        code = main([str(arg) for arg in args])
        printed = self.capture.readouterr()
        return Outcome(code, printed.out, printed.err)
