"""Depthwise convolution on blocked arrays: every channel is a lane of its own, no sum over
channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.axis import Bounds
from nnconv.runtime.kernels.conv import Window, conv_arguments
from nnconv.runtime.kernels.functions import NONE, Activation
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer
from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import InternalError

Reach = tuple[int, int]


@dataclass(frozen=True)
class Depthwise(Kernel):
    """y = activation(conv(x, w) + bias + residual) with as many groups as channels; blocked arrays.

    Taps outside of x are left out, so x needs no border. w is packed by `pack_depthwise`; one item
    is an output row of a block, `columns` pixels at a time. `weight_image` is the step between the
    weights of successive images, 0 when all share them.
    """

    family: ClassVar[str] = "depthwise"

    x: Array
    y: Array
    window: Window
    columns: int
    bias: bool = True
    residual: Array | None = None
    activation: Activation = NONE
    weight_image: int = 0

    def __post_init__(self) -> None:
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
        return conv_arguments("x w", self.bias, self.residual)

    @property
    def flops(self) -> int:
        return 2 * self.y.batch * self.y.channels * self.y.pixels * self.taps

    @property
    def bytes(self) -> int:
        return 4 * self.y.batch * self.lanes * self.y.blocks * (self.x.pixels + self.y.pixels)

    def describe(self, k: Printer) -> None:
        down = self.window.axes[0]
        lines = down.taps(k, down.first(k.ids[2]), self.x.height, self.y.height)
        for first, count, columns, reaches in self._tiles():
            with k.loop(count, name="tile") as turn:
                self._tile(k, lines, turn * self.columns + first, columns, reaches)

    def _tiles(self) -> list[tuple[int, int, int, tuple[Reach, ...]]]:
        """(first column, turns, columns, for each tap across which of the columns it meets); tiles
        in a row that are alike are one.
        """
        found: list[tuple[int, int, int, tuple[Reach, ...]]] = []
        for first in range(0, self.y.width, self.columns):
            columns = min(self.columns, self.y.width - first)
            reaches = tuple(self._reach(first, columns, kw) for kw in range(self.window.size[1]))
            if found and found[-1][2:] == (columns, reaches):
                start, count, *_ = found.pop()
                found.append((start, count + 1, columns, reaches))
            else:
                found.append((first, 1, columns, reaches))
        return found

    def _reach(self, first: int, columns: int, kw: int) -> Reach:
        """The columns [low, high) of a tile whose tap `kw` lies inside of x."""
        step = self.window.stride[1]
        start = first * step - self.window.pad[1] + kw * self.window.dilation[1]
        low = -(start // step)
        high = -((start - self.x.width) // step)
        return min(max(low, 0), columns), min(max(high, 0), columns)

    def _tile(
        self, k: Printer, lines: Bounds, first: Index, columns: int,
        reaches: tuple[Reach, ...],
    ) -> None:  # fmt: skip
        image, block, row = k.ids
        window, x = self.window, self.x
        bias = k.load("bias", block * self.lanes) if self.bias else k.constant(0)
        sums = [k.register(bias, "sum") for _ in range(columns)]
        down, across = row * window.stride[0] - window.pad[0], first * window.stride[1]
        corner = k.index(x.at(image, block, down, across - window.pad[1]))
        with k.loop(lines[1], start=lines[0], name="kh") as kh:
            line = corner + kh * (window.dilation[0] * x.row)
            weights = block * (self.taps * self.lanes) + kh * (window.size[1] * self.lanes)
            weights = weights + image * self.weight_image
            for kw, (low, high) in enumerate(reaches):
                if low >= high:
                    continue
                factor = k.load("w", weights + kw * self.lanes)
                for c in range(low, high):
                    column = kw * window.dilation[1] + c * window.stride[1]
                    pixel = k.load("x", line + column * x.column)
                    sums[c].value = k.fma(pixel, factor, sums[c].value)
        for c, total in enumerate(sums):
            place = (image, block, row, first + c)
            value = total.value
            if self.residual:
                value = value + k.load("residual", self.residual.at(*place))
            k.store("y", self.y.at(*place), self.activation(k, value))


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
