"""The messages of onnx.proto in a private pool, and how each operator was called at each version.

Both come from files that tools/onnx_schema.py generates, so that neither reading nor writing
imports the onnx package (a quarter of a second), and no second onnx.proto enters protobuf's default
pool.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from nnconv.schemas.types import DType

ATTRIBUTE_KINDS = {
    1: "float", 2: "int", 3: "string", 4: "tensor", 5: "graph", 6: "floats", 7: "ints",
        8: "strings",
    9: "tensors", 10: "graphs", 11: "sparse_tensor", 12: "sparse_tensors", 13: "type_proto",
    14: "type_protos",
}  # fmt: skip
EXTERNAL = 1  # TensorProto.DataLocation
STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class Version:
    """How an operator was called from opset `since` on; `most` is -1 where there is no limit.

    `attributes` gives name -> (type, required, default); `types` the DTypes that each input takes.
    """

    since: int
    least_inputs: int
    most_inputs: int
    most_outputs: int
    attributes: Mapping[str, tuple[str, bool, Any]]
    types: tuple[frozenset[DType], ...]
    deprecated: bool = False

    def takes(self, index: int, dtype: DType) -> bool:
        """Whether the input at `index` may have this type."""
        if dtype is DType.UNDEFINED or not self.types:
            return True
        return dtype in self.types[min(index, len(self.types) - 1)]


def message(name: str) -> Any:
    """A new, empty message of onnx.proto, such as ModelProto."""
    return _classes()[name]()


@cache
def _classes() -> dict[str, Any]:
    from google.protobuf import descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_resource("onnx.desc"))
    file = pool.FindMessageTypeByName("onnx.ModelProto").file
    return {
        name: message_factory.GetMessageClass(found)
        for name, found in file.message_types_by_name.items()
    }


def versions(op: str) -> tuple[Version, ...]:
    """All versions of a standard operator, oldest first; empty for one that nobody defined."""
    found = _history()
    return _decoded(op) if op in found["operators"] else ()


@lru_cache(1024)
def version_at(op: str, opset: int) -> Version | None:
    """The version of `op` in force at `opset`."""
    return next((entry for entry in reversed(versions(op)) if entry.since <= opset), None)


def known_operators() -> Mapping[str, Any]:
    operators: Mapping[str, Any] = _history()["operators"]
    return operators


@cache
def _history() -> dict[str, Any]:
    history: dict[str, Any] = json.loads(_resource("history.json"))
    history["types"] = [_dtypes(names) for names in history["types"]]
    return history


@cache
def _decoded(op: str) -> tuple[Version, ...]:
    history = _history()
    return tuple(
        Version(
            since=entry["since"],
            least_inputs=entry["inputs"][0],
            most_inputs=entry["inputs"][1],
            most_outputs=entry["outputs"][1],
            attributes={name: _attribute(*spec) for name, spec in entry["attributes"].items()},
            types=tuple(history["types"][number] for number in entry["types"]),
            deprecated=entry.get("deprecated", False),
        )
        for entry in history["operators"][op]
    )


def _attribute(kind: str, required: int, default: Any = None) -> tuple[str, bool, Any]:
    return kind, bool(required), tuple(default) if isinstance(default, list) else default


def _dtypes(names: list[str]) -> frozenset[DType]:
    """The element types among names such as tensor(float) or seq(tensor(int64))."""
    inner = {name.replace("seq(", "").replace("optional(", "").strip(")") for name in names}
    return frozenset(_TYPES[name] for name in inner if name in _TYPES)


_TYPES = {f"tensor({dtype}": dtype for dtype in DType} | {
    "tensor(float": DType.FLOAT32,
    "tensor(double": DType.FLOAT64,
}


def _resource(name: str) -> bytes:
    return resources.files("nnconv.converter.onnx").joinpath(name).read_bytes()
