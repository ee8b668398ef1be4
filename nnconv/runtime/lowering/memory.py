"""One arena for all values of a plan: buffers that are not alive at the same time share its
memory.

Largest first, each at the lowest offset that is free for its whole life. Buffers with a border
share memory only with equals, whose writers leave the border alone; so it is zeroed once, with
the arena.
"""

from __future__ import annotations

from collections.abc import Iterable

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.lowering.layout import Buffer

_GRAIN = 16  # elements: 64 bytes, a cache line


def lay_out(buffers: Iterable[Buffer]) -> int:
    """Give every buffer its offset and return the elements of the arena.

    Values of one geometry that do not live together are put into one slot first; slots with borders
    then live through the whole plan, the others from their first job to their last.
    """
    used = [buffer for buffer in buffers if buffer.first >= 0]
    bordered = _slots(buffer for buffer in used if buffer.geometry is not None)
    end = 0
    for slot in bordered:
        for buffer in slot:
            buffer.offset = end
        end += _rounded(max(buffer.size for buffer in slot))
    return max(end, _pack([buffer for buffer in used if buffer.geometry is None], end))


def _slots(buffers: Iterable[Buffer]) -> list[list[Buffer]]:
    """Buffers of equal geometry whose lives do not overlap, together."""
    found: dict[Array, list[list[Buffer]]] = {}
    for buffer in sorted(buffers, key=lambda b: b.first):
        assert buffer.geometry is not None
        slots = found.setdefault(buffer.geometry, [])
        free = next((slot for slot in slots if slot[-1].last < buffer.first), None)
        if free is None:
            slots.append([buffer])
        else:
            free.append(buffer)
    return [slot for slots in found.values() for slot in slots]


def _pack(buffers: list[Buffer], start: int) -> int:
    """Offsets from `start` on, the largest first; returns the end."""
    placed: list[Buffer] = []
    end = start
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first)):
        at = start
        for other in placed:  # by offset
            if other.last < buffer.first or buffer.last < other.first:
                continue
            if other.offset - at >= buffer.size:
                break
            at = max(at, _rounded(other.offset + other.size))
        buffer.offset = at
        end = max(end, at + _rounded(buffer.size))
        placed.append(buffer)
        placed.sort(key=lambda b: b.offset)
    return end


def _rounded(elements: int) -> int:
    return -(-elements // _GRAIN) * _GRAIN
