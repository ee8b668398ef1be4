"""Two devices side by side: `pair:reference,opencl` runs both and reports where they part.

Both get the same bound graph, twice: with every value as a result, where the first in the graph's
order that differs is named, and as it is, since what is fused there is computed by other kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.devices.base import Device, Program, Settings, Step
from nnconv.runtime.ops.registry import subject
from nnconv.schemas.errors import InputError, MismatchError

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Node, Value
    from nnconv.schemas.types import Array

TOLERANCE = 1e-4  # of the largest finite number in the first device's array


class PairDevice:
    """Runs plans on two devices; results are the first one's. Raises MismatchError where they
    differ.
    """

    def __init__(self, first: Device, second: Device) -> None:
        self.name = f"pair:{first.name},{second.name}"
        # with the passes that either would have: both must compute the same graph
        self.optimises = first.optimises or second.optimises
        self._devices = (first, second)

    def supports(self, node: Node) -> bool:
        return all(device.supports(node) for device in self._devices)

    def lower(self, graph: Graph, settings: Settings) -> Program:
        return PairProgram(self._devices, graph, settings)


class PairProgram:
    """A plan on two devices."""

    def __init__(self, devices: tuple[Device, Device], graph: Graph, settings: Settings) -> None:
        self._devices = devices
        self._graph = graph
        settings = replace(settings, in_place=False)  # all programs must see the same states
        self._programs = [device.lower(graph, settings) for device in devices]
        self.steps: Sequence[Step] = [s for program in self._programs for s in program.steps]
        self.peak_bytes = sum(program.peak_bytes for program in self._programs)
        self._open = _with_all_values(graph)
        self._open_programs = [device.lower(self._open, settings) for device in devices]

    def __call__(
        self,
        arrays: Sequence[Array | None],
        step: int,
        watch: Callable[[Step, float], None] | None = None,
    ) -> list[Array]:
        first, second = (_on_host(program(arrays, step)) for program in self._open_programs)
        if parted := _first_difference(_results(self._open), first, second):
            hint = f"values before it agree to {TOLERANCE:g} of their largest number"
            raise self._mismatch(parted, hint)
        first, second = (_on_host(program(arrays, step, watch)) for program in self._programs)
        if parted := _first_difference(_results(self._graph), first, second):
            raise self._mismatch(parted, "only where nodes are computed together: see show --plan")
        return first

    def _mismatch(self, parted: _Difference, hint: str) -> MismatchError:
        value = parted.value
        where = f" of {subject(value.producer)}" if value.producer is not None else ""
        a, b = (device.name for device in self._devices)
        return MismatchError(
            f"{a} and {b} part at '{value.name}'{where}: {parted.what}",
            span=value.producer.span if value.producer is not None else None,
            hint=hint,
        )


class _Difference:
    """A value whose arrays differ, and how."""

    def __init__(self, value: Value, what: str) -> None:
        self.value = value
        self.what = what


def _with_all_values(graph: Graph) -> Graph:
    """The graph with every computed value as an output, in order."""
    made = graph.copy()
    states = {state.write for state in made.state}
    made.outputs = [v for node in made.nodes for v in node.outputs if v not in states]
    return made


def _on_host(results: Sequence[Array]) -> list[Array]:
    """States that a device keeps for itself are nothing to the other one."""
    return [np.asarray(result) for result in results]


def _results(graph: Graph) -> list[Value]:
    return [*graph.outputs, *(state.write for state in graph.state)]


def _first_difference(
    values: Sequence[Value], first: Sequence[Array], second: Sequence[Array]
) -> _Difference | None:
    for value, a, b in zip(values, first, second, strict=True):
        if what := difference(a, b):
            return _Difference(value, what)
    return None


def difference(a: Array, b: Array) -> str:
    """How two arrays differ in one line: the worst element, both numbers there; "" where they
    agree. Other than floats must be equal.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype}{list(a.shape)} against {b.dtype}{list(b.shape)}"
    if a.dtype.kind != "f":
        return "" if np.array_equal(a, b) else _worst(a, b, a != b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a)
    if not (finite | same).all() or not (np.isfinite(b) == finite).all():
        return _worst(a, b, ~same & ~(finite & np.isfinite(b)))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0, np.abs(a.astype(np.float64) - b))
    limit = TOLERANCE * float(np.abs(a[finite]).max(initial=0))
    return _worst(a, b, apart) if apart.max(initial=0) > limit else ""


def _worst(a: Array, b: Array, apart: Array) -> str:
    at = np.unravel_index(int(np.argmax(apart)), a.shape)
    place = ", ".join(map(str, map(int, at)))
    return f"{a[at]!s} against {b[at]!s} at [{place}]"


def open_device(name: str) -> Device:
    """`pair:A,B`, each a device's name. Raises InputError for anything but two."""
    from nnconv.runtime.devices import open_device as open_named

    names = [part.strip() for part in name.partition(":")[2].split(",")]
    if len(names) != 2 or not all(names):
        raise InputError(f"'{name}' does not name two devices", hint="write pair:reference,opencl")
    return PairDevice(open_named(names[0]), open_named(names[1]))
