"""Makes a graph sayable in ONNX: own operators become their bodies in test mode, state becomes
plain data.

Works on a copy. Sizes stay open where the bodies allow it; where one does not, all sizes are fixed
at the model's defaults. Arithmetic that the bodies do on stored values alone (Caffe's BatchNorm) is
done here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from nnconv.schemas import functions, infer
from nnconv.schemas.dims import evaluate_shape, names
from nnconv.schemas.errors import Report, UnsupportedError
from nnconv.schemas.graph import Graph, Model, Node, Value

_OWN = "nnconv."


def lowered(model: Model, report: Report) -> Graph:
    """A copy of the model's graph that uses standard operators only.

    Raises UnsupportedError naming the node that cannot be said in them.
    """
    graph = model.graph.copy()
    unused = {name for name, value in graph.values.items() if not value.uses}
    before = set(graph.nodes)
    _drop_training(graph, report)
    if (stuck := _expand(graph)) is not None:
        _fix_sizes(graph, stuck, report)
        if (stuck := _expand(graph)) is not None:
            raise UnsupportedError(
                f"{_label(stuck)} cannot be said in ONNX's operators",
                span=stuck.span,
                hint="cut the net before it (nnconv edit extract), or keep it as .nnir",
            )
    _fold(graph, before)
    _remove_dead(graph, unused)
    _pad_hanging(graph)
    return graph


def _drop_training(graph: Graph, report: Report) -> None:
    """ONNX holds one mode and no state: what was read from state is what it starts from."""
    if graph.losses:
        report.note("losses and their weights are not written: ONNX has no place for them")
    if any(node.op == "nnconv.StopGradient" for node in graph.nodes):
        report.note("where gradients stop is not written: ONNX has no place for it")
    statistics = {state.name for state in graph.state if _is_statistics(state.write)}
    kept = [state.name for state in graph.state if state.name not in statistics]
    if kept:
        report.warning(
            f"state is written as constants that no longer change: {', '.join(kept[:5])}"
        )
    graph.state, graph.losses = [], []


def _is_statistics(value: Value) -> bool:
    return value.producer is not None and value.producer.op == "nnconv.BatchNorm"


def _expand(graph: Graph) -> Node | None:
    """Replace own operators by their bodies, and those in bodies by theirs; the first that has
    none at these sizes."""
    while True:
        own = [node for node in graph.nodes if node.op.startswith(_OWN)]
        stuck = [node for node in own if not functions.expand(node, "test")]
        if len(stuck) == len(own):
            return stuck[0] if stuck else None


def _fix_sizes(graph: Graph, stuck: Node, report: Report) -> None:
    """Bind all open sizes to the model's defaults and infer everything again."""
    wanted = {name for value in graph.inputs for dim in value.shape or () for name in names(dim)}
    label = _label(stuck)
    if missing := sorted(wanted - graph.sizes.keys()):
        raise UnsupportedError(
            f"{label} fits ONNX for fixed sizes only, and {', '.join(missing)} has no default",
            span=stuck.span,
            hint="give the input's shape when importing the model",
        )
    for value in graph.inputs:
        if value.shape is not None:
            value.shape = evaluate_shape(value.shape, graph.sizes)
    for node in graph.nodes:
        infer.infer_node(node)
    sizes = ", ".join(f"{name} = {graph.sizes[name]}" for name in sorted(wanted))
    if wanted:
        report.warning(f"sizes are fixed at {sizes}: {label} needs to know them", stuck.span)


def _label(node: Node) -> str:
    return f"{node.op.removeprefix(_OWN)} '{node.output.name}'"


def _pad_hanging(graph: Graph) -> None:
    """More padding behind where a convolution's window hangs over the padded input by less than its
    stride, at the sizes that the model names: onnx infers one cell, ONNX Runtime refuses."""
    for node in graph.nodes:
        if node.op != "Conv" or node.auto_pad != "NOTSET":
            continue
        shapes = [node.required(i).shape for i in (0, 1)]
        if any(s is None or {*chain(*map(names, s))} - graph.sizes.keys() for s in shapes):
            continue
        data, weights = (evaluate_shape(s or (), graph.sizes) for s in shapes)
        pads = _enough(node, data[2:], weights[2:])
        if any(pads):
            node.attributes["pads"] = pads


def _enough(node: Node, cells: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """A convolution's pads with what its windows lack behind."""
    one = (1,) * len(cells)
    pads = list(node.pads or [0] * (2 * len(cells)))
    axes = zip(cells, kernel, node.strides or one, node.dilations or one, strict=True)
    for behind, (n, k, s, d) in enumerate(axes, len(cells)):
        lack = (k - 1) * d + 1 - n - pads[behind - len(cells)] - pads[behind]
        pads[behind] += lack if 0 < lack < s else 0
    return tuple(pads)


# --- arithmetic on stored values ------------------------------------------------------------------

_FOLDS: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Sqrt": np.sqrt,
    "Neg": np.negative, "Equal": np.equal, "Where": np.where, "Identity": lambda x: x,
}  # fmt: skip


def _fold(graph: Graph, before: set[Node]) -> None:
    """Compute nodes that the bodies brought in and that read stored values alone."""
    for node in graph.nodes:
        if (
            node in before
            or node.op not in _FOLDS
            or any(v is None or v.data is None for v in node.inputs)
        ):
            continue
        if node.output in graph.outputs:
            continue
        with np.errstate(all="ignore"):  # BatchNorm looks at 1/0 before it decides
            data = _FOLDS[node.op](*(value.data for value in node.inputs if value is not None))
        folded = graph.constant(np.asarray(data, node.output.dtype.numpy))
        graph.replace(node.output, folded)
        graph.remove(node)


def _remove_dead(graph: Graph, unused: set[str]) -> None:
    """Nodes that no output depends on, and stored values that only they read."""
    outputs = set(graph.outputs)
    for node in reversed(list(graph.nodes)):
        if not any(value.uses or value in outputs for value in node.outputs):
            graph.remove(node)
    for value in list(graph.values.values()):
        if value.is_stored and not value.uses and value not in outputs and value.name not in unused:
            graph.discard(value)
