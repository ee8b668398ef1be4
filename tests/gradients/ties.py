"""Near ties of max pooling: where two values of a window are so close that rounding decides which
of them is the largest, and a gradient goes to one place or to another.

They are found in float64, and settled by adding a few ulps to one of the two, in front of that
pooling alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Graph, Model, Node
from nnconv.schemas.types import DType
from tests.golden.harness import Array

ULP = float(np.finfo(np.float32).eps)
NEAR = 4  # ulps
PUSH = 16  # ulps


@dataclass(frozen=True)
class Tie:
    """Two pixels of a plane, by their place in it, that are the two largest of a window of the
    pooling that makes `pooled` of `value`; `push` lifts the first clear of the second."""

    value: str
    pooled: str
    image: int
    channel: int
    best: int
    second: int
    push: float
    sizes: tuple[int, ...]

    @property
    def turned(self) -> Tie:
        """The same tie with the second for the largest."""
        return replace(self, best=self.second, second=self.best)


def near_ties(model: Model, feeds: Mapping[str, Array], mode: str) -> list[Tie]:
    """All pairs that are nearer than NEAR ulps of float32, and not equal."""
    pools = [node for node in model.graph.nodes if node.op == "MaxPool"]
    names = [node.required(0).name for node in pools]
    run = compile_model(model, device="reference", mode=mode, precision="f64", outputs=names)
    values = run.run(feeds)
    found = [tie for node in pools for tie in _ties(node, values[node.required(0).name])]
    return list(dict.fromkeys(found))


def _ties(node: Node, x: Array) -> Iterable[Tie]:
    values, places = _windows(x, node)
    order = np.argsort(values, axis=-1, kind="stable")
    best, second = (np.take_along_axis(values, order[..., [i]], -1)[..., 0] for i in (-1, -2))
    with np.errstate(invalid="ignore"):
        gap = np.abs(best - second) / np.maximum(np.abs(best), 1e-30)
    for image, channel, row, column in np.argwhere((gap > 0) & (gap < NEAR * ULP)).tolist():
        here = places[row, column]
        first, other = (int(here[order[image, channel, row, column, i]]) for i in (-1, -2))
        push = PUSH * ULP * abs(float(best[image, channel, row, column]))
        yield Tie(
            node.required(0).name, node.output.name, image, channel, first, other, push, x.shape
        )


def _windows(x: Array, node: Node) -> tuple[Array, Array]:
    """Every window's values [N, C, rows, columns, cells], and the cells' places in their plane."""
    kernel, strides = node.kernel_shape, node.strides
    before, after = (
        node.pads[:2],
        [pad + stride for pad, stride in zip(node.pads[2:], strides, strict=True)],
    )
    margin = list(zip(before, after, strict=True))
    padded = np.pad(x, ((0, 0), (0, 0), *margin), constant_values=-np.inf)
    plane = np.arange(x.shape[2] * x.shape[3]).reshape(x.shape[2:])
    indexed = np.pad(plane, margin, constant_values=-1)
    return _cells(padded, kernel, strides), _cells(indexed, kernel, strides)


def _cells(x: Array, kernel: Any, strides: Any) -> Array:
    view: Array = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(-2, -1))
    taken = view[..., :: strides[0], :: strides[1], :, :]
    return taken.reshape(*taken.shape[:-2], -1)


def settle(graph: Graph, ties: Iterable[Tie]) -> None:
    """Add to the first pixel of every tie its push, in front of the pooling it is in."""
    pushes: dict[str, Array] = {}
    for tie in ties:
        held = pushes.setdefault(tie.pooled, np.zeros(tie.sizes, np.float32))
        held[tie.image, tie.channel].reshape(-1)[tie.best] = tie.push
    for pooled, push in pushes.items():
        pool = graph.values[pooled].producer
        assert pool is not None
        with graph.inserting(before=pool):
            pool.set_input(0, pool.required(0) + graph.constant(push, DType.FLOAT32))
