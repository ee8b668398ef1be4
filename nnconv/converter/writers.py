"""The writers of all formats with one signature: model, target, file of weights, report, options.

A format that cannot hold all of a model says in the report what it leaves out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnconv.schemas.errors import InputError, Report
from nnconv.schemas.graph import Model


def write_nnir(
    model: Model, target: Path, weights: Path | None, report: Report, **options: Any
) -> None:
    from nnconv.schemas.container import save

    if weights is not None:
        raise InputError(f"{target}: a .nnir holds its weights, no second file is written")
    save(model, target)


def write_prototxt(
    model: Model, target: Path, weights: Path | None, report: Report, **options: Any
) -> None:
    from nnconv.converter.caffe.writer import export_caffe

    export_caffe(model, target, weights or target.with_suffix(".caffemodel"), report=report)


def write_caffemodel(
    model: Model, target: Path, weights: Path | None, report: Report, **options: Any
) -> None:
    from nnconv.converter.caffe.writer import export_caffe

    export_caffe(model, None, target, report=report)


def write_onnx(
    model: Model, target: Path, weights: Path | None, report: Report, **options: Any
) -> None:
    from nnconv.converter.onnx.writer import export_onnx

    if weights is not None:
        raise InputError(
            f"{target}: an .onnx holds its weights", hint="--external puts them beside"
        )
    report.problems += export_onnx(model, target, **options).problems


def write_yaml(
    model: Model, target: Path, weights: Path | None, report: Report, **options: Any
) -> None:
    from nnconv.converter.yaml.writer import export_yaml

    export_yaml(model, target, weights, report=report)


def write_weights(
    model: Model, target: Path, weights: Path | None, report: Report, **options: Any
) -> None:
    """Parameters and state only, as .npz, .pb or .safetensors."""
    from nnconv.converter.checkpoint.files import write_checkpoint
    from nnconv.schemas.checkpoint import Checkpoint

    write_checkpoint(_checkpoint(Checkpoint.of(model), model, target, report), target)


def write_state(
    model: Model, target: Path, weights: Path | None, report: Report, **options: Any
) -> None:
    """The weights of a nevermind-neu model."""
    from nnconv.converter.nevermind.state import write_state as write
    from nnconv.schemas.checkpoint import Checkpoint

    write(_checkpoint(Checkpoint.of(model), model, target, report), target)


def _checkpoint(checkpoint: Any, model: Model, target: Path, report: Report) -> Any:
    missing = [name for name, value in model.parameters.items() if value.data is None]
    if missing:
        raise InputError(
            f"{len(missing)} parameters have no weights yet, '{missing[0]}' among them",
            hint="give the file with the weights too",
        )
    report.note(f"{target.suffix} holds weights only: the net itself is not written")
    return checkpoint
