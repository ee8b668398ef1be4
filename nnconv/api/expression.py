"""Formulas as objects: `x = nnconv.input("x", shape)`, arithmetic, and `nnconv.grad`.

An Expression only says what is to be computed. It becomes a graph when it is printed, drawn or
evaluated: each part once, gradients by `runtime.autodiff`, so a gradient may be used, and
differentiated, like anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nnconv.runtime.autodiff import MARK, gradients
from nnconv.runtime.executor import compile_model
from nnconv.schemas.dims import Symbolic
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.dims import Shape
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array

Build = Callable[[Graph, "list[Value]"], "Value"]


class Expression:
    """Something to be computed from inputs: `build` emits it, given the values of its operands.

    >>> import nnconv
    >>> x, y = nnconv.input("x", (3,)), nnconv.input("y", (3,))
    >>> z = x * x + y
    >>> z(x=[1, 2, 3], y=[0, 0, 1])
    array([ 1.,  4., 10.], dtype=float32)
    >>> nnconv.grad(z, x)(x=[1, 2, 3])
    array([2., 4., 6.], dtype=float32)
    """

    __array_ufunc__ = None  # array * expression is an expression, not an array of them

    def __init__(self, build: Build, operands: Sequence[Expression] = (), name: str = "") -> None:
        self.build = build
        self.operands = tuple(operands)
        self.name = name

    def __add__(self, other: Any) -> Expression:
        return apply("Add", self, other)

    def __radd__(self, other: Any) -> Expression:
        return apply("Add", other, self)

    def __sub__(self, other: Any) -> Expression:
        return apply("Sub", self, other)

    def __rsub__(self, other: Any) -> Expression:
        return apply("Sub", other, self)

    def __mul__(self, other: Any) -> Expression:
        return apply("Mul", self, other)

    def __rmul__(self, other: Any) -> Expression:
        return apply("Mul", other, self)

    def __truediv__(self, other: Any) -> Expression:
        return apply("Div", self, other)

    def __rtruediv__(self, other: Any) -> Expression:
        return apply("Div", other, self)

    def __pow__(self, other: Any) -> Expression:
        return apply("Pow", self, other)

    def __matmul__(self, other: Any) -> Expression:
        return apply("MatMul", self, other)

    def __neg__(self) -> Expression:
        return apply("Neg", self)

    def __call__(self, device: str | None = None, **inputs: Any) -> Array:
        """Its value for these inputs; those it does not depend on may be left out."""
        model = self.model()
        executable = compile_model(model, device=device)
        (result,) = executable.run(inputs).values()
        return result

    def model(self) -> Model:
        """The expression as a model, which can be saved, compiled or converted."""
        graph = Graph(self.name or "expression")
        values = _emit(self, graph)
        graph.outputs = [values[self]]
        return Model(graph)

    def dot(self) -> str:
        """The graph in DOT, the nodes that compute gradients in another colour."""
        return dot(self.model().graph)

    def __str__(self) -> str:
        return str(self.model().graph)

    def __repr__(self) -> str:
        return f"<Expression of {', '.join(_inputs(self)) or 'no inputs'}>"


def input(name: str, shape: Sequence[int | str] = (), dtype: str = "float32") -> Expression:
    """An input: `shape` has numbers, or names for sizes that are left open; () is a scalar.

    Two inputs of one name are one input, and must then agree.
    """
    dims: Shape = tuple(Symbolic.name(d) if isinstance(d, str) else int(d) for d in shape)
    try:
        kind = DType[dtype.upper()]
    except KeyError:
        raise InputError(f"there is no element type '{dtype}'") from None

    def build(graph: Graph, operands: list[Value]) -> Value:
        known = graph.values.get(name)
        if known is None:
            return graph.add_input(name, kind, dims)
        if known not in graph.inputs or (known.dtype, known.shape) != (kind, dims):
            raise InputError(f"two different inputs are called '{name}'")
        return known

    return Expression(build, name=name)


def apply(op: str, *operands: Any, **attributes: Any) -> Expression:
    """Any operator by its name: `apply("Relu", x)`, `apply("ReduceSum", x, keepdims=0)`.

    Numbers and arrays among the operands become constants; a float array or number takes the type
    of the first expression.
    """
    inner = [operand for operand in operands if isinstance(operand, Expression)]
    if not inner:
        raise InputError(f"{op} needs an expression among its operands")

    def build(graph: Graph, values: list[Value]) -> Value:
        like, waiting = values[0], iter(values)
        given = [
            next(waiting) if isinstance(operand, Expression) else _constant(graph, operand, like)
            for operand in operands
        ]
        result: Value = graph.emit(op, *given, **attributes)
        return result

    return Expression(build, inner)


def _constant(graph: Graph, operand: Any, like: Value) -> Value:
    import numpy as np

    array = np.asarray(operand)
    number = np.isscalar(operand) or array.dtype.kind == "f"
    return graph.constant(array, like.dtype if number else None)


def grad(of: Expression, wrt: Expression | Sequence[Expression]) -> Any:
    """The gradient of an expression (of the sum of its elements) with respect to another.

    One Expression for one, a tuple for several. Raises, when it is built, UnsupportedError for an
    operator on the way that has no gradient.

    >>> import nnconv
    >>> x = nnconv.input("x", (2,))
    >>> slope = nnconv.grad(x**3, x)
    >>> nnconv.grad(slope, x)(x=[1, 2])
    array([ 6., 12.], dtype=float32)
    """
    if not isinstance(of, Expression):
        raise InputError(f"grad takes expressions, not {type(of).__name__}")
    if isinstance(wrt, Expression):
        return Expression(_gradient, [of, wrt])
    return tuple(Expression(_gradient, [of, one]) for one in wrt)


def _gradient(graph: Graph, values: list[Value]) -> Value:
    of, wrt = values
    return gradients(graph, {of: 1.0}, [wrt])[wrt]


def _emit(root: Expression, graph: Graph) -> dict[Expression, Value]:
    """All parts of an expression, each once, operands first; without recursion."""
    values: dict[Expression, Value] = {}
    waiting = [root]
    while waiting:
        part = waiting[-1]
        missing = [operand for operand in part.operands if operand not in values]
        if missing:
            waiting += reversed(missing)
            continue
        waiting.pop()
        if part not in values:
            values[part] = part.build(graph, [values[operand] for operand in part.operands])
    return values


def _inputs(root: Expression) -> list[str]:
    seen: dict[Expression, None] = {}
    waiting = [root]
    while waiting:
        part = waiting.pop()
        if part not in seen:
            seen[part] = None
            waiting += part.operands
    return sorted({part.name for part in seen if part.name})


# --- drawing --------------------------------------------------------------------------------------


def dot(graph: Graph) -> str:
    """A graph in DOT: boxes are nodes, ellipses inputs and stored values, orange what computes
    gradients."""
    return "\n".join([f"digraph {_quoted(graph.name)} {{", *_lines(graph), "}", ""])


def _lines(graph: Graph) -> Iterator[str]:
    for value in graph.values.values():
        if value.producer is None and (value.uses or value in graph.inputs):
            yield f"  {_quoted(value.name)} [shape=ellipse, label={_quoted(str(value))}];"
    for node in graph.nodes:
        colour = ", style=filled, fillcolor=orange" if MARK in node.name else ""
        label = f"{node.op}\n{node.outputs[0]}"
        yield f"  {_quoted(_box(node))} [shape=box, label={_quoted(label)}{colour}];"
        for operand in node.inputs:
            if operand is not None:
                source = operand.name if operand.producer is None else _box(operand.producer)
                yield f"  {_quoted(source)} -> {_quoted(_box(node))};"


def _box(node: Node) -> str:
    return node.outputs[0].name


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


__all__ = ["Expression", "apply", "dot", "grad", "input"]
