"""What a model amounts to: for each node its output, parameters, cost and place in the source.

Symbolic sizes are bound first, to the source's own values or to the shapes asked for. Shapes that
depend on a size that neither states stay formulas, and figures that depend on one are None. A node
that reads no input of the model only prepares parameters: it is computed once, when the model is
compiled, and its parameters are counted with the node that uses the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nnconv.api.shapes import how_to_give, known_sizes, open_sizes
from nnconv.runtime.ops import cost_of, is_free
from nnconv.schemas.dims import evaluate, names
from nnconv.schemas.graph import Graph, Model, Node, Preprocessing, Value
from nnconv.schemas.infer.registry import infer_graph


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output: its shape with free sizes, and as bound."""

    name: str
    dtype: str
    shape: tuple[str, ...] | None
    bound: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Row:
    """One node. `bytes` is the memory of its outputs, `where` the place of its layer in the
    source; a size of the shape that is open is a formula.
    """

    name: str
    op: str
    layer: str
    layer_type: str
    shape: tuple[int | str, ...] | None
    parameters: int
    macs: int | None
    bytes: int | None
    where: str
    constant: bool


@dataclass(slots=True)
class Summary:
    """A model in figures; `sizes` are the values that its free sizes were bound to, `open_sizes`
    those that have none, `to_close` says how to give them.
    """

    name: str
    mode: str
    format: str
    files: tuple[str, ...]
    sizes: dict[str, int]
    inputs: list[Tensor]
    outputs: list[Tensor]
    rows: list[Row]
    parameters: int
    weights: int
    missing_weights: int
    preprocessing: dict[str, Any] = field(default_factory=dict)
    labels: int = 0
    open_sizes: list[str] = field(default_factory=list)
    to_close: str = ""

    @property
    def macs(self) -> int | None:
        """Of all nodes; None while a size is open."""
        return self._total(row.macs for row in self.rows if not row.constant)

    @property
    def activations(self) -> int | None:
        """The bytes of all results; None while a size is open."""
        return self._total(row.bytes for row in self.rows if not row.constant)

    def _total(self, figures: Iterable[int | None]) -> int | None:
        return None if self.open_sizes else sum(figure or 0 for figure in figures)

    def to_dict(self) -> dict[str, Any]:
        facts = asdict(self)
        return {**facts, "macs": self.macs, "activation_bytes": self.activations}


def summarise(model: Model, shapes: Mapping[str, Sequence[int]] | None = None) -> Summary:
    """The figures of a model, at the source's own sizes but for the inputs that `shapes` names.

    Raises InputError for shapes that do not fit.
    """
    found = known_sizes(model, shapes or {})
    missing = open_sizes(model, found)
    dims = dict.fromkeys(str(dim) for value in model.inputs for dim in value.shape or ())
    sizes = {name: found[name] for name in (*dims, *found) if name in found}
    bound = _at_sizes(model.graph, sizes)
    stored = list(model.parameters.values())
    return Summary(
        name=model.name,
        mode=model.mode,
        format=model.source.format,
        files=tuple(model.source.files),
        sizes=sizes,
        inputs=[_tensor(value, bound) for value in model.inputs],
        outputs=[_tensor(value, bound) for value in model.outputs],
        rows=_rows(bound),
        parameters=sum(_count(value) for value in stored),
        weights=sum(value.data.nbytes for value in stored if value.data is not None),
        missing_weights=sum(value.data is None for value in stored),
        preprocessing={name: _preprocessing(how) for name, how in model.preprocessing.items()},
        labels=len(model.labels),
        open_sizes=missing,
        to_close=how_to_give(model, found) if missing else "",
    )


def _at_sizes(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """A copy of the graph with the known sizes bound and every shape inferred again."""
    bound = graph.copy()
    for value in bound.inputs:
        if value.shape is not None:
            value.shape = tuple(
                evaluate(dim, sizes) if names(dim) <= sizes.keys() else dim for dim in value.shape
            )
    infer_graph(bound)
    return bound


def _rows(graph: Graph) -> list[Row]:
    rows: list[Row] = []
    constant: set[Value] = {value for value in graph.values.values() if value.is_stored}
    carried: dict[Value, set[Value]] = {
        value: {value} for value in constant if value.parameter is not None
    }
    counted: set[Value] = set()
    for node in graph.nodes:
        read = [value for value in node.inputs if value is not None]
        behind = set().union(*(carried.get(value, set()) for value in read))
        is_constant = bool(read) and all(value in constant for value in read)
        if is_constant:
            constant.update(node.outputs)
            carried.update(dict.fromkeys(node.outputs, behind))
        fresh = set() if is_constant else behind - counted
        counted |= fresh
        rows.append(_row(node, sum(map(_count, fresh)), is_constant))
    return rows


def _row(node: Node, parameters: int, constant: bool) -> Row:
    layer = node.layer
    is_open = any(value is not None and _is_open(value) for value in (*node.inputs, *node.outputs))
    memory = sum(_count(value) * value.dtype.itemsize for value in node.outputs if value.dtype)
    return Row(
        name=node.output.name,
        op=node.op,
        layer=layer.name if layer else "",
        layer_type=layer.type if layer else "",
        shape=_shown(node.output),
        parameters=parameters,
        macs=None if is_open and not is_free(node) else cost_of(node).macs,
        bytes=None if any(map(_is_open, node.outputs)) else memory,
        where=str(layer.span) if layer and layer.span.file else "",
        constant=constant,
    )


def _tensor(value: Value, bound: Graph) -> Tensor:
    shape = None if value.shape is None else tuple(map(str, value.shape))
    return Tensor(value.name, str(value.dtype), shape, _bound(bound.values[value.name]))


def _shown(value: Value) -> tuple[int | str, ...] | None:
    if value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape)


def _is_open(value: Value) -> bool:
    """Whether the number of elements is not known."""
    return _bound(value) is None


def _bound(value: Value) -> tuple[int, ...] | None:
    if value.shape is None or not all(isinstance(dim, int) for dim in value.shape):
        return None
    return tuple(int(str(dim)) for dim in value.shape)


def _count(value: Value) -> int:
    shape = _bound(value)
    return 0 if shape is None else math.prod(shape)


def _preprocessing(how: Preprocessing) -> dict[str, Any]:
    mean_image = None if how.mean_image is None else list(how.mean_image.shape)
    return {
        "channels": how.channels, "mean": list(how.mean), "mean_image": mean_image,
        "scale": how.scale, "crop": how.crop,
    }  # fmt: skip
