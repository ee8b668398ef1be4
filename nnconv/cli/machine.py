"""Verbs about the machine: `devices`, `env`, and the line that `--version` prints."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nnconv
from nnconv.cli import options
from nnconv.cli.options import verb

PACKAGES = (
    "numpy", "protobuf", "onnx", "ml_dtypes", "llvmlite", "cffi", "pyopencl", "Pillow", "PyYAML",
    "click", "rich", "h5py", "lmdb", "onnxruntime",
)  # fmt: skip
# what matters of a CPU for kernels, as Linux and the ARM ports name it
_FEATURES = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512vl", "avx512_bf16", "amx_tile",
    "asimd", "sve",
)  # fmt: skip


@verb(
    ("nnconv devices", "what there is, and why something is not"),
    ("nnconv devices --json", "the same for a program"),
)
@options.JSON
def devices(as_json: bool) -> None:
    """List the devices that models can run on; cpu is the default where it is there, else
    reference.
    """
    from nnconv.cli.output import print_json, print_table, table
    from nnconv.runtime.devices import available

    found = available()
    if as_json:
        print_json("devices", {"devices": [device.to_dict() for device in found]})
        return
    rows = [
        (device.name, "yes" if device.available else "no", device.reason or device.description)
        for device in found
    ]
    print_table(table(["device", "usable", "what"], rows))


@verb(
    ("nnconv env", "what a bug report needs"),
    ("nnconv env --json", "the same for a program"),
)
@options.JSON
def env(as_json: bool) -> None:
    """Show versions, machine and paths, for a bug report."""
    from nnconv.cli.output import print_json, print_table, table

    facts = environment()
    if as_json:
        print_json("env", facts)
        return
    rows: list[tuple[str, str]] = []
    for key, fact in facts.items():
        if isinstance(fact, dict):
            rows += [(f"{key}.{name}", str(item)) for name, item in fact.items()]
        else:
            rows.append((key, " ".join(map(str, fact)) if isinstance(fact, list) else str(fact)))
    print_table(table(["fact", "value"], rows))


def environment() -> dict[str, Any]:
    """What a bug report should say about this machine."""
    from nnconv.zoo.cache import home

    return {
        "version": nnconv.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "features": _cpu_features(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "paths": {
            "nnconv": str(Path(nnconv.__file__).parent),
            "python": sys.executable,
            "cache": str(home()),
        },
        "variables": {
            key: value
            for key, value in sorted(os.environ.items())
            if key.startswith(("NNCONV_", "POCL_")) or key in ("NO_COLOR", "OMP_NUM_THREADS")
        },
    }


def version_line() -> str:
    """nnconv's version and those of the packages whose behaviour shows."""
    packages = ", ".join(f"{name} {_version(name) or 'missing'}" for name in PACKAGES[:3])
    return f"nnconv {nnconv.__version__} (Python {platform.python_version()}, {packages})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _cpu_lines() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo, empty elsewhere than on Linux."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _cpu_name() -> str:
    return _cpu_lines().get("model name") or platform.processor() or platform.machine()


def _cpu_features() -> list[str]:
    lines = _cpu_lines()
    flags = set((lines.get("flags") or lines.get("Features") or "").split())
    return [feature for feature in _FEATURES if feature in flags]
