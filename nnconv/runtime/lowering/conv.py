"""Convolutions: direct, Winograd or depthwise, with bias, residual and activation in the same
kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.kernels.arrays import Border
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.depthwise import depthwise, pack_depthwise
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.winograd import best_outputs, fits
from nnconv.runtime.lowering.activation import after
from nnconv.runtime.lowering.algorithms import (
    Epilogue,
    Form,
    Places,
    choose,
    direct_forms,
    padded,
    winograd_form,
)
from nnconv.runtime.lowering.claims import Claim, Read, Scope, image, lowers
from nnconv.runtime.lowering.layout import Buffer, Floats, Place, dense_array
from nnconv.runtime.ops.windows import geometry

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array as Data

_PLAIN_CHANNELS = (
    4  # a picture with no more channels is read as it is: blocks would be mostly empty
)
_WINOGRAD_CHANNELS = 16
_WINOGRAD_PIXELS = 64  # of the output: below, tiles hang over and the larger weights cost more


@dataclass(frozen=True, slots=True)
class _Work:
    """A convolution node as kernels need it."""

    x: Value
    y: Value  # the last result: after residual and activation
    weights: Data
    bias: Data | None
    window: Window
    groups: int
    residual: Value | None
    activation: Activation
    x_lanes: int
    winograd: int

    @property
    def depthwise(self) -> bool:
        return self.groups > 1 and self.weights.shape[:2] == (self.groups, 1)


@lowers("Conv")
def conv(node: Node, scope: Scope) -> Claim | None:
    """Conv [+ Add of another value] [+ activation], two spatial axes, stored weights."""
    x, y, weights = node.required(0), node.output, scope.constant(node.required(1))
    bias_value = node.input(2)
    bias = scope.constant(bias_value)
    sizes = image(x)
    if (
        sizes is None
        or image(y) is None
        or weights is None
        or (bias is None) != (bias_value is None)
    ):
        return None
    window = _window(node, sizes, weights)
    if window is None:
        return None
    nodes, residual, activation = epilogue(node, scope)
    alone = node.group == 1 and sizes[1] <= _PLAIN_CHANNELS and scope.natural(x) == 1
    lanes = 1 if alone else scope.width
    work = _Work(
        x, nodes[-1].output, weights, bias, window, node.group, residual, activation, lanes,
        _winograd_outputs(scope, sizes, y, window, node.group, lanes),
    )  # fmt: skip
    reads = [Read(x, lanes, _reach(work))]
    if residual is not None:
        reads.append(Read(residual, scope.width))
    return Claim(nodes, tuple(reads), work.y, scope.width, lambda b: _emit(b, work))


def _window(node: Node, sizes: tuple[int, ...], weights: Data) -> Window | None:
    if weights.ndim != 4:
        return None
    kernel = (int(weights.shape[2]), int(weights.shape[3]))
    where = geometry(sizes[2:], kernel, node.strides, node.pads, node.dilations, node.auto_pad)
    if min(where.begins) < 0 or min(where.ends) < 0:
        return None
    pairs = ((int(a), int(b)) for a, b in (where.strides, where.dilations, where.begins))
    return Window(kernel, *pairs)


def epilogue(node: Node, scope: Scope) -> tuple[tuple[Node, ...], Value | None, Activation]:
    """What follows a convolution and can be done in it: (nodes, the value to add, activation)."""
    nodes, residual = [node], None
    add = scope.only_reader(node.output)
    if add is not None and add.op in ("Add", "Sum") and len(add.inputs) == 2:
        other = add.required(1 if add.required(0) is node.output else 0)
        same = image(other) == image(node.output)
        if same and other is not node.output and scope.constant(other) is None:
            nodes, residual = [node, add], other
    last, activation = after(nodes[-1].output, scope)
    return (*nodes, *([last] if last else [])), residual, activation


def _winograd_outputs(
    scope: Scope, sizes: tuple[int, ...], y: Value, window: Window, groups: int, lanes: int
) -> int:
    """F(outputs x outputs) by rule, 0 for direct."""
    made = image(y)
    assert made is not None
    enough = min(sizes[1], made[1]) >= _WINOGRAD_CHANNELS and made[2] * made[3] >= _WINOGRAD_PIXELS
    x = dense_array(sizes, lanes)
    if not enough or not scope.winograd or not fits(x, window, groups):
        return 0
    return best_outputs(scope.target, x, dense_array(made, scope.width), window, scope.winograd)


def _reach(work: _Work) -> Border:
    if work.depthwise:
        return Border()
    x, y = image(work.x), image(work.y)
    assert x is not None and y is not None
    return work.window.reach(dense_array(x, 1), dense_array(y, 1))


def _emit(builder: Builder, work: _Work) -> str:
    x = builder.read(work.x, work.x_lanes, bordered=work.x_lanes == 1 and bool(_reach(work)))
    residual = builder.read(work.residual, builder.scope.width) if work.residual else None
    places = Places(x, builder.write(work.y), residual)
    if work.depthwise:
        return _depthwise(builder, work, places)
    epilogue = Epilogue(work.bias is not None, work.activation)
    direct = direct_forms(builder.target, places, work.window, work.groups, epilogue)
    forms: list[Iterator[Form]] = [direct]
    for outputs in _allowed(builder, work, places):
        form = winograd_form(builder.target, places, work.window, outputs, epilogue)
        forms.insert(0 if outputs == work.winograd else len(forms), iter([form]))
    form = choose(builder, chain.from_iterable(forms), [work.weights], places)
    weights = builder.packed(form.key, [work.weights], lambda: form.pack(_floats(work.weights)))
    bias = None
    if work.bias is not None:
        key = ("bias", form.bias_layout)
        bias = builder.packed(key, [work.bias], lambda: form.pack_bias(_floats(work.bias)))
    scratch = [builder.buffer(size) for size in form.scratch]
    for kernel, operands in form.jobs(places, weights, bias, scratch):
        builder.job(kernel, *operands)
    return f"conv {form.name}"


def _allowed(builder: Builder, work: _Work, places: Places) -> list[int]:
    """The Winograd forms to consider: the rule's, or when tuning every allowed one that fits."""
    if not builder.settings.tune:
        return [work.winograd] if work.winograd else []
    if not fits(places.x.array, work.window, work.groups):
        return []
    return [outputs for outputs in (2, 4) if outputs <= builder.scope.winograd]


def _floats(data: Data | None) -> Floats:
    assert data is not None
    return np.ascontiguousarray(data, np.float32)


def _depthwise(builder: Builder, work: _Work, places: Places) -> str:
    x, y, residual = places.x, places.y, places.residual
    kernel = depthwise(
        builder.target, x.view, y.view, work.window, bias=work.bias is not None,
        residual=residual.view if residual else None, activation=work.activation,
    )  # fmt: skip
    weights = builder.packed(
        ("depthwise", kernel.lanes), [work.weights],
        lambda: pack_depthwise(kernel, _floats(work.weights)),
    )  # fmt: skip
    operands: list[Place | Buffer] = [x, weights]
    if work.bias is not None:
        size = y.array.blocks * y.lanes
        operands.append(
            builder.packed(("bias", size), [work.bias], lambda: padded(_floats(work.bias), size))
        )
    operands += [residual] if residual else []
    builder.job(kernel, *operands, y)
    return f"depthwise {kernel.columns}"
