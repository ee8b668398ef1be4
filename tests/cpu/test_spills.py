"""The kernels that real nets get hold what they compute with in registers.

A tile that spills runs at one of two speeds, by chance of the process. So what the schedule picks
for the nets of the benchmarks is compiled for each kind of processor, and its assembly searched for
vector registers that are moved to or from the stack.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest

from nnconv.converter.caffe.reader import import_caffe
from nnconv.runtime.devices import cpu, jit
from nnconv.runtime.devices.base import Program, Settings
from nnconv.runtime.executor import compile_model
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.winograd import WinogradInput
from nnconv.runtime.lowering.build import Stretch, lower
from nnconv.runtime.lowering.pack import Name, Store
from nnconv.runtime.tune import Tuner
from nnconv.schemas.graph import Graph
from tests.golden.harness import cases, set_parameters

NETS = (
    "alexnet", "googlenet", "squeezenet_v11", "resnet50", "vgg16", "mobilenet_v1", "mobilenet_v2",
)  # fmt: skip
# Whole windows or 6x6 tiles in registers at once, some of which a small register file cannot hold;
# they are a few per cent of a net, and none of them is a loop over products.
KNOWN = {
    "avx512": {"winograd_input", "depthwise"},
    "avx2": {"winograd_input", "winograd_output", "softmax"},
    "neon": {"winograd_input", "winograd_output", "depthwise"},
}


class Unpacked(Store):
    """Parameters nobody reads, because nothing is run."""

    def settle(self) -> None:
        pass

    def packed(self, name: Name) -> Any:
        return np.empty(1, np.float32)


class Lowered(Exception):
    """Ends a compilation before kernels are compiled for this machine."""


class Collector(cpu.CpuDevice):
    def __init__(self, kind: str) -> None:
        self.target = jit.target(kind)
        self.kernels: list[Kernel] = []

    def lower(self, graph: Graph, settings: Settings) -> Program:
        tuner, store = Tuner(self.target, False), Unpacked({})
        lowered = lower(graph, settings, self.target, store, tuner, by_image=True)
        stretches = (stage for stage in lowered.stages if isinstance(stage, Stretch))
        self.kernels += [job.kernel for stretch in stretches for job in stretch.jobs]
        raise Lowered


@cache
def models() -> list[Any]:
    found = []
    for case in cases("nets"):
        if case.name in NETS:
            model = import_caffe(case.prototxt, phase="test")
            shapes = {
                name: tuple(int(str(dim)) for dim in value.known_shape)
                for name, value in model.graph.parameters.items()
            }
            ones = np.ones(1, np.float32)
            set_parameters(model, {n: np.broadcast_to(ones, s) for n, s in shapes.items()})
            found.append(model)
    assert len(found) == len(NETS)
    return found


def kernels_of(kind: str) -> Iterator[Kernel]:
    """One of each family, tile and ending that the nets use."""
    device = Collector(kind)
    for model in models():
        with pytest.raises(Lowered):
            compile_model(model, device).plan()
    yield from {_look(kernel): kernel for kernel in device.kernels}.values()


def _look(kernel: Kernel) -> Any:
    facts = ("tile", "window", "bias", "activation", "outputs", "columns")
    return kernel.family, *(getattr(kernel, fact, None) for fact in facts), _depth(kernel)


def _depth(kernel: Kernel) -> bool:
    return getattr(kernel, "residual", None) is not None


@pytest.mark.parametrize("kind", KNOWN)
def test_no_kernel_that_nets_get_spills(kind: str) -> None:
    target, kernels = jit.target(kind), list(kernels_of(kind))
    families = {kernel.family for kernel in kernels}
    assert {"conv", "pool", "depthwise", "lrn", "winograd_input"} <= families
    checked = [kernel for kernel in kernels if kernel.family not in KNOWN[kind]]
    with ThreadPoolExecutor(2) as pool:
        texts = pool.map(lambda kernel: jit.assembly(kernel, target), checked)
        spilling = [k for k, text in zip(checked, texts, strict=True) if jit.vector_spills(text)]
    assert not spilling


@pytest.mark.parametrize("kind", KNOWN)
def test_the_search_finds_spills_where_there_are_some(kind: str) -> None:
    target = jit.target(kind)
    known = next(k for k in kernels_of(kind) if isinstance(k, WinogradInput) and k.outputs == 4)
    assert jit.vector_spills(jit.assembly(known, target))
