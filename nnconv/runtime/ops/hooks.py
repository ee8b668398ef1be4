"""The gradient hook: where a gradient is final, a function of the user's is called with it.

The node holds a number, the functions are kept here as long as whoever registered them lives, so a
graph with hooks can be copied and stored like any other; without its function it does nothing.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.ops.registry import kernel
from nnconv.runtime.ops.rules import gradient

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array


class Hook:
    """A function of (name, array) that may change the array in place; `key` is its number."""

    def __init__(self, function: Callable[[str, Array], None]) -> None:
        self.function = function
        self.key = next(_numbers)
        _hooks[self.key] = self


_numbers = itertools.count(1)
_hooks: weakref.WeakValueDictionary[int, Hook] = weakref.WeakValueDictionary()


@kernel("nnconv.Hook")
def hook(x: Array, *, of: str, key: int, step: int) -> Array:
    """A copy of x, after the function has had it; `step` marks the kernel as one with effects."""
    known = _hooks.get(key)
    if known is None:
        return x
    buffer = np.array(x)
    known.function(of, buffer)
    return buffer


@gradient("nnconv.Hook")
def d_hook(node: Node, dy: Value) -> Value:
    return dy
