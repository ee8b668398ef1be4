"""A Caffe net as the net builder gets it: present-day layers, their blobs, and where it all stood.

Text and binary, old and new files come out alike. A file of another kind is refused by one error
that says what it is, since mixing up the two files of a Caffe model is the commonest mistake.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from nnconv.converter.caffe import schema, upgrade_v0
from nnconv.converter.caffe.blob import Blob, BlobError, blob_from_message
from nnconv.converter.caffe.schema import Dialect
from nnconv.converter.caffe.text import Parsed, Unknown, parse
from nnconv.converter.caffe.upgrade import V1_PARAM, Upgraded, upgrade_net
from nnconv.converter.caffe.values import readable_name
from nnconv.converter.caffe.wire import WireNet, read_net
from nnconv.schemas.errors import InputError, Report, SourceSpan
from nnconv.schemas.files import map_file

HEAD = 4096
PROTOTXT = "a prototxt (text)"
CAFFEMODEL = "a caffemodel (binary)"
HDF5 = "an HDF5 file"
ONNX = "an ONNX model"

SIGNATURES = {
    b"\x89HDF\r\n\x1a\n": HDF5,
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x93NUMPY": "a numpy array",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
    b"<!DOCTYPE": "a web page: the download went wrong",
    b"<html": "a web page: the download went wrong",
}
HINTS = {
    (PROTOTXT, CAFFEMODEL): "this is the net's definition; the weights are in its .caffemodel",
    (CAFFEMODEL, PROTOTXT): "these are the weights; the net's definition is in its .prototxt",
    (HDF5, CAFFEMODEL): "weights in HDF5 are read as such: name the file .caffemodel.h5",
    (HDF5, PROTOTXT): "this may be the weights; the net's definition is in its .prototxt",
}

# ModelProto starts with ir_version (a small number) and goes on with another low field; a Caffe
# net cannot start so, because its field 1 is a string.
_onnx = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]").match
_caffemodel = re.compile(rb"\x0a|\x12|\xa2\x06").match
_comments = re.compile(rb"(?:\xef\xbb\xbf)?+\s*+(?:#[^\n]*+(?:\n\s*+|\Z))*+").match
_field = re.compile(rb"[A-Za-z_]\w*\s*(?:#[^\n]*\n\s*)*[:{<]|[A-Za-z_]\w*\s*\Z|\Z").match
_control = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]").search


def looks_like_prototxt(head: bytes) -> bool:
    """True if a file starting with `head` is protobuf text: comments, then `name:` or `name {`."""
    start = _comments(head).end()  # type: ignore[union-attr]
    return _field(head, start) is not None and not _control(head[start:])


def identify(head: bytes) -> str:
    """What a file that starts with `head` is, in words; "" if nobody knows."""
    for signature, kind in SIGNATURES.items():
        if head.startswith(signature):
            return kind
    if looks_like_prototxt(head):
        return PROTOTXT
    if _onnx(head):
        return ONNX
    return CAFFEMODEL if _caffemodel(head) and _control(head) else ""


def _refuse_others(head: bytes, wanted: str, file: str) -> None:
    """InputError if the file is evidently of another kind than `wanted`."""
    kind = identify(head)
    if not head or kind == wanted:
        return  # an empty file is an empty net of either kind, in Caffe too
    if not kind and (wanted == CAFFEMODEL or not _control(head)):
        return  # the reader's own error, with its position, says more
    hint = HINTS.get((kind, wanted), "")
    message = f"this is {kind or 'a binary file of unknown kind'}, not {wanted}"
    raise InputError(message, span=SourceSpan(file), hint=hint)


@dataclass(slots=True)
class NetSource:
    """An upgraded net: `net` has V2 `layer`s without blobs; indices are those of `net.layer`."""

    net: Any
    dialect: Dialect
    file: str
    unknown: Sequence[Unknown] = ()
    _origin: list[tuple[str, int] | None] = field(default_factory=list)
    _blobs: list[list[Blob]] = field(default_factory=list)
    _parsed: Parsed | None = None

    def span(self, layer_index: int, *field_path: str | int) -> SourceSpan:
        """Where a field of a layer stands in the file, or what is nearest around it."""
        name = readable_name(self.net.layer[layer_index].name)
        origin = self._origin[layer_index]
        if self._parsed is None:
            return SourceSpan(self.file, layer=name)
        if origin is None:
            found = self._parsed.span("input", 0)
        else:
            found = self._parsed.span(*origin, *self._old_path(origin, field_path))
        return SourceSpan(found.file, found.line, found.column, name, found.excerpt)

    def blobs(self, layer_index: int) -> list[Blob]:
        """The blobs given with a layer, in order; often none."""
        return self._blobs[layer_index]

    def _old_path(
        self, origin: tuple[str, int], path: tuple[str | int, ...]
    ) -> tuple[str | int, ...]:
        """What a present-day field path was called in the source message at `origin`."""
        if origin[0] == "layer" or not path or self._parsed is None:
            return path
        entry: Any = getattr(self._parsed.message, origin[0])[origin[1]]
        if entry.HasField("layer"):
            names = [item for item in path if isinstance(item, str)]
            return path if names[0] in ("bottom", "top") else ("layer", _v0_name(names))
        if path[0] == "param" and len(path) > 2:
            return (_V1_NAMES.get(str(path[2]), "param"), path[1])
        return path


_V1_NAMES = {new: old for old, new in V1_PARAM.items()}
_V0_BY_NAME = {
    **{new: old for old, (new, _) in upgrade_v0.TYPED.items()},
    **{new: old for old, new in upgrade_v0.TRANSFORM.items()},
    "lr_mult": "blobs_lr",
    "decay_mult": "weight_decay",
}


def _v0_name(names: list[str]) -> str:
    return _V0_BY_NAME.get(names[-1], names[-1])


def read_prototxt(
    source: str | os.PathLike[str] | bytes,
    *,
    report: Report,
    strict: bool = False,
    file: str = "",
    dialect: Dialect | None = None,
) -> NetSource:
    """The net in a prototxt (a path, or its bytes), upgraded, with any blobs written in it.

    Raises InputError if it is no prototxt, is wrong, or is of a kind that Caffe refuses to upgrade.
    """
    if not isinstance(source, bytes):
        file = file or os.fspath(source)
        source = bytes(map_file(source))
    _refuse_others(source[:HEAD], PROTOTXT, file)
    try:
        parsed = parse(
            source, "NetParameter", file=file, strict=strict, dialect=dialect, report=report
        )
    except InputError:
        _refuse_solver(source, file)
        raise
    if not parsed.message.ListFields() and parsed.unknown:
        _refuse_solver(source, file)
    upgraded = _upgraded(parsed.message, parsed.dialect, report, file, parsed)
    net = NetSource(
        upgraded.message, parsed.dialect, file, parsed.unknown, upgraded.origin, [], parsed
    )
    net._blobs = _take_blobs(net, report)
    return net


def _refuse_solver(source: bytes, file: str) -> None:
    """InputError if what was given for a net is a solver, as its first fields tell."""
    fields = schema.dialect().descriptor("SolverParameter").fields_by_name
    nets = schema.dialect().descriptor("NetParameter").fields_by_name
    names = re.findall(rb"^[ \t]*([A-Za-z_]\w*)[ \t]*[:{]", source[:HEAD], re.MULTILINE)
    known = [name.decode() for name in names]
    if known and all(name in fields and name not in nets for name in known[:3]):
        hint = "a solver names its net in the field net or train_net: give that file"
        raise InputError("this is a solver, not a net", span=SourceSpan(file), hint=hint)


def _upgraded(
    message: Message, dialect: Dialect, report: Report, file: str, parsed: Parsed | None
) -> Upgraded:
    upgraded = upgrade_net(message, dialect, parsed.span if parsed else None)
    for complaint in upgraded.complaints:
        hint = "Caffe drops it too when it upgrades this net"
        report.warning(f"old net: {complaint}", SourceSpan(file), hint)
    return upgraded


def _take_blobs(net: NetSource, report: Report) -> list[list[Blob]]:
    """Moves the blobs written in a prototxt out of the message, reporting all that are wrong."""
    errors = Report(net.file)
    result: list[list[Blob]] = []
    for index, layer in enumerate(net.net.layer):
        blobs: list[Blob] = []
        for position, message in enumerate(layer.blobs):
            try:
                blobs.append(blob_from_message(message))
            except BlobError as error:
                text = f"layer {layer.name or index!r}: blob {position} {error}"
                errors.error(text, net.span(index, "blobs", position))
        layer.ClearField("blobs")
        result.append(blobs)
    report.problems.extend(errors)
    errors.raise_if_errors()
    return result


def read_caffemodel(
    source: str | os.PathLike[str] | bytes,
    *,
    report: Report,
    file: str = "",
    dialect: Dialect | None = None,
) -> NetSource:
    """The net in a caffemodel (a path, or its bytes), upgraded; blobs are views of the mapped file.

    Raises InputError if it is missing, no caffemodel, cut short, or has blobs of wrong size.
    """
    data = memoryview(source) if isinstance(source, bytes) else map_file(source)
    if not isinstance(source, bytes):
        file = file or os.fspath(source)
    _refuse_others(bytes(data[:HEAD]), CAFFEMODEL, file)
    wire: WireNet = read_net(data, report=report, file=file, dialect=dialect)
    upgraded = _upgraded(wire.message, wire.dialect, report, file, None)
    blobs = [wire.blobs_of(origin) for origin in upgraded.origin]
    return NetSource(upgraded.message, wire.dialect, file, (), upgraded.origin, blobs)
