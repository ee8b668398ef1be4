"""Layers that move, join or cut elements, and those that reduce axes."""

from __future__ import annotations

from typing import Any

from nnconv.converter.caffe.layers.layer import Layer, product, same_sizes
from nnconv.converter.caffe.layers.registry import reads, writes
from nnconv.converter.caffe.layers.writing import Written, is_fixed, message, sizes_of
from nnconv.schemas.graph import Node, Value
from nnconv.schemas.types import DType

MANY = (1, None)


@reads("Concat", bottoms=MANY)
def read_concat(layer: Layer, *xs: Value) -> Value:
    p = layer.concat_param
    if p.has("axis") and p.has("concat_dim"):
        raise layer.error("concat_dim", "give either axis or concat_dim, not both")
    axis = layer.axis(xs[0], *_axis_field(p, "concat_dim"))
    first = layer.shape(xs[0])
    for x in xs[1:]:
        sizes = layer.shape(x)
        kept = [
            dims[:axis] + dims[axis + 1 :] if len(dims) > axis else dims for dims in (first, sizes)
        ]
        if len(sizes) != len(first) or not same_sizes(*kept):
            raise layer.error(
                "bottom",
                f"only axis {axis} may differ: '{x.name}' is {layer.show(sizes)}, "
                f"'{xs[0].name}' {layer.show(first)}",
                hint="do two branches round their sizes differently? Pooling rounds up, "
                "Convolution down",
            )
    return layer.emit("Concat", *xs, axis=axis)


def _axis_field(p: Any, legacy: str) -> tuple[int, str]:
    return (getattr(p, legacy), legacy) if p.has(legacy) else (p.axis, "axis")


@writes("Concat")
def write_concat(node: Node) -> Written:
    return message(node, "Concat", concat_param={"axis": node.axis})


@reads("Eltwise", bottoms=(2, None))
def read_eltwise(layer: Layer, *xs: Value) -> Value:
    p = layer.eltwise_param
    if p.coeff and len(p.coeff) != len(xs):
        raise layer.error(
            "coeff", f"{len(xs)} bottoms need {len(xs)} coefficients, got {len(p.coeff)}"
        )
    if p.coeff and p.operation == "PROD":
        raise layer.error(
            "coeff", "a product takes no coefficients", hint="use a Power layer to scale"
        )
    layer.need_one_shape(xs)
    if p.operation == "MAX":
        return layer.emit("Max", *xs)
    if p.operation == "PROD":
        return _folded("Mul", layer, list(xs))
    terms = [x if c == 1 else x * c for x, c in zip(xs, p.coeff or (1.0,) * len(xs), strict=True)]
    if layer.tops[0] == layer.bottom[0]:
        # Caffe clears the sum before it reads: in place the first bottom is lost
        # (eltwise_layer.cpp)
        layer.warning(
            "top",
            "an Eltwise sum in place loses its first bottom in Caffe, and so it does here",
            hint="give the top a name of its own to add all bottoms",
        )
        terms = terms[1:]
    return _folded("Add", layer, terms)


def _folded(op: str, layer: Layer, values: list[Value]) -> Value:
    total = values[0]
    for value in values[1:]:
        total = layer.emit(op, total, value)
    return total


@writes("Max")
def write_max(node: Node) -> Written | None:
    shapes = {value.shape for value in node.inputs if value is not None and not value.is_stored}
    if (
        len(shapes) != 1
        or len(node.inputs) < 2
        or any(v is None or v.is_stored for v in node.inputs)
    ):
        return None
    return message(node, "Eltwise", eltwise_param={"operation": "MAX"})


@writes("Sum")
def write_sum(node: Node) -> Written | None:
    if (
        len(node.inputs) < 2
        or len({value.shape for value in node.inputs if value is not None}) != 1
    ):
        return None
    return message(node, "Eltwise", eltwise_param={"operation": "SUM"})


def _alike(node: Node) -> bool:
    """Whether the inputs are two or more blobs of one shape, as Eltwise wants them."""
    blobs = [value for value in node.inputs if value is not None and not is_fixed(value)]
    shapes = {sizes_of(value) for value in blobs}
    return len(node.inputs) == len(blobs) > 1 and len(shapes) == 1 and None not in shapes


@reads("Slice", tops=MANY)
def read_slice(layer: Layer, x: Value) -> tuple[Value, ...]:
    p = layer.slice_param
    if p.has("axis") and p.has("slice_dim"):
        raise layer.error("slice_dim", "give either axis or slice_dim, not both")
    axis = layer.axis(x, *_axis_field(p, "slice_dim"))
    size, count = layer.shape(x)[axis], len(layer.tops)
    if not p.slice_point:
        if size is not None and size % count:
            raise layer.error(
                "top",
                f"{size} elements of axis {axis} cannot be cut into {count} equal parts",
                hint="give slice_point",
            )
        if count == 1:
            return (x,)
        parts: tuple[Value, ...] = layer.graph.emit(
            "Split", x, outputs=count, axis=axis, num_outputs=count
        )
        return parts
    return _cut(layer, x, axis, list(p.slice_point), size)


def _cut(
    layer: Layer, x: Value, axis: int, points: list[int], size: int | None
) -> tuple[Value, ...]:
    if len(points) != len(layer.tops) - 1:
        raise layer.error(
            "slice_point",
            f"{len(layer.tops)} tops need {len(layer.tops) - 1} points, got {len(points)}",
        )
    if any(b <= a for a, b in zip([0, *points], points, strict=False)):
        raise layer.error("slice_point", f"the points must ascend from above 0, got {points}")
    if size is not None and points[-1] > size:
        raise layer.error(
            "slice_point", f"point {points[-1]} lies behind the {size} elements of axis {axis}"
        )
    far = 2**31 - 1  # to the end, whatever the size
    return tuple(
        layer.emit("Slice", x, layer.ints([start]), layer.ints([end]), layer.ints([axis]))
        for start, end in zip([0, *points], [*points, far], strict=True)
    )


@writes("Split")
def write_slice(node: Node) -> Written | None:
    """Equal parts; stated sizes as points."""
    x, sizes = node.required(0), node.input(1)
    if x.shape is None:
        return None
    param: dict[str, Any] = {"axis": node.axis}
    if sizes is not None:
        if sizes.data is None:
            return None
        numbers = sizes.data.ravel().tolist()
        param["slice_point"] = [sum(numbers[: i + 1]) for i in range(len(numbers) - 1)]
    elif not isinstance(x.shape[node.axis], int) or x.shape[node.axis] % len(node.outputs):
        return None
    return message(node, "Slice", bottoms=[x], slice_param=param)


@reads("Split", tops=MANY, in_place=False)
def read_split(layer: Layer, x: Value) -> tuple[Value, ...]:
    return (x,) * len(layer.tops)


@writes("Identity")
def write_identity(node: Node) -> Written:
    return message(node, "Split")


@reads("Silence", bottoms=MANY, tops=0)
def read_silence(layer: Layer, *xs: Value) -> tuple[Value, ...]:
    """Its bottoms count as read, so they are no outputs; nothing is computed."""
    return ()


@reads("Flatten", in_place=False)
def read_flatten(layer: Layer, x: Value) -> Value:
    p = layer.flatten_param
    start, end = layer.axis(x, p.axis), layer.axis(x, p.end_axis, "end_axis")
    if start == 1 and end == len(layer.shape(x)) - 1:
        return layer.emit("Flatten", x)
    if end == start - 1:  # an empty range counts 1 element: an axis is inserted (flatten_layer.cpp)
        return layer.unsqueeze(x, [start])
    if end < start:
        raise layer.error("end_axis", f"end_axis {end} lies before axis {start}")
    return layer.emit("nnconv.Flatten", x, axis=start, end_axis=end)


@writes("Flatten", "nnconv.Flatten")
def write_flatten(node: Node) -> Written | None:
    if node.op == "Flatten":
        return message(node, "Flatten") if node.axis == 1 else None
    param = {"axis": node.axis, "end_axis": node.end_axis}
    return message(node, "Flatten", flatten_param=param)


@reads("Reshape", in_place=False)
def read_reshape(layer: Layer, x: Value) -> Value:
    """The dims of `shape` replace num_axes axes from `axis`; 0 keeps a size, -1 takes the rest."""
    p = layer.reshape_param
    dims, rank = p.shape.dim, len(layer.shape(x))
    if dims.count(-1) > 1:
        raise layer.error("shape", f"only one dimension may be -1, got {list(dims)}")
    axis = p.axis if p.axis >= 0 else rank + p.axis + 1
    if not 0 <= axis <= rank:
        raise layer.error("axis", f"axis {p.axis} is out of range: '{x.name}' has {rank} axes")
    if p.num_axes < -1 or axis + p.num_axes > rank:
        raise layer.error(
            "num_axes",
            f"{p.num_axes} axes from axis {axis} do not exist: '{x.name}' is {layer.show(x)}",
        )
    end = rank if p.num_axes == -1 else axis + p.num_axes
    _check_reshape(layer, x, dims, axis, end)
    if axis == 0 and end == rank and dims:
        return layer.emit("Reshape", x, layer.ints(dims))
    return layer.emit("nnconv.Reshape", x, dims=tuple(dims), axis=axis, num_axes=end - axis)


def _check_reshape(layer: Layer, x: Value, dims: tuple[int, ...], axis: int, end: int) -> None:
    sizes = layer.shape(x)
    for place, dim in enumerate(dims):
        if dim < -1:
            raise layer.error("shape", f"dimensions are -1 or more, got {dim}")
        if dim == 0 and axis + place >= len(sizes):
            raise layer.error(
                "shape",
                f"0 at place {place} keeps axis {axis + place}, which "
                f"'{x.name}' ({layer.show(sizes)}) has not",
            )
    wanted = [sizes[axis + place] if dim == 0 else dim for place, dim in enumerate(dims)]
    have = product(sizes)
    rest = product([*sizes[:axis], *sizes[end:], *(size for size in wanted if size != -1)])
    if have is None or rest is None:
        return
    if -1 in wanted and (rest == 0 or have % rest):
        raise layer.error("shape", f"the {have} elements of '{x.name}' cannot be divided by {rest}")
    if -1 not in wanted and have != rest:
        raise layer.error(
            "shape", f"'{x.name}' has {have} elements ({layer.show(sizes)}), the new shape {rest}"
        )


@writes("nnconv.Reshape")
def write_caffe_reshape(node: Node) -> Written:
    param = {"shape": {"dim": list(node.dims)}, "axis": node.axis, "num_axes": node.num_axes}
    return message(node, "Reshape", reshape_param=param)


@writes("Reshape")
def write_reshape(node: Node) -> Written | None:
    shape = node.required(1)
    if shape.data is None or node.allowzero:
        return None
    param = {"shape": {"dim": shape.data.ravel().tolist()}}
    return message(node, "Reshape", bottoms=node.inputs[:1], reshape_param=param)


@reads("Crop", bottoms=2)
def read_crop(layer: Layer, x: Value, like: Value) -> Value:
    """`x` cut to the sizes of `like` on the axes from `axis` on."""
    p = layer.crop_param
    axis = layer.axis(x, p.axis)
    sizes, wanted = layer.shape(x), layer.shape(like)
    if len(wanted) < len(sizes):
        raise layer.error(
            "bottom", f"'{like.name}' ({layer.show(like)}) has fewer axes than '{x.name}'"
        )
    if len(p.offset) not in (0, 1, len(sizes) - axis):
        raise layer.error(
            "offset",
            f"give one offset, or one for each of {len(sizes) - axis} axes; got {len(p.offset)}",
        )
    offsets = list(p.offset or (0,))
    offsets = offsets * (len(sizes) - axis) if len(offsets) == 1 else offsets
    for place, offset in enumerate(offsets, axis):
        have, want = sizes[place], wanted[place]
        if have is not None and want is not None and have - offset < want:
            raise layer.error(
                "offset" if p.offset else "bottom",
                f"axis {place}: {want} elements from {offset} do not fit into {have}",
            )
    starts, axes = layer.ints(offsets), layer.ints(range(axis, len(sizes)))
    ends = layer.emit("Shape", like, start=axis, end=len(sizes))
    if any(offsets):
        ends = layer.emit("Add", ends, starts)
    return layer.emit("Slice", x, starts, ends, axes)


@writes("Slice")
def write_crop(node: Node) -> Written | None:
    """A slice that ends where another blob's sizes say: Shape(like), and the starts added to it."""
    starts, axes, steps = node.required(1).data, node.input(3), node.input(4)
    if starts is None or axes is None or axes.data is None or steps is not None:
        return None
    ends, offsets = node.required(2).producer, starts.ravel().tolist()
    if ends is not None and ends.op == "Add":
        moved = ends.required(1).data
        if moved is None or moved.ravel().tolist() != offsets:
            return None
        ends = ends.required(0).producer
    elif any(offsets):
        return None
    axis, rank = axes.data.ravel()[0].item(), len(node.required(0).known_shape)
    if ends is None or ends.op != "Shape" or ends.start != axis or len(offsets) != rank - axis:
        return None
    param = {"axis": axis, "offset": offsets}
    bottoms = [node.required(0), ends.required(0)]
    return message(node, "Crop", bottoms=bottoms, crop_param=param)


@reads("Permute")
def read_permute(layer: Layer, x: Value) -> Value:
    rank, order = len(layer.shape(x)), list(layer.permute_param.order)
    if len(set(order)) != len(order) or any(axis >= rank for axis in order):
        raise layer.error(
            "order", f"order must name axes of '{x.name}' ({layer.show(x)}) once, got {order}"
        )
    order += [axis for axis in range(rank) if axis not in order]
    return layer.emit("Transpose", x, perm=order)


@writes("Transpose")
def write_permute(node: Node) -> Written | None:
    if not node.perm or is_fixed(node.required(0)):
        return None
    return message(node, "Permute", permute_param={"order": list(node.perm)})


@reads("Tile")
def read_tile(layer: Layer, x: Value) -> Value:
    p = layer.tile_param
    if not p.has("tiles"):
        raise layer.error(
            "tile_param", "the number of tiles is missing", hint="tile_param { tiles: 2 }"
        )
    axis = layer.axis(x, p.axis)
    repeats = [1] * len(layer.shape(x))
    repeats[axis] = p.tiles
    return layer.emit("Tile", x, layer.ints(repeats))


REDUCTIONS = {
    "SUM": "ReduceSum",
    "ASUM": "ReduceL1",
    "SUMSQ": "ReduceSumSquare",
    "MEAN": "ReduceMean",
}


@reads("Reduction")
def read_reduction(layer: Layer, x: Value) -> Value:
    """All axes from `axis` on are reduced."""
    p = layer.reduction_param
    axis = layer.axis(x, p.axis)
    axes = layer.ints(range(axis, len(layer.shape(x))))
    y = layer.emit(REDUCTIONS[p.operation], x, axes, keepdims=0)
    return y if p.coeff == 1 else y * p.coeff


@reads("ArgMax")
def read_argmax(layer: Layer, x: Value) -> Value:
    """The top_k indices (or values), the larger index first among equals."""
    p = layer.argmax_param
    sizes = layer.shape(x)
    has_axis = p.has("axis")
    axis = layer.axis(x, p.axis) if has_axis else 1
    size = sizes[axis] if has_axis else product(sizes[1:])
    if p.top_k < 1:
        raise layer.error("top_k", f"top_k must be 1 or more, got {p.top_k}")
    if size is not None and p.top_k > size:
        raise layer.error("top_k", f"top_k {p.top_k} exceeds the {size} elements to choose from")
    flat = x if has_axis else layer.emit("Flatten", x)
    values, places = _largest(layer, flat, axis, p.top_k)
    places = layer.emit("Cast", places, to=int(DType.FLOAT32))
    if has_axis:
        return values if p.out_max_val else places
    rows = [layer.unsqueeze(row, [1]) for row in ([places, values] if p.out_max_val else [places])]
    y = layer.emit("Concat", *rows, axis=1) if len(rows) > 1 else rows[0]
    return layer.unsqueeze(y, range(3, len(sizes)))


def _largest(layer: Layer, x: Value, axis: int, count: int) -> tuple[Value, Value]:
    """Values and indices by TopK on the axis reversed, because TopK puts the smaller index
    first."""
    start, end, step = layer.ints([-1]), layer.ints([-(2**31)]), layer.ints([-1])
    turned = layer.emit("Slice", x, start, end, layer.ints([axis]), step)
    values, places = layer.graph.emit("TopK", turned, layer.ints([count]), outputs=2, axis=axis)
    last = layer.emit("Shape", x, start=axis, end=axis + 1) - 1
    return values, last - places


@reads("Parameter", bottoms=0)
def read_parameter(layer: Layer) -> Value:
    """A stored blob as a top of its own."""
    return layer.parameter(0, tuple(layer.parameter_param.shape.dim))
