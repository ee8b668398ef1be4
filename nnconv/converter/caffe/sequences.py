"""Which inputs of a net are sequences, whose second axis counts streams and not channels.

Recurrent layers say it: their first two bottoms are [steps, streams, ...], and with expose_hidden
their last ones states [1, streams, hidden]. An input that begins with the sizes of a net's
continuation marks goes with them, whatever layers stand between (words before an Embed, targets).
"""

from __future__ import annotations

from typing import Any

STATES = {"LSTM": 2, "RNN": 1}
"""Recurrent layer types, and how many states each carries."""

SEQUENCE, STATE = ("T", "N"), (None, "N")
"""What the first axes are called; None for one that is always 1."""


class Sequences:
    """What the layers of `net` (a NetParameter) tell about its inputs."""

    def __init__(self, net: Any) -> None:
        self.named: dict[str, tuple[str | None, ...]] = {}
        marks: set[str] = set()
        for layer in net.layer:
            if layer.type not in STATES:
                continue
            if layer.recurrent_param.expose_hidden:
                count = STATES[layer.type]
                self.named.update(dict.fromkeys(layer.bottom[2:][-count:], STATE))
            self.named.update(dict.fromkeys(layer.bottom[:2], SEQUENCE))
            marks.update(layer.bottom[1:2])
        self.starts = {start for layer in net.layer if marks for start in _starts(layer, marks)}

    def axes(self, name: str, sizes: tuple[int | None, ...]) -> tuple[str | None, ...]:
        """What the first axes of an input are called, () where it is no sequence."""
        if len(sizes) < 2:
            return ()
        return self.named.get(name) or (SEQUENCE if sizes[:2] in self.starts else ())


def _starts(layer: Any, marks: set[str]) -> list[tuple[int, ...]]:
    """Steps and streams of those tops of an Input layer that are marks."""
    if layer.type != "Input" or not layer.input_param.shape:
        return []
    shapes = [tuple(shape.dim) for shape in layer.input_param.shape]
    shapes = shapes * len(layer.top) if len(shapes) == 1 else shapes
    pairs = zip(layer.top, shapes, strict=False)
    return [shape[:2] for top, shape in pairs if top in marks and len(shape) == 2]
