"""Parameters in the order kernels read them: packed once an Executable, shared by all its plans."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from nnconv.runtime.devices.jobs import aligned
from nnconv.runtime.lowering.layout import Floats
from nnconv.runtime.mapped import give_back


class Store:
    """A view on `Settings.shared`: arrays by what they hold and which source arrays they were
    made from.
    """

    def __init__(self, shared: dict[Any, Any]) -> None:
        self._shared = shared

    def packed(self, key: Hashable, sources: Sequence[Any], make: Callable[[], Floats]) -> Floats:
        """The array for `key` and `sources`; made, and put on a cache line, when it is asked for
        first.
        """
        name = ("packed", key, tuple(map(id, sources)))
        if name not in self._shared:
            made = make().reshape(-1)
            home = made if made.ctypes.data % 64 == 0 else aligned(made.size)
            if home is not made:
                np.copyto(home, made)
            for source in sources:
                give_back(source)
            # the sources are held too, so that their ids stay their own
            self._shared[name] = (home, list(sources))
        found: Floats = self._shared[name][0]
        return found

    def readable(self, data: Any) -> Any:
        """Stored data as numpy reads it fast: aligned, contiguous, native; copied where it is
        not.
        """
        if data.flags.aligned and data.flags.c_contiguous and data.dtype.isnative:
            return data
        name = ("readable", id(data))
        if name not in self._shared:
            native = data.dtype.newbyteorder("=")
            self._shared[name] = (np.array(data, dtype=native, order="C"), data)
        return self._shared[name][0]

    def remember(self, key: Hashable, sources: Sequence[Any], choice: Any) -> Any:
        """The first choice made for `key` and `sources`, for later plans to follow."""
        name = ("choice", key, tuple(map(id, sources)))
        return self._shared.setdefault(name, (choice, list(sources)))[0]
