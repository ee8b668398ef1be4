"""What the shape rules of all families share: looking at inputs, axes, broadcasting, sliding
windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnconv.schemas.dims import Content, Dim, Shape, ceil_div, maximum, minimum, truncate_div
from nnconv.schemas.errors import InputError
from nnconv.schemas.infer.registry import Result, Unknown

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value

MOST_CONTENT = 256
"""Integer tensors of more elements than this are data, not sizes."""


def shape(value: Value) -> Shape:
    """The shape of `value`; raises Unknown while nobody knows it."""
    if value.shape is None:
        raise Unknown
    return value.shape


def same(node: Node) -> Result:
    """The rule of operators that keep the type and shape of their first input."""
    x = node.required(0)
    return [(x.dtype, x.shape)]


def content(value: Value | None) -> Content | None:
    """What is known of the elements of a small integer scalar or vector, in order."""
    if value is None:
        return None
    data = value.data
    if data is None or value.parameter is not None:
        return value.content
    if value.dtype.is_integer and data.ndim <= 1 and data.size <= MOST_CONTENT:
        return tuple(data.ravel().tolist())
    return None


def sizes(value: Value | None) -> Shape:
    """The elements of a tensor of sizes; raises Unknown when one of them is not known."""
    known = content(value)
    if known is None:
        raise Unknown
    return tuple(map(_known, known))


def integers(value: Value | None) -> tuple[int, ...]:
    """The elements of a tensor that must be plain numbers, such as axes; raises Unknown
    otherwise."""
    known = sizes(value)
    if not all(isinstance(dim, int) for dim in known):
        raise Unknown
    return known  # type: ignore[return-value]  # the line above narrows it


def _known(dim: Dim | None) -> Dim:
    if dim is None:
        raise Unknown
    return dim


def axis(number: int, rank: int, inclusive: bool = False) -> int:
    """`number` counted from the front; raises InputError when `rank` axes have none such."""
    if not -rank <= number < rank + inclusive:
        raise InputError(f"axis {number} is out of range for {rank} axes")
    return number + rank if number < 0 else number


def axes(numbers: Sequence[int], rank: int) -> tuple[int, ...]:
    """Several axes counted from the front; raises InputError when one is named twice."""
    found = tuple(axis(number, rank) for number in numbers)
    if len(set(found)) != len(found):
        raise InputError(f"axes {list(numbers)} name one axis twice")
    return found


def need_rank(value: Value, least: int, most: int | None = None) -> Shape:
    """The shape of `value`; raises InputError unless it has `least` (to `most`) axes."""
    dims = shape(value)
    if len(dims) < least or (most is not None and len(dims) > most):
        wanted = (
            f"{least}"
            if most == least
            else f"at least {least}"
            if most is None
            else f"{least} to {most}"
        )
        raise InputError(
            f"'{value.name}' should have {wanted} axes, got {len(dims)} ({show(dims)})"
        )
    return dims


def show(dims: Shape) -> str:
    """A shape as users read it, for example 1x3x224x224."""
    return "x".join(map(str, dims)) or "scalar"


def differ(a: Dim, b: Dim) -> bool:
    """Whether two sizes cannot be equal; sizes still open may be."""
    if isinstance(a, int) and isinstance(b, int):
        return a != b
    return isinstance(a - b, int) and a != b


def agree(a: Dim, b: Dim, what: str) -> Dim:
    """The one size that `a` and `b` must both be, the number where one is known."""
    if differ(a, b):
        raise InputError(f"{what}: {a} against {b}")
    return b if isinstance(b, int) else a


def broadcast(*shapes: Shape) -> Shape:
    """The shape of an element-wise result (ONNX Broadcasting.md, numpy's rule)."""
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(dims)) + tuple(dims) for dims in shapes]
    result: list[Dim] = []
    for position in range(rank):
        dim: Dim = 1
        for dims in padded:
            dim = _broadcast_dim(dim, dims[position], shapes)
        result.append(dim)
    return tuple(result)


def _broadcast_dim(a: Dim, b: Dim, shapes: Sequence[Shape]) -> Dim:
    if a == 1 or a == b:
        return b
    if b == 1:
        return a
    if isinstance(a, int) and isinstance(b, int):
        raise InputError(
            f"shapes {' and '.join(map(show, shapes))} do not broadcast: {a} against {b}"
        )
    if isinstance(a, int) or isinstance(b, int):  # the open size must be this number, or 1
        return a if isinstance(a, int) else b
    return maximum(a, b)


@dataclass(frozen=True, slots=True)
class Window:
    """A window sliding along one axis: all that decides how often it fits.

    `extent` is the size of the kernel with its dilation, `before` and `after` the padding.
    """

    size: Dim
    extent: Dim
    stride: int = 1
    before: int = 0
    after: int = 0

    @property
    def slack(self) -> Dim:
        """How far the window can move."""
        return self.size + self.before + self.after - self.extent

    def truncated(self) -> Dim:
        """Positions as C's integer division counts them (Caffe's convolution, onnx's inference,
        ONNX Runtime's pools): one where the window hangs over by less than the stride."""
        return truncate_div(self.slack, self.stride) + 1

    def floor(self) -> Dim:
        """Positions rounded down (Caffe's pooling)."""
        return self.slack // self.stride + 1

    def raised(self) -> Dim:
        """Positions rounded up, wherever the last one starts."""
        return ceil_div(self.slack, self.stride) + 1

    def ceil(self) -> Dim:
        """Positions rounded up; but none may start in the padding behind the data (pooling)."""
        count = self.raised()
        if isinstance(self.extent, int) and self.after + self.stride <= self.extent:
            return count  # the last window starts inside whatever the size
        starts = (self.size + self.before - 1) // self.stride + 1
        return maximum(minimum(count, starts), count - 1)


def windows(node: Node, dims: Shape, kernel: Sequence[Dim]) -> list[Window]:
    """One Window per spatial axis from strides, dilations, pads and auto_pad of `node`."""
    count = len(dims)
    strides = per_axis(node, "strides", count, least=1)
    dilations = per_axis(node, "dilations", count, least=0)
    if len(kernel) != count:
        raise InputError(f"a kernel of {len(kernel)} axes does not fit {count} spatial axes")
    if any(isinstance(side, int) and side < 1 for side in kernel):
        raise InputError(f"the kernel must be at least 1 on each axis, got {show(tuple(kernel))}")
    pads = per_axis(node, "pads", 2 * count, least=0)
    if node.arguments().get("auto_pad") not in (None, "NOTSET"):
        pads = (0,) * (2 * count)
    extents = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    return [
        Window(*parts)
        for parts in zip(dims, extents, strides, pads[:count], pads[count:], strict=True)
    ]


def per_axis(node: Node, attribute: str, count: int, least: int) -> tuple[int, ...]:
    """An attribute with one number an axis; where it is left out, 1 (0 for pads)."""
    numbers = node.arguments().get(attribute)
    if not numbers:
        return (0 if attribute == "pads" else 1,) * count
    if len(numbers) != count:
        raise InputError(f"{attribute} should have {count} numbers, got {len(numbers)}")
    if min(numbers) < least:
        raise InputError(f"{attribute} must be {least} or more, got {list(numbers)}")
    return tuple(numbers)


def positions(node: Node, found: Sequence[Window], method: str) -> Shape:
    """How often each window fits under auto_pad, or else by Window.`method`."""
    auto_pad = node.arguments().get("auto_pad")
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return tuple(ceil_div(window.size, window.stride) for window in found)
    counts = tuple(getattr(window, method)() for window in found)
    for window, out in zip(found, counts, strict=True):
        if isinstance(out, int) and out < 1:
            raise InputError(
                f"a window of {window.extent} does not fit into {window.size} with padding "
                f"{window.before} + {window.after}",
                hint="is the input too small for this net?",
            )
    return counts
