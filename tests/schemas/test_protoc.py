"""Google's own `protoc` reads what we write: a .nnir file is an ordinary protobuf message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from google.protobuf import text_format

import nnconv
from nnconv.schemas import ir_pb2

SCHEMA = "nnconv/schemas/ir.proto"


def test_protoc_decodes_a_nnir_file_to_the_same_message(
    tmp_path: Path, lenet: Path, repository: Path
) -> None:
    target = tmp_path / "lenet.nnir"
    nnconv.save(nnconv.load(lenet / "lenet.prototxt", lenet / "lenet.caffemodel"), target)
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", "--decode=nnconv.ir.Model"]
    decoded = subprocess.run(
        [*command, SCHEMA],
        input=target.read_bytes(),
        capture_output=True,
        check=True,
        cwd=repository,
    )
    message = text_format.Parse(decoded.stdout, ir_pb2.Model())
    assert message == ir_pb2.Model.FromString(target.read_bytes())
    assert message.graph.name == "LeNet"
    assert len(message.weights) >= 431_080 * 4 - 4 * 1024  # the small tensors sit inline
