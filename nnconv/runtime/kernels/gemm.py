"""Matrix products: y = activation(a b + bias + residual), as a one-tap convolution over one row.

The rows of `a` are pixels, its columns plain channels, the columns of y blocks of lanes. So small
`a` (a dense layer on a batch of 1 to 8) becomes a tile of all its rows, which reads the weights
exactly once and in order, and large products get the tiles and chunks of a convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nnconv.runtime.kernels.arrays import Array, Matrix
from nnconv.runtime.kernels.conv import Conv, Window, every_conv, pack_weights
from nnconv.runtime.kernels.copying import copy, transpose
from nnconv.runtime.kernels.elementwise import Step, Strided, chain
from nnconv.runtime.kernels.functions import NONE, Activation
from nnconv.runtime.kernels.language import Argument, Index, Kernel, Printer
from nnconv.runtime.kernels.samples.lanes import Cut
from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import InternalError


def _rows_as_pixels(matrix: Matrix, lanes: int) -> Array:
    """Each row a pixel; `lanes` columns side by side in a block."""
    return Array(
        batch=matrix.batch,
        channels=matrix.columns,
        height=1,
        width=matrix.rows,
        lanes=lanes,
        offset=matrix.offset,
        image=matrix.step,
        block=lanes * matrix.column,
        row=matrix.rows * matrix.row,
        column=matrix.row,
    )


def every_gemm(
    target: Target,
    a: Matrix,
    y: Matrix,
    *,
    bias: bool = False,
    residual: Matrix | None = None,
    activation: Activation = NONE,
    shared: bool = True,
    b: Matrix | None = None,
) -> Iterator[Conv]:
    """Products with every tile that fits, the rule's choice first, each made when it is asked for.
    Arguments: a, packed b, [bias], [residual], y.

    `a` may have any strides (a transposed matrix too); y and residual need contiguous columns.
    `shared`: one b serves all items of the batch; otherwise b holds one panel set an item. With
    `b` given it is read where it lies, its columns contiguous.
    Raises InternalError where columns that must be contiguous are not, or the shapes do not belong
    together.
    """
    if b is not None and b.column != 1:
        raise InternalError(f"a product reads {b} in panels only")
    if (
        y.column != 1
        or (residual and residual.column != 1)
        or (a.batch, a.rows) != (y.batch, y.rows)
    ):
        raise InternalError(f"no matrix product from {a} to {y}")
    found = every_conv(
        target,
        _rows_as_pixels(a, 1),
        _rows_as_pixels(y, target.lanes),
        Window(),
        bias=bias,
        residual=_rows_as_pixels(residual, target.lanes) if residual else None,
        activation=activation,
        clip=True,
    )
    for product in found:
        if b is not None:
            yield replace(product, weight_image=b.step, weight_row=b.row)
            continue
        panels = 0 if shared else product.steps * product.panels * product.panel_width
        yield replace(product, weight_image=panels)


def gemm(
    target: Target,
    a: Matrix,
    y: Matrix,
    *,
    bias: bool = False,
    residual: Matrix | None = None,
    activation: Activation = NONE,
    shared: bool = True,
    b: Matrix | None = None,
) -> Conv:
    """The product that the rule chooses; options as in `every_gemm`."""
    found = every_gemm(
        target, a, y, bias=bias, residual=residual, activation=activation, shared=shared, b=b
    )
    return next(found)


def pack_kernels(product: Conv, b: Matrix, scale: float = 1.0) -> list[Kernel]:
    """Kernels (arguments b, packed) that pack scale * b, known only at run time: whole panels and
    the last one, or, where the rows of b are what lies side by side, all in one.

    `packed` has `packed_size` elements. What they leave unwritten only meets lanes that the product
    does not store.
    """
    width, panels = product.panel_width, b.columns // product.panel_width
    rest, panel = b.columns - panels * width, product.steps * width
    if b.column != 1 and b.row == 1:
        return [PackTurned(b, width, panel, product.weight_image, product.lanes, scale)]
    scaled = [Step("Affine", (0,), (scale, 0.0))]
    found: list[Kernel] = []
    for first, count, columns in ((0, panels, width), (panels, 1, rest)):
        if count and columns:
            source = Strided(
                (b.step, width * b.column, b.row, b.column), b.at(0, 0, first * width).constant
            )
            goal = Strided((product.weight_image, panel, width, 1), first * panel)
            shape = (b.batch, count, b.rows, columns)
            if scale == 1:
                found.append(copy(shape, source, goal, product.lanes))
            else:
                found.append(chain(shape, [source], [goal], scaled, [1], product.lanes))
    return found


_SPAN = 16  # squares of lanes x lanes that one item turns


@dataclass(frozen=True)
class PackTurned(Kernel):
    """packed = scale * b in panels, for a b whose rows are contiguous in memory (a transposed
    matrix): squares are turned in registers. Arguments: b, packed.
    """

    family: ClassVar[str] = "pack_turned"

    b: Matrix
    width: int  # of a panel
    panel: int  # elements from panel to panel
    image: int  # and from item to item of the batch
    step: int  # lanes of a vector
    scale: float = 1.0

    @property
    def lanes(self) -> int:
        return self.step

    @property
    def grid(self) -> tuple[int, ...]:
        spans = -(-self.b.rows // (_SPAN * self.lanes))
        return (self.b.batch, -(-self.b.columns // self.lanes), spans)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("b"), Argument("packed", written=True))

    @property
    def bytes(self) -> int:
        return 8 * self.b.batch * self.b.rows * self.b.columns

    def describe(self, k: Printer) -> None:
        item, group, span = k.ids
        for columns in Cut(self.b.columns, self.lanes).bodies(k, group):
            first = group * self.lanes
            panel = k.quotient(first, self.width) * self.panel + k.remainder(first, self.width)
            goal = k.index(panel + item * self.image)
            full, rest = divmod(self.b.rows, self.lanes)
            if full:
                stop = k.smaller(span * _SPAN + _SPAN, full)
                with k.loop(stop, start=span * _SPAN, name="square") as square:
                    self._square(k, (item, first, square * self.lanes), goal, columns, self.lanes)
            if rest:
                with k.when(k.index_compare("eq", span, self.grid[2] - 1)):
                    last = Index((), full * self.lanes)
                    self._square(k, (item, first, last), goal, columns, rest)

    def _square(
        self, k: Printer, place: tuple[Index, Index, Index], goal: Index, columns: int, rows: int
    ) -> None:
        item, column, row = place
        zero = k.constant(0)
        lines = [
            k.load("b", self.b.at(item, row, column + c), count=rows) if c < columns else zero
            for c in range(self.lanes)
        ]
        for r, value in enumerate(transpose(k, lines)[:rows]):
            value = value * self.scale if self.scale != 1 else value
            k.store("packed", goal + (row + r) * self.width, value)


def packed_size(product: Conv) -> int:
    """Elements of packed b."""
    items = product.y.batch if product.weight_image else 1
    return items * product.steps * product.panels * product.panel_width


def pack_matrix(product: Conv, b: NDArray[np.float32]) -> NDArray[np.float32]:
    """b [inputs, outputs], or [batch, inputs, outputs] of an unshared product, in panels."""
    if not product.weight_image:
        return pack_weights(product, b.T[:, :, None, None])
    items: Sequence[NDArray[np.float32]] = list(b)
    return np.concatenate([pack_weights(product, item.T[:, :, None, None]) for item in items])
