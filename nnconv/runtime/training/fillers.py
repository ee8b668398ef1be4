"""How parameters start: Caffe's fillers (filler.hpp), from random numbers that only depend on the
seed and the parameter's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.runtime.random import stream_of, uniform_words
from nnconv.schemas.errors import InputError, did_you_mean
from nnconv.schemas.graph import Filler, Graph

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

Shape = tuple[int, ...]
DEFAULT = Filler("xavier")
"""For weights that no source says a filler of; their biases start at 0."""


def fill_parameters(graph: Graph, seed: int = 0, only: Collection[str] | None = None) -> list[str]:
    """Give start values to the parameters that have none, or to those named by `only`.

    Returns the names of those that were filled. The same seed gives the same values whatever else
    the graph holds.
    """
    filled = []
    for name, value in graph.parameters.items():
        if (value.data is not None) if only is None else (name not in only):
            continue
        shape = tuple(int(str(size)) for size in value.known_shape)
        told = value.parameter.filler if value.parameter else None
        filler = told or (DEFAULT if len(shape) > 1 else Filler())
        value.data = fill(shape, filler, stream_of(seed, name)).astype(value.dtype.numpy)
        filled.append(name)
    return filled


def fill(shape: Shape, filler: Filler, stream: int) -> Array:
    """An array of `shape` as a filler makes it (float32). Raises InputError for an unknown one."""
    if filler.type not in FILLERS:
        hint = did_you_mean(filler.type, FILLERS) or f"known: {', '.join(FILLERS)}"
        raise InputError(f"unknown filler '{filler.type}'", hint=hint)
    made = FILLERS[filler.type](shape, _Draws(stream), **filler.options)
    return np.asarray(made, np.float32).reshape(shape)


class _Draws:
    """Random numbers of one parameter; every call draws from a part of the stream of its own."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self._calls = 0

    def uniform(self, count: int) -> Array:
        """In (0, 1), float64: the middles of 2^32 equal steps."""
        words = uniform_words(count, self._stream, self._calls)
        self._calls += 1
        return (words.astype(np.float64) + 0.5) / 2.0**32

    def normal(self, count: int) -> Array:
        """Box and Muller 1958: sqrt(-2 ln u) cos(2 pi v)."""
        radius = np.sqrt(-2 * np.log(self.uniform(count)))
        turned: Array = radius * np.cos(2 * np.pi * self.uniform(count))
        return turned


def _constant(shape: Shape, draws: _Draws, value: float = 0.0) -> Array:
    return np.full(shape, value)


def _uniform(shape: Shape, draws: _Draws, min: float = 0.0, max: float = 1.0) -> Array:
    return min + (max - min) * draws.uniform(math.prod(shape))


def _gaussian(
    shape: Shape, draws: _Draws, mean: float = 0.0, std: float = 1.0, sparse: int = -1
) -> Array:
    """`sparse` keeps each weight with the probability sparse / shape[0]."""
    made = mean + std * draws.normal(math.prod(shape))
    if sparse >= 0:
        made = made * (draws.uniform(made.size) < sparse / shape[0])
    return made


def _positive_unitball(shape: Shape, draws: _Draws) -> Array:
    rows = draws.uniform(math.prod(shape)).reshape(shape[0], -1)
    scaled: Array = rows / rows.sum(axis=1, keepdims=True)
    return scaled


def _fan(shape: Shape, variance_norm: str | int) -> float:
    """What variances are divided by: FAN_IN, FAN_OUT or their AVERAGE."""
    count = math.prod(shape)
    into, out = count / shape[0], count / shape[1] if len(shape) > 1 else count
    kinds: dict[Any, float] = {"FAN_IN": into, "FAN_OUT": out, "AVERAGE": (into + out) / 2}
    return kinds[variance_norm] if variance_norm in kinds else list(kinds.values())[variance_norm]  # type: ignore[index]


def _xavier(shape: Shape, draws: _Draws, variance_norm: str | int = "FAN_IN") -> Array:
    """Glorot and Bengio 2010: uniform in +-sqrt(3 / n)."""
    return math.sqrt(3 / _fan(shape, variance_norm)) * (2 * draws.uniform(math.prod(shape)) - 1)


def _msra(shape: Shape, draws: _Draws, variance_norm: str | int = "FAN_IN") -> Array:
    """He et al. 2015: normal with the deviation sqrt(2 / n)."""
    return math.sqrt(2 / _fan(shape, variance_norm)) * draws.normal(math.prod(shape))


def _bilinear(shape: Shape, draws: _Draws) -> Array:
    """The kernel of bilinear upsampling: (1 - |x/f - c|)(1 - |y/f - c|)."""
    side = shape[-1]
    half = math.ceil(side / 2)
    centre = (side - 1) / (2.0 * half)
    line = 1 - np.abs(np.arange(side) / half - centre)
    return np.broadcast_to(np.outer(line, line), shape)


FILLERS: dict[str, Callable[..., Array]] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}
