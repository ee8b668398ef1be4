"""The ways to compute one convolution or product, under one face: names, packing, jobs.

A form knows what it is called (plans and the tuning file show that), how parameters are packed
for it and which jobs it takes. `choose` takes the rule's form, the first, or the one that tuning
found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.runtime.kernels.conv import Conv, Window, every_conv, pack_bias, pack_weights
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.schedule import Tile
from nnconv.runtime.kernels.target import Target
from nnconv.runtime.kernels.winograd import Winograd, pack_winograd, winograd
from nnconv.runtime.lowering.layout import Buffer, Floats, Home, Operand, Place

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder

_TRIALS = 6  # direct tiles worth timing

Jobs = list[tuple[Kernel, tuple[Operand, ...]]]


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What is done to the sums before they are stored, besides adding a residual."""

    bias: bool
    activation: Activation


@dataclass(frozen=True, slots=True)
class Places:
    """Where a convolution or product reads and writes."""

    x: Place
    y: Place
    residual: Place | None = None

    def elsewhere(self) -> Places:
        """The same arrays on memory of their own, for timing."""
        skip = None if self.residual is None else _elsewhere(self.residual)
        return Places(_elsewhere(self.x), _elsewhere(self.y), skip)


def _elsewhere(place: Place) -> Place:
    return Place(Buffer(Home.ARENA, max(place.array.size, place.buffer.size)), place.array)


class Direct:
    """One kernel that adds the products up as they come (conv.py, gemm.py)."""

    def __init__(self, kernel: Conv, pack: Callable[[Floats], Floats], order: Any) -> None:
        self.kernel = kernel
        self.pack = pack
        self.scratch: tuple[int, ...] = ()
        tile = kernel.tile
        self.name = f"direct {tile.rows}x{tile.columns}x{kernel.panel_width}"
        self.bias_layout: Any = (kernel.groups, kernel.panels, kernel.panel_width)
        self.key = (
            "direct", order, self.bias_layout, kernel.in_blocks, kernel.x.lanes, kernel.window.size,
        )  # fmt: skip
        self.weights_size = kernel.weights
        self.bias_size = kernel.groups * kernel.panels * kernel.panel_width

    def pack_bias(self, bias: Floats) -> Floats:
        return pack_bias(self.kernel, bias)

    def jobs(
        self, places: Places, weights: Buffer, bias: Buffer | None, scratch: Sequence[Buffer]
    ) -> Jobs:
        operands = [places.x.operand, Operand(weights)]
        operands += [Operand(bias)] if bias else []
        operands += [places.residual.operand] if places.residual else []
        return [(self.kernel, (*operands, places.y.operand))]


class WinogradForm:
    """Three kernels a strip (winograd.py)."""

    def __init__(self, plan: Winograd, y: Place) -> None:
        self.plan = plan
        product = plan.product
        self.scratch = (plan.v_size, plan.m_size)
        self.name = f"winograd{plan.outputs} {product.tile.pixels}x{product.panel_width}"
        self.bias_size = y.array.blocks * y.lanes
        self.bias_layout: Any = self.bias_size
        self.key = (
            "winograd",
            plan.outputs,
            product.panels,
            product.panel_width,
            product.in_blocks,
        )
        points = (plan.outputs + 2) ** 2
        self.weights_size = points * product.panels * product.steps * product.panel_width

    def pack(self, weights: Floats) -> Floats:
        return pack_winograd(self.plan, weights)

    def pack_bias(self, bias: Floats) -> Floats:
        return padded(bias, self.bias_size)

    def jobs(
        self, places: Places, weights: Buffer, bias: Buffer | None, scratch: Sequence[Buffer]
    ) -> Jobs:
        v, m = map(Operand, scratch)
        found: Jobs = []
        for strip in self.plan.strips:
            last = [m, *([Operand(bias)] if bias else [])]
            last += [places.residual.at(strip.residual_offset)] if places.residual else []
            found.append((strip.enter, (places.x.at(strip.x_offset), v)))
            found.append((strip.product, (v, Operand(weights), m)))
            found.append((strip.leave, (*last, places.y.at(strip.y_offset))))
        return found


Form = Direct | WinogradForm


def direct_forms(
    target: Target, places: Places, window: Window, groups: int, epilogue: Epilogue
) -> Iterator[Form]:
    """Every tile that fits the registers, the rule's first."""
    found = every_conv(
        target, places.x.view, places.y.view, window, groups=groups, bias=epilogue.bias,
        residual=places.residual.view if places.residual else None,
        activation=epilogue.activation,
    )  # fmt: skip
    return (Direct(kernel, _packer(kernel, groups), groups) for kernel in found)


def _packer(kernel: Conv, groups: int) -> Callable[[Floats], Floats]:
    return lambda weights: pack_weights(kernel, weights, groups)


def winograd_form(
    target: Target, places: Places, window: Window, outputs: int, epilogue: Epilogue
) -> Form:
    plan = winograd(
        target, places.x.array, places.y.array, window, outputs, bias=epilogue.bias,
        residual=places.residual.array if places.residual else None,
        activation=epilogue.activation,
    )  # fmt: skip
    return WinogradForm(plan, places.y)


def padded(bias: Floats, size: int) -> Floats:
    """A vector filled up with zeros."""
    full = np.zeros(size, np.float32)
    full[: bias.size] = bias.reshape(-1)
    return full


def choose(builder: Builder, forms: Iterator[Form], sources: Sequence[Any], places: Places) -> Form:
    """The first form, or the tuned one. What another plan has packed already is used again: among
    direct tiles that of the same width, so that parameters are not packed twice.
    """
    if builder.settings.tune:
        known = list(forms)
        name = builder.tuner.choose(_key(builder, known), _trials(known, places))
        return next(form for form in known if form.name == name)
    first = next(forms)
    if isinstance(first, WinogradForm):
        return first
    width = builder.store.remember(
        ("panel", first.kernel.x.lanes), sources, first.kernel.tile.vectors
    )
    direct = (form for form in chain([first], forms) if isinstance(form, Direct))
    return next((form for form in direct if form.kernel.tile.vectors == width), first)


def _key(builder: Builder, forms: list[Form]) -> str:
    """All that timing depends on but the choice itself."""
    kernel = next(form.kernel for form in forms if isinstance(form, Direct))
    neutral = replace(kernel, tile=Tile(1, 1, 1), depth=1, band=1)
    return f"winograd={builder.scope.winograd} {neutral.family} {neutral.digest}"


def _trials(forms: list[Form], places: Places) -> dict[str, Callable[[], Jobs]]:
    direct = [form for form in forms if isinstance(form, Direct)][:_TRIALS]
    tried = [form for form in forms if form in direct or isinstance(form, WinogradForm)]
    return {form.name: _trial(form, places) for form in tried}


def _trial(form: Form, places: Places) -> Callable[[], Jobs]:
    def make() -> Jobs:
        weights, bias = (Buffer(Home.ARENA, n) for n in (form.weights_size, form.bias_size))
        scratch = [Buffer(Home.ARENA, size) for size in form.scratch]
        has_bias = any(a.name == "bias" for a in _last_kernel(form).arguments)
        return form.jobs(places.elsewhere(), weights, bias if has_bias else None, scratch)

    return make


def _last_kernel(form: Form) -> Kernel:
    return form.kernel if isinstance(form, Direct) else form.plan.strips[0].leave
