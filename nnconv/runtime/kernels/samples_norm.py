"""Local response normalisation and its gradient with samples in lanes: channels are planes, so a
window over them is as many streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.language import Argument, Condition, Index, Kernel, Printer, Value
from nnconv.runtime.kernels.norm import divided


@dataclass(frozen=True, slots=True)
class Response:
    """What LRN divides by: (bias + alpha/size * sum of x^2 over `size` channels)^beta."""

    size: int
    alpha: float
    beta: float
    bias: float

    @property
    def before(self) -> int:
        """Channels of the window below its own; there is one more above where `size` is even."""
        return (self.size - 1) // 2


@dataclass(frozen=True)
class _Windows(Kernel):
    """One item a row of a channel; all arrays have the extents of `x`."""

    x: Array
    response: Response

    @property
    def lanes(self) -> int:
        return self.x.lanes

    @property
    def grid(self) -> tuple[int, ...]:
        """Channels run fastest: a window's other channels are in the cache."""
        return (self.x.batch, self.x.height, self.x.blocks)

    @property
    def bytes(self) -> int:
        return 16 * self.x.batch * self.x.blocks * self.x.pixels * self.lanes

    @property
    def _arrays(self) -> dict[str, Array]:
        return {"x": self.x}

    def describe(self, k: Printer) -> None:
        near = list(self._near(k))
        with k.loop(self.x.width, name="column") as column:
            self._pixel(k, column, near)

    @property
    def _reach(self) -> tuple[int, int]:
        """Channels of the window below its own, and above."""
        before = self.response.before
        return before, self.response.size - 1 - before

    def _near(self, k: Printer) -> Iterator[tuple[Index, Condition | None]]:
        """The channels of the window, and whether they are there."""
        channel, last = k.ids[2], self.x.blocks - 1
        before, after = self._reach
        for shift in range(-before, after + 1):
            if not shift:
                yield channel, None
                continue
            there = k.within(channel + shift, 0, last + 1)
            yield k.smaller(k.larger(channel + shift, 0), last), there

    def _pixel(self, k: Printer, column: Index, near: list[tuple[Index, Condition | None]]) -> None:
        raise NotImplementedError

    def _place(self, k: Printer, name: str, column: Index, channel: Index | None = None) -> Index:
        group, row, own = k.ids
        return self._arrays[name].at(group, own if channel is None else channel, row, column)

    def _load(self, k: Printer, name: str, column: Index, channel: Index | None = None) -> Value:
        return k.load(name, self._place(k, name, column, channel))

    def _window(
        self,
        k: Printer,
        near: list[tuple[Index, Condition | None]],
        value: Callable[[Index], Value],
    ) -> Value:
        """The sum over the channels of the window that there are."""
        terms = ((value(channel), there) for channel, there in near)
        return k.sum(
            term if there is None else k.select(there, term, k.constant(0.0))
            for term, there in terms
        )

    def _scale(
        self, k: Printer, column: Index, near: list[tuple[Index, Condition | None]]
    ) -> Value:
        """bias + alpha/size * sum of x^2."""

        def square(channel: Index) -> Value:
            x = self._load(k, "x", column, channel)
            return x * x

        alpha = self.response.alpha / self.response.size
        return k.fma(alpha, self._window(k, near, square), self.response.bias)


@dataclass(frozen=True)
class SampleLRN(_Windows):
    """y = x / scale^beta (ONNX LRN-13). Arguments: x, y."""

    family: ClassVar[str] = "samples_lrn"

    y: Array

    @property
    def _arrays(self) -> dict[str, Array]:
        return {"x": self.x, "y": self.y}

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("y", written=True))

    def _pixel(self, k: Printer, column: Index, near: list[tuple[Index, Condition | None]]) -> None:
        scale = self._scale(k, column, near)
        y = divided(k, self._load(k, "x", column), scale, self.response.beta)
        k.store("y", self._place(k, "y", column), y)


@dataclass(frozen=True)
class SampleLRNShares(_Windows):
    """The first half of LRN's gradient: dx = dy / scale^beta, what a channel gives itself, and
    share = x dx / scale, what it gives all channels whose windows it is in.

    Arguments: x, dy, dx, share.
    """

    family: ClassVar[str] = "samples_lrn_shares"

    dy: Array
    dx: Array
    share: Array

    @property
    def _arrays(self) -> dict[str, Array]:
        return {"x": self.x, "dy": self.dy, "dx": self.dx, "share": self.share}

    @property
    def arguments(self) -> tuple[Argument, ...]:
        made = (Argument("dx", written=True), Argument("share", written=True))
        return (Argument("x"), Argument("dy"), *made)

    def _pixel(self, k: Printer, column: Index, near: list[tuple[Index, Condition | None]]) -> None:
        scale = self._scale(k, column, near)
        own = divided(k, self._load(k, "dy", column), scale, self.response.beta)
        k.store("dx", self._place(k, "dx", column), own)
        share = self._load(k, "x", column) * own / scale
        k.store("share", self._place(k, "share", column), share)


@dataclass(frozen=True)
class SampleLRNGrad(_Windows):
    """The second half: dx -= 2 alpha beta / size * x * sum of share over the window, mirrored.

    Arguments: x, share, dx.
    """

    family: ClassVar[str] = "samples_lrn_grad"

    share: Array
    dx: Array

    @property
    def _arrays(self) -> dict[str, Array]:
        return {"x": self.x, "share": self.share, "dx": self.dx}

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("x"), Argument("share"), Argument("dx", written=True))

    @property
    def _reach(self) -> tuple[int, int]:
        before, after = super()._reach
        return after, before

    def _pixel(self, k: Printer, column: Index, near: list[tuple[Index, Condition | None]]) -> None:
        shared = self._window(k, near, lambda channel: self._load(k, "share", column, channel))
        factor = -2 * self.response.alpha * self.response.beta / self.response.size
        own = self._load(k, "dx", column)
        dx = k.fma(factor, self._load(k, "x", column) * shared, own)
        k.store("dx", self._place(k, "dx", column), dx)
