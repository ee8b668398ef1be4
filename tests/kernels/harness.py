"""Buffers around arrays, kernels run on them, and numpy's double precision answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nnconv.runtime.devices import jit, jobs
from nnconv.runtime.kernels.arrays import Array, Border, Matrix
from nnconv.runtime.kernels.conv import Window
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.target import KINDS, Target

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
few = settings(max_examples=15)  # every example compiles a kernel, for each width of vectors
JUNK = np.nan  # what lanes past the last channel hold: nobody may read them


@cache
def runnable_targets() -> dict[str, Target]:
    """Kinds of processor that this one includes."""
    kinds = {"neon": ["neon"], "sse": ["sse"], "avx2": ["sse", "avx2"]}
    kinds["avx512"] = ["sse", "avx2", "avx512"]
    host = jit.host()
    found = next(
        name
        for name, kind in KINDS.items()
        if (kind.lanes, kind.fma, kind.indexed) == (host.lanes, host.fma, host.indexed)
    )
    return {name: jit.target(name) for name in kinds[found]}


def random(shape: Sequence[int], seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(tuple(shape)).astype(np.float32)


def buffer(values: NDArray[Any]) -> Floats:
    """The values on a 64-byte boundary."""
    aligned = jobs.aligned(values.size)
    aligned[:] = values.reshape(-1)
    return aligned


def view(array: Array, memory: Floats, with_border: bool = False) -> Floats:
    """[batch, blocks, height, width, lanes] of a buffer, without copying."""
    edge = array.border if with_border else Border()
    start = array.offset - edge.top * array.row - edge.left * array.column
    shape = (
        array.batch,
        array.blocks,
        array.height + edge.top + edge.bottom,
        array.width + edge.left + edge.right,
        array.lanes,
    )
    strides = [4 * s for s in (array.image, array.block, array.row, array.column, 1)]
    return np.lib.stride_tricks.as_strided(memory[start:], shape, strides)


def memory_of(array: Array, values: Floats | None = None, border: float = 0.0) -> Floats:
    """A buffer that holds an array: NaN wherever a kernel has no business, `border` around the
    pixels.
    """
    memory = jobs.aligned(array.size + 64, fill=np.nan)
    if values is not None:
        view(array, memory, with_border=True)[:] = border
        write(array, memory, values)
    return memory


def write(array: Array, memory: Floats, values: Floats) -> None:
    n, c, h, w = values.shape
    full = np.full((n, array.blocks * array.lanes, h, w), JUNK, np.float32)
    full[:, :c] = values
    split = full.reshape(n, array.blocks, array.lanes, h, w)
    view(array, memory)[:] = split.transpose(0, 1, 3, 4, 2)


def read(array: Array, memory: Floats) -> Floats:
    """[batch, channels, height, width], copied out."""
    blocked = view(array, memory).transpose(0, 1, 4, 2, 3)
    full = blocked.reshape(array.batch, -1, array.height, array.width)
    return full[:, : array.channels].copy()


def untouched(array: Array, memory: Floats) -> bool:
    """Everything but the array's own pixels is still NaN."""
    rest = memory.copy()
    view(array, rest)[:] = np.nan
    return bool(np.isnan(rest).all())


def matrix_view(matrix: Matrix, memory: Floats) -> Floats:
    """[batch, rows, columns] of a buffer, without copying."""
    shape = (matrix.batch, matrix.rows, matrix.columns)
    strides = [4 * s for s in (matrix.step, matrix.row, matrix.column)]
    return np.lib.stride_tricks.as_strided(memory[matrix.offset :], shape, strides)


def job(kernel: Kernel, target: Target, *buffers: Floats, offsets: Sequence[int] = ()) -> jobs.Job:
    starts = [*offsets, *[0] * len(buffers)]
    addresses = [b.ctypes.data + 4 * o for b, o in zip(buffers, starts, strict=False)]
    return jobs.Job(jit.load(kernel, target), tuple(addresses), kernel.total, kernel.chunk)


def run(kernel: Kernel, target: Target, *buffers: Floats, threads: int = 1) -> None:
    assert len(buffers) == len(kernel.arguments)
    jobs.JobTable([job(kernel, target, *buffers)], threads=threads, owners=buffers).run()


def same_on_two_threads(kernel: Kernel, target: Target, *buffers: Floats) -> bool:
    """The last buffer, computed again by two threads in the smallest chunks, is equal bit for
    bit.
    """
    again = buffers[-1].copy()
    memory = buffer(again)
    memory[:] = np.nan
    one = job(kernel, target, *buffers[:-1], memory)
    two = jobs.Job(one.code, one.arguments, one.total, 1)
    jobs.JobTable([two], threads=2, owners=(*buffers, memory)).run()
    return memory.tobytes() == again.tobytes()


def close(got: Floats, want: Doubles, rel: float = 1e-5) -> None:
    """Largest difference within `rel` of the largest value wanted; the same NaNs and infinities."""
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.isfinite(got), finite)
    np.testing.assert_array_equal(got[~finite], want[~finite].astype(np.float32))
    scale = max(1e-30, float(np.abs(want[finite]).max(initial=0)))
    worst = float(np.abs(got[finite] - want[finite]).max(initial=0))
    assert worst <= rel * scale, f"largest difference {worst:.2e} of {scale:.2e}"


# -- double precision answers


def convolve(
    x: Floats, w: Floats, window: Window, extent: tuple[int, int], groups: int = 1
) -> Doubles:
    """Convolution as its definition says, a sum over taps; pixels outside x count as 0."""
    (kh, kw), (sh, sw), (dh, dw) = window.size, window.stride, window.dilation
    n, c, h, width = x.shape
    room = (extent[0] * sh + kh * dh + h, extent[1] * sw + kw * dw + width)
    padded = np.zeros((n, c, *room))
    top, left = window.pad
    padded[:, :, top : top + h, left : left + width] = x
    each, outputs = c // groups, w.shape[0] // groups
    y = np.zeros((n, w.shape[0], *extent))
    for g in range(groups):
        mine = slice(g * outputs, (g + 1) * outputs)
        for i in range(kh):
            for j in range(kw):
                rows = slice(i * dh, i * dh + (extent[0] - 1) * sh + 1, sh)
                columns = slice(j * dw, j * dw + (extent[1] - 1) * sw + 1, sw)
                taps = padded[:, g * each : (g + 1) * each, rows, columns]
                y[:, mine] += np.einsum("oi,nihw->nohw", w[mine, :, i, j].astype(np.float64), taps)
    return y


# -- strategies


def extent(size: int, window: Window, axis: int, end: int) -> int:
    """Output extent along one axis with `end` pixels of padding after the input."""
    reach = (window.size[axis] - 1) * window.dilation[axis] + 1
    return (size + window.pad[axis] + end - reach) // window.stride[axis] + 1


@st.composite
def placed(
    draw: st.DrawFn, batch: int, channels: int, height: int, width: int, lanes: int, border: Border
) -> Array:
    """An array somewhere in a larger buffer: a wider border, or a slice of a concatenation."""
    around = st.integers(0, 2)
    more = Border(
        *(edge + draw(around) for edge in (border.top, border.left, border.bottom, border.right))
    )
    before, after = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    blocks = -(-channels // lanes)
    whole = Array.dense(batch, (blocks + before + after) * lanes, height, width, lanes, more)
    return whole.slice_channels(before * lanes, channels)
