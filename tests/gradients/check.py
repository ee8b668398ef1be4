"""One rule, one line: a case is an operator with inputs, and `check` knows finite differences.

In float64 and one random direction of all differentiable inputs at once, the derivative of the
weighted sum of the results must be the central difference, and so must, for smooth operators, that
of the gradient's own weighted sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnconv.runtime.autodiff import gradients
from nnconv.runtime.executor import compile_model
from nnconv.schemas.dims import Symbolic
from nnconv.schemas.graph import Graph, Model, Value
from nnconv.schemas.types import DType

Array = Any
STEP = 1e-5


@dataclass
class Case:
    """`inputs` are shapes to fill with numbers from `low` to `high`, arrays, or None. What is
    float64 is differentiated by, unless its place is `fixed`. `smooth` asks for second order too.
    """

    op: str
    inputs: Sequence[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    low: float = -2.0
    high: float = 2.0
    smooth: bool = True
    of: int = 0
    run_mode: str = "train"
    fixed: tuple[int, ...] = ()

    def __str__(self) -> str:
        sizes = [x if isinstance(x, tuple) else getattr(x, "shape", "-") for x in self.inputs]
        shown = ["x".join(map(str, size)) or "0d" for size in sizes]
        extra = [f"{key}={value}" for key, value in self.attributes.items()]
        return " ".join([self.op, *shown, *extra]).replace(", ", ",")

    def arrays(self) -> list[Array | None]:
        random = np.random.default_rng(3)
        return [
            random.uniform(self.low, self.high, x) if isinstance(x, tuple) else x
            for x in self.inputs
        ]


def case(op: str, *inputs: Any, **options: Any) -> Case:
    """Options that Case has are its own, all others are attributes."""
    own = {k: options.pop(k) for k in list(options) if k in Case.__dataclass_fields__}
    return Case(op, inputs, options, **own)


class Problem:
    """A case as a graph: inputs that move, one weighted sum of the chosen output."""

    def __init__(self, case: Case, open_sizes: bool) -> None:
        self.case = case
        self.graph = graph = Graph("case")
        self.feeds: dict[str, Array] = {}
        self.moving: list[Value] = []
        values = [self._value(place, x, open_sizes) for place, x in enumerate(case.arrays())]
        result = graph.emit(case.op, *values, outputs=case.outputs, **case.attributes)
        y: Value = result if case.outputs == 1 else result[case.of]
        self.total = self.weighted([y])

    def _value(self, place: int, x: Array | None, open_sizes: bool) -> Value | None:
        if x is None:
            return None
        if x.dtype != np.float64 or place in self.case.fixed:
            return self.graph.constant(x, name=f"fixed{place}")
        dims = [Symbolic.name(f"S{place}_{axis}") for axis in range(x.ndim)]
        shape = tuple(dims) if open_sizes else x.shape
        value = self.graph.add_input(f"x{place}", DType.FLOAT64, shape)
        self.feeds[value.name] = x
        self.moving.append(value)
        return value

    def weighted(self, values: Sequence[Value]) -> Value:
        """The sum of all elements, each times a random weight."""
        terms = []
        for value in values:
            sizes = self._shape(value)
            weights = np.random.default_rng(len(sizes)).normal(size=sizes)
            term = value * self.graph.constant(weights, name=self.graph.fresh_name("weights"))
            terms.append(self.graph.emit("ReduceSum", term, keepdims=0))
        total: Value = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def _shape(self, value: Value) -> tuple[int, ...]:
        return tuple(self.run([value])[0].shape)

    def run(self, wanted: Sequence[Value], moved: dict[str, Array] | None = None) -> list[Array]:
        self.graph.outputs = list(wanted)
        executable = compile_model(Model(self.graph), device="reference", mode=self.case.run_mode)
        results = executable.run(moved or self.feeds)
        return [results[value.name] for value in wanted]


def check(case: Case, open_sizes: bool = False, rel: float = 1e-6) -> None:
    problem = Problem(case, open_sizes)
    found = gradients(problem.graph, {problem.total: 1.0}, problem.moving, mode=case.run_mode)
    compare(problem, problem.total, found, rel)
    if case.smooth and not open_sizes:
        total = problem.weighted(list(found.values()))
        second = gradients(problem.graph, {total: 1.0}, problem.moving, mode=case.run_mode)
        compare(problem, total, second, 10 * rel)


def compare(problem: Problem, total: Value, found: dict[Value, Value], rel: float) -> None:
    """The gradients along a random direction against the central difference, and their shapes."""
    random = np.random.default_rng(5)
    directions = {v.name: random.normal(size=problem.feeds[v.name].shape) for v in problem.moving}
    results = problem.run(list(found.values()))
    slope = 0.0
    for value, result in zip(found, results, strict=True):
        assert result.shape == problem.feeds[value.name].shape, value.name
        assert result.dtype == np.float64
        slope += float((result * directions[value.name]).sum())
    ends = [
        float(problem.run([total], moved(problem, directions, sign * STEP))[0]) for sign in (1, -1)
    ]
    wanted = (ends[0] - ends[1]) / (2 * STEP)
    scale = max(abs(wanted), abs(slope), 1e-3)
    assert abs(slope - wanted) <= rel * scale, f"{slope} by the rule, {wanted} by differences"


def moved(problem: Problem, directions: dict[str, Array], by: float) -> dict[str, Array]:
    return {name: x + by * directions[name] for name, x in problem.feeds.items()}
