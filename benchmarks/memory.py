"""Does memory stay flat over many different input shapes?

    python benchmarks/memory.py [--shapes 1000] [--settle 300]

A small net with convolutions, a residual and a dense layer is run at ever new sizes; every shape
compiles kernels of its own. Reported is the slope of the resident memory after the first shapes,
in bytes a shape, by least squares.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=int, default=1000)
    parser.add_argument("--settle", type=int, default=300)
    options = parser.parse_args()
    executable = nnconv.compile(small_net(), device="cpu", threads=1, winograd=0)
    held = []
    for number in range(options.shapes):
        row, column = divmod(number, 32)
        executable(np.ones((1, 3, 8 + row, 8 + column), np.float32))
        held.append(resident())
    later = np.array(held[options.settle :], np.float64)
    slope = float(np.polyfit(np.arange(len(later)), later, 1)[0])
    print(f"{held[options.settle] >> 10} kB, then {held[-1] >> 10} kB: {slope:.0f} bytes a shape")
    facts = {"conditions": common.conditions(), "resident_bytes": held, "bytes_a_shape": slope}
    print(common.report("memory", facts))


if __name__ == "__main__":
    main()
