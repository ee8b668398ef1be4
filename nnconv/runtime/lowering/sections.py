"""Stretches of a batch that are computed image by image, so that values stay in the cache.

Eight images of 256x56x56 take 26 MB: layer by layer, each is written to memory and read back.
Where weights are small and maps large, one image goes through several layers before the next one
starts. Values that are needed only in between are as small as one image, and share memory as
always.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.lowering.claims import Claim, Scope, sizes
from nnconv.runtime.lowering.layout import Buffer, Home, Operand, Place

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

_OPERATORS = ("Conv", "MaxPool", "AveragePool")
_CACHED_BYTES = 8 << 20  # what a layer of the whole batch reads and writes: below, it stays anyway
_IMAGE_BYTES = 16 << 20  # the same of one image: above, it would not stay either
_WEIGHT_BYTES = 1 << 20  # of a layer: they are read again for every image


def sections(
    nodes: Sequence[Node], turns: Mapping[Node, Claim], slices: Mapping[Value, Any], scope: Scope
) -> Iterator[list[Claim]]:
    """Runs of at least two claims, next to each other, that gain from going image by image."""
    run: list[Claim] = []
    for node in nodes:
        claim = turns.get(node)
        if claim is None and node in scope.taken:
            continue  # belongs to a claim whose turn comes later
        if claim is not None and _may(claim, slices, scope) and _same_batch(run, claim):
            run.append(claim)
            continue
        yield from _trimmed(run)
        run = []
    yield from _trimmed(run)


def _trimmed(run: list[Claim]) -> list[list[Claim]]:
    """From the first layer whose values leave the cache to the last."""
    heavy = [at for at, claim in enumerate(run) if _moved(claim) > _CACHED_BYTES]
    return [run[heavy[0] : heavy[-1] + 1]] if len(heavy) > 1 else []


def _may(claim: Claim, slices: Mapping[Value, Any], scope: Scope) -> bool:
    """Blocked from end to end, in memory of its own, with light weights."""
    if claim.nodes[0].op not in _OPERATORS or claim.lanes != scope.width or claim.others:
        return False
    blocked = all(read.lanes == scope.width for read in claim.reads) and scope.width > 1
    wanted = {*scope.graph.outputs, *(state.write for state in scope.graph.state)}
    values = [claim.output, *(read.value for read in claim.reads)]
    batch = sizes(claim.output)[0]
    return (
        blocked
        and batch > 1
        and claim.output not in wanted
        and not any(value in slices for value in values)
        and _weight_bytes(claim) <= _WEIGHT_BYTES
        and _moved(claim) <= _IMAGE_BYTES * batch
    )


def _same_batch(run: Sequence[Claim], claim: Claim) -> bool:
    return not run or sizes(run[0].output)[0] == sizes(claim.output)[0]


def _moved(claim: Claim) -> int:
    values = [claim.output, *(read.value for read in claim.reads)]
    return 4 * sum(math.prod(sizes(value)) for value in values)


def _weight_bytes(claim: Claim) -> int:
    inputs = (value for node in claim.nodes for value in node.inputs)
    return sum(v.data.nbytes for v in inputs if v is not None and v.data is not None)


@dataclass(frozen=True, slots=True)
class _Job:
    kernel: Kernel
    operands: tuple[Operand, ...]


class OneImage:
    """Stands in for a Builder while the claims of a section are emitted: values have one image."""

    def __init__(self, builder: Builder, section: Sequence[Claim]) -> None:
        self._builder = builder
        self._inside = _inside(section)
        self._places: dict[Value, Place] = {}
        self._scratch: list[Buffer] = []
        self._images: dict[Buffer, int] = {}  # elements from image to image of what is outside
        self._jobs: list[_Job] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._builder, name)

    def read(self, value: Value, lanes: int = 0, bordered: bool = False) -> Place:
        if value in self._inside:
            return self._places[value]
        return self._outside(self._builder.read(value, lanes, bordered))

    def write(self, value: Value) -> Place:
        if value not in self._inside:
            return self._outside(self._builder.write(value))
        if value not in self._places:
            made = self._builder.one_image(value)
            self._scratch.append(made.buffer)
            self._places[value] = made
        return self._places[value]

    def _outside(self, place: Place) -> Place:
        self._images[place.buffer] = place.array.image
        return Place(place.buffer, replace(place.array, batch=1))

    def buffer(self, size: int) -> Buffer:
        made = self._builder.buffer(size)
        self._scratch.append(made)
        return made

    def job(self, kernel: Kernel, *operands: Place | Operand | Buffer) -> None:
        ready = (o if isinstance(o, Operand) else _operand(o) for o in operands)
        self._jobs.append(_Job(kernel, tuple(ready)))

    def emit(self, claims: Sequence[Claim]) -> list[tuple[str, int]]:
        """Each claim's label, and how many jobs an image takes up to its end."""
        found = []
        for claim in claims:
            label = claim.emit(self)  # type: ignore[arg-type]
            found.append((label, len(self._jobs)))
        return found

    def image(self, number: int, start: int, end: int) -> Iterator[tuple[Kernel, list[Operand]]]:
        """Jobs [start, end) for one image of the batch."""
        for job in self._jobs[start:end]:
            yield (
                job.kernel,
                [
                    Operand(o.buffer, o.offset + number * self._images.get(o.buffer, 0))
                    for o in job.operands
                ],
            )

    def settle(self, first: int, images: int) -> None:
        """Lives, once all jobs are in, the first of them number `first`.

        What is outside lives through the whole section: any image may still need it. Scratch is
        written anew for every image, so its life is that within one image.
        """
        for buffer in self._scratch:
            buffer.first = buffer.last = -1
        for number, job in enumerate(self._jobs):
            for operand in job.operands:
                operand.buffer.touch(first + number)
        for buffer in self._images:
            if buffer.home is Home.ARENA:
                buffer.first = min(buffer.first, first)
                buffer.touch(first + images * len(self._jobs) - 1)


def _inside(section: Sequence[Claim]) -> set[Value]:
    """Values that only the section reads."""
    nodes = {node for claim in section for node in claim.nodes}
    outputs = (claim.output for claim in section)
    return {value for value in outputs if all(use in nodes for use in value.consumers)}


def _operand(given: Place | Buffer) -> Operand:
    return given.operand if isinstance(given, Place) else Operand(given)
