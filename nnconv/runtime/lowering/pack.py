"""Parameters in the order kernels read them: packed once an Executable, shared by all its plans."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from nnconv.runtime.devices.jobs import aligned
from nnconv.runtime.lowering.layout import Floats
from nnconv.runtime.mapped import give_back
from nnconv.runtime.scaled import Scaled, plain

Name = tuple[Any, ...]
_FEW = 1 << 20  # bytes: less is packed before another thread has come up


class Store:
    """A view on `Settings.shared`: arrays by what they hold and which source arrays they were
    made from.

    What a plan asks for is noted first and made at its end, on `threads` cores: copying needs no
    interpreter, lowering does.
    """

    def __init__(self, shared: dict[Any, Any], threads: int = 1) -> None:
        self._shared = shared
        self._threads = threads
        self._asked: dict[Name, tuple[Sequence[Any], Callable[[], Floats]]] = {}

    def ask(self, key: Hashable, sources: Sequence[Any], make: Callable[[], Floats]) -> Name:
        """Have an array made for `key` and `sources`, unless it is there; what `packed` takes."""
        name = ("packed", key, tuple(map(id, sources)))
        if name not in self._shared:
            self._asked.setdefault(name, (sources, make))
        return name

    def settle(self) -> None:
        """Make what was asked for, the largest first."""
        asked = sorted(self._asked.items(), key=lambda item: -_weight(item[1][0]))
        self._asked = {}
        large = sum(_weight(sources) for _, (sources, _) in asked) > _FEW
        with ThreadPoolExecutor(self._threads if large else 1) as pool:
            made = list(pool.map(lambda item: _made(*item[1]), asked))
        for (name, (sources, _)), data in zip(asked, made, strict=True):
            # the sources are held too, so that their ids stay their own
            self._shared[name] = (data, list(sources))

    def packed(self, name: Name) -> Floats:
        found: Floats = self._shared[name][0]
        return found

    def readable(self, data: Any) -> Any:
        """Stored data as numpy reads it fast: aligned, contiguous, native; copied where it is
        not.
        """
        fine = not isinstance(data, Scaled) and data.flags.aligned and data.flags.c_contiguous
        if fine and data.dtype.isnative:
            return data
        name = ("readable", id(data))
        if name not in self._shared:
            native = data.dtype.newbyteorder("=")
            self._shared[name] = (np.array(plain(data), dtype=native, order="C"), data)
        return self._shared[name][0]

    def remember(self, key: Hashable, sources: Sequence[Any], choice: Any) -> Any:
        """The first choice made for `key` and `sources`, for later plans to follow."""
        name = ("choice", key, tuple(map(id, sources)))
        return self._shared.setdefault(name, (choice, list(sources)))[0]


def _weight(sources: Sequence[Any]) -> int:
    return sum(source.nbytes for source in sources)


def _made(sources: Sequence[Any], make: Callable[[], Floats]) -> Floats:
    """An array on a cache line; the pages of a file that it was made from go back."""
    made = make().reshape(-1)
    home = made if made.ctypes.data % 64 == 0 else aligned(made.size)
    if home is not made:
        np.copyto(home, made)
    for source in sources:
        give_back(source)
    return home
