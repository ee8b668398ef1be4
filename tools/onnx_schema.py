"""Generate what nnconv/converter/onnx needs to know of the onnx package, so that it need not import
it.

onnx.desc is the description of onnx.proto, with one field more: `TensorProto.payload`, where the
reader notes which span of the mapped file holds the elements. history.json tells how every operator
was called at every version. Run with onnx 1.23; `--check` exits 1 when the committed files are not
what this would write.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import onnx
from google.protobuf import descriptor_pb2
from onnx import defs, helper

FOLDER = Path(__file__).parent.parent / "nnconv" / "converter" / "onnx"
DOMAINS = {"": 28, "ai.onnx.ml": 5}
PAYLOAD = 1000
NO_MAXIMUM = 2**31 - 1


def main() -> int:
    files = {"onnx.desc": description(), "history.json": history().encode()}
    if "--check" in sys.argv[1:]:
        stale = [name for name, data in files.items() if (FOLDER / name).read_bytes() != data]
        print(
            f"stale: {', '.join(stale)}; run tools/onnx_schema.py" if stale else "both are current"
        )
        return 1 if stale else 0
    for name, data in files.items():
        (FOLDER / name).write_bytes(data)
    return 0


def description() -> bytes:
    file = descriptor_pb2.FileDescriptorProto()
    onnx.ModelProto.DESCRIPTOR.file.CopyToProto(file)
    tensor = next(message for message in file.message_type if message.name == "TensorProto")
    tensor.ClearField("reserved_range")
    tensor.field.add(
        name="payload",
        number=PAYLOAD,
        label=1,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
    )
    _verify_text(file)
    return file.SerializeToString(deterministic=True)


def _verify_text(file: descriptor_pb2.FileDescriptorProto) -> None:
    """Say the same as an edition, because proto2 lets names through that are no UTF-8."""
    file.syntax, file.edition = "editions", descriptor_pb2.EDITION_2023
    encoding = descriptor_pb2.FeatureSet.RepeatedFieldEncoding
    file.options.features.repeated_field_encoding = encoding.EXPANDED
    waiting = list(file.message_type)
    while waiting:
        message = waiting.pop()
        waiting += message.nested_type
        for field in message.field:
            if field.options.packed:
                field.options.ClearField("packed")
                field.options.features.repeated_field_encoding = encoding.PACKED


def history() -> str:
    """Per operator its versions; sets of types are numbered, because few differ."""
    sets: dict[tuple[str, ...], int] = {}
    found = defaultdict(list)
    for schema in defs.get_all_schemas_with_history():
        if schema.domain in DOMAINS:
            found[f"{schema.domain}.{schema.name}".lstrip(".")].append(schema)
    rows = [
        f"{json.dumps(name)}: {json.dumps([version(s, sets) for s in sorted(schemas, key=since)])}"
        for name, schemas in sorted(found.items())
    ]
    types = json.dumps([list(names) for names in sets])
    return '{"types": ' + types + ',\n"operators": {\n' + ",\n".join(rows) + "\n}}\n"


def since(schema: defs.OpSchema) -> int:
    return int(schema.since_version)


def version(schema: defs.OpSchema, sets: dict[tuple[str, ...], int]) -> dict[str, Any]:
    allowed = {
        c.type_param_str: tuple(sorted(c.allowed_type_strs)) for c in schema.type_constraints
    }
    entry: dict[str, Any] = {
        "since": since(schema),
        "inputs": [schema.min_input, -1 if schema.max_input == NO_MAXIMUM else schema.max_input],
        "outputs": [
            schema.min_output,
            -1 if schema.max_output == NO_MAXIMUM else schema.max_output,
        ],
        "types": [
            sets.setdefault(allowed.get(formal.type_str, (formal.type_str,)), len(sets))
            for formal in schema.inputs
        ],
        "attributes": {name: attribute(spec) for name, spec in sorted(schema.attributes.items())},
    }
    if schema.deprecated:
        entry["deprecated"] = True
    return entry


def attribute(spec: Any) -> list[Any]:
    """[type, required, default], the default left out where there is none."""
    result: list[Any] = [spec.type.name.lower(), int(spec.required)]
    if spec.default_value is not None and spec.default_value.type != onnx.AttributeProto.UNDEFINED:
        value = helper.get_attribute_value(spec.default_value)
        if isinstance(value, list):
            value = [item.decode() if isinstance(item, bytes) else item for item in value]
        if isinstance(value, bytes):
            value = value.decode()
        if isinstance(value, float):
            value = float(f"{value:.7g}")
        if isinstance(value, int | float | str | list):
            result.append(value)
    return result


if __name__ == "__main__":
    sys.exit(main())
