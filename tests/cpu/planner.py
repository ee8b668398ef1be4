"""Plans alone: what would run on the host, without compiling or running anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nnconv.runtime.devices import jit
from nnconv.runtime.devices.base import Program, Settings, Step
from nnconv.runtime.kernels.target import Groups, Target
from nnconv.runtime.lowering.build import HostCall, Lowered, lower
from nnconv.runtime.lowering.pack import Store
from nnconv.runtime.ops import is_kept
from nnconv.runtime.tune import Tuner
from nnconv.schemas.graph import Graph, Node

KINDS = ("cpu", "card")


class Planner:
    """A device that lowers as processors or graphics cards do, and compiles nothing; `host` counts
    what is left to reference kernels.
    """

    name = "planner"
    optimises = True

    def __init__(self, device: str) -> None:
        host = jit.host()
        card = replace(host, lanes=1, registers=16, groups=Groups())  # as devices/opencl/ has it
        self.target: Target = card if device == "card" else host
        self.by_image = device == "cpu"
        self.host: Counter[str] = Counter()
        self.made: list[Lowered] = []

    def supports(self, node: Node) -> bool:
        return is_kept(node)

    def lower(self, graph: Graph, settings: Settings) -> Program:
        tuner, store = Tuner(self.target, False), Store({}, 1)
        made = lower(graph, settings, self.target, store, tuner, by_image=self.by_image)
        self.made.append(made)
        calls = (stage for stage in made.stages if isinstance(stage, HostCall))
        self.host.update(_called(made.steps[call.step].nodes[0]) for call in calls)
        return _Planned(made)


def _called(node: Node) -> str:
    return f"{node.op} {[str(v.shape) for v in node.inputs if v is not None]}"


class _Planned:
    def __init__(self, lowered: Lowered) -> None:
        self.steps: Sequence[Step] = lowered.steps
        self.peak_bytes = 4 * lowered.arena

    def __call__(self, *given: Any, **more: Any) -> list[Any]:
        raise AssertionError("plans are looked at here, not run")
