"""Convolutions of few channels in a group, on graphics cards: an output a work-item.

Neighbours read neighbouring pixels and the same weights; the first cache serves what windows
share. Weights lie as they are stored: [channels, channels of a group, kh, kw].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.conv import Window, conv_arguments
from nnconv.runtime.kernels.functions import NONE, Activation
from nnconv.runtime.kernels.language import Argument, Condition, Index, Kernel, Printer

_UNROLLED = 32  # products that are printed one by one; larger windows get loops


@dataclass(frozen=True)
class GroupwiseConv(Kernel):
    """y = activation(conv(x, w) + bias + residual), every output by itself; plain arrays.

    Arguments: x, w, [bias], [residual], y.
    """

    family: ClassVar[str] = "groupwise_conv"

    x: Array
    y: Array
    window: Window
    groups: int
    bias: bool = False
    residual: Array | None = None
    activation: Activation = NONE

    @property
    def lanes(self) -> int:
        return 1

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.y.batch, self.y.channels, self.y.height, self.y.width)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return conv_arguments("x w", self.bias, self.residual)

    @property
    def inputs(self) -> int:
        """Channels of x in a group."""
        return self.x.channels // self.groups

    @property
    def flops(self) -> int:
        return 2 * self.total * self.inputs * self.window.size[0] * self.window.size[1]

    @property
    def bytes(self) -> int:
        return 4 * (self.x.batch * self.x.channels * self.x.pixels + self.total)

    def describe(self, k: Printer) -> None:
        image, channel, row, column = k.ids
        group = k.quotient(channel, self.y.channels // self.groups)
        (down, across), (top, left) = self.window.stride, self.window.pad
        corner = k.index(row * down - top), k.index(column * across - left)
        total = k.register(k.constant(0.0), "sum")
        size = self.window.size
        rolled = self.inputs * size[0] * size[1] > _UNROLLED

        def add(c: Index, kh: Index, kw: Index) -> None:
            place, inside = self._tap(k, corner, kh, kw)
            tap = ((channel * self.inputs + c) * size[0] + kh) * size[1] + kw
            at = self.x.at(image, group * self.inputs + c, *place)
            with k.loop(1) if inside is None else k.when(inside):
                total.value = k.fma(k.scalar("x", at), k.scalar("w", tap), total.value)

        if rolled:
            with (
                k.loop(self.inputs, name="c") as c,
                k.loop(size[0], name="kh") as kh,
                k.loop(size[1], name="kw") as kw,
            ):
                add(c, kh, kw)
        else:
            for number in range(self.inputs * size[0] * size[1]):
                which, tap = divmod(number, size[0] * size[1])
                add(*(Index((), n) for n in (which, *divmod(tap, size[1]))))
        value = total.value
        if self.bias:
            value = value + k.scalar("bias", channel)
        if self.residual:
            value = value + k.scalar("residual", self.residual.at(image, channel, row, column))
        k.store("y", self.y.at(image, channel, row, column), self.activation(k, value))

    def _tap(
        self, k: Printer, corner: tuple[Index, Index], kh: Index, kw: Index
    ) -> tuple[tuple[Index, Index], Condition | None]:
        """A tap's pixel, and the condition for it to be in the picture."""
        (down, across), edge = self.window.dilation, self.window.reach(self.x, self.y)
        place, inside = (corner[0] + kh * down, corner[1] + kw * across), None
        for at, extent, leaves in (
            (place[0], self.x.height, edge.top or edge.bottom),
            (place[1], self.x.width, edge.left or edge.right),
        ):
            if leaves:
                known = k.within(at, 0, extent)
                inside = known if inside is None else k.both(inside, known)
        return place, inside
