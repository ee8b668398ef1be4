"""Random nets of operators that only move elements, and what numpy makes of the same input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnconv.schemas.graph import Graph, Model, Value
from nnconv.schemas.types import DType

Array = np.ndarray[Any, Any]
Made = list[tuple[Value, Array]]
FORMS = ("plain", "blocked", "samples")
MOST = 60_000  # elements of a value


class Net:
    """A graph and, beside each value, its elements. `form` is how images lie: a convolution whose
    weights are an identity leaves them as they are, but blocked or with samples side by side.
    """

    def __init__(self, seed: int, form: str) -> None:
        self.random = np.random.default_rng(seed)
        self.form = form
        self.graph = Graph(f"moves {seed}")
        most = (4, 50, 9, 9) if form != "samples" else (20, 12, 6, 6)
        shape = tuple(int(n) for n in self.random.integers((1, 2, 1, 1), most))
        data = self.random.standard_normal(shape).astype(np.float32)
        self.feeds = {"x": data}
        self.values: Made = [(self.graph.add_input("x", DType.FLOAT32, shape), data)]

    def integers(self, values: Any) -> Value:
        return self.graph.constant(np.asarray(values, np.int64))

    def emit(self, op: str, *inputs: Value, **attributes: Any) -> Any:
        return self.graph.emit(op, *inputs, **attributes)

    def pick(self, low: int, high: int) -> int:
        """A number from `low` to `high`, both included."""
        return int(self.random.integers(low, high + 1))

    def settle(self, x: Value, data: Array) -> tuple[Value, Array]:
        """The value once more, in the net's form where it is an image, or negated."""
        if data.ndim != 4 or self.form == "plain":
            return self.emit("Neg", x), -data
        identity = np.eye(data.shape[1], dtype=np.float32)[:, :, None, None]
        if self.form == "blocked":
            return self.emit("Conv", x, self.graph.constant(identity)), data
        name = f"w{len(self.feeds)}"
        self.feeds[name] = identity
        weights = self.graph.add_input(name, DType.FLOAT32, identity.shape)
        return self.emit("Conv", x, weights), data

    def grow(self) -> None:
        x, data = self.settle(*self.values[-1 - min(self.pick(0, 4), len(self.values)) // 4])
        move = MOVES[self.pick(0, len(MOVES) - 1)]
        self.values += [pair for pair in move(self, x, data) if 0 < pair[1].size <= MOST]

    def model(self) -> Model:
        """Its outputs are the last values, some as they were moved and some computed on."""
        made = [self.settle(*pair) if number % 2 else pair
                for number, pair in enumerate(self.values[-3:])]  # fmt: skip
        self.wanted = {value.name: data for value, data in made if value.producer is not None}
        self.graph.outputs = [value for value, _ in made if value.producer is not None]
        return Model(graph=self.graph)


def _slice(net: Net, x: Value, data: Array) -> Made:
    """Some axes, forwards or backwards, with negative and far bounds."""
    axes = [axis for axis in range(data.ndim) if net.pick(0, 1)] or [0]
    slices, bounds = [slice(None)] * data.ndim, []
    for axis in axes:
        size = data.shape[axis]
        step = (1, 1, 1, 2, 3, -1, -2)[net.pick(0, 6)]
        start = net.pick(0, size - 1)
        far = (-1 if step < 0 else 1) * 2**40
        end = far if net.pick(0, 1) else start + (1 if step > 0 else -1) * net.pick(1, size)
        end = -far // far * 2**40 if end < 0 else end
        slices[axis] = slice(start, None if end < 0 else end, step)
        bounds.append((start if net.pick(0, 1) else start - size, end, axis, step))
    starts, ends, places, steps = (net.integers(column) for column in zip(*bounds, strict=True))
    y = net.emit("Slice", x, starts, ends, places, steps)
    return [(y, data[tuple(slices)])]


def _split(net: Net, x: Value, data: Array) -> Made:
    """Two or three parts along any axis; on images often whole blocks of channels."""
    axis = net.pick(0, data.ndim - 1)
    size = data.shape[axis]
    if size < 2:
        return []
    cut = 16 if size > 16 and net.pick(0, 1) else net.pick(1, size - 1)
    sizes = [cut, size - cut] if size - cut < 2 else [cut, 1, size - cut - 1]
    parts = net.emit("Split", x, net.integers(sizes), axis=axis, outputs=len(sizes))
    return list(zip(parts, np.split(data, np.cumsum(sizes)[:-1], axis), strict=True))


def _concat(net: Net, x: Value, data: Array) -> Made:
    axis = net.pick(0, data.ndim - 1)

    def fits(other: Array) -> bool:
        return other.ndim == data.ndim and all(
            n == m or i == axis
            for i, (n, m) in enumerate(zip(other.shape, data.shape, strict=True))
        )

    members = [(x, data), *[pair for pair in net.values if fits(pair[1])][:2]]
    y = net.emit("Concat", *[value for value, _ in members], axis=axis - data.ndim)
    return [(y, np.concatenate([part for _, part in members], axis))]


def _transpose(net: Net, x: Value, data: Array) -> Made:
    order = tuple(int(axis) for axis in net.random.permutation(data.ndim))
    return [(net.emit("Transpose", x, perm=order), data.transpose(order))]


def _tile(net: Net, x: Value, data: Array) -> Made:
    repeats = [(1, 1, 2, 3)[net.pick(0, 3)] for _ in range(data.ndim)]
    return [(net.emit("Tile", x, net.integers(repeats)), np.tile(data, repeats))]


def _expand(net: Net, x: Value, data: Array) -> Made:
    wanted = [net.pick(1, 5) if size == 1 else size for size in data.shape]
    wanted = [net.pick(1, 3), *wanted] if len(wanted) < 5 and net.pick(0, 1) else wanted
    return [(net.emit("Expand", x, net.integers(wanted)), np.broadcast_to(data, wanted))]


def _pad(net: Net, x: Value, data: Array) -> Made:
    """By a constant also with negative pads, which crop."""
    mode = ("constant", "constant", "edge", "reflect")[net.pick(0, 3)]
    axes = [axis for axis in range(data.ndim) if net.pick(0, 2) == 0][:3] or [data.ndim - 1]
    widths = [(0, 0)] * data.ndim
    for axis in axes:
        most = min(3, data.shape[axis] - 1) if mode == "reflect" else 3
        widths[axis] = (net.pick(0, most), net.pick(0, most))
    begins, ends = (np.array([widths[axis][side] for axis in axes]) for side in (0, 1))
    crop = [slice(None)] * data.ndim
    more: list[Value] = [net.graph.constant(np.float32(2.5))]
    fill = {"constant_values": 2.5} if mode == "constant" else {}
    if mode == "constant" and net.pick(0, 1) and data.shape[axes[0]] > 2:
        begins[0], widths[axes[0]] = -2, (0, widths[axes[0]][1])
        crop[axes[0]] = slice(2, None)
    pads = net.integers([*begins, *ends])
    y = net.emit("Pad", x, pads, *more, net.integers(axes), mode=mode)
    return [(y, np.pad(data[tuple(crop)], widths, mode=mode, **fill))]  # type: ignore[call-overload]


def _gather(net: Net, x: Value, data: Array) -> Made:
    """One element, a few in any order, or a table of them."""
    axis = net.pick(0, data.ndim - 1)
    shapes: tuple[tuple[int, ...], ...] = ((), (net.pick(1, 6),), (2, 2))
    shape = shapes[net.pick(0, 2 if data.ndim < 5 else 1) if data.ndim > 2 else 1]
    indices = net.random.integers(-data.shape[axis], data.shape[axis], shape)
    y = net.emit("Gather", x, net.integers(indices), axis=axis)
    return [(y, np.take(data, indices, axis))]


def _reshape(net: Net, x: Value, data: Array) -> Made:
    """Two axes become one, or one two."""
    shape = list(data.shape)
    axis = net.pick(0, data.ndim - 2)
    if data.ndim > 4 or (data.ndim > 2 and net.pick(0, 1)):
        shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
    else:
        part = next(n for n in (4, 3, 2, 1) if shape[axis] % n == 0)
        shape[axis : axis + 1] = [part, shape[axis] // part]
    return [(net.emit("Reshape", x, net.integers(shape)), data.reshape(shape))]


MOVES: tuple[Callable[[Net, Value, Array], Made], ...] = (
    _slice, _slice, _split, _split, _concat, _transpose, _tile, _expand, _pad, _pad, _gather,
    _reshape, _reshape,
)  # fmt: skip


def random_moves(seed: int, form: str, layers: int = 6) -> tuple[Net, Model]:
    net = Net(seed, form)
    for _ in range(layers):
        net.grow()
    return net, net.model()
