"""Sums and products of all elements up to each one along an axis, in the axis' own order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.language import Index, Printer
from nnconv.runtime.kernels.reduce import AlongAxis

_NEUTRAL = {"add": 0.0, "mul": 1.0}


@dataclass(frozen=True)
class Running(AlongAxis):
    """y[i] = x[0], ..., x[i] joined by add or mul; with `exclusive` without x[i], with `reverse`
    from the other end. One after the other, as numpy joins them. Arguments: x, y.
    """

    family: ClassVar[str] = "running"

    join: str = "add"
    exclusive: bool = False
    reverse: bool = False

    def _row(self, k: Printer, outer: Index) -> None:
        self._columns(k, outer, Index(), 0, lanes=1)

    def _columns(self, k: Printer, outer: Index, inner: Index, count: int, lanes: int = 0) -> None:
        total = k.register(k.constant(_NEUTRAL[self.join], lanes=lanes or k.lanes), "total")
        with k.loop(self.x.length, name="at") as number:
            at = number * -1 + (self.x.length - 1) if self.reverse else number
            x = k.load("x", self.x.at(outer, at, inner), lanes, count)
            before = total.value
            total.value = k.combine2(self.join, before, x)
            made = before if self.exclusive else total.value
            k.store("y", self.y.at(outer, at, inner), made, count)
