"""The gradient of local response normalisation, plain or with samples in lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.runtime.kernels.lrn_gradient import LRNGrad
from nnconv.runtime.lowering.claims import Claim, Read, Scope, image, lowers
from nnconv.runtime.lowering.layout import dense_array, is_float

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node

_WIDEST = 15  # window: the code of a kernel grows with its square


@lowers("nnconv.LRNGrad")
def lrn_grad(node: Node, scope: Scope) -> Claim | None:
    x, dy, y = node.required(0), node.required(1), node.output
    found = image(x)
    if found is None or not is_float(dy) or image(dy) != found or node.size > _WIDEST:
        return None
    by_sample = scope.natural(x) < 0 or scope.natural(dy) < 0
    lanes = -scope.width if by_sample else 1

    def emit(builder: Builder) -> str:
        source, slope, made = builder.read(x, lanes), builder.read(dy, lanes), builder.write(y)
        arrays = [source.view, slope.view, dense_array(found, lanes), made.view]
        scratch = builder.buffer(arrays[2].size)
        if all(array.flat for array in arrays):
            arrays = [array.flattened() for array in arrays]
        kernel = LRNGrad(
            arrays[0], arrays[1], arrays[2], arrays[3], node.size, node.alpha, node.beta,
            node.bias, scope.width,
        )  # fmt: skip
        builder.job(kernel, source, slope, scratch, made)
        return "lrn gradient"

    return Claim((node,), (Read(x, lanes), Read(dy, lanes)), y, lanes, emit)
