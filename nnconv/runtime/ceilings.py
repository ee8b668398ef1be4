"""What a device can do at best: multiply-adds and memory traffic, measured by kernels of our own.

Both are steps of tiny models, compiled for the device and timed as profiles time steps, so they
hold for any device and for the kernels that it runs.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nnconv.runtime.executor import Executable, compile_model
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.runtime.devices.base import Step
    from nnconv.schemas.types import Array

_SIDE = 1024  # of a product's matrices: enough work for a card, and a tile of them fits caches
_NUMBERS = 1 << 24  # 64 MiB, beyond processors' caches
_SECONDS = 0.4


class Ceilings(NamedTuple):
    """Floating point operations and bytes a second."""

    operations: float
    bytes: float

    def share(self, step: Step, seconds: float) -> float:
        """How near a step of this time comes to the ceiling that it is nearest to; memory's is
        passed where caches hold what is read.
        """
        if not seconds:
            return 0.0
        operations, moved = 2 * step.cost.macs / seconds, step.cost.bytes / seconds
        return max(operations / self.operations, moved / self.bytes)


def measure_ceilings(device: str, threads: int | None = None) -> Ceilings:
    """The best of some runs; takes about a second, besides compiling."""
    random = np.random.default_rng(0)
    graph = Graph("product")
    x = graph.add_input("x", DType.FLOAT32, (_SIDE, _SIDE))
    weights = random.standard_normal((_SIDE, _SIDE), np.float32)
    graph.outputs = [graph.emit("MatMul", x, graph.add_parameter("w", weights.shape, weights))]
    product = _fastest(compile_model(Model(graph=graph), device=device, threads=threads), weights)
    graph = Graph("scaling")
    x = graph.add_input("x", DType.FLOAT32, (_NUMBERS,))
    # what is only an inner value lies in memory that is there already; results are new each run
    graph.outputs = [graph.emit("ReduceMax", graph.emit("Relu", x), keepdims=0)]
    scaling = compile_model(Model(graph=graph), device=device, threads=threads)
    seconds = _fastest(scaling, random.standard_normal(_NUMBERS, np.float32))
    return Ceilings(2 * _SIDE**3 / product, 2 * 4 * _NUMBERS / seconds)


def _fastest(executable: Executable, x: Array) -> float:
    """The least time of the step that computes the output."""
    best = np.inf

    def hear(step: Step, seconds: float) -> None:
        nonlocal best
        if any(node.op in ("MatMul", "Gemm", "Relu") for node in step.nodes):
            best = min(best, seconds)

    executable.run({"x": x})  # drivers may compile what is first run
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end or not np.isfinite(best):
        executable.run({"x": x}, watch=hear)
    return float(best)
