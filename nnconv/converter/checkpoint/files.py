"""Checkpoints by file name: which module reads and writes which suffix."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from nnconv.converter.collecting import paused
from nnconv.schemas.checkpoint import Checkpoint
from nnconv.schemas.errors import UnsupportedError
from nnconv.schemas.files import AnyPath

_HERE = "nnconv.converter.checkpoint"
# suffix -> module, and the names of its two functions
SUFFIXES = {
    ".npz": (f"{_HERE}.npz", "npz"),
    ".pb": (f"{_HERE}.protobuf", "pb"),
    ".safetensors": (f"{_HERE}.safetensors", "safetensors"),
}


def read_checkpoint(path: AnyPath) -> Checkpoint:
    """The checkpoint in a .npz, .pb or .safetensors file; UnsupportedError for other suffixes."""
    read: Callable[[AnyPath], Checkpoint] = _function(path, "read")
    with paused():
        return read(path)


def write_checkpoint(checkpoint: Checkpoint, path: AnyPath) -> None:
    """Write a checkpoint in the format that the suffix says; whole or not at all."""
    write: Callable[[Checkpoint, AnyPath], None] = _function(path, "write")
    write(checkpoint, path)


def _function(path: AnyPath, verb: str) -> Callable[..., Any]:
    suffix = os.path.splitext(os.fspath(path))[1].lower()  # noqa: PTH122
    if suffix not in SUFFIXES:
        raise UnsupportedError(
            f"{os.fspath(path)}: this suffix is none of a checkpoint's",
            hint=f"checkpoints are {', '.join(SUFFIXES)}",
        )
    module, name = SUFFIXES[suffix]
    found: Callable[..., Any] = getattr(import_module(module), f"{verb}_{name}")
    return found
