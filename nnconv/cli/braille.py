"""Curves in a terminal: every character is a Braille cell of two by four dots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

Curve = tuple[Sequence[float], Sequence[float]]
_BLANK = 0x2800
# the bit of each dot of a cell, by row and column (Unicode, "Braille Patterns")
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.uint32)


def chart(curves: Sequence[Curve], width: int = 72, height: int = 16) -> list[str]:
    """Lines of text that show curves over common axes, with the ranges of both at the edges.

    Points that are not finite are left out; nothing to draw gives no lines.
    """
    points = [_finite(curve) for curve in curves]
    points = [curve for curve in points if curve.size]
    if not points:
        return []
    (left, low), (right, high) = _bounds(points)
    labels = [f"{high:.4g}", f"{low:.4g}"]
    margin = max(map(len, labels))
    columns = max(8, width - margin - 2)
    dots = np.zeros((height * 4, columns * 2), bool)
    for curve in points:
        spread = (curve - (left, low)) / (right - left or 1, high - low or 1)
        _draw(dots, spread)
    rows = _cells(dots)
    edge = [labels[0], *[""] * (height - 2), labels[1]]
    drawn = [f"{label:>{margin}} ┤{row}" for label, row in zip(edge, rows, strict=True)]
    ends = f"{left:g}", f"{right:g}"
    gap = " " * max(1, columns - len(ends[0]) - len(ends[1]))
    return [*drawn, f"{'':>{margin}}  {ends[0]}{gap}{ends[1]}"]


def _finite(curve: Curve) -> Array:
    points = np.column_stack([np.asarray(axis, np.float64) for axis in curve])
    return points[np.isfinite(points).all(axis=1)]


def _bounds(points: Sequence[Array]) -> tuple[Array, Array]:
    joined = np.concatenate(points)
    return joined.min(axis=0), joined.max(axis=0)


def _draw(dots: Array, spread: Array) -> None:
    """Set the dots of a line through points in the unit square, the second axis upwards."""
    rows, columns = dots.shape
    at = spread * (columns - 1, rows - 1)
    # between neighbours as many steps as there are dots, so that the line has no gaps
    steps = np.abs(np.diff(at, axis=0)).max(axis=1, initial=0).astype(int) + 1
    places = np.concatenate([np.arange(n) / n + i for i, n in enumerate(steps)] + [[len(at) - 1]])
    whole = np.arange(len(at))
    x, y = (np.interp(places, whole, at[:, axis]).round().astype(int) for axis in (0, 1))
    dots[rows - 1 - y, x] = True


def _cells(dots: Array) -> list[str]:
    rows, columns = dots.shape
    blocks = dots.reshape(rows // 4, 4, columns // 2, 2).transpose(0, 2, 1, 3)
    codes = (blocks * _DOTS).sum(axis=(2, 3), dtype=np.uint32) + _BLANK
    return ["".join(map(chr, row)) for row in codes.tolist()]
