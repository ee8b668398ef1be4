"""Reads ONNX files of any opset into a Model at the pinned one.

Weights are views of the mapped file. Float initializers become parameters, others and all Constant
nodes become constants. Nodes are lifted by the adapters and emitted in order; local functions are
put in where they are called; the graphs of If, Loop and Scan become Graphs of their own, whose
nodes read the values of the graphs around them directly.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nnconv.converter.onnx import sizes
from nnconv.converter.onnx.body import Body, Context
from nnconv.converter.onnx.ports import Ports
from nnconv.converter.onnx.proto import STANDARD_DOMAINS
from nnconv.converter.onnx.scope import Scope
from nnconv.converter.onnx.tensors import Tensors
from nnconv.converter.onnx.unfold import check_unfolding
from nnconv.converter.onnx.wire import Skeleton, read_skeleton
from nnconv.schemas.errors import InputError, NnconvError, Problem, Report, SourceSpan
from nnconv.schemas.graph import Graph, Model, Source

OLDEST, NEWEST = 1, 28


def import_onnx(
    source: str | os.PathLike[str] | bytes,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    report: Report | None = None,
) -> Model:
    """The model in an ONNX file, or in the bytes of one.

    Sizes that the file leaves open become names (its own, or `INPUT_AXIS`); `shapes` gives default
    sizes for inputs, and may override a fixed one. Warnings go to `report`.

    Raises InputError for a file that is damaged or wrong, UnsupportedError naming the node for an
    operator that nnconv does not know.
    """
    notes = Report() if report is None else report
    skeleton = read_skeleton(source)
    try:
        return _build(skeleton, dict(shapes or {}), notes)
    except NnconvError as error:
        raise _located(error, skeleton.file) from None


def _build(skeleton: Skeleton, shapes: dict[str, tuple[int, ...]], report: Report) -> Model:
    proto = skeleton.model
    folder = os.path.dirname(skeleton.file) if skeleton.file else None  # noqa: PTH120
    context = Context(
        tensors=Tensors(skeleton, folder),
        file=skeleton.file,
        report=report,
        functions={(f.domain, f.name, f.overload): f for f in proto.functions},
    )
    graph = Graph(proto.graph.name)
    scope = Scope(graph, _opsets(proto.opset_import, skeleton.file))
    stored = {tensor.name for tensor in proto.graph.initializer}
    ports = Ports(graph, shapes, report)
    ports.add(proto.graph.input, scope, stored)
    check_unfolding(proto.graph.node, context.functions)
    body = Body(context, scope)
    body.read(proto.graph)
    graph.outputs = body.outputs(proto.graph.output)
    for info, value in zip(proto.graph.output, graph.outputs, strict=True):
        ports.complete(info, value)
    model = Model(graph, name=proto.graph.name)
    files = (skeleton.file,) if skeleton.file else ()
    model.source = Source("onnx", f"IR {proto.ir_version}, opset {scope.opset('')}", files)
    model.metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if (text := model.metadata.pop(sizes.KEY, "")) != "":
        sizes.restore(graph, text, report)
    return model


def _opsets(imports: Any, file: str) -> dict[str, int]:
    """Domain -> version; a model that names none means version 1 (IR 1 and 2 had no imports)."""
    found = {"" if e.domain in STANDARD_DOMAINS else e.domain: e.version for e in imports}
    version = found.setdefault("", 1)
    if not OLDEST <= version <= NEWEST:
        raise InputError(
            f"the model uses opset {version}, nnconv knows {OLDEST} to {NEWEST}",
            span=SourceSpan(file),
            hint="a newer nnconv may read it" if version > NEWEST else "",
        )
    return found


def _located(error: NnconvError, file: str) -> NnconvError:
    """The same error, naming the file where it does not."""
    problems = [
        Problem(p.message, _in_file(p.span, file), p.hint, p.severity, p.rule)
        for p in error.problems
    ]
    return type(error)(problems)


def _in_file(span: SourceSpan | None, file: str) -> SourceSpan:
    if span is None or not span.file:
        return SourceSpan(file or "model", layer=span.layer if span else "")
    return span
