"""Choosing among kernels by timing them, and remembering what was chosen.

A choice is a name ("winograd4 1x14x32", "direct 2x7x32") for a key that says everything the timing
depends on. Choices are kept in one JSON file a kind of processor in the cache folder, so the next
compilation repeats them without timing; without tuning the kernels' own rule decides, which depends
on shapes alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnconv.runtime.devices import jit
from nnconv.runtime.devices.jobs import Job, JobTable, aligned
from nnconv.runtime.kernels.arrays import Matrix
from nnconv.runtime.kernels.gemm import gemm
from nnconv.runtime.kernels.target import Target
from nnconv.runtime.lowering.layout import Buffer, Home, Operand

Trial = Sequence[tuple[Any, Sequence[Operand]]]
"""Kernels in order with what they work on; the buffers need a size only."""

_VERSION = 1
_SECONDS = 0.02  # spent on timing a candidate, after its first run
_MARGIN = 0.98  # a challenger must win by this much: noise should not change plans


class Tuner:
    """Choices by key; `timing` says whether unknown ones are found out by running candidates."""

    def __init__(self, target: Target, timing: bool, path: Path | None = None) -> None:
        self._timing = timing
        self._target = target
        self._path = path or tuning_file(target)
        self._known: dict[str, str] = _load(self._path) if timing else {}
        self.timed = 0

    def choose(self, key: str, trials: Mapping[str, Callable[[], Trial]]) -> str:
        """The name of the trial to take: the remembered one, the fastest, or (not timing) the
        first.
        """
        first = next(iter(trials))
        if not self._timing:
            return first
        known = self._known.get(key, "")
        if known in trials:
            return known
        seconds = {name: self._seconds(make()) for name, make in trials.items()}
        best = min(seconds, key=lambda name: seconds[name])
        chosen = best if seconds[best] < seconds[first] * _MARGIN else first
        self._known[key] = chosen
        self.timed += 1
        _save(self._path, {key: chosen})
        return chosen

    def _seconds(self, trial: Trial) -> float:
        """The least time of a run on one thread, over some milliseconds."""
        table = _table(trial, self._target)
        table.run()
        least, end = np.inf, time.perf_counter() + _SECONDS
        while time.perf_counter() < end:
            started = time.perf_counter()
            table.run()
            least = min(least, time.perf_counter() - started)
        return float(least)


def _table(trial: Trial, target: Target, threads: int = 1) -> JobTable:
    """The kernels over random memory (zeros and untouched pages have speeds of their own)."""
    random = np.random.default_rng(0)
    memory: dict[Buffer, Any] = {}
    jobs = []
    for (kernel, operands), code in zip(
        trial, jit.load_all([kernel for kernel, _ in trial], target), strict=True
    ):
        for operand in operands:
            if operand.buffer not in memory:
                home = aligned(operand.buffer.size)
                home[:] = random.random(home.size, np.float32)
                memory[operand.buffer] = home
        addresses = (memory[o.buffer].ctypes.data + 4 * o.offset for o in operands)
        jobs.append(Job(code, tuple(addresses), kernel.total, kernel.chunk))
    return JobTable(jobs, threads, list(memory.values()))


def tuning_file(target: Target) -> Path:
    """Where choices for a processor are kept."""
    name = target.cpu or "generic"
    return jit.cache_folder().parent / "tuning" / f"{name}-{target.lanes}.json"


def _load(path: Path) -> dict[str, str]:
    """The remembered choices; none where the file is absent, damaged or of another version."""
    try:
        stored = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(stored, dict) or stored.get("version") != _VERSION:
        return {}
    choices = stored.get("choices")
    if not isinstance(choices, dict):
        return {}
    return {str(key): str(value) for key, value in choices.items()}


def _save(path: Path, added: Mapping[str, str]) -> None:
    """Add choices to the file, whole or not at all; where it cannot be written, they are lost."""
    choices = dict(sorted((_load(path) | dict(added)).items()))
    text = json.dumps({"version": _VERSION, "choices": choices}, indent=0)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)


def machine_limit(threads: int) -> float:
    """Floating point operations a second that the best kernel reaches on data in the first
    caches.
    """
    target = jit.host()
    kernel = gemm(target, Matrix.dense(32 * 28, 256), Matrix.dense(32 * 28, 256))
    sizes = (kernel.x.size, kernel.steps * kernel.panels * kernel.panel_width, kernel.y.size)
    trial = [(kernel, [Operand(Buffer(Home.ARENA, size)) for size in sizes])]
    table = _table(trial, target, threads)
    least, end = np.inf, time.perf_counter() + 0.2
    while time.perf_counter() < end:
        started = time.perf_counter()
        table.run()
        least = min(least, time.perf_counter() - started)
    return float(kernel.flops / least)
