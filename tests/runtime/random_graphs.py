"""Random small graphs of any rank, made from a seed: what moves, joins and computes, in any order.

(tests/cpu/nets.py makes deep nets of images.) A layer takes a value and gives one or more, or
raises InputError where it does not fit; then another one is tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from nnconv.schemas.dims import evaluate_shape
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import Graph, Model, Value
from nnconv.schemas.types import DType

Array = np.ndarray[Any, Any]
EXTENTS = (1, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33)  # around one and two vectors
MOST_ELEMENTS = 8000


class Grower:
    """A graph with its feeds; `values` are what layers may read, the newest last."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.graph = Graph(f"random {seed}")
        self.feeds: dict[str, Array] = {}
        self.values = [self.input(self.shape(self.pick(2, 3, 4, 4, 4, 5)))]

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def numbers(self, shape: Sequence[int]) -> Array:
        scale = 1 / math.sqrt(max(1, math.prod(shape[1:])))
        return (self.random.standard_normal(shape) * scale).astype(np.float32)

    def shape(self, rank: int) -> tuple[int, ...]:
        while True:
            found = tuple(int(self.pick(*EXTENTS)) for _ in range(rank))
            if math.prod(found) <= MOST_ELEMENTS:
                return found

    def input(self, shape: Sequence[int]) -> Value:
        value = self.graph.add_input(f"x{len(self.feeds)}", DType.FLOAT32, tuple(shape))
        self.feeds[value.name] = self.random.standard_normal(shape).astype(np.float32)
        return value

    def operand(self, *shape: int) -> Value:
        """A parameter, now and then an input."""
        if self.random.random() < 0.2 and len(self.feeds) < 4:
            return self.input(shape)
        data = self.numbers(shape)
        return self.graph.add_parameter(f"p{len(self.graph.values)}", shape, data)

    def emit(self, op: str, *inputs: Value | None, **settings: Any) -> Any:
        return self.graph.emit(op, *inputs, **settings)

    def whole(self, *numbers: int) -> Value:
        return self.graph.constant(np.array(numbers, np.int64))

    def grow(self) -> None:
        """One more layer over one of the last values."""
        x = self.values[-min(int(self.random.geometric(0.6)), len(self.values))]
        last = self.graph.last
        with suppress(InputError):
            made = self.pick(*LAYERS)(self, x)
            found = list(made) if isinstance(made, tuple) else [made]
            if all(0 < math.prod(sizes(value)) <= MOST_ELEMENTS for value in found):
                self.values += found
                return
        while self.graph.last is not None and self.graph.last is not last:
            self.graph.remove(self.graph.last)


def sizes(value: Value) -> tuple[int, ...]:
    return evaluate_shape(value.known_shape, {})


def random_graph(seed: int, layers: int = 9) -> tuple[Model, dict[str, Array]]:
    """A model and feeds for it; its outputs are all ends and some values that are read further."""
    grower = Grower(seed)
    for _ in range(layers):
        grower.grow()
    computed = [value for value in grower.values if value.producer is not None]
    if not computed:
        computed = [grower.emit("Relu", grower.values[0])]
    ends = [v for v in computed if not v.uses or grower.random.random() < 0.15]
    grower.graph.outputs = ends
    used = {value.name for value in grower.graph.inputs if value.uses}
    return Model(graph=grower.graph), {n: x for n, x in grower.feeds.items() if n in used}


# -- layers


def _unary(net: Grower, x: Value) -> Any:
    return net.emit(str(net.pick("Relu", "Abs", "Sigmoid", "Tanh", "Neg", "Softplus", "Erf")), x)


def _broadcast(net: Grower, x: Value) -> Any:
    own = [size if net.random.random() < 0.5 else 1 for size in sizes(x)]
    own = net.pick([2, *own], own, own[int(net.random.integers(len(own) + 1)) :])
    operands = [x, net.operand(*own)]
    if net.random.random() < 0.3:
        operands.reverse()
    return net.emit(str(net.pick("Add", "Sub", "Mul", "Max", "Min", "PRelu")), *operands)


def _residual(net: Grower, x: Value) -> Any:
    same = [value for value in net.values if sizes(value) == sizes(x)]
    return net.emit("Relu", x + net.pick(*same))


def _reduce(net: Grower, x: Value) -> Any:
    op = net.pick("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceLogSumExp")
    rank = x.rank
    axes = net.random.permutation(rank)[: int(net.random.integers(rank + 1))]
    settings = {"keepdims": net.pick(0, 1), "noop_with_empty_axes": net.pick(0, 1)}
    return net.emit(str(op), x, net.whole(*(axes - net.pick(0, rank))), **settings)


def _softmax(net: Grower, x: Value) -> Any:
    axis = int(net.random.integers(-x.rank, max(x.rank, 1)))
    return net.emit(str(net.pick("Softmax", "LogSoftmax")), x, axis=axis)


def _normalise(net: Grower, x: Value) -> Any:
    if x.rank != 4 or net.random.random() < 0.5:
        c = sizes(x)[1:2] or (1,)
        mean, variance = net.graph.constant(net.numbers(c)), net.graph.constant(np.ones(c, "f4"))
        return net.emit("BatchNormalization", x, net.operand(*c), net.operand(*c), mean, variance)
    return net.emit("LRN", x, size=int(net.pick(2, 3, 5)), alpha=0.5, bias=1.5)


def _transpose(net: Grower, x: Value) -> Any:
    return net.emit("Transpose", x, perm=tuple(int(d) for d in net.random.permutation(x.rank)))


def _reshape(net: Grower, x: Value) -> Any:
    own, total = sizes(x), math.prod(sizes(x))
    divisors = [n for n in range(1, 64) if total % n == 0]
    return net.emit("Reshape", x, net.pick(
        net.whole(-1), net.whole(int(net.pick(*divisors)), -1), net.whole(*own[:1], 1, -1),
        net.whole(-1, *own[-1:], 1), net.whole(*own[::-1]),
    ))  # fmt: skip


def _slice(net: Grower, x: Value) -> Any:
    axis = int(net.random.integers(max(x.rank, 1)))
    step = int(net.pick(1, 1, 2, -1, -2))
    start, stop = (1, 2**31 - 1) if step > 0 else (-1, -(2**31))
    return net.emit("Slice", x, *(net.whole(n) for n in (start, stop, axis, step)))


def _pad(net: Grower, x: Value) -> Any:
    mode = net.pick("constant", "edge", "reflect")
    pads = [int(net.pick(0, 0, 1, 2, -1)) for _ in range(2 * x.rank)]
    if mode == "reflect":
        pads = [min(pad, size - 1) for pad, size in zip(pads, 2 * sizes(x), strict=True)]
    if any(size + a + b < 1 or size + min(a, b) < 1 for size, a, b in _sides(x, pads)):
        raise InputError("nothing left")
    return net.emit("Pad", x, net.whole(*pads), mode=mode)


def _sides(x: Value, pads: list[int]) -> Any:
    return zip(sizes(x), pads[: x.rank], pads[x.rank :], strict=True)


def _join(net: Grower, x: Value) -> Any:
    axis = int(net.random.integers(max(x.rank, 1)))
    fits = [v for v in net.values if _without(v, axis) == _without(x, axis)]
    return net.emit("Concat", x, *(net.pick(*fits) for _ in range(net.pick(1, 2))), axis=axis)


def _without(value: Value, axis: int) -> tuple[int, ...]:
    return (value.rank, *sizes(value)[:axis], *sizes(value)[axis + 1 :])


def _split(net: Grower, x: Value) -> Any:
    axis = int(net.random.integers(max(x.rank, 1)))
    size = sizes(x)[axis] if x.rank else 1
    first = min(int(net.pick(1, 2, 16)), size - 1)
    return net.emit("Split", x, net.whole(first, size - first), axis=axis, outputs=2)


def _repeat(net: Grower, x: Value) -> Any:
    if net.random.random() < 0.5:
        return net.emit("Tile", x, net.whole(*(int(net.pick(1, 1, 2, 3)) for _ in range(x.rank))))
    wide = [size if size > 1 else int(net.pick(1, 3, 16)) for size in sizes(x)]
    return net.emit("Expand", x, net.whole(*net.pick([], [2]), *wide))


def _gather(net: Grower, x: Value) -> Any:
    axis = int(net.random.integers(max(x.rank, 1)))
    size = sizes(x)[axis] if x.rank else 1
    indices = net.random.integers(-size, size, net.pick((), (3,), (2, 2)))
    return net.emit("Gather", x, net.graph.constant(np.asarray(indices, np.int64)), axis=axis)


def _matmul(net: Grower, x: Value) -> Any:
    columns = int(net.pick(1, 3, 16, 17))
    if not x.rank:
        raise InputError("no rows")
    batch = [size if net.random.random() < 0.5 else 1 for size in sizes(x)[:-2]]
    return net.emit("MatMul", x, net.operand(*batch, sizes(x)[-1], columns))


def _gemm(net: Grower, x: Value) -> Any:
    flat = net.emit("Flatten", x, axis=min(1, x.rank))
    rows, columns = sizes(flat)[0], int(net.pick(1, 10, 16, 33))
    weights = net.operand(columns, sizes(flat)[1])
    added = net.operand(*net.pick((columns,), (rows, columns), (rows, 1), (1,)))
    return net.emit("Gemm", flat, weights, added, transB=1, alpha=net.pick(1.0, 0.5), beta=0.5)


def _window(net: Grower, x: Value) -> tuple[list[int], dict[str, Any]]:
    """A kernel with its settings over all but the first two axes."""
    kernel = [int(net.pick(1, 2, 3, 3, 4)) for _ in sizes(x)[2:]]
    pads = [int(net.random.integers(k)) for k in 2 * kernel]
    dilations = [int(net.pick(1, 1, 2)) for _ in kernel]
    strides = [int(net.pick(1, 1, 2, 3)) for _ in kernel]
    return kernel, {"pads": pads, "dilations": dilations, "strides": strides}


def _conv(net: Grower, x: Value) -> Any:
    if x.rank < 3:
        raise InputError("no image")
    kernel, settings = _window(net, x)
    channels = sizes(x)[1]
    group = int(net.pick(1, *(g for g in (1, 2, 3, channels) if channels % g == 0)))
    outputs = int(net.pick(1, 3, 16, 17)) if group == 1 else group * int(net.pick(1, 2))
    if net.random.random() < 0.3:
        weights = net.operand(channels, outputs // group, *kernel)
        return net.emit("ConvTranspose", x, weights, group=group, **settings)
    weights = net.operand(outputs, channels // group, *kernel)
    return net.emit("Conv", x, weights, *net.pick([], [net.operand(outputs)]), group=group,
                    **settings)  # fmt: skip


def _pool(net: Grower, x: Value) -> Any:
    if x.rank < 3:
        raise InputError("no image")
    kernel, settings = _window(net, x)
    op = str(net.pick("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"))
    if op.startswith("Global"):
        return net.emit(op, x)
    settings["pads"] = [
        min(pad, k // 2) for pad, k in zip(settings["pads"], 2 * kernel, strict=True)
    ]
    return net.emit(op, x, kernel_shape=kernel, ceil_mode=net.pick(0, 1), **settings)


LAYERS: tuple[Callable[[Grower, Value], Any], ...] = (
    _unary, _unary, _broadcast, _broadcast, _residual, _reduce, _softmax, _normalise, _transpose,
    _reshape, _slice, _pad, _join, _split, _repeat, _gather, _matmul, _gemm, _conv, _conv, _conv,
    _pool,
)  # fmt: skip
