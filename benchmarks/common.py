"""What all benchmarks share: rounds in fresh processes, alternating; medians, pairwise ratios, and
where it was measured. A timing is only ever reported as a ratio against a peer of the same
rounds.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "numpy",
    "protobuf",
    "onnx",
    "llvmlite",
    "onnxruntime",
    "openvino",
    "opencv-python-headless",
    "torch",
    "pyopencl",
    "tinygrad",
)


def in_fresh_process(script: str, *args: str) -> dict[str, Any]:
    """Run one contender as `script ARGS...`; it prints one JSON object on its last line."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, script, *args],
        capture_output=True, text=True, check=False, timeout=600, env=environment,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(args)} failed:\n{done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def alternate(
    script: str, contenders: dict[str, Sequence[str]], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """One warm-up, then `rounds` times every contender after the other (A B A B ...)."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name, args in contenders.items():
            result = in_fresh_process(script, *args)
            if round_:
                found[name].append(result)
    return found


def ratios(left: Sequence[float], right: Sequence[float]) -> dict[str, float]:
    """left / right, pair by pair: the median and its spread."""
    pairs = [a / b for a, b in zip(left, right, strict=True)]
    return {"median": statistics.median(pairs), "least": min(pairs), "most": max(pairs)}


def peak_memory() -> int:
    """The most memory this process has held since `reset_peak`, in bytes; shared file pages count
    too.
    """
    return _memory("VmHWM")


def reset_peak() -> int:
    """Start measuring the peak anew; returns the memory held now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    return _memory("VmRSS")


def conditions() -> dict[str, Any]:
    """Machine, load and versions: without them a figure means nothing."""
    return {
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def report(name: str, facts: dict[str, Any]) -> Path:
    """Keep the facts as JSON under benchmarks/results/."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    return path


def _memory(key: str) -> int:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this needs Linux's /proc/self/status")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
