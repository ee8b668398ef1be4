"""One node of a file on its way into the graph: what is called, with which values, at which
version.

Adapters change a Call step by step until it says the same at the pinned version; a step that needs
more than one operator emits the others before it and leaves the last in the Call, or gives the
results itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nnconv.schemas.dims import Dim
from nnconv.schemas.errors import InputError, UnsupportedError
from nnconv.schemas.graph import Graph, Value
from nnconv.schemas.types import DType


@dataclass(slots=True)
class Call:
    """`op` as of opset `version`; `results`, once set, are the outputs, and nothing is left to
    emit.

    `outputs` are the source's names ("" for one left out), `used` those that anybody reads.
    """

    graph: Graph
    op: str
    version: int
    inputs: list[Value | None]
    attributes: dict[str, Any]
    outputs: list[str]
    used: frozenset[str] | set[str] = frozenset()
    results: list[Value] = field(default_factory=list)
    label: str = ""

    def emit(self, op: str, *inputs: Value | None, **attributes: Any) -> Any:
        """A helper node before this one."""
        return self.graph.emit(op, *inputs, **attributes)

    def finish(self, op: str, *inputs: Value | None, **attributes: Any) -> None:
        """What remains to be emitted is `op`, already in its newest form."""
        self.op, self.inputs, self.attributes = op, list(inputs), attributes

    def take(self, name: str, default: Any = None) -> Any:
        """An attribute, removed."""
        return self.attributes.pop(name, default)

    def input(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def x(self, index: int = 0) -> Value:
        """An input that must be there."""
        if (value := self.input(index)) is None:
            raise InputError(f"{self.op} needs an input at position {index}")
        return value

    def set_input(self, index: int, value: Value | None) -> None:
        self.inputs += [None] * (index + 1 - len(self.inputs))
        self.inputs[index] = value

    def integers(self, numbers: Sequence[int] | int) -> Value:
        return self.graph.constant(numbers, DType.INT64)

    def like(self, number: float, other: Value) -> Value:
        """A scalar of the type of `other`."""
        import numpy as np

        with np.errstate(over="ignore"):  # a bound beyond the largest half is none
            return self.graph.constant(number, other.dtype or DType.FLOAT32)

    def known(self, index: int) -> list[Any]:
        """The elements of an input that must be stored in the file."""
        data = self.x(index).data
        if data is None:
            raise self.unsupported(f"takes input {index} only as a stored constant")
        elements: list[Any] = data.reshape(-1).tolist()
        return elements

    def rank(self, index: int = 0) -> int:
        value = self.x(index)
        if value.shape is None:
            raise self.unsupported(f"needs the rank of '{value.name}', which is not known here")
        return len(value.shape)

    def shape(self, index: int = 0) -> tuple[Dim, ...]:
        self.rank(index)
        return self.x(index).known_shape

    def drop_unused_outputs(self) -> None:
        """Forget trailing outputs that nobody reads."""
        while len(self.outputs) > 1 and self.outputs[-1] not in self.used:
            self.outputs.pop()

    def unsupported(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self.op} of opset {self.version} {what}",
            hint="export the model at opset 13 or later",
        )
