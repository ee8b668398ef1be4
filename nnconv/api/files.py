"""Loading and saving models: any format in, any format out, chosen by the files themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnconv.converter import formats
from nnconv.schemas.errors import InputError, Report
from nnconv.schemas.files import STREAM
from nnconv.schemas.graph import Model
from nnconv.zoo import is_zoo_name

AnyPath = str | os.PathLike[str]


def load(
    path: AnyPath | Sequence[AnyPath],
    weights: AnyPath | None = None,
    *,
    phase: str | None = None,
    mean: AnyPath | Sequence[float] | None = None,
    scale: float | None = None,
    labels: AnyPath | Sequence[str] | None = None,
    strict: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    report: Report | None = None,
) -> Model:
    """Read a model from a file, from several files in any order, or from the zoo (`zoo:NAME`).

    `path` is a .nnir, .nnirtxt, .onnx, .yaml, .prototxt or .caffemodel (a caffemodel holds its net
    as well); `weights` names the file with the weights of a .prototxt or .yaml (.caffemodel, .npz,
    .pb, .safetensors). `shapes` gives inputs of a Caffe or ONNX net default sizes. `phase` ("test"
    or "train") selects Caffe's layers and becomes the model's mode. `mean` (a .binaryproto, or one
    number a channel, blue first), `scale` and `labels` (a text file with one name a line, or the
    names) are kept in the model; they say how a picture becomes its input and what its outputs are
    called. `strict` refuses what Caffe refuses. Warnings go to `report` when one is given.

    Raises InputError, with the line in the file, for what is wrong; UnsupportedError for a layer or
    a format that nnconv does not know.

    >>> import nnconv
    >>> nnconv.load("zoo:lenet").inputs
    [<Value data: float32 Nx1xHxW>]
    """
    options: dict[str, Any] = {
        "phase": _phase(phase), "mean": mean, "scale": scale, "labels": labels, "strict": strict,
        "shapes": shapes,
    }  # fmt: skip
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    if weights is not None:
        paths.append(weights)
    if not paths:
        raise InputError("no file given")
    if is_zoo_name(paths[0]):
        from nnconv.api import zoo  # brings http and ssl along

        return zoo.load(os.fspath(paths[0]), paths[1:], options, report)
    return formats.read(paths, report=report, **options)


def save(
    model: Model,
    path: AnyPath,
    weights: AnyPath | None = None,
    *,
    report: Report | None = None,
    **options: Any,
) -> None:
    """Write a model; the suffix decides the format, and nothing is left behind when writing fails.

    `.nnir` and `.nnirtxt` hold everything. `.prototxt` is a Caffe net; its weights go to `weights`,
    or beside it with the suffix .caffemodel. `.caffemodel` alone holds the net with its weights.
    `.onnx` takes the options `opset` and `external`; `.yaml` has its weights in an .npz beside it.
    `.npz`, `.pb` and `.safetensors` hold weights only. What a format leaves out, `report` says.

    Raises UnsupportedError for what the format cannot express, InputError where the folder is
    missing.

    >>> import nnconv, tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> nnconv.save(nnconv.load("zoo:lenet"), folder / "lenet.nnir")
    >>> nnconv.load(folder / "lenet.nnir").labels[:3]
    ('zero', 'one', 'two')
    """
    formats.writable(path)
    target = checked_target(path)
    second = None if weights is None else checked_target(weights)
    formats.write(model, target, second, report, **options)


def checked_target(path: AnyPath) -> Path:
    """The path of a file to be written, or `-`; raises InputError when its folder is missing."""
    target = Path(path)
    if os.fspath(path) == STREAM:
        return target
    if target.parent.exists() and not target.parent.is_dir():
        raise InputError(f"{target}: {target.parent} is a file, not a folder")
    if not target.parent.is_dir():
        hint = f"make it first: mkdir -p {target.parent}"
        raise InputError(f"{target}: there is no folder {target.parent}", hint=hint)
    if target.is_dir() or os.fspath(path).endswith(os.sep):
        raise InputError(f"{target}: this is a folder, a file name is needed")
    if target.is_symlink() and not (to := Path(os.path.realpath(target))).parent.is_dir():
        raise InputError(f"{target}: this is a link into {to.parent}, which is not there")
    return target


def _phase(phase: str | None) -> str | None:
    if phase is None:
        return None
    if phase.lower() not in ("test", "train"):
        raise InputError(f"phase is test or train, not '{phase}'")
    return phase.lower()
