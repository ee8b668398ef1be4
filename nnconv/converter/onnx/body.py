"""The nodes of a graph or of a function's body, turned into calls, lifted, and emitted."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnconv.converter.onnx import proto
from nnconv.converter.onnx.adapters import lift
from nnconv.converter.onnx.attributes import attribute_value, check_attributes, check_counts
from nnconv.converter.onnx.call import Call
from nnconv.converter.onnx.order import in_order, inner_graphs, label, reads
from nnconv.converter.onnx.ports import tensor_type
from nnconv.converter.onnx.scope import Scope
from nnconv.converter.onnx.tensors import Tensors
from nnconv.schemas.dims import Shape, Symbolic
from nnconv.schemas.errors import (
    InputError,
    NnconvError,
    Problem,
    Report,
    SourceSpan,
    UnsupportedError,
    did_you_mean,
)
from nnconv.schemas.graph import Graph, LayerRecord, Value
from nnconv.schemas.operators import is_operator, operators

MAX_DEPTH = 64

# Float inputs that are settings of the operator, not weights: training has no business with them.
_SETTINGS = {
    ("Resize", 1), ("Resize", 2), ("Upsample", 1), ("Clip", 1), ("Clip", 2), ("Dropout", 1),
    ("Pad", 2),
    ("OneHot", 1), ("OneHot", 2), ("Range", 0), ("Range", 1), ("Range", 2), ("QuantizeLinear", 1),
    ("DequantizeLinear", 1), ("NonMaxSuppression", 3), ("NonMaxSuppression", 4),
}  # fmt: skip


_CONSTANT_KINDS = {
    "value_float": "f4", "value_floats": "f4", "value_int": "i8", "value_ints": "i8",
    "value_string": "O", "value_strings": "O",
}  # fmt: skip


@dataclass(slots=True)
class Context:
    """What all graphs of one file share."""

    tensors: Tensors
    file: str
    report: Report
    functions: Mapping[tuple[str, str, str], Any]


class Body:
    """Reads one GraphProto, or the body of one FunctionProto, into the graph of `scope`."""

    def __init__(
        self, context: Context, scope: Scope, arguments: Mapping[str, Any] | None = None
    ) -> None:
        if scope.depth > MAX_DEPTH:
            raise InputError(f"graphs or functions are nested more than {MAX_DEPTH} deep")
        self.context = context
        self.scope = scope
        self.graph = scope.graph
        self.arguments = arguments or {}
        self.used: set[str] = set()

    def read(self, graph: Any) -> None:
        """The initializers and nodes of a GraphProto."""
        if graph.sparse_initializer:
            raise UnsupportedError("sparse initializers are not supported")
        self.used.update(info.name for info in graph.output)
        self._store(graph.initializer, graph.node)
        self.nodes(graph.node)

    def outputs(self, declared: Iterable[Any]) -> list[Value]:
        found = []
        for info in declared:
            value = self.scope.get(info.name)
            if value is None:
                raise InputError(f"nothing defines the output '{info.name}'")
            found.append(value)
        return found

    def nodes(self, nodes: Sequence[Any]) -> None:
        """Emit nodes. What no node may be is refused before anything is made of any of them, and no
        list of them is made: a message that Python holds takes more than a short node's text.
        """
        for node in nodes:
            try:
                self._check(node)
            except NnconvError as error:
                raise _located(error, node, self.context.file) from None
            self.used.update(reads(node))
        for node in in_order(nodes, self.scope):
            try:
                self._node(node)
            except NnconvError as error:
                raise _located(error, node, self.context.file) from None

    # --- stored values ---------------------------------------------------------------------------

    def _store(self, initializers: Iterable[Any], nodes: Sequence[Any]) -> None:
        settings = {
            name
            for node in nodes
            for place, name in enumerate(node.input)
            if (node.op_type, place) in _SETTINGS
        }
        for tensor in initializers:
            data = self.context.tensors.array(tensor)
            trained = (
                data.dtype.kind == "f" and tensor.name not in settings and not self.scope.outer
            )
            if trained:
                value = self.graph.add_parameter(tensor.name, data.shape, data)
            else:
                value = self._constant(tensor.name, data)
            self.scope.define(tensor.name, value)

    def _constant(self, name: str, data: Any) -> Value:
        wanted = self._free(self.scope.prefix + name)
        value: Value = self.graph.constant(data, name=wanted)
        return value

    def _free(self, name: str) -> str:
        """`name`, taken from a helper that came by it first; made unique inside a function."""
        holder = self.graph.values.get(name)
        if holder is None:
            return name
        if self.scope.prefix:
            return self.graph.fresh_name(name)
        if name not in self.scope.values:
            self.graph.rename(holder, self.graph.fresh_name(name))
        return name

    # --- nodes -----------------------------------------------------------------------------------

    def _check(self, node: Any) -> None:
        """Raise an NnconvError unless the operator is known and takes as many inputs."""
        if self._function(node) is None:
            op, domain = _operator(node)
            check_counts(op, self._version(op, domain), node)

    def _function(self, node: Any) -> Any:
        """The local function that a node calls, if it does."""
        known = self.context.functions
        return known.get((node.domain, node.op_type, node.overload)) if known else None

    def _node(self, node: Any) -> None:
        function = self._function(node)
        if function is not None:
            self._inline(node, function)
            return
        op, domain = _operator(node)
        attributes = self._attributes(node)
        check_attributes(op, self._version(op, domain), attributes)
        if op == "Constant":
            self._constant_node(node, attributes)
            return
        inputs = [self._value(name, node) for name in node.input]
        while inputs and inputs[-1] is None:
            inputs.pop()
        outputs = list(node.output)
        while len(outputs) > 1 and not outputs[-1]:
            outputs.pop()
        call = Call(
            self.graph,
            sys.intern(op),  # a known one; protobuf makes a text anew each time it is asked
            self.scope.opset(domain),
            inputs,
            attributes,
            outputs,
            self.used,
            label=node.name,
        )
        self._emit(call, node)

    def _version(self, op: str, domain: str) -> proto.Version | None:
        opset = self.scope.opset(domain)
        version = proto.version_at(op, opset)
        if version is not None and not (version.deprecated and version is proto.versions(op)[-1]):
            return version
        if is_operator(op) and not proto.versions(op):
            return None  # of our own domain
        raise _unknown(op, opset)

    def _emit(self, call: Call, node: Any) -> None:
        record = LayerRecord(
            node.name or next(filter(None, call.outputs), ""),
            sys.intern(node.op_type),
            span=SourceSpan(self.context.file, layer=node.name),
        )
        with self.graph.source(record):
            lift(call)
            names = [self.scope.prefix + name if name else "" for name in call.outputs]
            names = [self._free(name) if name else "" for name in names]
            found = self.graph.emit(
                call.op, *call.inputs, outputs=names, name=node.name, **call.attributes
            )
        values = found if isinstance(found, tuple) else (found,)
        self.graph.layers.append(record)
        for name, value in zip(call.outputs, values, strict=True):
            if name:
                self._define(name, value)

    def _define(self, name: str, value: Value) -> None:
        if name in self.scope.values:
            raise InputError(f"'{name}' is defined twice")
        self.scope.define(name, value)

    def _constant_node(self, node: Any, attributes: dict[str, Any]) -> None:
        (name, value), *others = attributes.items() or [("", None)]
        if value is None or others:
            raise InputError("a Constant needs exactly one value")
        import numpy as np

        data = value if name == "value" else np.asarray(value, _CONSTANT_KINDS[name])
        if len(node.output) != 1:
            raise InputError("a Constant has one output")
        self._define(node.output[0], self._constant(node.output[0], data))

    def _value(self, name: str, node: Any) -> Value | None:
        return self.scope[name] if name else None

    def _attributes(self, node: Any) -> dict[str, Any]:
        found = {}
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                if attribute.ref_attr_name not in self.arguments:
                    continue  # the caller left it out
                value = self.arguments[attribute.ref_attr_name]
            elif inner_graphs(attribute):
                graphs = tuple(self._inner(graph) for graph in inner_graphs(attribute))
                value = graphs[0] if attribute.HasField("g") else graphs
            else:
                value = attribute_value(attribute, self.context.tensors)
            if attribute.name in found:
                raise InputError(f"the attribute '{attribute.name}' is given twice")
            found[attribute.name] = value
        return found

    def _inner(self, graph: Any) -> Graph:
        """The graph of an If, Loop or Scan; what it captures it reads from this one."""
        inner = Graph(graph.name)
        scope = Scope(inner, self.scope.opsets, self.scope)
        for info in graph.input:
            # what comes in depends on the operator; a branch's declaration may say less than is
            # known
            dtype = tensor_type(info)
            scope.define(info.name, inner.add_input(info.name, dtype, _declared(info)))
        body = Body(self.context, scope, self.arguments)
        body.read(graph)
        inner.outputs = body.outputs(graph.output)
        return inner

    # --- functions -------------------------------------------------------------------------------

    def _inline(self, node: Any, function: Any) -> None:
        """Put the body of a local function in the place of a call of it."""
        opsets = {"" if e.domain in proto.STANDARD_DOMAINS else e.domain: e.version
                  for e in function.opset_import}  # fmt: skip
        prefix = f"{self.scope.prefix}{node.name or next(filter(None, node.output), '')}/"
        scope = Scope(self.graph, opsets or self.scope.opsets, prefix=prefix)
        scope.depth = self.scope.depth + 1
        if len(node.input) > len(function.input) or len(node.output) > len(function.output):
            raise InputError(
                f"the function takes {len(function.input)} inputs, got {len(node.input)}"
            )
        for place, name in enumerate(function.input):
            given = node.input[place] if place < len(node.input) else ""
            scope.define(name, self._value(given, node))
        defaults = {
            a.name: attribute_value(a, self.context.tensors) for a in function.attribute_proto
        }
        body = Body(self.context, scope, defaults | self._attributes(node))
        body.used.update(function.output)
        body.nodes(function.node)
        for inner, outer in zip(function.output, node.output, strict=False):
            if outer:
                self._adopt(scope, inner, outer)

    def _adopt(self, scope: Scope, inner: str, outer: str) -> None:
        """The result of a function takes the name that the caller gave it."""
        value = scope.get(inner)
        if value is None:
            raise InputError(f"the function defines no '{inner}'")
        if outer in self.scope.values:
            raise InputError(f"'{outer}' is defined twice")
        name = self.scope.prefix + outer
        if value.producer is not None and value.name == f"{scope.prefix}{inner}":
            self.graph.rename(value, self._free(name))
        self._define(outer, value)


def _operator(node: Any) -> tuple[str, str]:
    """The operator of a node, as the graph names it, and its domain."""
    domain = "" if node.domain in proto.STANDARD_DOMAINS else node.domain
    return f"{domain}.{node.op_type}" if domain else node.op_type, domain


def _declared(info: Any) -> Shape | None:
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    dims = tensor.shape.dim
    if not all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
        return tuple(Symbolic.name(f"{info.name}_{place}") for place in range(len(dims))) or None
    return tuple(dim.dim_value for dim in dims)


def _unknown(op: str, opset: int) -> UnsupportedError:
    domain, _, name = op.rpartition(".")
    if newest := proto.versions(op):
        when = (
            "no longer exists" if newest[0].since <= opset else f"came with opset {newest[0].since}"
        )
        return UnsupportedError(f"{op} {when}, the model says opset {opset}")
    if domain == "com.microsoft":
        hint = "an operator of ONNX Runtime's own: export the model without its fusions"
    else:
        hint = did_you_mean(name, operators()) if not domain else _own(name)
    where = f" of the domain '{domain}'" if domain else ""
    return UnsupportedError(f"unknown operator '{name}'{where}", hint=hint)


def _own(name: str) -> str:
    if is_operator(name):
        return f"ONNX has an operator '{name}' of its own: is the domain a mistake?"
    return "nnconv reads the operators of ONNX itself, and functions that the model brings along"


def _located(error: NnconvError, node: Any, file: str) -> NnconvError:
    """The same error, naming the node."""
    problems = []
    for p in error.problems:
        named = "node '" in p.message or p.message.startswith("layer '")
        message = p.message if named else f"{label(node)}: {p.message}"
        span = SourceSpan(file, layer=node.name or next(filter(None, node.output), ""))
        problems.append(Problem(message, span, p.hint, p.severity, p.rule))
    return type(error)(problems)
