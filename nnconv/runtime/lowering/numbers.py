"""Integers that kernels compute: places along axes and in pictures, and what follows them.

Plans know floats only. So a kernel that finds places writes what the graph makes of them, as far
as that is arithmetic with constants and a Cast (`followed`); where integers themselves are asked
for, they lie in an array of the run (`Builder.write_whole`), as those do that a run is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nnconv.runtime.kernels.order import Floated, Numbers
from nnconv.runtime.kernels.reduce import Axis
from nnconv.runtime.lowering.claims import Claim, Scope, lowers, sizes
from nnconv.runtime.lowering.layout import Buffer, Operand, Place, extents, is_float
from nnconv.runtime.lowering.moves import RESHAPING
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

_KINDS = {DType.FLOAT32: "f32", DType.INT64: "i64", DType.INT32: "i32"}
_AS_IT_IS = Numbers()
_WORD = 1 << 31  # kernels count in 32 bits


@dataclass(frozen=True, slots=True)
class Followed:
    """Nodes behind a value of places, each the only reader of the one before, and where they end.

    `within` says that the places were taken modulo `plane`.
    """

    end: Value
    nodes: tuple[Node, ...] = ()
    numbers: Numbers = _AS_IT_IS
    within: bool = False

    @property
    def kind(self) -> str:
        return _KINDS[self.end.dtype]


def followed(places: Value, most: int, scope: Scope, plane: int = 0) -> Followed:
    """As far as a kernel can do what follows: sums and products with a constant while all stays
    within 32 bits (`most` is the largest place), other shapes, a Cast. With `plane` only a
    remainder by that number is arithmetic, as Caffe's mask is made.
    """
    found = Followed(places)
    while found.end.dtype is not DType.FLOAT32:
        reader = scope.only_reader(found.end)
        following = _with(found, reader, most, scope, plane) if reader else None
        if following is None:
            break
        found = following
    return found


def _with(
    found: Followed, reader: Node, most: int, scope: Scope, plane: int
) -> Followed | None:  # fmt: skip
    end = reader.output
    shape = extents(end)
    if shape is None or math.prod(shape) != math.prod(sizes(found.end)) or end.dtype not in _KINDS:
        return None
    longer = replace(found, end=end, nodes=(*found.nodes, reader))
    if reader.op in (*RESHAPING, "Cast"):
        return longer
    constant = _other(found.end, reader, scope)
    if constant is None:
        return None
    if plane:
        # C's remainder keeps the -1 of a window without a maximum; Python's makes it plane - 1
        whole = reader.op == "Mod" and reader.fmod and reader.required(0) is found.end
        whole = whole and constant == plane
        return replace(longer, within=True) if whole else None
    numbers = _changed(found.numbers, reader, found.end, constant)
    if numbers is None:
        return None
    largest = abs(numbers.scale) * most + abs(numbers.shift)
    return replace(longer, numbers=numbers) if largest < _WORD else None


def _other(value: Value, reader: Node, scope: Scope) -> int | None:
    """The one constant number that a node of two operands joins a value with."""
    if len(reader.inputs) != 2:
        return None
    other = reader.required(1 if reader.required(0) is value else 0)
    data = scope.constant(other)
    return int(data.reshape(-1)[0]) if data is not None and data.size == 1 else None


def _changed(numbers: Numbers, reader: Node, value: Value, by: int) -> Numbers | None:
    scale, shift = numbers.scale, numbers.shift
    if reader.op == "Add":
        return replace(numbers, shift=shift + by)
    if reader.op == "Mul":
        return replace(numbers, scale=scale * by, shift=shift * by)
    if reader.op != "Sub":
        return None
    if reader.required(0) is value:
        return replace(numbers, shift=shift - by)
    return replace(numbers, scale=-scale, shift=by - shift)


def unhindered(found: Followed, others: list[Value], scope: Scope) -> bool:
    """Whether nobody needs the other results before the last of the nodes has its turn."""
    readers = (reader for value in others for reader in value.consumers)
    return not found.nodes or not scope.comes_before(readers, found.nodes[-1])


def goal(builder: Builder, value: Value) -> Place | Buffer:
    """Where a kernel writes numbers."""
    return builder.write(value) if is_float(value) else builder.write_whole(value)


@lowers("Cast")
def floats_of_integers(node: Node, scope: Scope) -> Claim | None:
    """Integers of the run as floats."""
    x, y = node.required(0), node.output
    kind = scope.label_type(x)
    if kind not in ("i32", "i64"):
        return None

    def emit(builder: Builder) -> str:
        axis = Axis.dense(1, 1, math.prod(sizes(x)))
        kernel = Floated(axis, axis, builder.scope.width, kind)
        builder.job(kernel, Operand(builder.host(x)), builder.write(y))
        return "cast of integers"

    return Claim((node,), (), y, 1, emit)
