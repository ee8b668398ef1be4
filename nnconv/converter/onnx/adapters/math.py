"""Arithmetic, comparison, reduction, activation: broadcasting by numpy's rule since 7, axes as
inputs since 13 and 18.
"""

from __future__ import annotations

import math

from nnconv.converter.onnx.adapters.registry import lifts
from nnconv.converter.onnx.call import Call
from nnconv.schemas.dims import Shape
from nnconv.schemas.types import DType

_FLOAT_MAX = 3.4028234663852886e38


@lifts(7, "Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")
def broadcast_from_axis(call: Call) -> None:
    """Before 7, B was laid on A from `axis` on (by default at A's last axes) when `broadcast` was
    set.
    """
    broadcast, axis = call.take("broadcast", 0), call.take("axis")
    if not broadcast or axis is None:
        return
    rank, other = call.rank(0), call.rank(1)
    behind = rank - (axis + rank if axis < 0 else axis) - other
    if behind > 0:
        places = call.integers(range(other, other + behind))
        call.set_input(1, call.emit("Unsqueeze", call.x(1), places))


@lifts(7, "Gemm")
def gemm(call: Call) -> None:
    call.take("broadcast")


@lifts(7, "PRelu")
def prelu(call: Call) -> None:
    """Before 7 a slope of C numbers belonged to the channels; now it broadcasts as numpy does."""
    behind = call.rank(0) - 2
    if call.rank(1) == 1 and behind > 0 and call.shape(1) != (1,):
        call.set_input(1, call.emit("Unsqueeze", call.x(1), call.integers(range(1, 1 + behind))))


@lifts(6, "Selu")
def selu(call: Call) -> None:
    """The defaults of version 1 had fewer digits."""
    call.attributes.setdefault("alpha", 1.6732)
    call.attributes.setdefault("gamma", 1.0507)


@lifts(6, "Cast")
def cast(call: Call) -> None:
    """Version 1 named the type, such as FLOAT."""
    named = call.take("to")
    if isinstance(named, str):
        if named.upper() not in _TYPE_NAMES:
            raise call.unsupported(f"casts to an unknown type {named!r}")
        named = int(_TYPE_NAMES[named.upper()])
    call.attributes["to"] = named


_TYPE_NAMES = {dtype.name: dtype for dtype in DType} | {
    "FLOAT": DType.FLOAT32,
    "DOUBLE": DType.FLOAT64,
}


@lifts(11, "Clip")
def clip(call: Call) -> None:
    """The bounds become inputs; the defaults were those of float32, which bound nothing."""
    for index, name, open_end in ((1, "min", -_FLOAT_MAX), (2, "max", _FLOAT_MAX)):
        bound = call.take(name, open_end)
        if math.isclose(bound, open_end, rel_tol=1e-6):
            continue
        call.set_input(index, call.like(bound, call.x()))


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


@lifts(13, "ReduceSum")
@lifts(18, *(f"Reduce{name}" for name in _REDUCTIONS))
def axes_to_input(call: Call) -> None:
    """No axes, or an empty list, means all of them: then the input is left out."""
    if axes := call.take("axes"):
        call.set_input(1, call.integers(axes))


@lifts(13, "Softmax", "LogSoftmax", "Hardmax")
def softmax(call: Call) -> None:
    """Before 13 everything from `axis` on was one long axis; the default was 1."""
    axis, dims = call.take("axis", 1), call.x().shape
    if dims is not None and _is_alone(dims, axis):
        call.attributes["axis"] = -1 if axis in (-1, len(dims) - 1) else axis
        return
    x = call.x()
    flat = call.emit("Flatten", x, axis=axis)
    call.finish("Reshape", call.emit(call.op, flat, axis=-1), call.emit("Shape", x))


def _is_alone(dims: Shape, axis: int) -> bool:
    """Whether nothing behind `axis` joins it."""
    behind = dims[axis + 1 :] if axis != -1 else ()
    return -len(dims) <= axis < len(dims) and all(dim == 1 for dim in behind)


@lifts(10, "TopK")
def top_k(call: Call) -> None:
    call.set_input(1, call.integers([call.take("k", 1)]))


@lifts(2, "LpPool", "GlobalLpPool")
def whole_norm(call: Call) -> None:
    """Version 1 allowed p to be no integer."""
    p = call.take("p", 2.0)
    if p != int(p):
        raise call.unsupported(f"has p = {p}")
    call.attributes["p"] = int(p)


@lifts(20, "DFT")
def dft(call: Call) -> None:
    call.set_input(2, call.integers(call.take("axis", 1)))
