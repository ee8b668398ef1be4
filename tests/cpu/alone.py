"""Measuring in a process of its own, where no other test's memory comes and goes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def alone(measure: Callable[..., int], *arguments: int, **environment: str) -> int:
    """What `measure(*arguments)`, a function of a test module, returns in a fresh process."""
    code = f"from {measure.__module__} import {measure.__name__} as f; print(f(*{arguments}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])
