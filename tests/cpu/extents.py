"""Which of a plan's kernels would leave the memory they are given, found without running them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nnconv.runtime.kernels.copying import Copy
from nnconv.runtime.kernels.elementwise import Chain, Strided
from nnconv.runtime.kernels.fold import Fold
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.lowering.build import KernelJob, Lowered, Stretch


def outside(lowered: Lowered) -> list[str]:
    """What reaches beyond its buffer, of the kernels that say where their elements lie."""
    return [
        f"{type(job.kernel).__name__} {strided} from {operand.offset} of {operand.buffer.size}"
        for job in _jobs(lowered)
        for operand, (shape, strided) in zip(job.operands, _operands(job.kernel), strict=False)
        if not _fits(shape, strided, operand.offset, operand.buffer.size)
    ]


def _jobs(lowered: Lowered) -> Iterator[KernelJob]:
    for stage in lowered.stages:
        if isinstance(stage, Stretch):
            yield from stage.jobs


def _operands(kernel: Kernel) -> Sequence[tuple[tuple[int, ...], Strided]]:
    """(shape, strides) of each argument."""
    if isinstance(kernel, Chain):
        return [(kernel.shape, o) for o in (*kernel.inputs, *kernel.outputs)]
    if isinstance(kernel, Fold):
        divisor = [Strided((0,) * len(kernel.shape))] * kernel.divided
        return [(kernel.shape, o) for o in (*kernel.inputs, *divisor, kernel.output)]
    if isinstance(kernel, Copy):
        return [(kernel.shape, o) for o in (kernel.x, kernel.y)]
    return []


def _fits(shape: tuple[int, ...], strided: Strided, start: int, size: int) -> bool:
    ways = [(n - 1) * step for n, step in zip(shape, strided.strides, strict=True)]
    first = start + strided.offset + sum(way for way in ways if way < 0)
    last = start + strided.offset + sum(way for way in ways if way > 0)
    return first >= 0 and last < size
