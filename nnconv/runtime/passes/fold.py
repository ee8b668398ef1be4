"""What can be known before a run is computed now, and what nobody needs is taken out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nnconv.runtime.ops import evaluate_node, has_kernel
from nnconv.runtime.passes.support import Binding, constants, is_random, store, take_over_name
from nnconv.runtime.scaled import plain
from nnconv.schemas import functions
from nnconv.schemas.dims import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from nnconv.schemas.graph import Graph, Node, Value


def expand_functions(graph: Graph, binding: Binding) -> int:
    """Operators that the device does not compute become their bodies, where they have one."""
    changed = 0
    for node in graph.nodes:
        if not binding.supports(node):
            changed += functions.expand(node, binding.mode)
    return changed


def fold_constants(graph: Graph, binding: Binding) -> int:
    """Nodes over stored values alone become stored values, by the reference kernels."""
    is_constant = constants(graph, binding)
    changed = 0
    for node in graph.nodes:
        if not all(value is None or is_constant(value) for value in node.inputs):
            continue
        if (
            is_random(node)
            or not has_kernel(node)
            or not _is_worth_storing(node, binding.fold_limit)
        ):
            continue
        results = evaluate_node(node, [None if v is None else plain(v.data) for v in node.inputs])
        outputs = list(node.outputs)
        stored = [store(graph, out, data) for out, data in zip(outputs, results, strict=True)]
        graph.remove(node)
        for output, value in zip(outputs, stored, strict=True):
            take_over_name(graph, value, output.name)
        changed += 1
    return changed


def _is_worth_storing(node: Node, limit: int) -> bool:
    """Whether the results are known not to be much larger than what they are made from."""
    made = 0
    for value in node.outputs:
        if value.shape is None or any(names(dim) for dim in value.shape) or not value.dtype:
            return False
        made += math.prod(map(int, value.shape)) * value.dtype.itemsize  # type: ignore[arg-type]
    held = sum(
        value.data.nbytes for value in node.inputs if value is not None and value.data is not None
    )
    return made <= held + limit


def remove_dead_code(graph: Graph, binding: Binding) -> int:
    """Nodes and stored values that no output and no state depends on are removed; inputs stay."""
    roots = {*graph.outputs, *(state.write for state in graph.state)}
    changed = 0
    for node in reversed(list(graph.nodes)):
        if not any(value.uses or value in roots for value in node.outputs):
            graph.remove(node)
            changed += 1
    kept = roots | {state.read for state in graph.state} | set(graph.inputs)
    for value in list(graph.values.values()):
        if value.is_stored and not value.uses and value not in kept:
            graph.discard(value)
    return changed


# --- identities -----------------------------------------------------------------------------------


def _same_shape(node: Node) -> bool:
    before, after = node.required(0).shape, node.output.shape
    return before is not None and before == after


def _one_input(node: Node) -> bool:
    return len(node.inputs) == 1


def _by_one(node: Node) -> bool:
    other = node.required(1)
    data = other.data
    if data is None or other.parameter is not None or data.size != 1 or not _same_shape(node):
        return False
    return node.required(0).dtype == node.output.dtype and bool(np.all(data == 1))


def _sorted_perm(node: Node) -> bool:
    return node.perm is not None and list(node.perm) == list(range(len(node.perm)))


def _no_mask(node: Node) -> bool:
    """Dropout outside training, whose mask nobody reads."""
    masks = node.outputs[1:]
    return node.input(2) is None and not any(mask.uses for mask in masks)


IDENTITIES: dict[str, Callable[[Node], bool]] = {
    "Cast": lambda node: bool(node.required(0).dtype == node.to),
    "Concat": _one_input,
    "Div": _by_one,
    "Dropout": _no_mask,
    "Expand": _same_shape,
    "Flatten": _same_shape,
    "Identity": lambda node: True,
    "Max": _one_input,
    "Mean": _one_input,
    "Min": _one_input,
    "Mul": _by_one,
    "Pow": _by_one,
    "Reshape": _same_shape,
    "Squeeze": _same_shape,
    "Sum": _one_input,
    "Transpose": _sorted_perm,
    "nnconv.Flatten": _same_shape,
    "nnconv.Reshape": _same_shape,
}


def remove_identities(graph: Graph, binding: Binding) -> int:
    """Nodes whose result is their first input are taken out."""
    roots = set(graph.outputs)
    changed = 0
    for node in graph.nodes:
        rule = IDENTITIES.get(node.op)
        if rule is None or any(value in roots for value in node.outputs[1:]) or not rule(node):
            continue
        graph.replace(node.output, node.required(0))
        graph.remove(node)
        changed += 1
    return changed


def share_equal_nodes(graph: Graph, binding: Binding) -> int:
    """Common subexpressions: of nodes with the same operator, inputs and attributes one is kept."""
    _share_equal_constants(graph, binding)
    seen: dict[Any, Node] = {}
    changed = 0
    for node in graph.nodes:
        key = _key(node)
        if key is None or is_random(node):
            continue
        twin = seen.setdefault(key, node)
        if twin is node:
            continue
        for old, new in zip(node.outputs, twin.outputs, strict=True):
            graph.replace(old, new)
        graph.remove(node)
        changed += 1
    return changed


def _key(node: Node) -> Any:
    inputs = tuple(id(value) for value in node.inputs)
    key = (node.op, inputs, tuple(sorted(node.attributes.items())), len(node.outputs))
    try:
        hash(key)
    except TypeError:  # a tensor among the attributes
        return None
    return key


_SHARED_BYTES = 1024


def _share_equal_constants(graph: Graph, binding: Binding) -> None:
    """Small equal constants become one, so that nodes that read them can be seen to be equal."""
    is_constant = constants(graph, binding)
    seen: dict[Any, Value] = {}
    for value in list(graph.values.values()):
        data = value.data
        if not is_constant(value) or value.parameter or data is None or data.nbytes > _SHARED_BYTES:
            continue
        twin = seen.setdefault((value.dtype, data.shape, data.tobytes()), value)
        if twin is not value:
            graph.replace(value, twin)
            graph.discard(value)
