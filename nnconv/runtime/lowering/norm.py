"""Local response normalisation, and softmax."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.norm import LRN
from nnconv.runtime.kernels.reduce import Axis, Softmax
from nnconv.runtime.kernels.samples.norm import Response, SampleLRN
from nnconv.runtime.lowering.claims import Claim, Read, Scope, image, lowers, sizes
from nnconv.runtime.lowering.layout import is_float

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node


def _response(node: Node) -> Response:
    return Response(int(node.size), float(node.alpha), float(node.beta), float(node.bias))


@lowers("LRN")
def sample_lrn(node: Node, scope: Scope) -> Claim | None:
    """Where samples are in lanes."""
    x, lanes = node.required(0), -scope.width
    if image(x) is None or scope.natural(x) >= 0:
        return None

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, lanes), builder.write(node.output)
        builder.job(SampleLRN(source.view, _response(node), made.view), source, made)
        return "sample lrn"

    return Claim((node,), (Read(x, lanes),), node.output, lanes, emit)


@lowers("LRN")
def lrn(node: Node, scope: Scope) -> Claim | None:
    """In blocks."""
    if image(node.required(0)) is None or node.size // 2 >= scope.width:
        return None

    def emit(builder: Builder) -> str:
        source, made = builder.read(node.required(0), scope.width), builder.write(node.output)
        kernel = LRN(source.view, made.view, node.size, node.alpha, node.beta, node.bias)
        builder.job(kernel, source, made)
        return "lrn"

    return Claim((node,), (Read(node.required(0), scope.width),), node.output, scope.width, emit)


@lowers("Softmax", "LogSoftmax")
def softmax(node: Node, scope: Scope) -> Claim | None:
    """Over any axis of a plain value."""
    x = node.required(0)
    if not is_float(x) or not sizes(x):
        return None

    def emit(builder: Builder) -> str:
        source, made = builder.read(x, 1), builder.write(node.output)
        shape, axis = sizes(x), node.axis % len(sizes(x))
        length, inner = shape[axis], math.prod(shape[axis + 1 :])
        axes = Axis.dense(math.prod(shape[:axis]), length, inner)
        kernel = Softmax(axes, axes, scope.width, node.op == "LogSoftmax")
        builder.job(kernel, source, made)
        return "softmax"

    return Claim((node,), (Read(x, 1),), node.output, 1, emit)
