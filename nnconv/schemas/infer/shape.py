"""Shapes of operators that move elements without changing them, and the contents of tensors of
sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnconv.schemas.dims import Content, Dim, Shape, ceil_div, maximum, size
from nnconv.schemas.errors import InputError
from nnconv.schemas.infer.registry import Result, Unknown, infers, knows
from nnconv.schemas.infer.support import (
    MOST_CONTENT,
    agree,
    axes,
    axis,
    broadcast,
    content,
    differ,
    integers,
    need_rank,
    shape,
    show,
    sizes,
)
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value


@infers("Reshape")
def reshape(node: Node) -> Result:
    """0 copies the input's size (unless allowzero), -1 is what remains (ONNX Reshape-25)."""
    x = node.required(0)
    wanted = sizes(node.required(1))
    return [(x.dtype, reshaped(shape(x), wanted, copied=() if node.allowzero else shape(x)))]


@infers("nnconv.Reshape")
def caffe_reshape(node: Node) -> Result:
    """`dims` replace `num_axes` axes from `axis` on; 0 copies the axis at its place
    (reshape_layer.cpp)."""
    x = node.required(0)
    dims = shape(x)
    start = node.axis if node.axis >= 0 else len(dims) + node.axis + 1
    end = len(dims) if node.num_axes < 0 else start + node.num_axes
    if not 0 <= start <= end <= len(dims):
        raise InputError(
            f"axis {node.axis} and num_axes {node.num_axes} do not fit {len(dims)} axes"
        )
    middle = reshaped(dims[start:end], node.dims or (), copied=dims[start:])
    return [(x.dtype, dims[:start] + middle + dims[end:])]


@infers("Flatten")
def flatten(node: Node) -> Result:
    x = node.required(0)
    dims = shape(x)
    place = axis(node.axis, len(dims), inclusive=True)
    return [(x.dtype, (size(dims[:place]), size(dims[place:])))]


@infers("nnconv.Flatten")
def caffe_flatten(node: Node) -> Result:
    """The axes from `axis` to `end_axis`, both included, become one."""
    x = node.required(0)
    dims = need_rank(x, 1)
    start, end = axis(node.axis, len(dims)), axis(node.end_axis, len(dims))
    if end < start:
        raise InputError(f"end_axis {node.end_axis} comes before axis {node.axis}")
    return [(x.dtype, (*dims[:start], size(dims[start : end + 1]), *dims[end + 1 :]))]


@infers("Transpose")
def transpose(node: Node) -> Result:
    x = node.required(0)
    dims = shape(x)
    order = range(len(dims))[::-1] if node.perm is None else node.perm
    if sorted(order) != list(range(len(dims))):
        raise InputError(f"perm {list(order)} is no order of {len(dims)} axes")
    return [(x.dtype, tuple(dims[place] for place in order))]


@infers("Squeeze")
def squeeze(node: Node) -> Result:
    x = node.required(0)
    dims = shape(x)
    if (chosen := node.input(1)) is None:
        if not all(isinstance(dim, int) for dim in dims):
            raise Unknown
        gone = tuple(place for place, dim in enumerate(dims) if dim == 1)
    else:
        gone = axes(integers(chosen), len(dims))
    for place in gone:
        agree(dims[place], 1, f"axis {place} of {show(dims)} cannot be squeezed")
    return [(x.dtype, tuple(dim for place, dim in enumerate(dims) if place not in gone))]


@infers("Unsqueeze")
def unsqueeze(node: Node) -> Result:
    x = node.required(0)
    numbers = integers(node.required(1))
    rest = list(shape(x))
    new = set(axes(numbers, len(rest) + len(numbers)))
    rest.reverse()
    return [
        (x.dtype, tuple(1 if place in new else rest.pop() for place in range(len(new) + len(rest))))
    ]


@infers("Concat")
def concat(node: Node) -> Result:
    """Sizes add up along the axis and agree elsewhere."""
    first = node.required(0)
    result = list(need_rank(first, 1))
    place = axis(node.axis, len(result))
    for value in node.inputs[1:]:
        if value is None:
            raise InputError("Concat cannot leave an input out")
        dims = need_rank(value, len(result), len(result))
        for number, dim in enumerate(dims):
            if number == place:
                result[place] = result[place] + dim
            else:
                result[number] = agree(
                    result[number],
                    dim,
                    f"'{first.name}' and '{value.name}' differ on axis {number}",
                )
    return [(first.dtype, tuple(result))]


@infers("Split")
def split(node: Node) -> Result:
    """Pieces of the stated sizes, or equal ones, the last being smaller where they do not
    divide."""
    x = node.required(0)
    dims = need_rank(x, 1)
    place = axis(node.axis, len(dims))
    pieces = _pieces(node, dims[place])
    return [(x.dtype, (*dims[:place], piece, *dims[place + 1 :])) for piece in pieces]


def _pieces(node: Node, whole: Dim) -> Sequence[Dim]:
    count = len(node.outputs)
    if (stated := node.input(1)) is not None:
        pieces = sizes(stated)
        if len(pieces) != count:
            raise InputError(f"split names {len(pieces)} sizes for {count} outputs")
        agree(sum(pieces), whole, "the sizes of split do not add up to the axis")
        return pieces
    if node.num_outputs not in (None, count):
        raise InputError(f"num_outputs is {node.num_outputs}, the node has {count} outputs")
    if not count:
        return ()
    piece = -(-whole // count)
    last = whole - piece * (count - 1)
    if isinstance(last, int) and last < 0:
        raise InputError(f"an axis of {whole} cannot be split into {count} pieces of {piece}")
    return [*[piece] * (count - 1), last]


@infers("Pad")
def pad(node: Node) -> Result:
    x = node.required(0)
    result = list(shape(x))
    amounts = sizes(node.required(1))
    chosen = node.input(3)
    places = (
        axes(integers(chosen), len(result)) if chosen is not None else tuple(range(len(result)))
    )
    if len(amounts) != 2 * len(places):
        raise InputError(f"pads should have {2 * len(places)} numbers, got {len(amounts)}")
    for index, place in enumerate(places):
        result[place] = result[place] + amounts[index] + amounts[index + len(places)]
    return [(x.dtype, natural(result))]


@infers("Tile")
def tile(node: Node) -> Result:
    x = node.required(0)
    dims, repeats = shape(x), sizes(node.required(1))
    if len(repeats) != len(dims):
        raise InputError(f"repeats should have {len(dims)} numbers, got {len(repeats)}")
    return [(x.dtype, natural([dim * times for dim, times in zip(dims, repeats, strict=True)]))]


@infers("Expand")
def expand(node: Node) -> Result:
    x = node.required(0)
    return [(x.dtype, broadcast(shape(x), sizes(node.required(1))))]


@infers("DepthToSpace", "SpaceToDepth")
def depth_to_space(node: Node) -> Result:
    x, block = node.required(0), node.blocksize
    n, c, h, w = need_rank(x, 4, 4)
    if block is None or block < 1:
        raise InputError(f"blocksize must be 1 or more, got {block}")
    if node.op == "DepthToSpace":
        divided(c, block * block, "channels")
        return [(x.dtype, (n, c // (block * block), h * block, w * block))]
    divided(h, block, "rows")
    divided(w, block, "columns")
    return [(x.dtype, (n, c * block * block, h // block, w // block))]


@infers("Shape")
def shape_of(node: Node) -> Result:
    return [(DType.INT64, (len(_wanted_part(node)),))]


@infers("Size")
def size_of(node: Node) -> Result:
    return [(DType.INT64, ())]


@infers("Constant")
def constant(node: Node) -> Result:
    """One of its attributes says the value; numbers are float32 or int64 (ONNX Constant-25)."""
    for name, value in node.attributes.items():
        if name == "value":
            return [(DType.of(value.dtype), value.shape)]
        if name in _CONSTANTS:
            return [(_CONSTANTS[name], (len(value),) if name.endswith("s") else ())]
    raise Unknown


_CONSTANTS = {
    "value_float": DType.FLOAT32,
    "value_floats": DType.FLOAT32,
    "value_int": DType.INT64,
    "value_ints": DType.INT64,
    "value_string": DType.STRING,
    "value_strings": DType.STRING,
}


@infers("ConstantOfShape")
def constant_of_shape(node: Node) -> Result:
    dtype = DType.FLOAT32 if node.value is None else DType.of(node.value.dtype)
    wanted = node.required(0)
    if content(wanted) is None and wanted.shape == (0,):
        return [(dtype, ())]
    try:
        return [(dtype, natural(sizes(wanted)))]
    except Unknown:
        return [(dtype, None)]


@infers("Range")
def range_of(node: Node) -> Result:
    """max(ceil((limit - start) / delta), 0) elements."""
    first, limit, step = (_scalar(value) for value in map(node.required, (0, 1, 2)))
    if step == 0:
        raise InputError("the step (delta) of Range is 0")
    if isinstance(step, int):
        span = limit - first if step > 0 else first - limit
        count: Dim = maximum(ceil_div(span, abs(step)), 0)
    else:
        count = max(math.ceil((limit - first) / step), 0)
    return [(node.required(0).dtype, (count,))]


def _scalar(value: Value) -> Any:
    """A number or size that is known now; raises Unknown for any other."""
    if value.data is not None and value.parameter is None and value.data.size == 1:
        return value.data.item()
    (known,) = sizes(value)
    return known


def reshaped(dims: Shape, wanted: Sequence[Dim], copied: Shape) -> Shape:
    """`dims` viewed as `wanted`, where 0 takes the size of `copied` at its place and -1 what
    remains."""
    filled: list[Dim] = []
    for place, dim in enumerate(wanted):
        if isinstance(dim, int) and dim < -1:
            raise InputError(f"cannot reshape to {show(tuple(wanted))}: {dim} is no size")
        if dim == 0 and copied:
            if place >= len(copied):
                raise InputError(f"cannot reshape {show(dims)}: there is no axis {place} to copy")
            dim = copied[place]
        filled.append(dim)
    if filled.count(-1) > 1:
        raise InputError(f"cannot reshape to {show(tuple(wanted))}: only one size may be -1")
    whole, known = size(dims), size(dim for dim in filled if dim != -1)
    if -1 in filled:
        filled[filled.index(-1)] = divided(whole, known, f"elements of {show(dims)}")
    elif differ(whole, known):
        raise InputError(
            f"cannot reshape {show(dims)} ({whole} elements) to {show(tuple(filled))} ({known})"
        )
    return tuple(filled)


def divided(whole: Dim, part: Dim, what: str) -> Dim:
    """whole / part; raises InputError when it is known to leave a rest."""
    if part == 0:
        return 0
    if isinstance(whole, int) and isinstance(part, int) and whole % part:
        raise InputError(f"{whole} {what} cannot be divided by {part}")
    return whole // part


def natural(dims: Sequence[Dim]) -> Shape:
    """`dims` as a shape; raises InputError when one is negative."""
    if any(isinstance(dim, int) and dim < 0 for dim in dims):
        raise InputError(f"the result would have a negative size: {show(tuple(dims))}")
    return tuple(dims)


def _wanted_part(node: Node) -> Shape:
    """The sizes that Shape asks for: from `start` to `end`, clipped as a Python slice is."""
    return shape(node.required(0))[node.start : node.end]


@knows("Shape")
def shape_content(node: Node) -> Content:
    return _wanted_part(node)


@knows("Size")
def size_content(node: Node) -> Content:
    return (size(shape(node.required(0))),)


@knows("Constant")
def constant_content(node: Node) -> Content | None:
    value = node.attributes.get("value_int", node.attributes.get("value_ints"))
    if value is not None:
        return value if isinstance(value, tuple) else (value,)
    tensor = node.value
    if (
        tensor is None
        or tensor.ndim > 1
        or tensor.size > MOST_CONTENT
        or tensor.dtype.kind not in "iu"
    ):
        return None
    return tuple(tensor.ravel().tolist())


@knows("ConstantOfShape")
def constant_of_shape_content(node: Node) -> Content | None:
    """Integers, all alike, as in a vector of ones to Expand by."""
    dims, value = node.outputs[0].shape, node.value
    if value is None or value.dtype.kind not in "iu" or dims is None or len(dims) > 1:
        return None
    (count,) = dims or (1,)
    return (
        tuple(value.ravel().tolist() * count)
        if isinstance(count, int) and count <= MOST_CONTENT
        else None
    )


@knows("Range")
def range_content(node: Node) -> Content | None:
    if any(content(value) is None for value in node.inputs):
        return None
    first, limit, step = (integers(value)[0] for value in node.inputs)
    found = range(first, limit, step)
    return tuple(found) if len(found) <= MOST_CONTENT else None


@knows("Concat")
def concat_content(node: Node) -> Content | None:
    parts = [content(value) for value in node.inputs]
    if any(part is None for part in parts):
        return None
    return tuple(dim for part in parts for dim in part or ())


@knows("Squeeze", "Unsqueeze", "Reshape", "Flatten", "nnconv.Flatten", "nnconv.Reshape")
def moved_content(node: Node) -> Content | None:
    """A scalar may become a vector and back; more axes are not followed."""
    dims = node.outputs[0].shape
    return content(node.required(0)) if dims is not None and len(dims) <= 1 else None
