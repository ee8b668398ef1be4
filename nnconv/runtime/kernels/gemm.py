"""Matrix products: y = activation(a b + bias + residual), as a one-tap convolution over one row.

The rows of `a` are pixels, its columns plain channels, the columns of y blocks of lanes. So small
`a` (a dense layer on a batch of 1 to 8) becomes a tile of all its rows, which reads the weights
exactly once and in order, and large products get the tiles and chunks of a convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nnconv.runtime.kernels.arrays import Array, Matrix
from nnconv.runtime.kernels.conv import Conv, Window, every_conv, pack_weights
from nnconv.runtime.kernels.copying import Copy, copy
from nnconv.runtime.kernels.elementwise import Strided
from nnconv.runtime.kernels.functions import NONE, Activation
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
) -> Iterator[Conv]:
    """Products with every tile that fits, the rule's choice first, each made when it is asked for.
    Arguments: a, packed b, [bias], [residual], y.

    `a` may have any strides (a transposed matrix too); y and residual need contiguous columns.
    `shared`: one b serves all items of the batch; otherwise b holds one panel set an item.
    Raises InternalError where y's columns are not contiguous or the shapes do not belong together.
    """
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
) -> Conv:
    """The product that the rule chooses; options as in `every_gemm`."""
    found = every_gemm(
        target, a, y, bias=bias, residual=residual, activation=activation, shared=shared
    )
    return next(found)


def pack_kernels(product: Conv, b: Matrix) -> list[Copy]:
    """Kernels (arguments b, packed) that pack a b known only at run time, whole panels and the last
    one.

    `packed` has `packed_size` elements. What they leave unwritten only meets lanes that the product
    does not store.
    """
    width, panels = product.panel_width, b.columns // product.panel_width
    rest, panel = b.columns - panels * width, product.steps * width
    found = []
    for first, count, columns in ((0, panels, width), (panels, 1, rest)):
        if count and columns:
            source = Strided(
                (b.step, width * b.column, b.row, b.column), b.at(0, 0, first * width).constant
            )
            goal = Strided((product.weight_image, panel, width, 1), first * panel)
            shape = (b.batch, count, b.rows, columns)
            found.append(copy(shape, source, goal, product.lanes))
    return found


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
