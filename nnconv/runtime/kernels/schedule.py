"""Which tile a kernel computes at a time: chosen by what fits the registers and by counting cycles.

A tile is `pixels` x `vectors` accumulators. A spilling tile runs at one of two speeds by chance of
the process, so what does not fit is never a candidate. Among those that fit, the rule counts what a
core needs for a whole output, edge tiles included: two multiply-adds and two loads a cycle, four
cycles from one multiply-add to the next on the same accumulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from nnconv.runtime.kernels.target import Target

_FMA_PER_CYCLE = 2
_LOADS_PER_CYCLE = 2
_LATENCY = 4
_TILE_OVERHEAD = 12  # cycles to start and end a tile, besides its loads and stores


@dataclass(frozen=True, slots=True)
class Tile:
    """rows x columns output pixels times `vectors` vectors of output channels, all in registers."""

    rows: int
    columns: int
    vectors: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns

    def registers(self, target: Target) -> int:
        """Accumulators, one vector operand each, and the broadcast factors."""
        factors = self.pixels + 1 if target.indexed else 1
        return self.pixels * self.vectors + self.vectors + factors

    def fits(self, target: Target) -> bool:
        return self.registers(target) <= target.registers


def tile_cycles(pixels: int, vectors: int, steps: int) -> float:
    """Cycles for one tile of a product over `steps` channels."""
    work = pixels * vectors / _FMA_PER_CYCLE
    loads = (pixels + vectors) / _LOADS_PER_CYCLE
    ends = pixels * vectors + _TILE_OVERHEAD
    return max(work, loads, _LATENCY) * steps + ends


def _pieces(length: int, width: int) -> list[tuple[int, int]]:
    """(count, extent) of the full pieces and of the last one."""
    full, rest = divmod(length, width)
    return [(n, extent) for n, extent in ((full, width), (1, rest)) if n and extent]


def cover_cycles(height: int, width: int, blocks: int, tile: Tile, steps: int) -> float:
    """Cycles to cover height x width pixels of `blocks` output vectors."""
    return sum(
        a * b * c * tile_cycles(rows * columns, vectors, steps)
        for a, rows in _pieces(height, tile.rows)
        for b, columns in _pieces(width, tile.columns)
        for c, vectors in _pieces(blocks, tile.vectors)
    )


@lru_cache(64)
def candidates(
    target: Target, height: int, width: int, blocks: int, steps: int
) -> tuple[Tile, ...]:
    """Tiles that fit the registers, the best by count first."""
    most = target.registers
    found = [
        tile
        for vectors in range(1, min(blocks, 8) + 1)
        for rows in range(1, min(height, 4) + 1)
        for columns in range(1, min(width, most) + 1)
        if (tile := Tile(rows, columns, vectors)).fits(target)
    ]
    return tuple(ranked(found, lambda tile: cover_cycles(height, width, blocks, tile, steps)))


def ranked(tiles: Iterable[Tile], cycles: Callable[[Tile], float]) -> list[Tile]:
    """By cycles; among equals fewer rows, then more vectors: one rule, so that plans repeat."""
    return sorted(tiles, key=lambda tile: (cycles(tile), tile.rows, -tile.vectors, tile.columns))
