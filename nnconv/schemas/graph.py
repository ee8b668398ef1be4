"""The model in memory: a Graph of Nodes over Values, and the records of the layers it came from.

A Value is one tensor with one origin (a graph input, stored data, or a node's output) and a table
of uses; a Node applies one operator. Rewrites are local: every link is kept on both sides, so
inserting, replacing and removing cost the same in a graph of ten nodes or of 100,000. Arithmetic on
values (`x * scale + 1`) emits nodes, which makes converter rules and gradients read like formulas.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nnconv.schemas import infer
from nnconv.schemas.dims import Content, Shape
from nnconv.schemas.errors import InputError, InternalError, SourceSpan
from nnconv.schemas.operators import operator
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

Scalar = bool | int | float


@dataclass(slots=True)
class Filler:
    """How a parameter starts when no weights are given (Caffe's FillerParameter, CAFFE.md section
    9)."""

    type: str = "constant"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Parameter:
    """What training needs to know about a stored value: it marks the value as a parameter.

    `lr_mult` and `decay_mult` scale the solver's rate and weight decay (Caffe's ParamSpec);
    `filler` gives the start values where the model has no weights yet.
    """

    lr_mult: float = 1.0
    decay_mult: float = 1.0
    filler: Filler | None = None

    @property
    def frozen(self) -> bool:
        return self.lr_mult == 0


@dataclass(slots=True)
class LayerRecord:
    """One layer of the source, as read. All nodes made from it share it.

    `message` is the serialised source message without its blobs, `parameters` names the values that
    hold those blobs, in order. `fingerprint` identifies the nodes that the reading rule emitted:
    while the graph still has exactly these, a writer may emit `message` again instead of matching
    patterns.
    """

    name: str
    type: str
    message: bytes = b""
    span: SourceSpan = field(default_factory=SourceSpan)
    parameters: tuple[str, ...] = ()
    fingerprint: str = ""


class Value:
    """A tensor in a graph: its name, element type, shape (None while unknown) and where it comes
    from.

    `data` is the stored array of a constant or parameter (it may be a view into a mapped file).
    `content` is what inference knows of the elements of a small computed integer tensor: sizes on
    their way from a Shape to a Reshape, each an integer, an expression, or None.
    """

    __slots__ = (
        "content",
        "data",
        "dtype",
        "graph",
        "index",
        "name",
        "parameter",
        "producer",
        "shape",
        "uses",
    )

    def __init__(
        self, graph: Graph, name: str, dtype: DType = DType.UNDEFINED, shape: Shape | None = None
    ) -> None:
        self.graph = graph
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.producer: Node | None = None
        self.index = 0
        self.data: Array | None = None
        self.content: Content | None = None
        self.parameter: Parameter | None = None
        self.uses: dict[tuple[Node, int], None] = {}

    @property
    def is_stored(self) -> bool:
        """Whether this is a constant or parameter rather than computed or fed."""
        return self.data is not None or self.parameter is not None

    @property
    def rank(self) -> int:
        """The number of axes; raises InputError while the shape is unknown."""
        return len(self.known_shape)

    @property
    def known_shape(self) -> Shape:
        if self.shape is None:
            raise InputError(f"the shape of '{self.name}' is not known here")
        return self.shape

    @property
    def consumers(self) -> list[Node]:
        """The nodes that read this value, each once, in order of first use."""
        return list(dict.fromkeys(node for node, _ in self.uses))

    def __add__(self, other: Value | Scalar) -> Value:
        return self.graph.binary("Add", self, other)

    def __radd__(self, other: Scalar) -> Value:
        return self.graph.binary("Add", other, self)

    def __sub__(self, other: Value | Scalar) -> Value:
        return self.graph.binary("Sub", self, other)

    def __rsub__(self, other: Scalar) -> Value:
        return self.graph.binary("Sub", other, self)

    def __mul__(self, other: Value | Scalar) -> Value:
        return self.graph.binary("Mul", self, other)

    def __rmul__(self, other: Scalar) -> Value:
        return self.graph.binary("Mul", other, self)

    def __truediv__(self, other: Value | Scalar) -> Value:
        return self.graph.binary("Div", self, other)

    def __rtruediv__(self, other: Scalar) -> Value:
        return self.graph.binary("Div", other, self)

    def __pow__(self, other: Value | Scalar) -> Value:
        return self.graph.binary("Pow", self, other)

    def __neg__(self) -> Value:
        negated: Value = self.graph.emit("Neg", self)
        return negated

    def __str__(self) -> str:
        shape = "?" if self.shape is None else "x".join(map(str, self.shape)) or "scalar"
        return f"{self.name}: {self.dtype} {shape}"

    def __repr__(self) -> str:
        return f"<Value {self}>"


class Node:
    """One application of an operator. Attributes read as Python attributes, defaults filled in:
    `node.strides`; inputs by their formal name in lower case: `node.x`, or by position."""

    __slots__ = (
        "_after",
        "_before",
        "attributes",
        "graph",
        "inputs",
        "layer",
        "linked",
        "name",
        "op",
        "outputs",
    )

    def __init__(
        self, graph: Graph, op: str, inputs: Sequence[Value | None], attributes: dict[str, Any]
    ) -> None:
        self.graph = graph
        self.op = op
        self.name = ""
        self.attributes = attributes
        self.layer: LayerRecord | None = None
        self.outputs: list[Value] = []
        self.inputs: list[Value | None] = list(inputs)
        self.linked = False
        self._before: Node | None = None
        self._after: Node | None = None
        for index, value in enumerate(self.inputs):
            if value is not None:
                value.uses[self, index] = None

    @property
    def output(self) -> Value:
        return self.outputs[0]

    @property
    def before(self) -> Node | None:
        """The node that runs just before this one."""
        return self._before

    def input(self, index: int) -> Value | None:
        """The input at a position, None when it is omitted or beyond the end."""
        return self.inputs[index] if index < len(self.inputs) else None

    def required(self, index: int) -> Value:
        """The input at a position; raises InputError when it is missing."""
        if (value := self.input(index)) is None:
            raise InputError(f"{self.op} needs an input at position {index}", span=self.span)
        return value

    def set_input(self, index: int, value: Value | None) -> None:
        if (old := self.inputs[index]) is not None:
            del old.uses[self, index]
        self.inputs[index] = value
        if value is not None:
            value.uses[self, index] = None

    def arguments(self) -> dict[str, Any]:
        """All attributes of the operator by name, defaults filled in; those without a value are
        None."""
        known = operator(self.op).attributes
        return {name: self.attributes.get(name, spec.default) for name, spec in known.items()} | {
            name: value for name, value in self.attributes.items() if name not in known
        }

    @property
    def span(self) -> SourceSpan | None:
        return self.layer.span if self.layer else None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self.attributes:
            return self.attributes[name]
        schema = operator(self.op)
        if name in schema.attributes:
            return schema.attributes[name].default
        for index, formal in enumerate(schema.inputs):
            if formal.name.lower() == name:
                return self.input(index)
        raise AttributeError(f"{self.op} has neither an attribute nor an input named '{name}'")

    def __str__(self) -> str:
        left = ", ".join(map(str, self.outputs))
        right = ", ".join("-" if value is None else value.name for value in self.inputs)
        shown = ", ".join(f"{key}={value!r}" for key, value in sorted(self.attributes.items()))
        return f"{left} = {self.op}({right}{'; ' + shown if shown else ''})"

    def __repr__(self) -> str:
        return f"<Node {self}>"


@dataclass(slots=True)
class State:
    """Something that lives across runs: each run reads `read`, and leaves `write` for the next run.

    `read` is a stored value whose data is the initial state; `write` has the same type and shape.
    """

    name: str
    read: Value
    write: Value


@dataclass(slots=True)
class Loss:
    """A scalar (or tensor, summed) that training minimises, times `weight`."""

    value: Value
    weight: float = 1.0


class Graph:
    """Nodes in execution order, the values between them, and what belongs to the whole.

    `sizes` gives the source's own value for every free size named in an input's shape, for display
    and as the default when nothing else is asked for. Names of values are unique.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.values: dict[str, Value] = {}
        self.state: list[State] = []
        self.losses: list[Loss] = []
        self.layers: list[LayerRecord] = []
        self.sizes: dict[str, int] = {}
        self._first: Node | None = None
        self._last: Node | None = None
        self._count = 0
        self._layer: LayerRecord | None = None
        self._insert_before: Node | None = None
        self._fresh: dict[str, int] = {}

    # --- reading
    # -------------------------------------------------------------------------------------

    @property
    def nodes(self) -> Iterator[Node]:
        """The nodes in order. Nodes may be inserted and removed meanwhile, the yielded one
        included."""
        node = self._first
        while node is not None:
            if node.linked:
                yield node
            node = node._after  # a removed node still points forward

    @property
    def last(self) -> Node | None:
        """The node at the end, None in a graph without nodes."""
        return self._last

    def after(self, node: Node | None) -> Iterator[Node]:
        """The nodes behind `node` (None: all), in order; those appended meanwhile come too."""
        following = self._first if node is None else node._after
        while following is not None:
            yield following
            following = following._after

    def __len__(self) -> int:
        return self._count

    @property
    def parameters(self) -> dict[str, Value]:
        """The stored values that training may change, by name, in the order they were added."""
        return {name: value for name, value in self.values.items() if value.parameter is not None}

    def __str__(self) -> str:
        lines = [f"graph {self.name}"]
        lines += [f"  input {value}" for value in self.inputs]
        lines += [
            f"  {'parameter' if v.parameter else 'constant'} {v}"
            for v in self.values.values()
            if v.is_stored
        ]
        lines += [f"  {node}" for node in self.nodes]
        lines += [f"  output {value.name}" for value in self.outputs]
        return "\n".join(lines)

    # --- building
    # ------------------------------------------------------------------------------------

    def add_input(self, name: str, dtype: DType, shape: Shape | None) -> Value:
        value = self._new_value(name, dtype, shape)
        self.inputs.append(value)
        return value

    def add_value(self, name: str, dtype: DType, shape: Shape | None) -> Value:
        """A value without an origin yet, for a reader that knows all values before the nodes."""
        return self._new_value(name, dtype, shape)

    def append(
        self,
        op: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[Value],
        attributes: dict[str, Any],
    ) -> Node:
        """Append a node as it was stored: outputs keep the types and shapes they have."""
        node = Node(self, op, inputs, attributes)
        node.outputs = list(outputs)
        for index, value in enumerate(outputs):
            value.producer, value.index = node, index
        self._link(node)
        return node

    def add_parameter(
        self,
        name: str,
        shape: tuple[int, ...],
        data: Array | None = None,
        *,
        parameter: Parameter | None = None,
        dtype: DType = DType.FLOAT32,
    ) -> Value:
        """A stored value that training may change; without `data` it has yet to be filled or
        loaded."""
        if data is not None:
            dtype = DType.of(data.dtype)
            if data.shape != shape:
                raise InternalError(f"parameter '{name}' is {data.shape}, its data {data.shape}")
        value = self._new_value(name, dtype, shape)
        value.data = data
        value.parameter = parameter or Parameter()
        return value

    def constant(self, data: Any, dtype: DType | None = None, name: str = "") -> Value:
        """A stored value that never changes, from an array or a (nested list of) numbers."""
        import numpy as np

        array = np.asarray(data, dtype=dtype.numpy if dtype else None)
        value = self._new_value(
            name or self.fresh_name("constant"), DType.of(array.dtype), array.shape
        )
        value.data = array
        return value

    def emit(
        self,
        op: str,
        *inputs: Value | None,
        outputs: int | Sequence[str] = 1,
        name: str = "",
        **attributes: Any,
    ) -> Any:
        """Append (or insert, see `inserting`) a node and infer its outputs' types and shapes.

        `outputs` is their number or their names. Returns the output Value, or a tuple when there
        are several. Attributes equal to the operator's default, and None, are left out. Raises
        InputError when the inputs do not fit the operator, UnsupportedError for an operator nobody
        knows.
        """
        schema = operator(op)
        schema.check(len(inputs), attributes)
        kept = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in attributes.items()
            if value is not None
        }
        kept = {key: value for key, value in kept.items() if not schema.is_default(key, value)}
        node = Node(self, op, inputs, kept)
        node.name = name
        node.layer = self._layer
        self._link(node)
        wanted = [""] * outputs if isinstance(outputs, int) else outputs
        try:
            for index, wish in enumerate(wanted):
                value = self._new_value(wish or self.fresh_name(self._stem(op)))
                value.producer, value.index = node, index
                node.outputs.append(value)
            infer.infer_node(node)
        except Exception:
            self.remove(node)
            raise
        return node.outputs[0] if len(node.outputs) == 1 else tuple(node.outputs)

    def binary(self, op: str, left: Value | Scalar, right: Value | Scalar) -> Value:
        """`left op right`, numbers becoming constants of the other side's type."""
        dtype = left.dtype if isinstance(left, Value) else right.dtype  # type: ignore[union-attr]
        operands = [
            side if isinstance(side, Value) else self.constant(side, dtype)
            for side in (left, right)
        ]
        result: Value = self.emit(op, *operands)
        return result

    @contextmanager
    def source(self, layer: LayerRecord | None) -> Iterator[None]:
        """Nodes emitted inside belong to `layer`."""
        previous, self._layer = self._layer, layer
        try:
            yield
        finally:
            self._layer = previous

    @contextmanager
    def inserting(self, before: Node | None) -> Iterator[None]:
        """Nodes emitted inside are inserted before `before` (None: appended) and share its
        layer."""
        previous = self._insert_before, self._layer
        self._insert_before = before
        self._layer = before.layer if before else self._layer
        try:
            yield
        finally:
            self._insert_before, self._layer = previous

    # --- rewriting
    # -----------------------------------------------------------------------------------

    def replace(self, old: Value, new: Value, keep_name: bool = False) -> None:
        """Let every use of `old` (nodes, outputs, state, losses) read `new` instead."""
        for node, index in list(old.uses):
            node.set_input(index, new)
        self.outputs = [new if value is old else value for value in self.outputs]
        for state in self.state:
            if state.write is old:
                state.write = new
        for loss in self.losses:
            if loss.value is old:
                loss.value = new
        if keep_name:
            name = old.name
            self.rename(old, self.fresh_name(name))
            self.rename(new, name)

    def remove(self, node: Node) -> None:
        """Take out a node whose outputs nobody reads; raises InternalError otherwise."""
        for value in node.outputs:
            if value.uses:
                raise InternalError(f"'{value.name}' is still read by {value.consumers[0].op}")
            del self.values[value.name]
        for index in range(len(node.inputs)):
            node.set_input(index, None)
        before, after = node._before, node._after
        if before is None:
            self._first = after
        else:
            before._after = after
        if after is None:
            self._last = before
        else:
            after._before = before
        node.linked = False
        self._count -= 1

    def copy(self) -> Graph:
        """New nodes and values over the same stored arrays, parameter settings and layer records.

        A rewrite of the copy leaves this graph as it is; graphs inside attributes are copied too.
        """
        return self._copy({})

    def _copy(self, twins: dict[Value, Value]) -> Graph:
        """`twins` maps the values of the graphs around, which the nodes of an inner graph may
        read."""
        twin = Graph(self.name)
        twin.sizes, twin.layers, twin._fresh = (
            dict(self.sizes),
            list(self.layers),
            dict(self._fresh),
        )
        for value in self.values.values():
            made = twins[value] = twin._new_value(value.name, value.dtype, value.shape)
            made.data, made.parameter, made.content = value.data, value.parameter, value.content
        for node in self.nodes:
            inputs = [None if value is None else twins[value] for value in node.inputs]
            attributes = {key: _twin(item, twins) for key, item in node.attributes.items()}
            made_node = Node(twin, node.op, inputs, attributes)
            made_node.name, made_node.layer = node.name, node.layer
            made_node.outputs = [twins[value] for value in node.outputs]
            for index, value in enumerate(made_node.outputs):
                value.producer, value.index = made_node, index
            twin._link(made_node)
        twin.inputs = [twins[value] for value in self.inputs]
        twin.outputs = [twins[value] for value in self.outputs]
        twin.state = [State(s.name, twins[s.read], twins[s.write]) for s in self.state]
        twin.losses = [Loss(twins[loss.value], loss.weight) for loss in self.losses]
        return twin

    def discard(self, value: Value) -> None:
        """Forget a stored value or input that nobody reads."""
        if not value.uses and value.producer is None:
            self.values.pop(value.name, None)
            if value in self.inputs:
                self.inputs.remove(value)

    def rename(self, value: Value, name: str) -> None:
        """Give a value another name; raises InternalError when another value has it."""
        if self.values.get(name, value) is not value:
            raise InternalError(f"two values named '{name}'")
        del self.values[value.name]
        value.name = name
        self.values[name] = value

    def fresh_name(self, stem: str) -> str:
        """`stem`, or the first of `stem_1`, `stem_2` ... that no value has."""
        if stem not in self.values:
            return stem
        count = self._fresh.get(stem, 0)
        while (name := f"{stem}_{(count := count + 1)}") in self.values:
            pass
        self._fresh[stem] = count
        return name

    # --- inside
    # --------------------------------------------------------------------------------------

    def _stem(self, op: str) -> str:
        short = op.rpartition(".")[2].lower()
        return f"{self._layer.name}:{short}" if self._layer else short

    def _new_value(
        self, name: str, dtype: DType = DType.UNDEFINED, shape: Shape | None = None
    ) -> Value:
        if name in self.values:
            raise InputError(f"two values are named '{name}'")
        value = Value(self, name, dtype, shape)
        self.values[name] = value
        return value

    def _link(self, node: Node) -> None:
        after = self._insert_before
        before = after._before if after else self._last
        node._before, node._after = before, after
        if before is None:
            self._first = node
        else:
            before._after = node
        if after is None:
            self._last = node
        else:
            after._before = node
        node.linked = True
        self._count += 1


def _twin(item: Any, twins: dict[Value, Value]) -> Any:
    """An attribute of a copied node: graphs are copied, all else is shared."""
    if isinstance(item, Graph):
        return item._copy(twins)
    if isinstance(item, tuple) and item and isinstance(item[0], Graph):
        return tuple(graph._copy(twins) for graph in item)
    return item


@dataclass(slots=True)
class Preprocessing:
    """How a picture becomes the tensor of an input: resize, channel order, (pixel - mean) * scale.

    `mean` is one number per channel (in the input's channel order), `mean_image` a [C, H, W] array
    to subtract instead; `crop` the side of a centre crop after resizing (0: none).
    """

    channels: str = "BGR"
    mean: tuple[float, ...] = ()
    mean_image: Array | None = None
    scale: float = 1.0
    crop: int = 0

    @property
    def is_default(self) -> bool:
        plain = self.channels == "BGR" and self.scale == 1.0 and not self.crop
        return plain and not self.mean and self.mean_image is None


@dataclass(slots=True)
class Source:
    """Where a model came from: the format, its dialect, and the files as the user named them."""

    format: str = ""
    dialect: str = ""
    files: tuple[str, ...] = ()


class Model:
    """A graph with all that a user or a tool needs around it: modes, preprocessing, labels,
    origin."""

    def __init__(self, graph: Graph, *, name: str = "", mode: str = "test") -> None:
        self.graph = graph
        self.name = name or graph.name
        self.mode = mode
        self.preprocessing: dict[str, Preprocessing] = {}
        self.labels: tuple[str, ...] = ()
        self.source = Source()
        self.metadata: dict[str, str] = {}

    @property
    def inputs(self) -> list[Value]:
        return self.graph.inputs

    @property
    def outputs(self) -> list[Value]:
        return self.graph.outputs

    @property
    def parameters(self) -> dict[str, Value]:
        return self.graph.parameters

    @property
    def weights(self) -> Mapping[str, Array]:
        """The arrays of all parameters that have one, by name."""
        return {
            name: value.data for name, value in self.parameters.items() if value.data is not None
        }

    def default_shape(self, value: Value) -> tuple[int, ...]:
        """The shape of an input at the sizes that the source states."""
        from nnconv.schemas.dims import evaluate_shape

        return evaluate_shape(value.known_shape, self.graph.sizes)

    def __repr__(self) -> str:
        count = sum(value.data.size for value in self.parameters.values() if value.data is not None)

        def listed(values: Iterable[Value]) -> str:
            return ", ".join(map(str, values)) or "none"

        return (
            f"<Model {self.name or 'without a name'}: {len(self.graph)} nodes, "
            f"{count:,} parameters; "
            f"inputs {listed(self.inputs)}; outputs {listed(self.outputs)}>"
        )

    def __str__(self) -> str:
        return f"{self!r}\n{self.graph}"
