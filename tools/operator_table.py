"""Generate nnconv/schemas/operators.json, the table of standard operators, from `onnx.defs`.

Run with onnx 1.23; `--check` exits 1 when the committed table is not what this would write.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import onnx
from onnx import defs, helper

OPSETS = {"": 28, "ai.onnx.ml": 5}
TARGET = Path(__file__).parent.parent / "nnconv" / "schemas" / "operators.json"


def main() -> int:
    text = render()
    if "--check" in sys.argv[1:]:
        current = TARGET.read_text(encoding="utf-8") == text
        print(f"{TARGET.name} is {'current' if current else 'stale: run tools/operator_table.py'}")
        return 0 if current else 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


def render() -> str:
    table = {}
    for (domain, name), versions in sorted(history().items()):
        newest = max((s for s in versions if s.since_version <= OPSETS[domain]), key=since)
        table[f"{domain}.{name}" if domain else name] = entry(newest, sorted(map(since, versions)))
    body = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in table.items())
    return f'{{"opset": {OPSETS[""]}, "operators": {{\n{body}\n}}}}\n'


def history() -> dict[tuple[str, str], list[defs.OpSchema]]:
    found = defaultdict(list)
    for schema in defs.get_all_schemas_with_history():
        if schema.domain in OPSETS:
            found[schema.domain, schema.name].append(schema)
    return found


def since(schema: defs.OpSchema) -> int:
    return int(schema.since_version)


def entry(schema: defs.OpSchema, versions: list[int]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "inputs": [formal(parameter) for parameter in schema.inputs],
        "outputs": [formal(parameter) for parameter in schema.outputs],
        "since": versions,
    }
    if schema.attributes:
        result["attributes"] = {
            name: attribute(spec) for name, spec in sorted(schema.attributes.items())
        }
    types = {c.type_param_str: sorted(c.allowed_type_strs) for c in schema.type_constraints}
    result["types"] = types
    if schema.deprecated:
        result["deprecated"] = True
    if schema.has_function or schema.has_context_dependent_function:
        result["function"] = True
    return result


def formal(parameter: Any) -> list[str]:
    return [parameter.name, parameter.option.name.lower(), parameter.type_str]


def attribute(spec: Any) -> dict[str, Any]:
    result: dict[str, Any] = {"type": spec.type.name.lower()}
    if spec.required:
        result["required"] = True
    if spec.default_value is not None and spec.default_value.type != onnx.AttributeProto.UNDEFINED:
        value = helper.get_attribute_value(spec.default_value)
        if isinstance(value, float):
            value = float(f"{value:.7g}")  # what the specification says, not its float32
        if isinstance(value, bytes):
            value = value.decode()
        if isinstance(value, list):
            value = [item.decode() if isinstance(item, bytes) else item for item in value]
        if isinstance(value, int | float | str | list):
            result["default"] = value
    return result


if __name__ == "__main__":
    sys.exit(main())
