"""Whether a model hangs together: what readers and passes promise, checked in one walk over the
graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from nnconv.schemas.dims import names
from nnconv.schemas.errors import NnconvError, Report, SourceSpan
from nnconv.schemas.graph import Graph, LayerRecord, Model, Node, State, Value
from nnconv.schemas.infer.support import differ, show
from nnconv.schemas.operators import Formal, Operator, operator
from nnconv.schemas.types import DType


def validate(model: Model) -> Report:
    """All that is wrong with `model`, each problem naming its layer where one is known.

    Checked are names, the order of nodes, inputs and attributes against the operators' table,
    element types, state, losses, outputs, layer records and preprocessing.
    """
    report = Report(model.name)
    graph = model.graph
    for message, span in _graph_problems(graph):
        report.error(message, span)
    inputs = {value.name for value in graph.inputs}
    for name in model.preprocessing:
        if name not in inputs:
            report.error(f"preprocessing is given for '{name}', which is no input")
    for value in graph.inputs:
        for size in sorted(set().union(*map(names, value.shape or ())) - set(graph.sizes)):
            report.warning(f"input '{value.name}': nothing says how large {size} is by default")
    return report


Found = Iterator[tuple[str, SourceSpan | None]]


def _graph_problems(graph: Graph) -> Found:
    for value in graph.values.values():
        yield from _value_problems(graph, value)
    made = {value for value in graph.values.values() if value.producer is None and value.is_stored}
    made.update(graph.inputs)
    for node in graph.nodes:
        yield from ((f"{_title(node)}: {text}", node.span) for text in _node_problems(node, made))
        made.update(node.outputs)
    for kind, value in _ends(graph):
        if value not in made:
            yield f"the {kind} '{value.name}' is made by no node", None
    names = Counter(state.name for state in graph.state)
    yield from ((f"{n} states are called '{name}'", None) for name, n in names.items() if n > 1)
    for state in graph.state:
        yield from ((f"state '{state.name}': {text}", None) for text in _state_problems(state))
    for layer in graph.layers:
        yield from ((text, layer.span) for text in _layer_problems(graph, layer))


def _value_problems(graph: Graph, value: Value) -> Found:
    if value.graph is not graph or graph.values.get(value.name) is not value:
        yield f"'{value.name}' belongs to another graph", None
    data = value.data
    if data is not None and (value.shape != data.shape or value.dtype != DType.of(data.dtype)):
        held = f"{DType.of(data.dtype)} {show(data.shape)}"
        yield f"'{value}' holds data of another kind: {held}", None
    if value.producer is None and not value.is_stored and value not in graph.inputs and value.uses:
        yield f"'{value.name}' is used but comes from nowhere", None


def _node_problems(node: Node, made: set[Value]) -> Iterator[str]:
    try:
        schema = operator(node.op)
        schema.check(len(node.inputs), node.attributes)
    except NnconvError as error:
        yield error.problems[0].message
        return
    for index, value in enumerate(node.inputs):
        if value is not None and value not in made:
            yield f"'{value.name}' is used before it is made"
        if value is not None and (node, index) not in value.uses:
            yield f"'{value.name}' does not know that it is used here"
    for index, formal in enumerate(schema.inputs):
        if formal.kind == "single" and node.input(index) is None:
            yield f"the input {formal.name} is missing"
    variadic = any(formal.kind == "variadic" for formal in schema.outputs)
    if len(node.outputs) > len(schema.outputs) and not variadic:
        yield f"{node.op} has {len(schema.outputs)} outputs at most, got {len(node.outputs)}"
    if any(value.producer is not node for value in node.outputs):
        yield "an output is made elsewhere too"
    yield from _attribute_problems(node, schema)
    yield from _type_problems(node, schema)


def _attribute_problems(node: Node, schema: Operator) -> Iterator[str]:
    for name, spec in schema.attributes.items():
        value = node.attributes.get(name)
        if value is None:
            if spec.required:
                yield f"{node.op} needs the attribute '{name}'"
        elif not _KINDS.get(spec.type, _anything)(value):
            yield f"attribute '{name}' should be of type {spec.type}, got {value!r:.60}"


def _type_problems(node: Node, schema: Operator) -> Iterator[str]:
    """Each type variable stands for one type, and one that the operator allows."""
    bound: dict[str, Value] = {}
    for formal, value in _pairs(schema.inputs, node.inputs):
        if value is None or not value.dtype:
            continue
        allowed = schema.types.get(formal.types, (formal.types,) if "(" in formal.types else ())
        if allowed and _TYPE_NAMES[value.dtype] not in allowed:
            yield f"the input {formal.name} ('{value.name}') cannot be {value.dtype}"
        if formal.types not in schema.types or formal.kind == "variadic":
            continue
        first = bound.setdefault(formal.types, value)
        if first.dtype != value.dtype:
            types = f"'{first.name}' is {first.dtype}, '{value.name}' is {value.dtype}"
            yield f"{types}: they must agree"


def _pairs(
    formals: tuple[Formal, ...], values: list[Value | None]
) -> Iterator[tuple[Formal, Value | None]]:
    """Formal inputs beside actual ones; the last formal serves all that follow, if it is
    variadic."""
    for index, value in enumerate(values):
        yield formals[min(index, len(formals) - 1)], value


def _state_problems(state: State) -> Iterator[str]:
    read, write = state.read, state.write
    if not read.is_stored:
        yield f"'{read.name}' holds no start value"
    if write.dtype and read.dtype != write.dtype:
        yield f"'{read.name}' is {read.dtype}, '{write.name}' for the next run is {write.dtype}"
    if read.shape is None or write.shape is None:
        return
    if len(read.shape) != len(write.shape) or any(map(differ, read.shape, write.shape)):
        yield (
            f"'{read.name}' is {show(read.shape)}, "
            f"'{write.name}' for the next run is {show(write.shape)}"
        )


def _layer_problems(graph: Graph, layer: LayerRecord) -> Iterator[str]:
    for name in layer.parameters:
        value = graph.values.get(name)
        if value is None or not value.is_stored:
            yield f"layer '{layer.name}': its parameter '{name}' does not exist"


def _ends(graph: Graph) -> Iterator[tuple[str, Value]]:
    """The values that leave the graph, and what they are there."""
    yield from (("output", value) for value in graph.outputs)
    yield from (("loss", loss.value) for loss in graph.losses)
    yield from (("state", state.write) for state in graph.state)


def _title(node: Node) -> str:
    if node.layer:
        return f"layer '{node.layer.name}' ({node.layer.type})"
    return f"{node.op} '{node.outputs[0].name if node.outputs else node.name}'"


def _list_of(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(isinstance(item, types) for item in value)


def _anything(value: Any) -> bool:
    return True


_KINDS: dict[str, Callable[[Any], bool]] = {
    "int": lambda value: isinstance(value, int),
    "float": lambda value: isinstance(value, int | float),
    "string": lambda value: isinstance(value, str | bytes),
    "graph": lambda value: isinstance(value, Graph),
    "tensor": lambda value: hasattr(value, "shape") and hasattr(value, "dtype"),
    "ints": _list_of(int),
    "floats": _list_of(int, float),
    "strings": _list_of(str, bytes),
    "graphs": _list_of(Graph),
}
_TYPE_NAMES = {dtype: f"tensor({dtype})" for dtype in DType} | {
    DType.FLOAT32: "tensor(float)",
    DType.FLOAT64: "tensor(double)",
}
