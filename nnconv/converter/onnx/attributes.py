"""AttributeProto to Python, and whether an operator is called with what it knows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from nnconv.converter.onnx import proto
from nnconv.converter.onnx.tensors import Tensors
from nnconv.schemas.errors import InputError, UnsupportedError, did_you_mean


def attribute_value(attribute: Any, tensors: Tensors) -> Any:
    """What an attribute holds; raises UnsupportedError for sparse tensors and types."""
    kind = proto.ATTRIBUTE_KINDS.get(attribute.type) or _kind_by_content(attribute)
    if kind is None or kind not in _VALUES:
        raise UnsupportedError(
            f"the attribute '{attribute.name}' is of a kind that is not supported"
        )
    return _VALUES[kind](attribute, tensors)


@cache
def decimal(number: float) -> float:
    """A float32 as the shortest decimal that gives it back: 0.1, not 0.10000000149011612."""
    import numpy as np

    return float(str(np.float32(number)))


_VALUES: Mapping[str, Any] = {
    "float": lambda a, t: decimal(a.f),
    "int": lambda a, t: a.i,
    "string": lambda a, t: _text(a.s),
    "tensor": lambda a, t: t.array(a.t),
    "floats": lambda a, t: tuple(map(decimal, a.floats)),
    "ints": lambda a, t: tuple(a.ints),
    "strings": lambda a, t: tuple(map(_text, a.strings)),
    "tensors": lambda a, t: tuple(map(t.array, a.tensors)),
}

_CONTENT = {"f": "float", "i": "int", "s": "string", "t": "tensor", "floats": "floats",
    "ints": "ints",
            "strings": "strings", "tensors": "tensors"}  # fmt: skip


def _kind_by_content(attribute: Any) -> str | None:
    """Before IR 3 an attribute did not state its type."""
    fields = {descriptor.name for descriptor, _ in attribute.ListFields()}
    return next((kind for name, kind in _CONTENT.items() if name in fields), None)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def check_attributes(op: str, version: proto.Version | None, attributes: Mapping[str, Any]) -> None:
    """Raise InputError unless `op` had these attributes, of these types, at this version."""
    if version is None:
        return
    for name, value in attributes.items():
        if name not in version.attributes:
            hint = did_you_mean(name, version.attributes)
            raise InputError(f"{op} (opset {version.since}) has no attribute '{name}'", hint=hint)
        kind = version.attributes[name][0]
        if not _CHECKS[kind](value):
            raise InputError(f"the attribute '{name}' of {op} is no {kind}: {str(value)[:60]!r}")
    for name, (_, required, _) in version.attributes.items():
        if required and name not in attributes:
            raise InputError(f"{op} needs the attribute '{name}'")


def check_counts(op: str, version: proto.Version | None, node: Any) -> None:
    """Raise InputError unless `op` had as many inputs and outputs at this version."""
    if not node.output:
        raise InputError("it has no outputs")
    if version is None:
        return
    wanted = f"{version.least_inputs} to {version.most_inputs}"
    if version.most_inputs < 0:
        wanted = f"at least {version.least_inputs}"
    count = len(node.input)
    if count < version.least_inputs or 0 <= version.most_inputs < count:
        raise InputError(f"{op} takes {wanted} inputs, got {count}")
    if 0 <= version.most_outputs < len(node.output):
        raise InputError(f"{op} has {version.most_outputs} outputs, not {len(node.output)}")


def _all(check: Any) -> Any:
    return lambda value: isinstance(value, tuple) and all(map(check, value))


def _is(*types: type) -> Any:
    return lambda value: isinstance(value, types)


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype")


def _is_graph(value: Any) -> bool:
    return hasattr(value, "nodes")


_CHECKS: Mapping[str, Any] = {
    "float": _is(float), "int": _is(int), "string": _is(str),
    "tensor": _is_array, "graph": _is_graph,
    "floats": _all(_is(float)), "ints": _all(_is(int)), "strings": _all(_is(str)),
    "tensors": _all(_is_array), "graphs": _all(_is_graph),
    "sparse_tensor": _is_array, "sparse_tensors": _all(_is_array),
    "type_proto": lambda value: False, "type_protos": lambda value: False,
}  # fmt: skip
