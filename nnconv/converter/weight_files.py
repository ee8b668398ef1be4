"""Any file that holds weights, as a checkpoint: checkpoints themselves, a caffemodel, or the
weights of a whole model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from nnconv.converter.checkpoint.files import read_checkpoint
from nnconv.schemas.checkpoint import Checkpoint, Header, Lazy
from nnconv.schemas.errors import Report
from nnconv.schemas.files import AnyPath, map_file
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Model
    from nnconv.schemas.types import Array


def read_pb(path: AnyPath) -> Checkpoint:
    """A `.pb` or `.state` file: our checkpoint, or the state of a nevermind-neu model."""
    from nnconv.converter.checkpoint.protobuf import MAGIC
    from nnconv.converter.checkpoint.protobuf import read_pb as read_own
    from nnconv.converter.nevermind.state import read_state

    ours = bytes(map_file(path)[: len(MAGIC)]) == MAGIC
    return read_own(path) if ours else read_state(path)


def read_table(path: AnyPath) -> Checkpoint:
    """A `.npz` or `.safetensors` file."""
    return read_checkpoint(path)


def read_caffemodel(path: AnyPath) -> Checkpoint:
    """The blobs of a caffemodel, called LAYER/INDEX as the net's parameters are."""
    from nnconv.converter.caffe.source import read_caffemodel as read_source

    source = read_source(path, report=Report(os.fspath(path)))
    arrays = Lazy()
    for index, layer in enumerate(source.net.layer):
        for place, blob in enumerate(source.blobs(index)):
            name = f"{layer.name}/{place}"
            if name not in arrays.headers:
                kind = Header(DType.of(blob.array.dtype), tuple(blob.shape))
                arrays.add(name, kind, _loader(blob))
    return Checkpoint(arrays, padded=True)


def _loader(blob: Any) -> Any:
    def load() -> Array:
        made: Array = blob.array.reshape(blob.shape)
        return made

    return load


def attach(model: Model, checkpoint: Checkpoint, path: AnyPath) -> None:
    """Fill a model from the weights file given with it: all that the model has must be there.

    Raises MismatchError for parameters without an array or of another shape.
    """
    from nnconv.converter.weights import load_weights
    from nnconv.schemas.errors import MismatchError, Problem, SourceSpan

    layers = checkpoint.metadata.get("nevermind.layers")
    if layers is not None and model.source.format == "nevermind":
        from nnconv.converter.nevermind.reader import check_complete

        check_complete(model, layers, os.fspath(path))
    loaded = load_weights(model, checkpoint)
    span = SourceSpan(os.fspath(path))
    wrong = [p for p in loaded.problems() if p.rule != "unexpected"]
    if wrong:
        raise MismatchError([Problem(p.message, span, p.hint, rule=p.rule) for p in wrong])
