"""States that stay on the device: parameters in training, histories, statistics.

A run gives states back as `Resident`s, which the next run takes as they are; their numbers come to
the host when somebody asks, by `np.asarray` or `copy`. A buffer that nobody holds any more is used
for the same state's next value, so two of each alternate while a training goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.runtime.devices.opencl.platform import Place, require, translated

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

_MOST_SPARE = 2  # buffers of a state


class Pool:
    """Buffers for next values, by the states' names; one for all plans of an Executable."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._spare: dict[str, list[Any]] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> Resident:
        """A place for a state's float32 numbers, whose contents are not known."""
        size = max(4, 4 * int(np.prod(shape)))
        try:
            memory = self._spare.get(name, []).pop()
        except IndexError:
            memory = None
        if memory is None or memory.size != size:
            cl = require()
            memory = cl.Buffer(self.place.context, cl.mem_flags.READ_WRITE, size=size)
        return Resident(self, name, memory, shape)

    def give(self, name: str, memory: Any) -> None:
        spare = self._spare.setdefault(name, [])
        if len(spare) < _MOST_SPARE:
            spare.append(memory)


class Resident:
    """The array of a state, on the device; like arrays that runs return, its numbers stay what they
    are.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, pool: Pool, name: str, memory: Any, shape: tuple[int, ...]) -> None:
        self._pool = pool
        self._name = name
        self.memory = memory
        self.shape = shape

    @property
    def nbytes(self) -> int:
        return 4 * int(np.prod(self.shape))

    def copy(self, order: Any = "C") -> Array:
        """The numbers, in an array of the host."""
        made = np.empty(self.shape, self.dtype, order="C")
        place = self._pool.place
        with translated(place.found, "reading a state"), place.queue() as queue:
            require().enqueue_copy(queue, made, self.memory)
        return made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.copy().astype(dtype or self.dtype, copy=False)

    def __del__(self) -> None:
        self._pool.give(self._name, self.memory)
