"""Shapes of convolutions and their transposes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nnconv.schemas.dims import Dim, Shape, minimum
from nnconv.schemas.errors import InputError
from nnconv.schemas.infer.registry import Result, infers
from nnconv.schemas.infer.support import (
    Window,
    agree,
    differ,
    need_rank,
    positions,
    show,
    windows,
)

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node


@infers("Conv")
def conv(node: Node) -> Result:
    """[N, C, spatial] and [M, C/group, kernel] give [N, M, positions] (ONNX Conv-22)."""
    x, w = node.required(0), node.required(1)
    data, weights = shapes(node)
    agree_channels(node, data[1], weights[1] * node.group, weights)
    if isinstance(weights[0], int) and weights[0] % node.group:
        raise InputError(f"{weights[0]} outputs cannot be split into {node.group} groups")
    check_bias(node, weights[0])
    found = windows(node, data[2:], kernel(node, weights))
    return [
        (
            x.dtype if x.dtype else w.dtype,
            (data[0], weights[0], *positions(node, found, "truncated")),
        )
    ]


@infers("ConvTranspose")
def conv_transpose(node: Node) -> Result:
    """[N, C, spatial] and [C, M/group, kernel] give [N, M, larger] (ONNX ConvTranspose-22)."""
    data, weights = shapes(node)
    agree_channels(node, data[1], weights[0], weights)
    channels = weights[1] * node.group
    check_bias(node, channels)
    found = windows(node, data[2:], kernel(node, weights))
    extra = node.output_padding or (0,) * len(found)
    if len(extra) != len(found):
        raise InputError(f"output_padding should have {len(found)} numbers, got {len(extra)}")
    spatial = node.output_shape or tuple(map(_spread(node), found, extra))
    if len(spatial) != len(found):
        raise InputError(f"output_shape should have {len(found)} numbers, got {len(spatial)}")
    if any(isinstance(size, int) and size < 1 for size in spatial):
        raise InputError(f"padding leaves nothing: the output would be {show(spatial)}")
    return [(node.required(0).dtype, (data[0], channels, *spatial))]


def _spread(node: Node) -> Callable[[Window, int], Dim]:
    return _same_spread if node.auto_pad.startswith("SAME") else _plain_spread


def _same_spread(window: Window, extra: int) -> Dim:
    """The size times the stride; less where the kernel is too small to fill that (as onnx and ONNX
    Runtime have it, padding never being negative)."""
    return minimum(window.size * window.stride, _plain_spread(window, extra))


def _plain_spread(window: Window, extra: int) -> Dim:
    return (window.size - 1) * window.stride + window.extent + extra - window.before - window.after


def shapes(node: Node) -> tuple[Shape, Shape]:
    """The shapes of data and weights, which must have the same number of axes, 2 or more."""
    data = need_rank(node.required(0), 2)
    return data, need_rank(node.required(1), len(data), len(data))


def agree_channels(node: Node, got: Dim, wanted: Dim, weights: Shape) -> None:
    """Raise InputError unless the data has as many channels as the weights want."""
    if node.group < 1:
        raise InputError(f"group must be 1 or more, got {node.group}")
    if isinstance(got, int) and got % node.group:
        raise InputError(f"{got} channels cannot be split into {node.group} groups")
    if differ(got, wanted):
        groups = f" in {node.group} groups" if node.group > 1 else ""
        raise InputError(
            f"the weights ({show(weights)}) want {wanted} channels{groups}, "
            f"'{node.required(0).name}' has {got}"
        )


def check_bias(node: Node, channels: Dim) -> None:
    if (bias := node.input(2)) is not None and bias.shape is not None:
        dims = need_rank(bias, 1, 1)
        agree(dims[0], channels, f"the bias '{bias.name}' and the output differ in channels")


def kernel(node: Node, weights: Shape) -> Shape:
    """The kernel of the weights, which the attribute kernel_shape may repeat but not change."""
    stated = node.kernel_shape
    if stated and (len(stated) != len(weights) - 2 or any(map(differ, stated, weights[2:]))):
        raise InputError(f"kernel_shape is {show(stated)}, the weights have {show(weights[2:])}")
    return weights[2:]
