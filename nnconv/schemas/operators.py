"""What operators exist and how they are called: names, inputs, outputs, attributes with defaults.

Standard operators are those of ONNX at the pinned opset; their table is generated from `onnx.defs`
(tools/operator_table.py) so that running a model never imports onnx. Operators of our own are
declared in `operators_nnconv`. Standard operators go by their bare name, others as `domain.Name`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from nnconv.schemas.errors import InputError, UnsupportedError, did_you_mean

OPSET = 28
"""The pinned version of the standard operator set, the newest that onnx 1.23 defines."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute: `type` is int, float, string, tensor, graph, ... or the plural; default None is
    none."""

    type: str
    default: Any = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Formal:
    """A formal input or output: `kind` is single, optional or variadic; `types` a variable or type
    name."""

    name: str
    kind: str = "single"
    types: str = ""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator at the pinned version. `since` lists the versions at which it changed."""

    name: str
    inputs: tuple[Formal, ...]
    outputs: tuple[Formal, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    since: tuple[int, ...] = ()

    def is_default(self, attribute: str, value: Any) -> bool:
        """Whether leaving `attribute` out means the same as giving `value`."""
        default = self.attributes[attribute].default
        return default is not None and type(value) in (int, float, str, tuple) and value == default

    def check(self, inputs: int, attributes: Iterable[str]) -> None:
        """Raise InputError when the number of inputs or an attribute's name cannot be right."""
        least = sum(formal.kind == "single" for formal in self.inputs)
        variadic = any(formal.kind == "variadic" for formal in self.inputs)
        if inputs < least or (inputs > len(self.inputs) and not variadic):
            wanted = f"at least {least}" if variadic else f"{least} to {len(self.inputs)}"
            raise InputError(f"{self.name} takes {wanted} inputs, got {inputs}")
        for attribute in attributes:
            if attribute not in self.attributes:
                hint = did_you_mean(attribute, self.attributes)
                raise InputError(f"{self.name} has no attribute '{attribute}'", hint=hint)


def operator(name: str) -> Operator:
    """The operator called `name`; raises UnsupportedError naming the nearest ones when there is
    none."""
    found = _table().get(name)
    if found is None:
        raise UnsupportedError(f"unknown operator '{name}'", hint=did_you_mean(name, _table()))
    return found


def is_operator(name: str) -> bool:
    return name in _table()


def operators() -> Mapping[str, Operator]:
    """All operators by name."""
    return _table()


@cache
def _table() -> dict[str, Operator]:
    from nnconv.schemas import operators_gradients, operators_nnconv

    text = Path(__file__).with_name("operators.json").read_text(encoding="utf-8")
    table = {name: _decode(name, entry) for name, entry in json.loads(text)["operators"].items()}
    return table | operators_nnconv.OPERATORS | operators_gradients.OPERATORS


def _decode(name: str, entry: Mapping[str, Any]) -> Operator:
    attributes = {
        key: Attribute(**_tuples(value)) for key, value in entry.get("attributes", {}).items()
    }
    return Operator(
        name=name,
        inputs=tuple(Formal(*formal) for formal in entry["inputs"]),
        outputs=tuple(Formal(*formal) for formal in entry["outputs"]),
        attributes=attributes,
        types={key: tuple(value) for key, value in entry.get("types", {}).items()},
        since=tuple(entry["since"]),
    )


def _tuples(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in spec.items()}
