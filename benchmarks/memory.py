"""Does memory stay flat over many input shapes, and over many runs of one?

    python benchmarks/memory.py [--shapes 1000] [--settle 300] [--runs 10000]

A small net with convolutions, a residual and a dense layer is run at ever new sizes; every shape
compiles kernels of its own. The shapes come in a seeded order, small and large ones mixed: an
Executable keeps the plans of the last few, and if these grew from shape to shape, their own memory
would look like a leak. Reported are slopes of the resident memory by least squares: in bytes a
shape after the first ones, and in bytes a run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY)]
import common  # noqa: E402

import nnconv  # noqa: E402
from tests.cpu.test_plans import resident, small_net  # noqa: E402

_EVERY = 100  # runs between two looks


def over_shapes(count: int) -> list[int]:
    executable = nnconv.compile(small_net(), device="cpu", threads=1, winograd=0)
    held = []
    for number in np.random.default_rng(1).permutation(count):
        row, column = divmod(int(number), 32)
        executable(np.ones((1, 3, 8 + row, 8 + column), np.float32))
        held.append(resident())
    return held


def over_runs(count: int) -> list[int]:
    executable = nnconv.compile(small_net(), device="cpu", threads=2)
    x = np.ones((1, 3, 16, 16), np.float32)
    held = []
    for number in range(count):
        executable(x)
        if number % _EVERY == 0:
            held.append(resident())
    return held


def slope(held: list[int]) -> float:
    return float(np.polyfit(np.arange(len(held)), np.array(held, np.float64), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=int, default=1000)
    parser.add_argument("--settle", type=int, default=300)
    parser.add_argument("--runs", type=int, default=10_000)
    options = parser.parse_args()
    shapes, runs = over_shapes(options.shapes), over_runs(options.runs)
    later = shapes[options.settle :]
    found = {"bytes_a_shape": slope(later), "bytes_a_run": slope(runs[1:]) / _EVERY}
    print(f"{later[0] >> 10} kB, then {later[-1] >> 10} kB: {found['bytes_a_shape']:.0f} a shape")
    print(f"{runs[1] >> 10} kB, then {runs[-1] >> 10} kB: {found['bytes_a_run']:.2f} bytes a run")
    held = {"shapes": shapes, "runs": runs}
    facts = {"conditions": common.conditions(), "resident_bytes": held, **found}
    print(common.report("memory", facts))


if __name__ == "__main__":
    main()
