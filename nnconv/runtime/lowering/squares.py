"""Sums of squares over whole values: of one, or of several that are added up, in one go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.arrays import Array
from nnconv.runtime.kernels.groups.reduce import GroupSquares, GroupTotal
from nnconv.runtime.kernels.squares import PIECE, SquareSums, Total
from nnconv.runtime.lowering.claims import Claim, Read, Scope, lowers, sizes
from nnconv.runtime.lowering.layout import Operand, Place, is_float

if TYPE_CHECKING:
    from nnconv.runtime.kernels.language import Kernel
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

_MOST_ARRAYS = 24  # of one kernel: its code grows with them


@lowers("ReduceSumSquare", first=True)
def square_sums(node: Node, scope: Scope) -> Claim | None:
    """This sum, and those that are added to it, each read by that addition alone."""
    if node in scope.taken or not is_whole(node, scope):
        return None
    nodes, sums = [node], [node]
    while (adder := _adder(nodes[-1], scope)) is not None:
        other = next(v for v in adder.inputs if v is not nodes[-1].output)
        assert other is not None and other.producer is not None
        nodes += [other.producer, adder]
        sums.append(other.producer)
    output = nodes[-1].output

    def emit(builder: Builder) -> str:
        return _emit(builder, sums, output)

    reads = tuple(Read(sum_.required(0), 1) for sum_ in sums)
    return Claim(tuple(nodes), reads, output, 1, emit)


def is_whole(node: Node, scope: Scope) -> bool:
    """Whether a node adds up all there is in a computed value."""
    if node.op != "ReduceSumSquare" or not is_float(node.required(0)):
        return False
    x, axes = node.required(0), node.input(1)
    known = None if axes is None else scope.constant(axes)
    every = axes is None or (known is not None and known.size == len(sizes(x)))
    every = every or (known is not None and not known.size)
    return every and not node.noop_with_empty_axes and scope.constant(x) is None


def _adder(node: Node, scope: Scope) -> Node | None:
    """The addition of this sum and another one."""
    adder = scope.only_reader(node.output)
    if adder is None or adder.op != "Add":
        return None
    other = next((v for v in adder.inputs if v is not node.output), None)
    maker = None if other is None else other.producer
    if other is None or maker is None or sizes(other) != sizes(node.output):
        return None
    free = maker not in scope.taken and scope.only_reader(other) is adder
    return adder if free and is_whole(maker, scope) else None


def _emit(builder: Builder, nodes: list[Node], output: Value) -> str:
    """Sums of pieces first, where what makes a value has not left them, then their total."""
    width, groups = builder.scope.width, builder.target.groups
    parts = [builder.remembered[node].operand for node in nodes if node in builder.remembered]
    sums = [builder.remembered[node].buffer.size for node in nodes if node in builder.remembered]
    left = [node.required(0) for node in nodes if node not in builder.remembered]
    for start in range(0, len(left), _MOST_ARRAYS):
        values = left[start : start + _MOST_ARRAYS]
        lengths = tuple(math.prod(sizes(value)) for value in values)
        kernel: Kernel = SquareSums(lengths, PIECE, width)
        if groups:
            kernel = GroupSquares(lengths, PIECE, groups.items)
        made = builder.buffer(kernel.total * width)
        builder.job(kernel, *(builder.read(value, 1) for value in values), made)
        parts.append(Operand(made))
        sums.append(made.size)
    total: Kernel = Total(tuple(sums), width)
    if groups:
        total = GroupTotal(tuple(sums), groups.items)
    builder.job(total, *parts, builder.write(output))
    return f"square sums of {len(nodes)}"


def leave_squares(builder: Builder, value: Value, items: int) -> Operand | None:
    """Where a kernel of so many items leaves sums of a value's squares, a vector each; None where
    nobody asks for them.
    """
    asking = next((r for r in value.consumers if is_whole(r, builder.scope)), None)
    if asking is None:
        return None
    array = Array.dense(1, items * builder.scope.width, 1, 1)
    made = builder.remembered[asking] = Place(builder.buffer(array.size), array)
    return made.operand
