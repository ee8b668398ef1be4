"""Matrix products against numpy in double precision."""

from __future__ import annotations

import dataclasses
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnconv.runtime.kernels.arrays import Matrix
from nnconv.runtime.kernels.conv import pack_bias
from nnconv.runtime.kernels.functions import Activation
from nnconv.runtime.kernels.gemm import (
    every_gemm,
    gemm,
    pack_kernels,
    pack_matrix,
    packed_size,
)
from nnconv.runtime.kernels.target import Target
from nnconv.schemas.errors import InternalError
from tests.kernels.harness import (
    buffer,
    close,
    few,
    matrix_view,
    random,
    run,
    same_on_two_threads,
)


@st.composite
def matrices(draw: st.DrawFn, batch: int, rows: int, columns: int, transposed: bool) -> Matrix:
    """A window on a larger matrix."""
    across, down = (rows, columns) if transposed else (columns, rows)
    wide = across + draw(st.integers(0, 3))
    strides = (1, wide) if transposed else (wide, 1)
    return Matrix(rows, columns, *strides, draw(st.integers(0, 3)), batch, wide * down + 1)


@few
@given(data=st.data())
def test_any_product_is_what_numpy_says(target: Target, data: st.DataObject) -> None:
    draw = data.draw
    batch, rows = draw(st.integers(1, 3)), draw(st.integers(1, 40))
    inner, columns = draw(st.integers(1, 70)), draw(st.integers(1, 100))
    a = draw(matrices(batch, rows, inner, draw(st.booleans())))
    y = draw(matrices(batch, rows, columns, False))
    residual, biased, shared = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    product = gemm(
        target,
        a,
        y,
        bias=biased,
        residual=y if residual else None,
        activation=Activation("Relu"),
        shared=shared,
    )
    product = dataclasses.replace(
        product, depth=draw(st.integers(1, inner)), band=draw(st.integers(1, 3))
    )
    x, b = random((batch, rows, inner), 1), random((batch, inner, columns), 2)
    bias, before = random((columns,), 3), random((batch, rows, columns), 4)
    memory, left = buffer(np.full(y.size, np.nan)), buffer(np.full(a.size, np.nan))
    matrix_view(a, left)[:] = x
    matrix_view(y, memory)[:] = before
    packed = buffer(pack_matrix(product, b[0] if shared else b))
    buffers = [left, packed, *([buffer(pack_bias(product, bias))] if biased else [])]
    buffers += [memory.copy()] if residual else []
    run(product, target, *buffers, memory)
    want = np.matmul(x.astype(np.float64), b[:1] if shared else b)
    want = np.maximum(want + biased * bias + residual * before, 0)
    close(matrix_view(y, memory), want)
    assert same_on_two_threads(product, target, *buffers, memory)
    matrix_view(y, memory)[:] = np.nan
    assert np.isnan(memory).all()


@few
@given(data=st.data())
def test_a_product_of_two_matrices_known_at_run_time(target: Target, data: st.DataObject) -> None:
    draw = data.draw
    batch, rows = draw(st.integers(1, 3)), draw(st.integers(1, 20))
    inner, columns = draw(st.integers(1, 30)), draw(st.integers(1, 90))
    b = draw(matrices(batch, inner, columns, draw(st.booleans())))
    a, y = Matrix.dense(rows, inner, batch), Matrix.dense(rows, columns, batch)
    product = gemm(target, a, y, shared=False)
    left, right = random((batch, rows, inner), 1), random((batch, inner, columns), 2)
    source, packed = buffer(np.full(b.size, np.nan)), buffer(np.full(packed_size(product), np.nan))
    matrix_view(b, source)[:] = right
    for kernel in pack_kernels(product, b):
        run(kernel, target, source, packed)
    memory = buffer(np.full(y.size, np.nan))
    run(product, target, buffer(left), packed, memory)
    close(matrix_view(y, memory), np.matmul(left.astype(np.float64), right))


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
def test_a_dense_layer_on_a_small_batch_reads_its_weights_once(rows: int, target: Target) -> None:
    product = gemm(target, Matrix.dense(rows, 300), Matrix.dense(rows, 1000), bias=True)
    x, b, bias = random((rows, 300), 1), random((300, 1000), 2), random((1000,), 3)
    y = buffer(np.full((rows, 1000), np.nan))
    run(
        product,
        target,
        buffer(x),
        buffer(pack_matrix(product, b)),
        buffer(pack_bias(product, bias)),
        y,
    )
    close(y.reshape(rows, 1000), x.astype(np.float64) @ b + bias)
    whole = product.tile.pixels >= rows
    assert whole or target.registers < 32  # one tile holds all rows where the registers allow


def test_every_candidate_gives_the_same_product(target: Target) -> None:
    x, b = random((33, 50), 1), random((50, 70), 2)
    want = x.astype(np.float64) @ b
    for product in islice(every_gemm(target, Matrix.dense(33, 50), Matrix.dense(33, 70)), 6):
        y = buffer(np.full((33, 70), np.nan))
        run(product, target, buffer(x), buffer(pack_matrix(product, b)), y)
        close(y.reshape(33, 70), want)


def test_a_transposed_result_is_refused(target: Target) -> None:
    with pytest.raises(InternalError, match="no matrix product"):
        gemm(target, Matrix.dense(3, 4), Matrix.dense(5, 3).transposed)
