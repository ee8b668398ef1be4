"""Local response normalisation across channels of blocked arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.functions import power
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer, Value
from nnconv.schemas.errors import InternalError

# s^-beta without exp and log for the betas that nets have
_ROOTS: dict[float, Callable[[Printer, Value], Value]] = {
    0.5: lambda k, s: k.sqrt(s),
    0.75: lambda k, s: k.sqrt(s) * k.sqrt(k.sqrt(s)),
    1.0: lambda k, s: s,
}


def divided(k: Printer, x: Value, scale: Value, beta: float) -> Value:
    """x / scale^beta."""
    if beta in _ROOTS:
        return x / _ROOTS[beta](k, scale)
    return x * power(k, scale, k.constant(-beta))


@dataclass(frozen=True)
class LRN(Kernel):
    """y = x / (bias + alpha/size * sum of x^2 over `size` channels)^beta (ONNX LRN-13), blocked
    arrays.

    The window of channel c is c - (size-1)//2 ... c + size//2; it may reach into the neighbouring
    blocks, so it must not be wider than one. Channels outside the array count as 0.
    """

    family: ClassVar[str] = "lrn"

    x: Array
    y: Array
    size: int
    alpha: float
    beta: float
    bias: float

    def __post_init__(self) -> None:
        if self.size // 2 >= self.lanes or self.x.lanes != self.y.lanes:
            raise InternalError(f"LRN over {self.size} channels in blocks of {self.lanes}")

    @property
    def lanes(self) -> int:
        return self.y.lanes

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.y.batch, self.y.blocks, self.y.height)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("y", written=True))

    @property
    def bytes(self) -> int:
        return 16 * self.y.batch * self.y.blocks * self.y.pixels * self.lanes

    def describe(self, k: Printer) -> None:
        """Blocks differ in which neighbours they have, and in which of them lacks channels."""
        image, block, row = k.ids
        last = self.y.blocks - 1
        for low, high in (
            (0, 1),
            (1, last - 1),
            (max(1, last - 1), last),
            (max(1, last), last + 1),
        ):
            if low < high:
                body = k.when(k.within(block, low, high)) if last else k.loop(1)
                with body:
                    # all blocks of [low, high) answer these alike
                    self._row(k, (image, block, row), low > 0, last - low)

    def _row(
        self, k: Printer, place: tuple[Index, Index, Index], before: bool, following: int
    ) -> None:
        """One row of a block that has a block `before` it or not, and so many `following` it."""
        image, block, row = place
        with k.loop(self.y.width, name="column") as column:
            x = k.load("x", self.x.at(image, block, row, column))
            squares = self._square(k, x, last=following == 0)
            left = right = k.constant(0)
            if before:
                near = k.load("x", self.x.at(image, block - 1, row, column))
                left = self._square(k, near, last=False)
            if following:
                near = k.load("x", self.x.at(image, block + 1, row, column))
                right = self._square(k, near, last=following == 1)
            scale = k.fma(self.alpha / self.size, self._window(k, left, squares, right), self.bias)
            k.store("y", self.y.at(image, block, row, column), divided(k, x, scale, self.beta))

    def _square(self, k: Printer, x: Value, last: bool) -> Value:
        """x^2, with the lanes past the last channel at 0. `last`: x is the last block."""
        tail = self.x.tail
        if not last or tail == self.lanes:
            return x * x
        inside = k.vector([1.0] * tail + [0.0] * (self.lanes - tail)) > 0.0
        return k.select(inside, x * x, k.constant(0))

    def _window(self, k: Printer, left: Value, here: Value, right: Value) -> Value:
        """Sum over the channels around each lane, nearest to the left first."""
        lanes = self.lanes
        total: Value | None = None
        for shift in range(-((self.size - 1) // 2), self.size // 2 + 1):
            if shift < 0:
                part = k.shuffle(left, here, range(lanes + shift, 2 * lanes + shift))
            else:
                part = k.shuffle(here, right, range(shift, lanes + shift)) if shift else here
            total = part if total is None else total + part
        return here if total is None else total
