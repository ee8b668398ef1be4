"""Binding: what a graph leaves open (mode, precision, sizes) is settled, one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.runtime.ops import evaluate_node, has_kernel
from nnconv.runtime.passes.support import Binding, constants, is_random, store, take_over_name
from nnconv.runtime.random import stream_of
from nnconv.schemas import functions
from nnconv.schemas.dims import Symbolic, evaluate_shape, names
from nnconv.schemas.errors import InputError, Problem
from nnconv.schemas.infer import infer_node
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nnconv.schemas.graph import Graph, Node, State, Value
    from nnconv.schemas.types import Array

# A shape computed inside the graph has as many elements as axes; anything this small is folded on
# the way.
_SHAPE_ELEMENTS = 1024


def widen(graph: Graph, binding: Binding) -> int:
    """With precision "f64" every float32 value becomes a float64 one, stored data included."""
    if binding.precision != "f64":
        return 0
    for value in graph.values.values():
        if value.dtype is DType.FLOAT32:
            value.dtype = DType.FLOAT64
            value.data = None if value.data is None else value.data.astype(np.float64)
    for node in graph.nodes:
        node.attributes = {key: _widened(key, value) for key, value in node.attributes.items()}
        if node.op == "Constant":
            _widen_constant(node)
    return len(graph)


def _widened(key: str, value: Any) -> Any:
    if key in ("to", "dtype", "output_datatype", "output_dtype") and value == DType.FLOAT32:
        return int(DType.FLOAT64)
    if isinstance(value, np.ndarray) and value.dtype == np.float32:
        return value.astype(np.float64)
    return value


def _widen_constant(node: Node) -> None:
    for key in ("value_float", "value_floats"):
        if key in node.attributes:
            node.attributes["value"] = np.asarray(node.attributes.pop(key), np.float64)


def bind_mode(graph: Graph, binding: Binding) -> int:
    """Operators that behave by mode become what they do in this one; random ones get a stream of
    their own.

    State that nothing writes any more is dropped: its start value is an ordinary stored value then.
    """
    changed = 0
    for node in graph.nodes:
        if node.op not in _BY_MODE:
            continue
        if "Dropout" in node.op and binding.mode == "train":
            seed = stream_of(binding.seed ^ node.seed, _mask_name(node))
            node.attributes = node.attributes | {"seed": seed}
        elif "BatchNorm" in node.op and not _uses_global_statistics(node, binding.mode):
            node.attributes = node.attributes | {"use_global_stats": 0}
        else:
            functions.expand(node, binding.mode)
        changed += 1
    graph.state = [state for state in graph.state if _is_live(graph, state.read, state.write)]
    return changed


_BY_MODE = {
    "nnconv.BatchNorm", "nnconv.BatchNormGrad", "nnconv.Dropout", "nnconv.DropoutGrad",
}  # fmt: skip


def _mask_name(node: Node) -> str:
    """Masks are told apart by the name of Dropout's result, which its gradient reads."""
    return node.required(0).name if node.op == "nnconv.DropoutGrad" else node.output.name


def _uses_global_statistics(node: Node, mode: str) -> bool:
    chosen = node.use_global_stats
    return mode == "test" if chosen == -1 else bool(chosen)


def _is_live(graph: Graph, read: Value, write: Value) -> bool:
    """Whether a run may change the state: a body for stored statistics hands the old value on."""
    maker = write.producer
    if maker is None or graph.values.get(write.name) is not write:
        return False
    return not (maker.op == "Identity" and maker.input(0) is read)


def bind_shapes(graph: Graph, binding: Binding) -> int:
    """The inputs get their sizes, and everything behind them is inferred again.

    Shapes that are computed inside the graph (Shape, Gather, Concat, Reshape ...) are folded on
    the way, since what follows depends on them. Raises InputError, naming the layer, where the
    sizes do not fit the weights.
    """
    sizes = solve_sizes(graph, binding.shapes)
    for value in graph.inputs:
        if value.name in binding.shapes:
            value.shape = binding.shapes[value.name]
        elif value.shape is not None and set().union(*map(names, value.shape)) <= sizes.keys():
            value.shape = evaluate_shape(value.shape, sizes)
    for state in graph.state:
        _resize(state, graph.sizes, sizes)
    is_constant = constants(graph, binding)
    changed = 0
    for node in graph.nodes:
        try:
            infer_node(node)
        except InputError as error:
            raise _with_sizes(error, graph, binding) from None
        changed += _fold_shape(graph, node, is_constant)
    return changed


def _resize(state: State, stated: Mapping[str, int], sizes: Mapping[str, int]) -> None:
    """Let a state whose size follows the inputs' start at the size of this run: one number
    everywhere stays that. Raises InputError for a start of several numbers."""
    before, after = state.read.shape, state.write.shape
    if before is None or after is None or not set().union(*map(names, after)) <= stated.keys():
        return
    wanted = evaluate_shape(after, sizes)
    if wanted == before or evaluate_shape(after, stated) != before:
        return
    start = np.asarray(state.read.data)
    if not start.size or (start != start.flat[0]).any():
        raise InputError(
            f"state '{state.name}' starts with numbers for {_text(start.shape)}, "
            f"this run would need {_text(wanted)}"
        )
    state.read.data, state.read.shape = np.broadcast_to(start.flat[0], wanted), wanted


def solve_sizes(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The value of every size named in the inputs' shapes; those no input tells keep the source's
    own.

    Raises InputError when a shape does not fit an input, or two inputs disagree about a size.
    """
    sizes: dict[str, int] = {}
    origin: dict[str, str] = {}
    for value in graph.inputs:
        shape = shapes.get(value.name)
        if shape is None or value.shape is None:
            continue
        for dim, given in zip(value.shape, shape, strict=True):
            if isinstance(dim, Symbolic) and len(dim.names()) == 1 and str(dim) in dim.names():
                name = str(dim)
                if sizes.setdefault(name, given) != given:
                    raise InputError(
                        f"inputs '{origin[name]}' and '{value.name}' must agree in {name}, "
                        f"got {sizes[name]} and {given}"
                    )
                origin.setdefault(name, value.name)
    return {**graph.sizes, **sizes}


def _fold_shape(graph: Graph, node: Node, is_constant: Callable[[Value | None], bool]) -> int:
    """Replace a node by its value where that is small and already known; 1 if so."""
    known: Array | None = None
    first = node.input(0)
    if node.op in ("Shape", "Size") and first is not None and _is_bound(first):
        shape = evaluate_shape(first.known_shape, {})
        whole = np.asarray(shape, np.int64)
        known = whole[node.start : node.end] if node.op == "Shape" else np.asarray(whole.prod())
    elif node.inputs and len(node.outputs) == 1 and has_kernel(node) and not is_random(node):
        small = all(value is None or _is_small(value, is_constant) for value in node.inputs)
        if small and _fits(node.output):
            arrays = [None if value is None else value.data for value in node.inputs]
            (known,) = evaluate_node(node, arrays)
    if known is None:
        return 0
    name = node.output.name
    value = store(graph, node.output, known)
    graph.remove(node)
    take_over_name(graph, value, name)
    return 1


def _is_bound(value: Value) -> bool:
    return value.shape is not None and not any(names(dim) for dim in value.shape)


def _is_small(value: Value, is_constant: Callable[[Value | None], bool]) -> bool:
    return is_constant(value) and value.data is not None and value.data.size <= _SHAPE_ELEMENTS


def _fits(value: Value) -> bool:
    if not _is_bound(value):
        return False
    return int(np.prod(evaluate_shape(value.known_shape, {}), dtype=object)) <= _SHAPE_ELEMENTS


def _with_sizes(error: InputError, graph: Graph, binding: Binding) -> InputError:
    """The same error with a hint that compares the sizes given with those the model states."""
    stated = []
    for value in graph.inputs:
        original = binding.stated.get(value.name)
        given = binding.shapes.get(value.name)
        if original and given and tuple(original) != tuple(given):
            stated.append(f"'{value.name}' is {_text(given)}, the model states {_text(original)}")
    if not stated:
        return error
    first, *rest = error.problems
    hint = f"{first.hint + '; ' if first.hint else ''}input {' and '.join(stated)}"
    return InputError([Problem(first.message, first.span, hint, first.severity, first.rule), *rest])


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
