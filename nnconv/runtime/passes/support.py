"""What all rewrites share: what they are told about the run, and when a stored value may be relied
on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nnconv.runtime.ops import KERNELS

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Node, Value


@dataclass(slots=True)
class Binding:
    """What a graph is compiled for.

    `shapes` (input name -> sizes) is known in the stage of that name only, `stated` are the sizes
    that the source states. `supports` says whether the
    device computes a node itself. A folded result may exceed its inputs by `fold_limit` bytes.
    """

    mode: str = "test"
    precision: str = "f32"
    seed: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    stated: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    supports: Callable[[Node], bool] = lambda node: node.op in KERNELS
    fold_limit: int = 1 << 20


def constants(graph: Graph, binding: Binding) -> Callable[[Value | None], bool]:
    """A test for values that never change between runs of this binding.

    State never counts, and parameters only in test mode: in training they are about to be updated.
    """
    states = {state.read for state in graph.state}
    fixed = binding.mode == "test"

    def is_constant(value: Value | None) -> bool:
        if value is None or value.data is None or value in states:
            return False
        return fixed or value.parameter is None

    return is_constant


def is_random(node: Node) -> bool:
    """Whether two nodes like this one may give different results."""
    kernel = KERNELS.get(node.op)
    return kernel is None or "step" in kernel.keywords


def store(graph: Graph, output: Value, data: object) -> Value:
    """Let a stored value take the place and, once the node is gone, the name of a node's output."""
    value = graph.constant(data)
    graph.replace(output, value)
    return value


def take_over_name(graph: Graph, value: Value, name: str) -> None:
    """Call `value` what a value just removed was called."""
    if name not in graph.values:
        graph.rename(value, name)
