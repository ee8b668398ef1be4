"""Reads Caffe models: a net (prototxt, or a caffemodel that is its own net), weights, and what
belongs to it.

Nothing that a net names (data bases, mean files) is opened by itself: files are those that the
caller gives. The one exception is the matrix of an InfogainLoss, which lies in the net's folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnconv.converter.caffe import layers as _layers  # registers the rules
from nnconv.converter.caffe.net import NetBuilder, NetState
from nnconv.converter.caffe.prototxt import print_message
from nnconv.converter.caffe.source import (
    CAFFEMODEL,
    HDF5,
    HEAD,
    PROTOTXT,
    NetSource,
    identify,
    read_caffemodel,
    read_prototxt,
)
from nnconv.converter.caffe.weights import Weights
from nnconv.converter.describe import describe
from nnconv.schemas.errors import InputError, Report, SourceSpan, UnsupportedError
from nnconv.schemas.files import map_file
from nnconv.schemas.graph import Model, Preprocessing, Source

PathLike = str | os.PathLike[str]
NET_FIELDS = "caffe.net"
"""The metadata key of a net's own fields (force_backward, state, debug_info), as prototxt."""

assert _layers.READERS


def import_caffe(
    net: PathLike | bytes,
    weights: Sequence[PathLike] = (),
    *,
    phase: str = "test",
    mean: PathLike | Sequence[float] | None = None,
    scale: float | None = None,
    labels: PathLike | Sequence[str] | None = None,
    strict: bool = False,
    report: Report | None = None,
    level: int = 0,
    stages: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    partial: bool = False,
) -> Model:
    """The model of a Caffe net, with the weights of any number of files copied in order.

    `net` is a prototxt, or a caffemodel with both net and weights. `phase` ("test" or "train"),
    `level` and `stages` select layers by their rules. `mean` (a .binaryproto, or one number a
    channel), `scale` and `labels` (a file of lines, or names) describe the pictures. `strict` takes
    Caffe's verdicts on text and weights; otherwise unknown fields are kept with a warning, and
    layers that no weights file fills are an error unless `partial`. `shapes` gives the sizes of
    inputs that the net leaves open.

    Raises InputError or UnsupportedError with all problems found, MissingExtraError for HDF5
    without h5py.
    """
    report = report if report is not None else Report(_shown(net))
    source = _read_net(net, report, strict)
    given = Weights()
    for path in weights:
        _add_weights(given, path, report)
    settings = source.net.state
    state = NetState(phase.upper(), level, (*settings.stage, *stages))
    builder = NetBuilder(source, state, given, report, strict=strict, shapes=shapes)
    try:
        graph = builder.build()
    except RecursionError:
        raise UnsupportedError(f"{_shown(net)}: sizes depend on each other too deeply") from None
    _check_coverage(builder, given, report, strict or partial)
    model = Model(graph, name=source.net.name, mode=phase.lower())
    model.source = Source("caffe", source.dialect.name, tuple(map(_shown, (net, *weights))))
    _keep_net_fields(model, source)
    model.preprocessing = _preprocessing(builder, mean_given=mean is not None)
    describe(model, mean, scale, labels)
    return model


def import_files(files: Iterable[PathLike], **options: Any) -> Model:
    """The model of several files in any order, told apart by content: a net, weights, a mean
    picture.

    Without a prototxt the first caffemodel is the net. Options are those of import_caffe.
    """
    nets: list[PathLike] = []
    weights: list[PathLike] = []
    for path in files:
        if str(path).endswith(".binaryproto"):
            options.setdefault("mean", path)
        else:
            (nets if _kind(path) == PROTOTXT else weights).append(path)
    if len(nets) > 1:
        names = ", ".join(map(str, nets))
        raise InputError(
            f"{len(nets)} nets given: {names}", hint="give one prototxt and its weights"
        )
    if not nets:
        if not weights:
            raise InputError("no Caffe net given", hint="give a .prototxt, or a .caffemodel")
        nets, weights = weights[:1], weights[1:]
    return import_caffe(nets[0], weights, **options)


def _kind(path: PathLike | bytes) -> str:
    head = path[:HEAD] if isinstance(path, bytes) else bytes(map_file(path)[:HEAD])
    return identify(head)


def _shown(path: PathLike | bytes) -> str:
    return "net" if isinstance(path, bytes) else os.fspath(path)


def _read_net(net: PathLike | bytes, report: Report, strict: bool) -> NetSource:
    kind = _kind(net)
    if kind == HDF5:
        raise InputError(
            "HDF5 holds weights only, the net is missing",
            span=SourceSpan(_shown(net)),
            hint="give its prototxt too",
        )
    if kind == CAFFEMODEL:
        return read_caffemodel(net, report=report)
    return read_prototxt(net, report=report, strict=strict)


def _add_weights(given: Weights, path: PathLike, report: Report) -> None:
    """HDF5 is told by its signature, not by its name, as in Caffe."""
    if _kind(path) == HDF5:
        given.add_hdf5(Path(path))
        return
    if not map_file(path):
        report.warning("an empty file: no weights in it", SourceSpan(os.fspath(path)))
        given.files.append(os.fspath(path))
        return
    given.add_net(read_caffemodel(path, report=report))


def _check_coverage(builder: NetBuilder, given: Weights, report: Report, lenient: bool) -> None:
    """Say what the weights files have that the net has not, and the other way round."""
    if not given.files:
        return
    names = {layer.name for layer in builder.graph.layers}
    for name, offers in given.offers.items():
        if name not in names and any(offer.blobs for offer in offers):
            report.note(
                f"{offers[0].file}: the net has no layer '{name}', its weights are not used",
                rule="unused",
            )
    missing = [name for name, found in builder.matched if not found]
    if not missing:
        return
    text = (
        f"{len(missing)} of {len(builder.matched)} layers with parameters have no weights in "
        f"{', '.join(given.files)}: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}"
    )
    if lenient:
        report.warning(f"{text}; they start from their fillers", SourceSpan(builder.source.file))
        return
    report.error(
        text,
        SourceSpan(builder.source.file),
        hint="weights of another net? partial=True leaves such layers to their fillers",
    )
    report.raise_if_errors()


def _keep_net_fields(model: Model, source: NetSource) -> None:
    fields = type(source.net)()
    fields.CopyFrom(source.net)
    for name in ("layer", "name"):
        fields.ClearField(name)
    if text := print_message(fields):
        model.metadata[NET_FIELDS] = text


def _preprocessing(builder: NetBuilder, mean_given: bool) -> dict[str, Preprocessing]:
    """What the data layers say."""
    for name, path in builder.mean_files.items():
        if not mean_given:
            builder.report.note(
                f"input '{name}': the mean file {path} is not opened", hint=f"mean='{path}' uses it"
            )
    return {name: p for name, p in builder.preprocessing.items() if not p.is_default}
