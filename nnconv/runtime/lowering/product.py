"""Matrix products of which neither operand is stored for good: any batch, any transposes.

Where many rows meet the right operand it is brought into panels first, as stored weights are; where
few do, or where it stays in the cache, it is read as it lies. Rules for stored weights (linear.py)
and for training (gradients/linear.py) come first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.kernels.arrays import Matrix
from nnconv.runtime.kernels.conv import Conv
from nnconv.runtime.kernels.elementwise import Step, Strided, chain, space
from nnconv.runtime.kernels.functions import NONE, Activation
from nnconv.runtime.kernels.gemm import gemm, pack_kernels, packed_size
from nnconv.runtime.lowering.activation import after
from nnconv.runtime.lowering.claims import Claim, Scope, lowers, sizes
from nnconv.runtime.lowering.gradients.conv import plain, plain_reads
from nnconv.runtime.lowering.layout import Buffer, Operand, is_float

if TYPE_CHECKING:
    from nnconv.runtime.lowering.build import Builder
    from nnconv.schemas.graph import Node, Value

_FEW_ROWS = 12  # that meet the right operand: packing it would cost as much as the product
_CACHED_BYTES = 64 << 10  # of a right operand that is read as it lies
_MOST_JOBS = 256  # of one product: batches that do not lie evenly


@dataclass(frozen=True, slots=True)
class _Work:
    """y = activation(scale * a b + c_scale * c), over the last two axes; `extent` is the batch of
    the result, then its rows, inputs and columns."""

    a: Value
    b: Value
    c: Value | None
    y: Value
    turned: tuple[bool, bool]
    scale: float
    c_scale: float
    activation: Activation
    batch: tuple[int, ...]
    extent: tuple[int, int, int]


@lowers("Gemm")
def product_gemm(node: Node, scope: Scope) -> Claim | None:
    """Gemm [+ scale or activation] with operands of any kind."""
    a, b, c = node.required(0), node.required(1), node.input(2)
    turned = bool(node.transA), bool(node.transB)
    if not _matrices(a, b) or (c is not None and not is_float(c)):
        return None
    if c is not None and len(sizes(c)) > 2:
        return None
    rows, inputs = sizes(a)[::-1] if turned[0] else sizes(a)
    extent = rows, inputs, sizes(node.output)[1]
    return _claim(node, c, turned, (float(node.alpha), float(node.beta)), (), extent, scope)


def _matrices(a: Value, b: Value) -> bool:
    return is_float(a) and is_float(b) and len(sizes(a)) == len(sizes(b)) == 2


@lowers("MatMul")
def product_matmul(node: Node, scope: Scope) -> Claim | None:
    """MatMul [+ scale or activation] with operands of any kind."""
    a, b = node.required(0), node.required(1)
    if not is_float(a) or not is_float(b) or not sizes(a) or not sizes(b):
        return None
    rows = sizes(a)[-2] if len(sizes(a)) > 1 else 1
    columns = sizes(b)[-1] if len(sizes(b)) > 1 else 1
    batch = np.broadcast_shapes(sizes(a)[:-2], sizes(b)[:-2])
    extent = rows, sizes(a)[-1], columns
    return _claim(node, None, (False, False), (1.0, 1.0), batch, extent, scope)


def _claim(
    node: Node, c: Value | None, turned: tuple[bool, bool], scales: tuple[float, float],
    batch: tuple[int, ...], extent: tuple[int, int, int], scope: Scope,
) -> Claim | None:  # fmt: skip
    last, activation = _scaled(node.output, scope)
    if last is None:
        last, activation = after(node.output, scope)
    nodes = (node, *([last] if last else []))
    work = _Work(
        node.required(0), node.required(1), c, nodes[-1].output, turned, *scales, activation,
        batch, extent,
    )  # fmt: skip
    shape, *_ = _space(work)
    if math.prod(shape) // max(shape) > _MOST_JOBS:
        return None
    reads = plain_reads((work.a, work.b, c), scope)
    return Claim(nodes, reads, work.y, 1, lambda b: _emit(b, work))


def _scaled(value: Value, scope: Scope) -> tuple[Node | None, Activation]:
    """The multiplication by one stored number that follows, as attention has it; a division where
    its reciprocal is exact."""
    node = scope.only_reader(value)
    if node is None or node.op not in ("Mul", "Div") or sizes(node.output) != sizes(value):
        return None, NONE
    first, second = node.required(0), node.required(1)
    data = scope.constant(second if first is value else first)
    if data is None or data.size != 1 or not is_float(node.output):
        return None, NONE
    factor = float(data.reshape(-1)[0])
    if node.op == "Div":
        if first is not value or not math.isfinite(factor) or abs(math.frexp(factor)[0]) != 0.5:
            return None, NONE
        factor = 1 / factor
    return node, Activation("Affine", (factor, 0.0))


def _space(work: _Work) -> tuple[tuple[int, ...], Strided, Strided, Strided]:
    """The batch with as few axes as can be, and how a, b and y lie along them."""
    rows, inputs, columns = work.extent
    operands = (
        _strides(work.batch, sizes(work.a)[:-2], rows * inputs),
        _strides(work.batch, sizes(work.b)[:-2], inputs * columns),
        _strides(work.batch, work.batch, rows * columns),
    )
    shape, found = space(work.batch or (1,), operands)
    return shape, found[0], found[1], found[2]


def _strides(batch: tuple[int, ...], own: tuple[int, ...], step: int) -> Strided:
    """Where the matrices of an operand lie, those along axes of size 1 repeated."""
    found: list[int] = []
    for size in reversed(own):
        found.append(0 if size == 1 else step)
        step *= size
    return Strided((0,) * (len(batch or (1,)) - len(own)) + tuple(reversed(found)))


def _emit(builder: Builder, work: _Work) -> str:
    shape, *operands = _space(work)
    along = max(range(len(shape)), key=lambda axis: shape[axis])
    a, b, y = _matrices_of(work, shape[along], [o.strides[along] for o in operands])
    places = [plain(builder, work.a), plain(builder, work.b)]
    skip = _addend(builder, work) if work.c is not None else None
    places.append(builder.write(work.y))
    if b.step == 0 and a.step == a.rows * a.row and y.step == y.rows * y.row and not skip:
        a, y, b = _joined(a), _joined(y), replace(b, batch=1)
    label = ""
    for offsets in _offsets(shape, along, operands):
        starts = [
            Operand(place.buffer, place.array.offset + offset)
            for place, offset in zip(places, offsets, strict=True)
        ]
        label = _job(builder, work, (a, b, y), starts, skip)
    return label


def _matrices_of(work: _Work, count: int, steps: list[int]) -> tuple[Matrix, Matrix, Matrix]:
    rows, inputs, columns = work.extent
    a, b = Matrix(rows, inputs, inputs), Matrix(inputs, columns, columns)
    if work.turned[0]:
        a = Matrix(inputs, rows, rows).transposed
    if work.turned[1]:
        b = Matrix(columns, inputs, inputs).transposed
    found = (a, b, Matrix(rows, columns, columns))
    a, b, y = (replace(m, batch=count, step=step) for m, step in zip(found, steps, strict=True))
    return a, b, y


def _joined(matrix: Matrix) -> Matrix:
    """A batch as more rows of one matrix."""
    return replace(matrix, rows=matrix.rows * matrix.batch, batch=1, step=0)


def _offsets(
    shape: tuple[int, ...], along: int, operands: list[Strided]
) -> Iterator[tuple[int, ...]]:
    """Where each operand starts, for every place along the other axes of the batch."""
    others = [1 if axis == along else size for axis, size in enumerate(shape)]
    for place in np.ndindex(*others):
        yield tuple(
            sum(int(at) * step for at, step in zip(place, o.strides, strict=True)) for o in operands
        )


def _job(
    builder: Builder, work: _Work, matrices: tuple[Matrix, Matrix, Matrix], starts: list[Operand],
    skip: tuple[Operand, Matrix] | None,
) -> str:  # fmt: skip
    a, b, y = matrices
    packed = not _as_it_lies(b, a.rows) or work.scale != 1
    shared = b.step == 0 or b.batch == 1
    kernel = gemm(
        builder.target, a, y, residual=skip[1] if skip else None, activation=work.activation,
        shared=shared, b=None if packed else replace(b, step=0 if shared else b.step),
    )  # fmt: skip
    weights = _packed(builder, kernel, b, starts[1], work.scale) if packed else starts[1]
    builder.job(kernel, starts[0], weights, *([skip[0]] if skip else []), starts[2])
    tile = kernel.tile
    return f"product {tile.rows * tile.columns}x{kernel.panel_width}"


def _as_it_lies(b: Matrix, rows: int) -> bool:
    """Whether b is better not packed."""
    cached = 4 * b.rows * b.columns <= _CACHED_BYTES
    return b.column == 1 and (rows <= _FEW_ROWS or cached)


def _packed(builder: Builder, kernel: Conv, b: Matrix, start: Operand, scale: float) -> Operand:
    made = Operand(builder.buffer(packed_size(kernel)))
    for pack in pack_kernels(kernel, b if kernel.weight_image else replace(b, batch=1), scale):
        builder.job(pack, start, made)
    return made


def _addend(builder: Builder, work: _Work) -> tuple[Operand, Matrix]:
    """c_scale * c as the product adds it: its columns side by side, its rows perhaps all one."""
    assert work.c is not None
    rows, _, columns = work.extent
    place, own = plain(builder, work.c), (1, 1, *sizes(work.c))[-2:]
    down, across = (0 if own[0] == 1 else own[1]), (0 if own[1] == 1 else 1)
    if work.c_scale == 1 and (across or columns == 1):
        return place.operand, Matrix(rows, columns, down)
    height = 1 if own[0] == 1 else rows
    made: Buffer = builder.buffer(height * columns)
    steps = [Step("Affine", (0,), (work.c_scale, 0.0))]
    shape, lanes = (height, columns), builder.scope.width
    scaled = chain(shape, [Strided((down, across))], [Strided((columns, 1))], steps, [1], lanes)
    builder.job(scaled, place, made)
    return Operand(made), Matrix(rows, columns, columns if height > 1 else 0)
