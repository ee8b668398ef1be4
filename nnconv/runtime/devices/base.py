"""What a device must offer: it says which nodes it computes, and turns a bound graph into a
Program.

A Program is a graph whose sizes are known, ready to run: arrays in, arrays out. The reference
device builds it from one step a node; a compiling device may claim several nodes in one step, own
an arena, and run everything it claims in one call. What it does not claim it takes from
`reference_step`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from nnconv.runtime.ops import Call, Cost, bind, cost_of

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Node, Value
    from nnconv.schemas.types import Array


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What `nnconv devices` shows; `name` is what --device takes, `reason` why it is missing.

    `extensions` lists what the device's driver adds to its standard; --json shows them.
    """

    name: str
    description: str
    available: bool = True
    reason: str = ""
    extensions: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        known = {"name": self.name, "description": self.description, "available": self.available}
        more = {"reason": self.reason, "extensions": list(self.extensions)}
        return known | {key: value for key, value in more.items() if value}


@dataclass(slots=True)
class Settings:
    """What a device is told when it lowers a graph. `shared` lives as long as the Executable:
    parameters in device layout and compiled kernels are kept there for all its plans, by keys of
    the device's choice.

    `winograd` allows F(2x2,3x3) or F(4x4,3x3) for convolutions, 0 neither; `tune` chooses among
    kernels by timing them. `in_place` lets a program write a state's next value over the array that
    it is given, and hand that array back. With `recycle` a program whose `recycles` is true is
    given `spares` too: an array for every state, to write its next value in and hand it back.
    """

    threads: int | None = None
    winograd: int = 4
    tune: bool = False
    in_place: bool = False
    recycle: bool = False
    shared: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work: the nodes it covers, what computes them ("reference:Conv"), and the call
    itself.

    `call` takes the arrays of `reads` (None where an input is omitted) and the run's step number.
    """

    nodes: tuple[Node, ...]
    kernel: str
    reads: tuple[Value | None, ...]
    writes: tuple[Value, ...]
    call: Call

    @property
    def cost(self) -> Cost:
        return sum(map(cost_of, self.nodes), Cost(0, 0))


class Program(Protocol):
    """A bound graph ready to run; safe to call from several threads at once."""

    steps: Sequence[Step]
    peak_bytes: int

    def __call__(
        self,
        arrays: Sequence[Array | None],
        step: int,
        watch: Callable[[Step, float], None] | None = None,
    ) -> list[Array]:
        """Arrays of the graph's inputs and then of its states; results of its outputs, then of its
        states.

        Results are fresh: they share no memory with inputs, stored values or the next run; only
        states may be updated in place where the settings allow it.
        `watch`, where given, is told of every step and the seconds it took.
        """
        ...


class Device(Protocol):
    """Where plans run. `optimises` asks for the passes that only make things faster."""

    name: str
    optimises: bool

    def supports(self, node: Node) -> bool:
        """Whether the device computes this node itself; what it does not may be expanded first."""
        ...

    def lower(self, graph: Graph, settings: Settings) -> Program:
        """A program for a bound graph. Raises UnsupportedError when nothing computes a node."""
        ...


def reference_step(node: Node) -> Step:
    """The node as a step of its reference kernel: what every device falls back to."""
    return Step(
        (node,), f"reference:{node.op}", tuple(node.inputs), tuple(node.outputs), bind(node)
    )
