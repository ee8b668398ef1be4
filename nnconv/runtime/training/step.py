"""One training step as one graph: forward, gradients, and the update of every parameter.

What training changes is the graph's state: the parameters under their own names, the solver's
histories as `history/K/PARAMETER`. What depends on the iteration (the rate, Adam's corrections) is
input, so that one plan of kernels serves all of them. With iter_size above 1 a step is one of
several passes: gradients are summed in state, and an input says whether this pass is the last,
which updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nnconv.runtime.autodiff import gradients
from nnconv.runtime.ops.rules import emit, number
from nnconv.runtime.training.solvers import SOLVERS, Correction, as_float32
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import State
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.runtime.ops.hooks import Hook
    from nnconv.schemas.graph import Graph, Value
    from nnconv.schemas.training import TrainingSpec

RATE = "train:rate"
LAST = "train:last"
LOSS = "train:loss"
SQUARES = "train:squares"  # the sum of all next parameters' squares: finite where all of them are
CORRECTIONS = ("train:first", "train:second", "train:both")


def history(index: int, parameter: str) -> str:
    """The name of the state that holds a parameter's history."""
    return f"history/{index}/{parameter}"


@dataclass(frozen=True, slots=True)
class StepGraph:
    """A training step: its graph, what it trains in order, and its losses."""

    graph: Graph
    parameters: tuple[str, ...]
    losses: tuple[str, ...]


def build_step(
    graph: Graph, spec: TrainingSpec, hook: Hook | None = None, outputs: Sequence[str] = ()
) -> StepGraph:
    """Make `graph` (changed in place) a training step for its own losses.

    Its outputs become the weighted sum of the losses (`train:loss`), each loss, `outputs`, and the
    sum of the squares of what the parameters become (`train:squares`). Its inputs are the model's,
    `train:rate`, for solvers with a Correction the CORRECTIONS, and with passes `train:last`.
    Raises InputError for a graph without losses or without a parameter to train, and what
    `gradients` raises.
    """
    if not graph.losses:
        raise InputError("the model has no loss to train", hint="name one: loss='cross_entropy'")
    states = {state.read for state in graph.state}
    learnt = [
        v
        for v in graph.parameters.values()
        if v.parameter is not None and not v.parameter.frozen and v.uses and v not in states
    ]
    if not learnt:
        raise InputError("the model has no parameter to train", hint="are all of them frozen?")
    found = gradients(graph, wrt=learnt)
    losses = list(dict.fromkeys(loss.value for loss in graph.losses))
    shown = [graph.values[name] for name in outputs]
    graph.outputs = list(dict.fromkeys([_total_loss(graph), *losses, *shown]))
    _Update(graph, spec, hook).apply({value: found[value] for value in learnt})
    names = tuple(value.name for value in learnt)
    return StepGraph(graph, names, tuple(value.name for value in losses))


def _total_loss(graph: Graph) -> Value:
    terms = []
    for loss in graph.losses:
        value = loss.value
        term = value if value.shape == () else emit("ReduceSum", value, keepdims=0)
        terms.append(term * loss.weight)
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    graph.rename(total, LOSS)
    return total


class _Update:
    """Emits the update of all parameters, in Caffe's order: clip, average, decay, rule."""

    def __init__(self, graph: Graph, spec: TrainingSpec, hook: Hook | None) -> None:
        self.graph = graph
        self.hook = hook
        self.solver = SOLVERS[spec.solver]
        self.spec = replace(
            spec,
            momentum=as_float32(spec.momentum),
            momentum2=as_float32(spec.momentum2),
            rms_decay=as_float32(spec.rms_decay),
        )
        self.rate = graph.add_input(RATE, DType.FLOAT32, ())
        self.last: Value | None = None
        if spec.iter_size > 1:  # a number, so that kernels may choose by it
            last = graph.add_input(LAST, DType.FLOAT32, ())
            with graph.inserting(before=next(iter(graph.nodes))):  # sums want it early
                self.last = emit("Greater", last, number(last, 0))
        self.correction: Correction | None = None
        if self.solver.corrected:
            scalars = (graph.add_input(name, DType.FLOAT32, ()) for name in CORRECTIONS)
            self.correction = Correction(*scalars)

    def apply(self, found: dict[Value, Value]) -> None:
        summed = {value: self._final(value, gradient) for value, gradient in found.items()}
        clipped = self._clipped(list(summed.values()))
        pairs = zip(summed, clipped, strict=True)
        following = [self._update(value, gradient) for value, gradient in pairs]
        squares = _squares(following)
        self.graph.rename(squares, SQUARES)
        self.graph.outputs.append(squares)

    def _keep(self, name: str, read: Value, write: Value) -> None:
        self.graph.state.append(State(name, read, write))

    def _start(self, name: str, like: Value) -> Value:
        """A stored array of zeros, one that a state begins with."""
        sizes = [int(str(dim)) for dim in like.known_shape]
        return self.graph.constant(np.zeros(sizes, like.dtype.numpy), name=name)

    def _final(self, value: Value, gradient: Value) -> Value:
        """The gradient of the whole iteration, hooked right behind the node that makes it, where
        the rest of backward is still to come."""
        maker = gradient.producer
        assert maker is not None, "gradients are nodes' results"
        with self.graph.inserting(before=next(self.graph.after(maker), None)):
            total = self._summed(value, gradient)
            if self.hook is None:
                return total
            return emit("nnconv.Hook", total, of=value.name, key=self.hook.key)

    def _summed(self, value: Value, gradient: Value) -> Value:
        """The gradients of the passes of one iteration so far, cleared by the last."""
        if self.last is None:
            return gradient
        name = f"sum/{value.name}"
        read = self._start(name, value)
        total = read + gradient
        self._keep(name, read, emit("Where", self.last, number(total, 0), total))
        return total

    def _clipped(self, summed: list[Value]) -> list[Value]:
        """All gradients scaled so that their common L2 norm is at most the limit."""
        limit = self.spec.clip_gradients
        if limit <= 0:
            return summed
        norm = emit("Sqrt", _squares(summed))
        beyond = emit("Greater", norm, number(norm, limit))
        factor = emit("Where", beyond, limit / norm, number(norm, 1))
        return [gradient * factor for gradient in summed]

    def _update(self, value: Value, gradient: Value) -> Value:
        """Emits a parameter's update; what the parameter becomes."""
        assert value.parameter is not None
        spec, settings = self.spec, value.parameter
        decay = spec.weight_decay * settings.decay_mult
        rate = self.rate if settings.lr_mult == 1 else self.rate * settings.lr_mult
        if spec.iter_size > 1:
            gradient = gradient * (1 / spec.iter_size)
        if decay and not self.solver.decoupled:
            pull = value if spec.regularization == "L2" else emit("Sign", value)
            gradient = gradient + pull * decay
        names = [history(index, value.name) for index in range(self.solver.histories)]
        reads = [self._start(name, value) for name in names]
        change, writes = self.solver.rule(spec, gradient, rate, reads, self.correction)
        if decay and self.solver.decoupled:
            change = change + value * (rate * decay)
        pairs = zip([value.name, *names], [value, *reads], [value - change, *writes], strict=True)
        written = []
        for name, read, write in pairs:
            if self.last is not None:
                write = emit("Where", self.last, write, read)
            self._keep(name, read, write)
            written.append(write)
        return written[0]


def _squares(values: Sequence[Value]) -> Value:
    """The sum of the squares of all elements of all values."""
    total = emit("ReduceSumSquare", values[0], keepdims=0)
    for value in values[1:]:
        total = total + emit("ReduceSumSquare", value, keepdims=0)
    return total
