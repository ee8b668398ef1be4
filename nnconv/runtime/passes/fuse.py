"""Neighbouring nodes that one node can do: scaling into weights, padding into windows, transposes
into one.

Only stored values are computed with, in float64, rounded once at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nnconv.runtime.mapped import give_back
from nnconv.runtime.passes.support import Binding, constants
from nnconv.runtime.scaled import Scaled

if TYPE_CHECKING:
    from collections.abc import Callable

    from nnconv.schemas.graph import Graph, Node, Value
    from nnconv.schemas.types import Array

    IsConstant = Callable[[Value | None], bool]
    Affine = tuple[Array, Array]


def fold_affine(graph: Graph, binding: Binding) -> int:
    """y*scale + shift by channel behind a Conv or Gemm goes into its weights and bias.

    Covers BatchNormalization (test mode) and Mul, Div, Add and Sub with constants: Caffe's Scale
    and Bias.
    """
    is_constant = constants(graph, binding)
    wanted = {*graph.outputs, *(state.write for state in graph.state)}
    changed = 0
    for node in graph.nodes:
        if node.op in _CHANNEL_AXIS:
            changed += _absorb(graph, node, is_constant, wanted)
    return changed


# Which axis of the weights runs over output channels. Gemm's depends on transB.
_CHANNEL_AXIS: dict[str, Callable[[Node], int]] = {
    "Conv": lambda node: 0,
    "Gemm": lambda node: 0 if node.transB else 1,
}


def _absorb(graph: Graph, node: Node, is_constant: IsConstant, wanted: set[Value]) -> int:
    """Take what follows this node into its weights, as long as it is affine by channel; how many
    nodes that were. All of it is gathered first, so weights are multiplied once.
    """
    weights, bias = node.required(1), node.input(2)
    if not is_constant(weights) or not (bias is None or is_constant(bias)):
        return 0
    if weights.data is None or (node.op == "Gemm" and (node.alpha != 1 or node.beta != 1)):
        return 0
    channels = weights.data.shape[_CHANNEL_AXIS[node.op](node)]
    old = np.zeros(1) if bias is None or bias.data is None else bias.data.astype(np.float64)
    if node.op == "Gemm" and old.size not in (1, channels):
        return 0
    scale, shift, taken = np.ones(channels), old.reshape(-1), 0
    while (after := _only_reader(node, wanted)) is not None:
        affine = _affine(after, node.output, channels, weights.data.ndim, is_constant)
        if affine is None:
            break
        scale, shift, taken = scale * affine[0], shift * affine[0] + affine[1], taken + 1
        if after.output in wanted:
            wanted.add(node.output)
        _bypass(graph, after, node.output)
    if taken:
        _scale_weights(graph, node, scale)
        _put_input(node, 2, graph.constant(shift.astype(weights.data.dtype)))
    return taken


def _scale_weights(graph: Graph, node: Node, scale: Array) -> None:
    data: Any = node.required(1).data
    if data is None or (scale == 1).all():
        return
    axis = _CHANNEL_AXIS[node.op](node)
    along = scale.reshape(tuple(-1 if i == axis else 1 for i in range(data.ndim)))
    scaled = data.times(along) if isinstance(data, Scaled) else Scaled(data, along)
    if node.op != "Conv":  # kernels of products read their weights a panel at a time
        node.set_input(1, graph.constant(scaled.array()))
        give_back(data)
        return
    value = graph.constant(scaled.source)
    value.data = cast("Array", scaled)
    node.set_input(1, value)


def _only_reader(node: Node, wanted: set[Value]) -> Node | None:
    """The node that alone reads this one's result, if nobody outside wants that result."""
    value = node.output
    if value in wanted or len(value.uses) != 1:
        return None
    return value.consumers[0]


def _put_input(node: Node, index: int, value: Value) -> None:
    node.inputs.extend([None] * (index + 1 - len(node.inputs)))
    node.set_input(index, value)


def _bypass(graph: Graph, node: Node, value: Value) -> None:
    """Let `value` stand for the node's result, under that result's name."""
    name = node.output.name
    graph.replace(node.output, value)
    graph.remove(node)
    graph.rename(value, name)


def _affine(
    node: Node, x: Value, channels: int, rank: int, is_constant: IsConstant
) -> Affine | None:
    """(scale, shift) by channel in float64 if the node computes x*scale + shift, else None."""
    if node.op == "BatchNormalization":
        return _batch_norm(node, x, channels, is_constant)
    if node.op not in ("Add", "Sub", "Mul", "Div"):
        return None
    left, right = node.required(0), node.required(1)
    other = right if left is x else left
    if left is right or not is_constant(other) or other.data is None:
        return None
    if node.op == "Div" and right is x:
        return None
    operand = _by_channel(other.data, channels, rank)
    if operand is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op == "Add":
        return one, operand
    if node.op == "Sub":
        return (one, -operand) if left is x else (-one, operand)
    return (operand if node.op == "Mul" else 1 / operand), zero


def _by_channel(data: Array, channels: int, rank: int) -> Array | None:
    """The constant as one number a channel (axis 1), or None when it varies along another axis."""
    shape = (1,) * (rank - data.ndim) + data.shape
    if len(shape) != rank or any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    if shape[1] not in (1, channels):
        return None
    return np.broadcast_to(data.astype(np.float64).reshape(-1), channels)


def _batch_norm(node: Node, x: Value, channels: int, is_constant: IsConstant) -> Affine | None:
    if node.training_mode or node.required(0) is not x or len(node.outputs) > 1:
        return None
    stored: list[Any] = [value.data for value in node.inputs[1:] if value and is_constant(value)]
    if len(stored) != 4:
        return None
    gain, offset, mean, variance = (data.astype(np.float64).reshape(-1) for data in stored)
    scale = gain / np.sqrt(variance + node.epsilon)
    return scale, offset - mean * scale


def fold_pads(graph: Graph, binding: Binding) -> int:
    """Zeros put around the spatial axes in front of a Conv become its own padding."""
    is_constant = constants(graph, binding)
    changed = 0
    for node in graph.nodes:
        before = node.required(0).producer if node.op == "Conv" else None
        if before is None or before.op != "Pad" or node.auto_pad != "NOTSET":
            continue
        pads = _zero_pads(before, is_constant)
        if pads is None:
            continue
        own = node.pads or (0,) * len(pads)
        total = tuple(a + b for a, b in zip(own, pads, strict=True))
        node.attributes = node.attributes | {"pads": total}
        node.set_input(0, before.required(0))
        changed += 1
    return changed


def _zero_pads(node: Node, is_constant: IsConstant) -> tuple[int, ...] | None:
    """The spatial pads of a Pad with zeros that leaves batch and channels alone, else None."""
    amounts, fill = node.required(1), node.input(2)
    if node.mode != "constant" or not is_constant(amounts) or node.input(3) is not None:
        return None
    if fill is not None and not (
        is_constant(fill) and fill.data is not None and not fill.data.any()
    ):
        return None
    given = [] if amounts.data is None else [int(n) for n in amounts.data.reshape(-1)]
    half = len(given) // 2
    if half < 3 or any(given[i] for i in (0, 1, half, half + 1)) or min(given) < 0:
        return None
    return (*given[2:half], *given[half + 2 :])


def compare_results(graph: Graph, binding: Binding) -> int:
    """Whether x is above 0 is asked of Relu(x): then x itself need not be kept for gradients."""
    changed = 0
    is_constant = constants(graph, binding)
    results: dict[Value, Value] = {}
    for node in graph.nodes:
        if node.op == "Relu":
            results[node.required(0)] = node.output
        bound = node.input(1) if node.op == "Greater" else None
        if bound is None or not is_constant(bound) or bound.data is None or bound.data.any():
            continue
        if (result := results.get(node.required(0))) is not None:
            node.set_input(0, result)
            changed += 1
    return changed


def merge_transposes(graph: Graph, binding: Binding) -> int:
    """Two transposes in a row become one, which `remove_identities` takes out if they cancel."""
    changed = 0
    for node in graph.nodes:
        before = node.required(0).producer if node.op == "Transpose" else None
        if before is None or before.op != "Transpose" or not node.perm or not before.perm:
            continue
        node.attributes = {"perm": tuple(before.perm[axis] for axis in node.perm)}
        node.set_input(0, before.required(0))
        changed += 1
    return changed
