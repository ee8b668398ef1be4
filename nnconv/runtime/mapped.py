"""Weights that lie in a mapped file: pages that were read once and are not needed soon.

A page of a mapped file counts as this process's memory from its first read on. A layer that has
been packed for kernels is read again only for another plan, so its pages go back; they stay in the
system's file cache, and the next read finds them there.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.runtime.scaled import Scaled

if TYPE_CHECKING:
    from nnconv.schemas.types import Array


def give_back(data: Array | Scaled) -> None:
    """Let the system take the pages of `data`, where it is a view of a read-only mapped file.

    Contents stay as they are; an array of any other kind is left alone.
    """
    if isinstance(data, Scaled):
        data = data.source
    source = _mapping(data)
    if source is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first, last = np.lib.array_utils.byte_bounds(data)
    whole = np.frombuffer(source, np.uint8)
    start = whole.ctypes.data
    # only pages that hold nothing else: neighbours may be in use
    begin = -(-(first - start) // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (last - start) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if length > 0:
        source.madvise(mmap.MADV_DONTNEED, begin, length)


def _mapping(data: Array) -> mmap.mmap | None:
    owner: Any = data
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        # a writable mapping may hold changes that exist nowhere else
        owner = owner.obj if owner.readonly else None
    return owner if isinstance(owner, mmap.mmap) and memoryview(owner).readonly else None
