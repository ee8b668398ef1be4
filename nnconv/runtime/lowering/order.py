"""ArgMax, ArgMin and TopK of few elements, with what is computed from their places."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.groups.order import GroupRanked
from nnconv.runtime.kernels.groups.vector import item_count
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.order import Numbers, Order, Ranked
from nnconv.runtime.kernels.reduce import Axis
from nnconv.runtime.lowering.claims import Claim, Scope, lowers_whole, sizes
from nnconv.runtime.lowering.gradients.conv import plain, plain_reads
from nnconv.runtime.lowering.layout import extents, is_float
from nnconv.runtime.lowering.numbers import Followed, followed, goal, unhindered

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

_MOST_RANKS = 16  # of any axis: a rank is a pass over it
_MOST_LOOKS = 1 << 16  # at elements of one row, for more ranks; beyond that the host sorts
_SHORT = 32  # elements of a row that one work-item of a card looks through


@lowers_whole("ArgMax", "ArgMin", "TopK")
def ranked(node: Node, scope: Scope) -> Claim | None:
    """The first elements along an axis, their places, or both."""
    x, (elements, places) = node.required(0), _results(node, scope)
    made = extents(node.outputs[0])
    if not is_float(x) or not sizes(x) or made is None or not all(made):
        return None
    axis = node.axis % len(sizes(x))
    count = made[axis] if node.op == "TopK" else 1
    if count > _MOST_RANKS and count * sizes(x)[axis] > _MOST_LOOKS:
        return None
    found = _followed(places, elements, sizes(x)[axis], scope) if places else None
    written = [*([elements] if elements else []), *([found.end] if found else [])]
    numbers = replace(found.numbers, kind=found.kind) if found else None

    def emit(builder: Builder) -> str:
        source = plain(builder, x)
        kernel = _kernel(builder, node, axis, count, elements is not None, numbers)
        builder.job(kernel, source, *(goal(builder, value) for value in written))
        return f"{node.op.lower()} {count}"

    nodes, reads = (node, *(found.nodes if found else ())), plain_reads((x,), scope)
    return Claim(nodes, reads, written[0], 1, emit, tuple(written[1:]))


def _results(node: Node, scope: Scope) -> tuple[Value | None, Value | None]:
    """Elements and places, as far as anybody wants them."""
    if node.op != "TopK":
        return None, node.output
    elements, places = node.outputs
    wanted = scope.is_wanted(places)
    return (elements if scope.is_wanted(elements) or not wanted else None), (
        places if wanted else None
    )


def _followed(places: Value, elements: Value | None, length: int, scope: Scope) -> Followed:
    found = followed(places, length, scope)
    if unhindered(found, [elements] if elements else [], scope):
        return found
    return Followed(places)


def _kernel(
    builder: Builder, node: Node, axis: int, count: int, elements: bool, numbers: Numbers | None
) -> Kernel:
    shape, order = sizes(node.required(0)), _order(node)
    outer, length, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    groups = builder.target.groups
    if groups and inner == 1 and length > _SHORT:
        width = item_count(length, groups.items)
        return GroupRanked(outer, length, count, width, order, elements, numbers)
    x, y = Axis.dense(outer, length, inner), Axis.dense(outer, count, inner)
    return Ranked(x, y, builder.scope.width, order, elements, numbers)


def _order(node: Node) -> Order:
    """NaN is the extreme of ArgMax and ArgMin, as numpy has it, and the largest of all in TopK."""
    if node.op == "TopK":
        return Order(smallest=not node.largest, nan_first=bool(node.largest))
    return Order(smallest=node.op == "ArgMin", last=bool(node.select_last_index))
