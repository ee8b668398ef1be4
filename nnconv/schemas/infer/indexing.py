"""Shapes of slices, gathers and scatters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.schemas.dims import Content, Dim, Symbolic, ceil_div, maximum, minimum, size
from nnconv.schemas.errors import InputError
from nnconv.schemas.infer.registry import Result, Unknown, infers, knows
from nnconv.schemas.infer.support import (
    agree,
    axes,
    axis,
    content,
    integers,
    need_rank,
    same,
    shape,
    sizes,
)
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node

infers("ScatterElements", "Scatter", "ScatterND", "ReverseSequence")(same)

FAR = 2**31 - 1
"""Slices that should reach an end are written with bounds at least this far out (ONNX Slice-13)."""


@infers("Slice")
def slice_(node: Node) -> Result:
    """Bounds count from the end when negative and are clipped into the axis, as numpy clips
    them."""
    x = node.required(0)
    result = list(need_rank(x, 1))
    for place, start, end, step in _bounds(node, len(result)):
        result[place] = length(result[place], start, end, step)
    return [(x.dtype, tuple(result))]


def _bounds(node: Node, rank: int) -> list[tuple[int, Dim, Dim, int]]:
    starts, ends = (sizes(node.required(index)) for index in (1, 2))
    chosen, strides = node.input(3), node.input(4)
    places = axes(integers(chosen), rank) if chosen is not None else tuple(range(len(starts)))
    steps = integers(strides) if strides is not None else (1,) * len(starts)
    counts = {len(starts), len(ends), len(places), len(steps)}
    if len(counts) > 1 or len(places) > rank:
        raise InputError(
            f"Slice of {rank} axes: {len(starts)} starts, {len(ends)} ends, {len(places)} axes, "
            f"{len(steps)} steps"
        )
    if 0 in steps:
        raise InputError("a slice cannot have step 0")
    return list(zip(places, starts, ends, steps, strict=True))


def length(size: Dim, start: Dim, end: Dim, step: int) -> Dim:
    """How many elements of `size` the slice start:end:step takes."""
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        first, last = span(size, start, end, step)
        return max(-((first - last) // step), 0)
    if step < 0:
        return _backward_length(size, start, end, -step)
    low, high = _clipped(start, size), _clipped(end, size)
    return maximum(ceil_div(high - low, step), 0)


def span(size: int, start: int, end: int, step: int) -> tuple[int, int]:
    """The first index of a slice and the one it stops before.

    Unlike in numpy, a backward slice never starts before the first element (ONNX Slice-13).
    """
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return min(max(start, 0), size), min(max(end, 0), size)
    return min(max(start, 0), size - 1), min(max(end, -1), size - 1)


def _clipped(bound: Dim, size: Dim) -> Dim:
    """A forward bound inside 0..size; a bound of unknown sign is taken for a position, as sizes
    are."""
    if isinstance(bound, int):
        if bound >= FAR:
            return size
        if bound < 0:
            return maximum(size + bound, 0)
    return minimum(bound, size)


def _backward_length(size: Dim, start: Dim, end: Dim, stride: int) -> Dim:
    """Reversed slices of an open size are known from the last element on, to the first or before
    one."""
    if not isinstance(start, int) or not isinstance(end, int) or not (start == -1 or start >= FAR):
        raise Unknown
    if end <= -FAR:
        return ceil_div(size, stride)
    if end < 0:
        return ceil_div(minimum(-1 - end, size), stride)
    return maximum(ceil_div(size - 1 - end, stride), 0)


@infers("Gather")
def gather(node: Node) -> Result:
    x, places = node.required(0), shape(node.required(1))
    dims = need_rank(x, 1)
    place = axis(node.axis, len(dims))
    return [(x.dtype, (*dims[:place], *places, *dims[place + 1 :]))]


@infers("GatherElements")
def gather_elements(node: Node) -> Result:
    x, indices = node.required(0), node.required(1)
    need_rank(indices, x.rank, x.rank) if x.shape is not None else None
    return [(x.dtype, indices.shape)]


@infers("GatherND")
def gather_nd(node: Node) -> Result:
    """The last axis of the indices walks that many axes of the data behind the batch ones."""
    x = node.required(0)
    dims, indices = need_rank(x, 1), need_rank(node.required(1), 1)
    depth = indices[-1]
    if not isinstance(depth, int):
        raise Unknown
    if node.batch_dims + depth > len(dims):
        raise InputError(f"indices of {depth} numbers are too long for {len(dims)} axes")
    return [(x.dtype, (*indices[:-1], *dims[node.batch_dims + depth :]))]


@infers("OneHot")
def one_hot(node: Node) -> Result:
    indices = shape(node.required(0))
    (depth,) = sizes(node.required(1))
    place = axis(node.axis, len(indices) + 1)
    return [(node.required(2).dtype, (*indices[:place], depth, *indices[place:]))]


@infers("nnconv.Select")
def select(node: Node) -> Result:
    """As many items as data decide, one selector for each that there is."""
    x, selector = node.required(0), shape(node.required(1))
    dims = need_rank(x, 1)
    agree(size(selector), dims[0], "selectors and items differ in number")
    return [(x.dtype, (Symbolic.name(node.size), *dims[1:]))]


@infers("NonZero")
def non_zero(node: Node) -> Result:
    return [(DType.INT64, None)]


@knows("Gather")
def gather_content(node: Node) -> Content | None:
    """Picking sizes out of a shape."""
    known, picked = content(node.required(0)), content(node.required(1))
    if known is None or picked is None or node.required(0).shape == ():
        return None
    if not all(isinstance(index, int) and -len(known) <= index < len(known) for index in picked):
        return None
    return tuple(known[index] for index in picked)  # type: ignore[index]  # narrowed by the lines above


@knows("Slice")
def slice_content(node: Node) -> Content | None:
    known = content(node.required(0))
    if known is None:
        return None
    for _, start, end, step in _bounds(node, 1):
        if not isinstance(start, int) or not isinstance(end, int):
            return None
        first, last = span(len(known), start, end, step)
        known = tuple(known[index] for index in range(first, last, step))
    return known
