"""Dense layers: products with stored weights, with bias and activation in the same kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.devices.jobs import aligned
from nnconv.runtime.kernels.arrays import Matrix
from nnconv.runtime.kernels.conv import Conv
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.gemm import every_gemm
from nnconv.runtime.lowering.activation import after
from nnconv.runtime.lowering.algorithms import Direct, Places, choose
from nnconv.runtime.lowering.claims import Claim, Read, Scope, lowers, sizes
from nnconv.runtime.lowering.layout import Floats, Place, is_float

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array as Data

_PIECE = 256  # inputs of a panel to pack at a time


@dataclass(frozen=True, slots=True)
class _Work:
    x: Value
    x_lanes: int
    y: Value
    weights: Data
    transposed: bool  # stored as [outputs, inputs]
    scale: float
    bias: Data | None
    bias_scale: float
    activation: Activation

    @property
    def outputs(self) -> int:
        return int(self.weights.shape[0 if self.transposed else 1])


@lowers("Gemm")
def gemm(node: Node, scope: Scope) -> Claim | None:
    """Gemm [+ activation] with a stored B and a C that is one number an output, or one for all."""
    weights, c = scope.constant(node.required(1)), node.input(2)
    bias = scope.constant(c)
    if weights is None or weights.ndim != 2 or node.transA or (bias is None) != (c is None):
        return None
    if bias is not None and (bias.size not in (1, bias.shape[-1] if bias.ndim else 1)):
        return None
    last, activation = after(node.output, scope)
    nodes = (node, *([last] if last else []))
    x = node.required(0)
    work = _Work(
        x, _form(x, scope), nodes[-1].output, weights, bool(node.transB), float(node.alpha),
        bias, float(node.beta), activation,
    )  # fmt: skip
    return _claim(nodes, work)


@lowers("MatMul")
def matmul(node: Node, scope: Scope) -> Claim | None:
    """MatMul with a stored matrix [+ Add of one number an output] [+ activation]."""
    x, weights = node.required(0), scope.constant(node.required(1))
    if weights is None or weights.ndim != 2 or not is_float(x) or len(sizes(x)) < 2:
        return None
    nodes, bias = [node], None
    add = scope.only_reader(node.output)
    if add is not None and add.op == "Add":
        other = scope.constant(add.required(1 if add.required(0) is node.output else 0))
        if other is not None and other.shape[-1:] == (weights.shape[1],) == (other.size,):
            nodes, bias = [node, add], other
    last, activation = after(nodes[-1].output, scope)
    nodes += [last] if last else []
    work = _Work(x, _form(x, scope), nodes[-1].output, weights, False, 1.0, bias, 1.0, activation)
    return _claim(tuple(nodes), work)


def _claim(nodes: tuple[Node, ...], work: _Work) -> Claim | None:
    if not is_float(work.x):
        return None
    return Claim(nodes, (Read(work.x, work.x_lanes),), work.y, 1, lambda b: _emit(b, work))


def _form(x: Value, scope: Scope) -> int:
    """Blocked where that is what was flattened and no lane is empty: then weights are packed in
    its order.
    """
    lanes = scope.natural(x)
    source = x.producer.required(0) if x.producer is not None and x.producer.inputs else None
    if lanes == 1 or source is None or len(sizes(x)) != 2:
        return 1
    made = sizes(source)
    return lanes if made[1] % lanes == 0 or math.prod(made[2:]) == 1 else 1


def _emit(builder: Builder, work: _Work) -> str:
    x = builder.read(work.x, work.x_lanes)
    blocked = x.lanes > 1 and x.array.pixels > 1
    if blocked and not _contiguous(x):
        x, blocked = builder.read(work.x, 1), False
    y = builder.write(work.y)
    rows = math.prod(sizes(work.y)[:-1])
    inputs = work.weights.shape[1 if work.transposed else 0]
    step = x.array.image if x.lanes > 1 else inputs
    a, result = Matrix(rows, inputs, step), Matrix(rows, work.outputs, work.outputs)
    found = every_gemm(
        builder.target, a, result,
        bias=work.bias is not None, activation=work.activation,
    )  # fmt: skip
    order = (x.array.channels, x.array.pixels, x.lanes) if blocked else None
    layout = (work.transposed, work.scale, order)
    forms = (Direct(kernel, _packer(kernel, work, order), layout) for kernel in found)
    form = choose(builder, forms, [work.weights], Places(x, y))
    weights = builder.packed(form.key, [work.weights], lambda: form.pack(work.weights))
    bias = None
    if work.bias is not None:
        key = ("bias", work.bias_scale, form.bias_layout)
        bias = builder.packed(key, [work.bias], lambda: form.pack_bias(_bias(work)))
    for kernel, operands in form.jobs(Places(x, y), weights, bias, ()):
        builder.job(kernel, *operands)
    return f"gemm {form.name}"


def _packer(
    kernel: Conv, work: _Work, order: tuple[int, int, int] | None
) -> Callable[[Floats], Floats]:
    return lambda weights: _pack(kernel, weights, work, order)


def _pack(kernel: Conv, weights: Data, work: _Work, order: tuple[int, int, int] | None) -> Floats:
    """Weights in the kernel's order: panel, input, output within the panel.

    With `order` (channels, pixels, lanes) the inputs go block, pixel, lane instead of channel,
    pixel. Copied in pieces that stay in the cache: a dense layer may have 400 MB of them.
    """
    matrix = weights if work.transposed else weights.T
    inputs, width = matrix.shape[1], kernel.panel_width
    packed = aligned(kernel.panels * inputs * width)
    panels = packed.reshape(kernel.panels, inputs, width)
    channels, pixels, lanes = order or (inputs, 1, 1)
    blocks = channels // lanes
    piece = max(1, _PIECE // (pixels * lanes))
    for number, panel in enumerate(panels):
        rows = matrix[number * width : (number + 1) * width]
        panel[:, len(rows) :] = 0
        source = rows.reshape(len(rows), blocks, lanes, pixels)
        target = panel.reshape(blocks, pixels, lanes, width)[..., : len(rows)]
        for at in range(0, blocks, piece):
            part = slice(at, at + piece)
            np.multiply(
                source[:, part].transpose(1, 3, 2, 0), np.float32(work.scale), out=target[part]
            )
    return packed


def _contiguous(x: Place) -> bool:
    """The channels and pixels of an image follow one another."""
    array = x.array
    inside = array.flat and array.column == array.lanes
    return inside and array.block == array.pixels * array.lanes


def _bias(work: _Work) -> Floats:
    assert work.bias is not None
    whole = np.broadcast_to(work.bias.reshape(-1) * work.bias_scale, (work.outputs,))
    return np.asarray(whole, np.float32)
