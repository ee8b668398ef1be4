"""Where the reference kernels register, and how a node becomes a call of its kernel.

A kernel is a function of arrays (None where an input is omitted) and, by keyword, of the operator's
attributes; it returns an array, or a tuple for several outputs. It names only the attributes it
obeys: a node that sets another one is refused, never run with the attribute ignored. Two more
keywords may be named: `outputs`, the number of outputs the node has, and `step`, the number of the
run (random kernels). Attributes that a family shares can come as one keyword, a named tuple of
them: `@kernel(..., windows=Windows)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.schemas.dims import evaluate, names
from nnconv.schemas.errors import InputError, NnconvError, UnsupportedError

if TYPE_CHECKING:
    from nnconv.schemas.graph import Node, Value
    from nnconv.schemas.types import Array

Call = Callable[["Sequence[Array | None]", int], "tuple[Array, ...]"]
"""One node ready to run: the arrays of its inputs and the step in, the arrays of its outputs
out.
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of a node costs: multiply-adds (or other operations), and bytes moved."""

    macs: int
    bytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class Kernel:
    """The meaning of an operator: its function, the keywords that takes, and its multiply-adds.

    `stepwise` functions call numpy once a step of a sequence: where kernels are compiled, the
    operator's body is better."""

    op: str
    function: Callable[..., Any]
    macs: Callable[[Node], int]
    keywords: frozenset[str]
    stepwise: bool = False


KERNELS: dict[str, Kernel] = {}


def count(value: Value | None) -> int:
    """The number of elements of a value; 0 where it is omitted or its shape not yet bound."""
    if value is None or value.shape is None or any(names(dim) for dim in value.shape):
        return 0
    total = 1
    for dim in value.shape:
        total *= evaluate(dim, {})
    return total


def each_output(node: Node) -> int:
    """One operation an element of the result: the cost of what is elementwise."""
    return count(node.output)


def each_input(node: Node) -> int:
    """One operation an element of the first input: the cost of reductions and normalisations."""
    return count(node.input(0))


def no_macs(node: Node) -> int:
    """Nothing is computed, data only moves or is only seen differently."""
    return 0


def kernel(
    *ops: str,
    macs: Callable[[Node], int] = each_output,
    stepwise: bool = False,
    **gathered: type[Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the meaning of one or more operators; `macs` counts its
    multiply-adds.

    A keyword that is `gathered` is a named tuple of that class, made of the attributes that its
    fields name.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for op in ops:
            add_kernel(op, function, macs, stepwise, **gathered)
        return function

    return register


def add_kernel(
    op: str,
    function: Callable[..., Any],
    macs: Callable[[Node], int] = each_output,
    stepwise: bool = False,
    **gathered: type[Any],
) -> None:
    """Register one line of a table of operators."""
    keywords = _keywords(function) - gathered.keys()
    for record in gathered.values():
        keywords |= set(record._fields)
    run = _gathering(function, gathered) if gathered else function
    KERNELS[op] = Kernel(op, run, macs, keywords, stepwise)


def _keywords(function: Callable[..., Any]) -> frozenset[str]:
    if isinstance(function, np.ufunc):  # its keywords (out, where ...) are numpy's, not attributes
        return frozenset()
    known = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in known if p.kind is p.KEYWORD_ONLY)


def _gathering(
    function: Callable[..., Any], gathered: Mapping[str, type[Any]]
) -> Callable[..., Any]:
    """`function`, called with the single attributes."""

    def call(*arrays: Array | None, **attributes: Any) -> Any:
        records = {
            name: record(*map(attributes.pop, record._fields)) for name, record in gathered.items()
        }
        return function(*arrays, **records, **attributes)

    return call


def has_kernel(node: Node) -> bool:
    """Whether a reference kernel computes this very node, with all attributes that it sets."""
    found = KERNELS.get(node.op)
    return found is not None and not _unknown_attributes(node, found)


def is_kept(node: Node) -> bool:
    """Whether a device that compiles kernels keeps the node as it is, rather than its body."""
    return has_kernel(node) and not KERNELS[node.op].stepwise


def cost_of(node: Node) -> Cost:
    """Multiply-adds and bytes of a node whose shapes are bound (unbound values count as empty)."""
    found = KERNELS.get(node.op)
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    moved = sum(count(value) * value.dtype.itemsize for value in values if value.dtype)
    return Cost(found.macs(node) if found else 0, moved)


def is_free(node: Node) -> bool:
    """Whether a node computes nothing, whatever its sizes."""
    found = KERNELS.get(node.op)
    return found is not None and found.macs is no_macs


def bind(node: Node) -> Call:
    """The node as a call with its attributes bound.

    Raises UnsupportedError when there is no kernel for the operator or for an attribute it sets.
    The call raises InputError, naming the layer, when the arrays do not fit together.
    """
    found = KERNELS.get(node.op)
    if found is None:
        raise UnsupportedError(f"{subject(node)}: no kernel computes {node.op}", span=node.span)
    if unknown := _unknown_attributes(node, found):
        message = (
            f"{subject(node)}: {node.op} with {', '.join(sorted(unknown))} is not supported yet"
        )
        raise UnsupportedError(message, span=node.span)
    arguments = {k: v for k, v in node.arguments().items() if k in found.keywords}
    if "outputs" in found.keywords:
        arguments["outputs"] = len(node.outputs)
    return _call(node, found.function, arguments, "step" in found.keywords)


def _call(
    node: Node, function: Callable[..., Any], arguments: Mapping[str, Any], random: bool
) -> Call:
    wanted = len(node.outputs)

    def call(arrays: Sequence[Array | None], step: int) -> tuple[Array, ...]:
        extra = {"step": step} if random else {}
        try:
            with np.errstate(all="ignore"):  # inf and NaN are results, not events
                results = function(*arrays, **arguments, **extra)
        except MemoryError as error:
            message = f"{subject(node)}: not enough memory for its result"
            raise InputError(message, span=node.span) from error
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise InputError(f"{subject(node)}: {error}", span=node.span) from error
        except NnconvError as error:
            raise type(error)(
                f"{subject(node)}: {error.problems[0].message}", span=node.span
            ) from None
        several = results if isinstance(results, tuple) else (results,)
        return tuple(np.asarray(result) for result in several[:wanted])

    return call


def evaluate_node(node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
    """The outputs of a node for given inputs (constant folding)."""
    return bind(node)(arrays, 0)


def subject(node: Node) -> str:
    """How messages name a node: by its layer in the source, else by its first output."""
    if node.layer is not None:
        return f"layer '{node.layer.name}' ({node.layer.type})"
    return f"{node.op} '{node.name or node.outputs[0].name}'"


def _unknown_attributes(node: Node, found: Kernel) -> set[str]:
    return node.attributes.keys() - found.keywords
