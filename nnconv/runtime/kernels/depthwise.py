"""Depthwise convolution on blocked arrays: every channel is a lane of its own, no sum over
channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.functions import NONE, Activation
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer, tiles
from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import InternalError


@dataclass(frozen=True)
class Depthwise(Kernel):
    """y = activation(conv(x, w) + bias + residual) with as many groups as channels; blocked arrays.

    x needs the border `window.reach`. w is packed by `pack_depthwise`; one item is an output row of
    a block, `columns` pixels at a time.
    """

    family: ClassVar[str] = "depthwise"

    x: Array
    y: Array
    window: Window
    columns: int
    bias: bool = True
    residual: Array | None = None
    activation: Activation = NONE

    def __post_init__(self) -> None:
        if not self.x.border.covers(self.window.reach(self.x, self.y)):
            need = self.window.reach(self.x, self.y)
            raise InternalError(f"depthwise: x has border {self.x.border}, needs {need}")
        if self.x.channels != self.y.channels or self.x.lanes != self.y.lanes:
            raise InternalError("depthwise: x and y differ in channels or lanes")

    @property
    def lanes(self) -> int:
        return self.y.lanes

    @property
    def taps(self) -> int:
        return self.window.size[0] * self.window.size[1]

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.y.batch, self.y.blocks, self.y.height)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        named = [Argument("x"), Argument("w")]
        named += [Argument("bias")] if self.bias else []
        named += [Argument("residual", aliased=True)] if self.residual else []
        return (*named, Argument("y", written=True, aliased=self.residual is not None))

    @property
    def flops(self) -> int:
        return 2 * self.y.batch * self.y.channels * self.y.pixels * self.taps

    @property
    def bytes(self) -> int:
        return 4 * self.y.batch * self.lanes * self.y.blocks * (self.x.pixels + self.y.pixels)

    def describe(self, k: Printer) -> None:
        image, block, row = k.ids
        bias = k.load("bias", block * self.lanes) if self.bias else k.constant(0)
        for tile, columns in tiles(k, self.y.width, self.columns, "tile"):
            first = tile * self.columns
            sums = [k.register(bias, "sum") for _ in range(columns)]
            for weight, at in self._taps(k, (image, block, row, first)):
                factor = k.load("w", weight)
                step = self.window.stride[1] * self.x.column
                for c, total in enumerate(sums):
                    total.value = k.fma(k.load("x", at + c * step), factor, total.value)
            for c, total in enumerate(sums):
                place = (image, block, row, first + c)
                value = total.value
                if self.residual:
                    value = value + k.load("residual", self.residual.at(*place))
                k.store("y", self.y.at(*place), self.activation(k, value))

    def _taps(
        self, k: Printer, place: tuple[Index, Index, Index, Index]
    ) -> Iterator[tuple[Index, Index]]:
        """(address of a tap's weights, address of its first input pixel): rows rolled, columns
        not.
        """
        window, (image, block, row, column) = self.window, place
        corner = self.x.at(
            image,
            block,
            row * window.stride[0] - window.pad[0],
            column * window.stride[1] - window.pad[1],
        )
        with k.loop(window.size[0], name="kh") as kh:
            line = corner + kh * (window.dilation[0] * self.x.row)
            weights = block * (self.taps * self.lanes) + kh * (window.size[1] * self.lanes)
            for kw in range(window.size[1]):
                yield weights + kw * self.lanes, line + kw * window.dilation[1] * self.x.column


def depthwise(
    target: Target,
    x: Array,
    y: Array,
    window: Window,
    *,
    bias: bool = True,
    residual: Array | None = None,
    activation: Activation = NONE,
) -> Depthwise:
    """With as many columns as half the registers hold: enough sums to hide the latency."""
    most = max(1, min(y.width, target.registers // 2))
    columns = min(range(most, 0, -1), key=lambda c: (-(-y.width // c), -c))
    return Depthwise(x, y, window, columns, bias, residual, activation)


def pack_depthwise(kernel: Depthwise, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights [channels, 1, kh, kw] as block, kh, kw, lane."""
    full = np.zeros((kernel.y.blocks * kernel.lanes, kernel.taps), np.float32)
    full[: kernel.y.channels] = weights.reshape(kernel.y.channels, -1)
    blocks = full.reshape(kernel.y.blocks, kernel.lanes, kernel.taps)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1)).reshape(-1)
