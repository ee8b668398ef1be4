"""How long does it take to import a large caffemodel, and how much memory?

    python benchmarks/loading.py [--rounds 7] [--megabytes 268]

Makes a caffemodel of 16 packed-float blobs (weights by the recipe of golden/README.md), then
imports it to .nnir against a plain copy of the same file; both end with fsync, run in fresh
processes, alternate, and leave their own start-up (interpreter, imports) out. Goals: at most 2x the
copy's time, and a peak of at most 1.3x the weights over the memory held before.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import common

LAYERS = 16
GOALS = {"time": 2.0, "memory": 1.3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=268)
    parser.add_argument("--contender", choices=sorted(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(CONTENDERS[options.contender](*options.paths)))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), max(5, options.rounds), options.megabytes)


def compare(folder: Path, rounds: int, megabytes: int) -> None:
    source = folder / "large.caffemodel"
    weights = make_caffemodel(source, megabytes)
    runs = common.alternate(
        __file__,
        {
            "import": ["--contender", "import", str(source), str(folder / "large.nnir")],
            "copy": ["--contender", "copy", str(source), str(folder / "copy.caffemodel")],
        },
        rounds,
    )
    seconds = {name: [run["seconds"] for run in found] for name, found in runs.items()}
    peaks = [run["peak_over_base"] for run in runs["import"]]
    time_ratio = common.ratios(seconds["import"], seconds["copy"])
    memory_ratio = statistics.median(peaks) / weights
    facts = {
        "file_bytes": source.stat().st_size, "weight_bytes": weights, "rounds": rounds,
        "seconds": seconds, "import_over_copy": time_ratio, "peak_over_base": peaks,
        "peak_over_weights": memory_ratio, "goals": GOALS, **common.conditions(),
    }  # fmt: skip
    path = common.report("loading", facts)
    size = source.stat().st_size / 1e6
    print(f"caffemodel of {size:.0f} MB, {rounds} rounds, load {facts['load_average']}")
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"  {name:7} {median:6.3f} s  ({min(found):.3f} - {max(found):.3f})")
    print(
        f"  import / copy   {time_ratio['median']:.2f}x ({time_ratio['least']:.2f} - "
        f"{time_ratio['most']:.2f}), goal {GOALS['time']}x"
    )
    print(f"  peak / weights  {memory_ratio:.2f}x, goal {GOALS['memory']}x")
    print(f"  kept in {path}")


def run_import(source: Path, target: Path) -> dict[str, Any]:
    import nnconv

    # one tiny import first: modules and schemas are start-up, not the work measured
    small = target.with_suffix(".small.caffemodel")
    make_caffemodel(small, 0)
    nnconv.save(nnconv.load(small), target)
    base = common.reset_peak()
    start = time.perf_counter()
    nnconv.save(nnconv.load(source), target)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_over_base": common.peak_memory() - base}


def run_copy(source: Path, target: Path) -> dict[str, Any]:
    start = time.perf_counter()
    shutil.copyfile(source, target)
    descriptor = os.open(target, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)
    return {"seconds": time.perf_counter() - start}


CONTENDERS = {"import": run_import, "copy": run_copy}


def make_caffemodel(path: Path, megabytes: int) -> int:
    """Write a chain of InnerProduct layers without bias; returns the bytes of its weights.

    The wire format is written by hand, piece by piece, so that no second copy is ever held.
    """
    side = max(8, int((megabytes * 1_000_000 / LAYERS / 4) ** 0.5) + 3 & ~7)
    with path.open("wb") as file:
        file.write(_field(1, b"large"))
        shape = _field(1, _varint(1) + _varint(side))
        file.write(_field(100, _text("data", "Input", (), "data") + _field(143, _field(1, shape))))
        for index in range(LAYERS):
            name = f"ip{index + 1}"
            bottom = f"ip{index}" if index else "data"
            head = _text(name, "InnerProduct", (bottom,), name)
            settings = _field(117, _varint(1 << 3) + _varint(side) + _varint(2 << 3) + _varint(0))
            data = _weights(name, side).tobytes()
            dims = _field(7, _field(1, _varint(side) + _varint(side)))
            blob = _key(5) + _varint(len(data))
            blob_size = len(dims) + len(blob) + len(data)
            layer_size = (
                len(head) + len(settings) + len(_key(7)) + len(_varint(blob_size)) + blob_size
            )
            file.write(_key(100) + _varint(layer_size) + head + settings)
            file.write(_key(7) + _varint(blob_size) + dims + blob + data)
    return LAYERS * side * side * 4


def _weights(layer: str, side: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    digest = hashlib.sha256(f"nnconv/loading/{layer}/0".encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(digest[:8], "little")).random_raw(side * side)
    signed = 2 * ((raw >> np.uint64(11)) * 2.0**-53) - 1
    return (signed * (6 / side) ** 0.5).astype(np.float32)


def _text(name: str, kind: str, bottoms: tuple[str, ...], top: str) -> bytes:
    pieces = [_field(1, name.encode()), _field(2, kind.encode())]
    pieces += [_field(3, bottom.encode()) for bottom in bottoms]
    return b"".join([*pieces, _field(4, top.encode())])


def _field(number: int, payload: bytes) -> bytes:
    return _key(number) + _varint(len(payload)) + payload


def _key(number: int) -> bytes:
    return _varint(number << 3 | 2)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


if __name__ == "__main__":
    main()
