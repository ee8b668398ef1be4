"""CumSum and CumProd along a known axis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.reduce import Axis
from nnconv.runtime.kernels.running import Running
from nnconv.runtime.lowering.claims import Claim, Scope, lowers, sizes
from nnconv.runtime.lowering.gradients.conv import plain, plain_reads
from nnconv.runtime.lowering.layout import is_float

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node

_JOINS = {"CumSum": "add", "CumProd": "mul"}


@lowers(*_JOINS)
def running(node: Node, scope: Scope) -> Claim | None:
    x, known = node.required(0), scope.constant(node.input(1))
    if known is None or not is_float(x) or not sizes(x):
        return None
    shape, axis = sizes(x), int(known.reshape(-1)[0]) % len(sizes(x))

    def emit(builder: Builder) -> str:
        axes = Axis.dense(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
        how = (_JOINS[node.op], bool(node.exclusive), bool(node.reverse))
        kernel = Running(axes, axes, builder.scope.width, *how)
        builder.job(kernel, plain(builder, x), builder.write(node.output))
        return f"running {_JOINS[node.op]}"

    return Claim((node,), plain_reads((x,), scope), node.output, 1, emit)
