"""What two models differ in: facts about the whole, nodes, and weights, each difference a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nnconv.api.convert import same_bits, weights_of
from nnconv.api.files import AnyPath
from nnconv.schemas.checkpoint import header
from nnconv.schemas.errors import Report

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Model, Node
    from nnconv.schemas.types import Array


@dataclass(frozen=True, slots=True)
class Row:
    """One difference: `kind` is model, node or weights; an empty side lacks what the other has."""

    kind: str
    name: str
    left: str
    right: str


@dataclass(slots=True)
class Difference:
    """All that differs. `compared` counts nodes and arrays that both sides have."""

    rows: list[Row] = field(default_factory=list)
    compared: dict[str, int] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        return not self.rows

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {"kind": row.kind, "name": row.name, "left": row.left, "right": row.right}
            for row in self.rows
        ]
        return {"equal": self.equal, "compared": self.compared, "differences": rows}


def diff(
    left: AnyPath, right: AnyPath, *, tolerance: float = 0.0, report: Report | None = None
) -> Difference:
    """Compare two files, models or weights, by the names of their values.

    Weights are equal when they are so bit for bit, or, with a `tolerance`, when no element is
    further from the other than that share of the largest. Files of weights alone are compared by
    weights only. Raises what `nnconv.load` raises.

    >>> import nnconv
    >>> nnconv.diff("zoo:lenet", "zoo:lenet").equal
    True
    """
    (a, weights_a), (b, weights_b) = weights_of(left, report), weights_of(right, report)
    found = Difference()
    if a is not None and b is not None:
        found.rows += _models(a, b)
        found.rows += _nodes(a.graph, b.graph, found)
    found.rows += _weights(weights_a, weights_b, tolerance, found)
    return found


def _models(a: Model, b: Model) -> Iterator[Row]:
    """Facts about the whole; the name and where it came from are none."""
    for name, one, other in (
        ("mode", a.mode, b.mode),
        ("inputs", _ports(a.inputs), _ports(b.inputs)),
        ("outputs", _ports(a.outputs), _ports(b.outputs)),
        ("state", _states(a.graph), _states(b.graph)),
        ("labels", f"{len(a.labels)} labels", f"{len(b.labels)} labels"),
        ("pictures", _pictures(a), _pictures(b)),
    ):
        if one != other:
            yield Row("model", name, one, other)
    if a.labels != b.labels and len(a.labels) == len(b.labels):
        place = next(i for i, pair in enumerate(zip(a.labels, b.labels, strict=True)) if
                     pair[0] != pair[1])  # fmt: skip
        yield Row("model", f"label {place}", a.labels[place], b.labels[place])


def _ports(values: Any) -> str:
    return "; ".join(map(str, values))


def _states(graph: Graph) -> str:
    return ", ".join(f"{state.name} -> {state.write.name}" for state in graph.state)


def _pictures(model: Model) -> str:
    def shown(how: Any) -> str:
        mean = f"image {how.mean_image.shape}" if how.mean_image is not None else list(how.mean)
        return f"{how.channels} (x - {mean}) * {how.scale:g} crop {how.crop}"

    return ", ".join(f"{name}: {shown(how)}" for name, how in sorted(model.preprocessing.items()))


def _nodes(a: Graph, b: Graph, found: Difference) -> Iterator[Row]:
    """Nodes go by the name of what they make."""
    left, right = ({node.outputs[0].name: node for node in graph.nodes} for graph in (a, b))
    found.compared["nodes"] = len(left.keys() & right.keys())
    for name in left | right:
        one = _shown(left[name]) if name in left else ""
        other = _shown(right[name]) if name in right else ""
        if one != other:
            yield Row("node", name, one, other)


def _shown(node: Node) -> str:
    """A node without defaults spelled out, so that saying one changes nothing."""
    inputs = ["-" if value is None else value.name for value in node.inputs]
    while inputs and inputs[-1] == "-":
        inputs.pop()
    said = ", ".join(f"{key}={_plain(value)}" for key, value in sorted(node.attributes.items()))
    outputs = ", ".join(value.name for value in node.outputs[1:])
    return f"{node.op}({', '.join(inputs)}{'; ' + said if said else ''})" + (
        f" -> {outputs}" if outputs else ""
    )


def _plain(value: Any) -> str:
    if hasattr(value, "tobytes"):
        return f"{value.dtype}{list(value.shape)}#{hash(value.tobytes()) & 0xFFFFFF:06x}"
    return str(value)


def _weights(
    a: Mapping[str, Array], b: Mapping[str, Array], tolerance: float, found: Difference
) -> Iterator[Row]:
    found.compared["weights"] = len(a.keys() & b.keys())
    for name in dict.fromkeys((*a, *b)):
        kinds = ["", ""]
        for index, arrays in enumerate((a, b)):
            if name in arrays:
                kind = header(arrays, name)
                kinds[index] = f"{kind.dtype} {'x'.join(map(str, kind.shape)) or 'scalar'}"
        if kinds[0] != kinds[1]:
            yield Row("weights", name, kinds[0], kinds[1])
        elif not same_bits(one := a[name], other := b[name]):
            gap, scale, count = _apart(one, other)
            if tolerance == 0 or not gap <= tolerance * scale:
                text = (
                    f"differs by up to {gap:.3g} (largest {scale:.3g}) in {count:,} of {one.size:,}"
                )
                yield Row("weights", name, kinds[0], text)


def _apart(a: Array, b: Array) -> tuple[float, float, int]:
    """The largest distance of two elements, the largest element, and how many differ."""
    import numpy as np

    if a.dtype.kind not in "biuf":
        a, b = a.astype(np.float32), b.astype(np.float32)
    wide, other = a.astype(np.float64), b.astype(np.float64)
    gap = np.abs(wide - other)
    return float(gap.max()), float(np.abs(wide).max()), int((wide != other).sum())
