"""The binary reader and writer, against protobuf's own reading of the same files."""

from __future__ import annotations

import io
import json
import math
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet

from nnconv.converter.caffe import schema
from nnconv.converter.caffe.blob import Blob, BlobError
from nnconv.converter.caffe.source import (
    looks_like_prototxt,
    read_caffemodel,
    read_prototxt,
)
from nnconv.converter.caffe.wire import WireNet, read_blob_file, read_net, write_net
from nnconv.converter.wire_format import length_delimited, varint
from nnconv.schemas.errors import InputError, Report
from tests.places import shared

MODELS = sorted(shared("models", "caffe").glob("*/*.caffemodel"))
SMALL = sorted(shared("golden").glob("*/**/*.caffemodel"))
ERRORS = shared("golden", "errors")
REFUSED = ("weights_data_count", "weights_truncated", "h5_without_suffix_ok", "_refused")
READABLE = [path for path in [*MODELS, *SMALL] if not any(word in path.name for word in REFUSED)]


def read(source: Any, **options: Any) -> WireNet:
    return read_net(source, report=options.pop("report", Report()), **options)


def refusal(source: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_caffemodel(source, report=Report())
    return str(caught.value)


def blob_bytes(*parts: bytes, name: bytes = b"fc") -> bytes:
    """A net of one layer with one blob."""
    blob = length_delimited(7, b"".join(parts))
    return length_delimited(100, length_delimited(1, name) + blob)


def shape(*dims: int) -> bytes:
    return length_delimited(7, length_delimited(1, b"".join(map(varint, dims))))


def floats(*values: float) -> bytes:
    return length_delimited(5, struct.pack(f"<{len(values)}f", *values))


def only_blob(source: bytes) -> Blob:
    return read(source).blobs_of(("layer", 0))[0]


def elements(message: Any) -> np.ndarray[Any, Any]:
    """What protobuf reads of a BlobProto."""
    names = message.DESCRIPTOR.fields_by_name
    if "raw_data" in names and message.HasField("raw_data"):
        return np.frombuffer(message.raw_data, ("<f8", "<f4", "<f2")[message.raw_data_type])
    return np.array(message.double_data or message.data)


@pytest.mark.parametrize("path", READABLE, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_blobs_and_settings_are_those_protobuf_reads(path: Path) -> None:
    net = read(path)
    whole: Any = net.dialect.new("NetParameter")
    whole.ParseFromString(path.read_bytes())
    for name in ("layer", "layers"):
        for i, layer in enumerate(getattr(whole, name)):
            holder = layer.layer if name == "layers" and layer.HasField("layer") else layer
            for expected, got in zip(holder.blobs, net.blobs_of((name, i)), strict=True):
                assert np.array_equal(elements(expected), got.array.reshape(-1))
                dims = (expected.num, expected.channels, expected.height, expected.width)
                assert got.shape == (dims if got.legacy else tuple(expected.shape.dim))
            holder.ClearField("blobs")
    assert net.message.SerializeToString() == whole.SerializeToString()


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parent.name)
def test_shapes_and_sums_are_the_recorded_ones(path: Path) -> None:
    recorded = json.loads((path.parent / "weights_blobs.json").read_text())["layers"]
    net = read(path)
    names = {
        (kind, i): layer.name
        for kind in ("layer", "layers")
        for i, layer in enumerate(getattr(net.message, kind))
    }
    got = {names[place]: blobs for place, blobs in net.blobs.items()}
    assert got.keys() == recorded.keys()
    for name, rows in recorded.items():
        for (dims, total, low, high, first, last), blob in zip(rows, got[name], strict=True):
            flat = blob.array.reshape(-1).astype(np.float64)
            assert list(blob.shape) == dims
            assert flat.sum() == pytest.approx(total, rel=1e-9, abs=1e-9)
            assert [flat.min(), flat.max(), flat[0], flat[-1]] == [low, high, first, last]


OLD = ("bin_v0", "bin_v1", "weights_v1", "cifar10_")
ROUND_TRIP = [path for path in READABLE if not path.name.startswith(OLD)]


@pytest.mark.parametrize("path", ROUND_TRIP, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_is_read_and_written_is_read_the_same(path: Path) -> None:
    net = read(path)
    layers: Any = net.message.layer  # type: ignore[attr-defined]
    blobs = [net.blobs_of(("layer", i)) for i in range(len(layers))]
    out = io.BytesIO()
    write_net(out, net.message, blobs)
    again = read(out.getvalue(), dialect=net.dialect)
    assert again.message == net.message
    for i, given in enumerate(blobs):
        for a, b in zip(given, again.blobs_of(("layer", i)), strict=True):
            assert (a.shape, a.legacy) == (b.shape, b.legacy)
            assert a.array.dtype == b.array.dtype
            assert a.array.tobytes() == b.array.tobytes()


@pytest.mark.parametrize(
    "name", ["kaffe_mlp", "mtcnn_onet", "tusimple_lane_seg", "wechat_qr_detect"]
)
def test_files_of_real_caffe_are_written_back_byte_for_byte(name: str) -> None:
    path = next(shared("models", "caffe", name).glob("*.caffemodel"))
    net = read(path)
    layers: Any = net.message.layer  # type: ignore[attr-defined]
    out = io.BytesIO()
    write_net(out, net.message, [net.blobs_of(("layer", i)) for i in range(len(layers))])
    assert out.getvalue() == path.read_bytes()


UNPACKED = b"".join(b"\x2d" + struct.pack("<f", v) for v in range(6))
DOUBLES = length_delimited(8, struct.pack("<2d", 1, 2))


@pytest.mark.parametrize(
    ("parts", "values"),
    [
        ((shape(2, 3), floats(0, 1, 2, 3, 4, 5)), range(6)),
        ((UNPACKED, shape(2, 3)), range(6)),
        ((shape(6), UNPACKED[:15], floats(3, 4), UNPACKED[25:]), range(6)),
        ((shape(6), floats(0, 1), floats(), floats(2, 3, 4, 5)), range(6)),
        ((shape(2), b"\x2d\0\0\0\0", b"\x35\0\0\0\0", b"\x2d\0\0\x80\x3f"), [0, 1]),
        ((shape(1000), b"".join(b"\x2d" + struct.pack("<f", v) for v in range(1000))), range(1000)),
        ((shape(2), floats(7, 7), DOUBLES), [1, 2]),
        ((shape(2), b"\x41" + struct.pack("<d", 1) + b"\x41" + struct.pack("<d", 2)), [1, 2]),
        ((b"\x3a\x04\x08\x02\x08\x01", floats(1, 2)), [1, 2]),
        ((floats(5),), [5]),
        ((length_delimited(7, b"\x15\0\0\0\0\x08\x01"), b"\x28\x07", floats(6)), [6]),
        ((shape(0, 3),), []),
        ((varint(10 << 3) + b"\x02", length_delimited(12, b"\0\x3c\0\x40"), shape(2)), [1, 2]),
        ((length_delimited(12, struct.pack("<d", 4)),), [4]),
        ((b"\x18\x01\x20\x02\x08\x01\x10\x01", shape(9), floats(8, 9)), [8, 9]),
        (
            (
                b"\xf8\x06\x01",
                b"\xfb\x06\x08\x01\x0b\x12\x01x\x0c\x1d\0\0\0\0\x21" + b"\0" * 8 + b"\xfc\x06",
                shape(1),
                floats(3),
            ),
            [3],
        ),
    ],
)
def test_every_way_to_store_elements_is_read(parts: tuple[bytes, ...], values: Any) -> None:
    blob = only_blob(blob_bytes(*parts))
    assert blob.array.reshape(-1).tolist() == list(values)
    assert blob.array.shape == blob.shape


def test_unpacked_floats_are_a_view_with_steps_of_five_bytes() -> None:
    blob = only_blob(blob_bytes(UNPACKED, shape(6)))
    assert blob.array.strides == (5,) and not blob.array.flags.owndata


def test_legacy_sizes_that_are_absent_count_as_zero() -> None:
    assert only_blob(blob_bytes(b"\x18\x05")).shape == (0, 0, 5, 0)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((shape(2, 3), floats(1, 2)), "2x3 = 6 elements, but 2 are stored"),
        ((shape(2**60), floats(1)), "but 1 are stored"),
        ((shape(2**31, 2**31, 2**31),), "but 0 are stored"),
        ((shape(*[1] * 33), floats(1)), "33 axes, Caffe allows 32"),
        ((shape(*[1] * 100), floats(1)), "more than 64 axes"),
        ((b"\x3a\x0b\x08" + b"\xff" * 9 + b"\x01", floats(1)), "negative size"),
        ((length_delimited(5, b"12345"),), "5 bytes are no whole number of elements"),
        ((varint(80) + b"\x07", length_delimited(12, b"12345")), "unknown raw_data_type 7"),
        ((varint(80) + b"\x01", length_delimited(12, b"12345")), "no multiple of 4"),
        ((floats(1) * 70_000,), "scattered over more than"),
        ((b"\x2d\0\0",), "are left"),
        ((b"\x0f",), "invalid wire type 7"),
        ((b"\x00\x00",), "no field has the number 0"),
        ((b"\xff" * 12,), "longer than ten bytes"),
        ((b"\x0b" * 100,), "nested more than 64"),
        ((b"\x0b\x0f",), "invalid wire type 7 in a group"),
        ((shape(2), floats(1), b"\x0f"), "invalid wire type 7"),
        ((b"\x0b\x08",), "ends within a number"),
    ],
)
def test_a_wrong_blob_is_refused_by_layer_and_place(parts: tuple[bytes, ...], words: str) -> None:
    message = refusal(blob_bytes(*parts))
    assert words in message and "layer 'fc'" in message and "byte " in message


def test_hostile_sizes_allocate_nothing() -> None:
    sources = [
        blob_bytes(shape(2**60)),
        blob_bytes(b"\x2a" + varint(2**60)),
        b"\xa2\x06" + varint(2**62),
    ]
    tracemalloc.start()
    for source in sources:
        refusal(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_layer_broken_before_its_name_is_called_by_its_number() -> None:
    assert "layer 0: field 1 has the invalid wire type 7" in refusal(length_delimited(100, b"\x0f"))


def test_all_wrong_blobs_come_in_one_error() -> None:
    twice = length_delimited(7, shape(2)) * 2
    assert refusal(length_delimited(100, twice)).count("layer 0: blob") == 2
    source = blob_bytes(shape(2), name=b"a") + blob_bytes(shape(3), name=b"") + blob_bytes(shape(0))
    message = refusal(source)
    assert "layer 'a': blob 0" in message and "layer 1: blob 0" in message
    assert "more" not in message and message.count("blob 0") == 2
    assert refusal(blob_bytes(shape(2)) * 300).count("blob 0") == 100


def test_a_truncated_file_is_one_clear_error_wherever_it_ends() -> None:
    path = ERRORS / "weights_truncated.caffemodel"
    assert "the file is cut short after 1 layers" in refusal(path)
    whole = (ERRORS / "weights_exact_ok.caffemodel").read_bytes()
    taken = [at for at in range(1, len(whole)) if not _refused(whole[:at])]
    assert len(taken) <= 2  # where a whole field ends, nothing shows the cut


def _refused(source: bytes) -> bool:
    try:
        read(source)
    except InputError as error:
        assert len(error.problems) == 1
        return True
    return False


def test_fields_that_no_schema_fits_are_left_out_with_a_warning() -> None:
    bad = length_delimited(106, b"\x0f")  # convolution_param that is no message
    source = blob_bytes(shape(1), floats(4))[3:] + bad
    report = Report()
    net = read(length_delimited(1, b"net") + length_delimited(100, source), report=report)
    assert net.message.layer[0].name == "fc"  # type: ignore[attr-defined]
    assert net.blobs_of(("layer", 0))[0].array.tolist() == [4]
    assert "convolution_param of layer 'fc' does not fit" in str(report)


def test_a_layer_stored_as_a_group_is_left_out_with_a_warning() -> None:
    report = Report()
    group = b"\xa3\x06\x10\x0a\x01c\x12\x0bConvolution"  # found by fuzzing: seed 1019, number 2268
    assert "not a caffemodel" in refusal(group)
    net = read(length_delimited(1, b"net") + group, report=report)
    assert net.message.name == "net" and "field layer does not fit" in str(report)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "dialect"),
    [
        ("wechat_qr_detect", "ssd"),
        ("lpr_finemapping_fp16", "nvidia-0.16"),
        ("yufacedetect_v1", "nvidia-0.17"),
        ("tusimple_lane_seg", "mobilenet-yolo"),
        ("mtcnn_onet", "bvlc"),
    ],
)
def test_the_dialect_that_explains_most_is_found(model: str, dialect: str) -> None:
    report = Report()
    path = next(shared("models", "caffe", model).glob("*.caffemodel"))
    assert read(path, report=report).dialect.name == dialect
    assert ("unknown to" in str(report)) == (model == "mtcnn_onet")


def test_a_field_that_the_dialect_does_not_know_is_placed_and_kept() -> None:
    report = Report()
    path = shared("models", "caffe", "mtcnn_onet", "det3.caffemodel")
    message: Any = read(path, report=report).message
    (warning,) = [problem for problem in report if problem.rule == "unknown-field"]
    assert warning.message.startswith(
        "kept unread, unknown to 'bvlc': field 4 of LossParameter "
        "(2 times, first in layer 'loss2', known to 'nvidia-0.17', 'intel'"
    )
    (loss,) = [layer for layer in message.layer if layer.name == "loss2"]
    unknown = UnknownFieldSet(loss.loss_param)
    assert [unknown[place].field_number for place in range(len(unknown))] == [4]


def test_a_given_dialect_is_used_with_its_own_numbers() -> None:
    # C3D 1.0 has five sizes and its data in field 6; its `layers` are LayerParameters.
    sizes = b"".join(varint(i << 3) + varint(i) for i in range(1, 6))
    data = length_delimited(6, struct.pack("<120f", *range(120)))
    source = length_delimited(2, length_delimited(4, b"conv") + length_delimited(6, sizes + data))
    net = read(source, dialect=schema.dialect("c3d-1.0"))
    blob = net.blobs_of(("layers", 0))[0]
    assert blob.shape == (1, 2, 3, 4, 5) and blob.array.max() == 119


def test_names_that_are_not_utf8_become_text() -> None:
    report = Report()
    net = read(length_delimited(100, b"\x0a\x01\xff\x22\x01a\x22\x01\xfe"), report=report)
    layer: Any = net.message.layer[0]  # type: ignore[attr-defined]
    assert (layer.name, list(layer.top)) == ("\\xff", ["a", "\\xfe"])
    assert "2 fields are not valid UTF-8" in str(report)


def test_too_many_layers_or_blobs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnconv.converter.caffe.wire.MAX_LAYERS", 3)
    monkeypatch.setattr("nnconv.converter.caffe.wire.MAX_BLOBS", 3)
    assert "more than 3 layers" in refusal(b"\xa2\x06\x00" * 4)
    assert "more than 3 blobs" in refusal(length_delimited(100, length_delimited(7, shape(0)) * 4))


def test_weights_are_written_without_holding_them_twice() -> None:
    net: Any = schema.dialect().new("NetParameter")
    net.layer.add(name="fc", type="InnerProduct")
    array = np.ones((1000, 5000), np.float32)

    class Sink(io.RawIOBase):
        size = 0

        def write(self, data: Any) -> int:
            self.size += len(memoryview(data).cast("B"))
            return self.size

    sink: Any = Sink()
    tracemalloc.start()
    write_net(sink, net, [[Blob(array.shape, array), Blob((5000, 1000), array.T)]])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sink.size > 2 * array.nbytes
    assert peak < 1.5 * array.nbytes  # the transposed one is copied once, the other not at all


def test_legacy_scalar_double_and_empty_blobs_survive_writing() -> None:
    net: Any = schema.dialect().new("NetParameter", name="n", debug_info=True)
    net.layer.add(name="l", type="T", propagate_down=[True])
    blobs = [
        Blob((), np.array(3, "f4")),
        Blob((1, 1, 2, 2), np.arange(4, dtype="f4").reshape(1, 1, 2, 2), legacy=True),
        Blob((2,), np.array([1e300, -1e-300])),
        Blob((0, 4), np.empty((0, 4), "f4")),
    ]
    out = io.BytesIO()
    write_net(out, net, [blobs])
    by_protobuf: Any = schema.dialect().new("NetParameter")
    by_protobuf.ParseFromString(out.getvalue())
    assert by_protobuf.SerializeToString() == out.getvalue()
    again = read(out.getvalue())
    assert again.message == net
    for a, b in zip(blobs, again.blobs_of(("layer", 0)), strict=True):
        assert (a.shape, a.legacy, a.array.tolist()) == (b.shape, b.legacy, b.array.tolist())


def test_a_blob_must_have_the_shape_it_says() -> None:
    with pytest.raises(BlobError):
        Blob((2,), np.zeros(3))


def test_mean_files_are_read_and_others_refused(tmp_path: Path) -> None:
    mean = read_blob_file(shared("golden", "data", "mean_color.binaryproto"))
    assert mean.legacy and mean.shape[:2] == (1, 3) and math.prod(mean.shape) == mean.array.size
    for content, words in {b"\x07": "byte 0", shape(3): "the blob has the shape 3"}.items():
        (tmp_path / "bad.binaryproto").write_bytes(content)
        with pytest.raises(InputError, match=words):
            read_blob_file(tmp_path / "bad.binaryproto")


# Files of the wrong kind


TEXT = b"# a net\nlayer { name: 'a' type: 'ReLU' }"
WRONG = {
    "prototxt": (TEXT, "this is a prototxt (text), not a caffemodel"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "this is an HDF5 file, not a caffemodel"),
    "zip": (b"PK\x03\x04abc", "this is a zip archive"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
    "page": (b"<!DOCTYPE html>", "a web page: the download went wrong"),
    "onnx": (b"\x08\x08\x12\x07pytorch", "this is an ONNX model, not a caffemodel"),
    "noise": (b"\xff\xff\x07garbage", "is this a caffemodel?"),
    "alien": (b"\xfa\xff\x03\x01x", "nothing in it is what a caffemodel holds"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_of_another_kind_is_named(kind: str) -> None:
    content, words = WRONG[kind]
    assert words in refusal(content)
    if kind != "prototxt":
        with pytest.raises(InputError) as caught:
            read_prototxt(content, report=Report())
        assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (floats(1), "a binary file of unknown kind, not a prototxt"),
        (b"\x0a\x03net\xa2\x06\x00", "this is a caffemodel (binary), not a prototxt"),
        (b"base_lr: 0.1\nnet: 'x'", "this is a solver, not a net"),
        (b"base_lr: 0.1\nnet: 'x' lr_policy: 5 layer { name: 1 }", "this is a solver, not a net"),
        (b"layer { name: }", "expected a string"),
    ],
)
def test_what_is_no_prototxt_is_named(content: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_prototxt(content, report=Report())
    assert words in str(caught.value)


@pytest.mark.parametrize("reader", [read_prototxt, read_caffemodel])
def test_missing_files_and_folders_are_refused(reader: Any, tmp_path: Path) -> None:
    for path, words in {
        tmp_path / "no": "no such file",
        tmp_path: "is a folder",
        "\0": "null",
    }.items():
        with pytest.raises(InputError, match=words):
            reader(path, report=Report())


@pytest.mark.parametrize("reader", [read_prototxt, read_caffemodel])
def test_an_empty_file_is_an_empty_net(reader: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert len(reader(tmp_path / "empty", report=Report()).net.layer) == 0


@pytest.mark.parametrize(
    ("head", "is_text"),
    [
        (TEXT, True),
        (b"", True),
        (b"\xef\xbb\xbf name : 1", True),
        (b"input\n#c\n: 'd'", True),
        (b"nam", True),
        (b"\x0a\x05lenet", False),
        (b"{}", False),
        (b"name = 1", False),
        (b"a: \0", False),
    ],
)
def test_text_is_recognised_by_its_start(head: bytes, is_text: bool) -> None:
    assert looks_like_prototxt(head) == is_text


# What the net builder sees


def test_a_source_hands_out_blobs_and_places_of_upgraded_layers() -> None:
    text = b"""input: "x" input_dim: [1, 1, 2, 2]
layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" blobs_lr: 1 blobs_lr: 2
  convolution_param { num_output: 1 kernel_size: 2 }
  blobs { num: 1 channels: 1 height: 2 width: 2 data: [1, 2, 3, 4] } }
"""
    source = read_prototxt(text, file="v1.prototxt", report=Report())
    assert [layer.type for layer in source.net.layer] == ["Input", "Convolution"]
    assert source.blobs(0) == [] and source.blobs(1)[0].array[0, 0, 1].tolist() == [3, 4]
    assert source.blobs(1)[0].legacy and not source.net.layer[1].blobs
    assert str(source.span(0, "input_param")) == "v1.prototxt:1:1"
    assert str(source.span(1, "convolution_param", "kernel_size")) == "v1.prototxt:3:37"
    assert str(source.span(1, "param", 1, "lr_mult")) == "v1.prototxt:2:71"
    assert str(source.span(1)) == "v1.prototxt:2:1" and source.span(1).layer == "c"


def test_places_in_the_oldest_nets_are_found_by_the_old_names() -> None:
    text = b"""input: "x" input_dim: [1, 1, 2, 2]
layers { bottom: "x" top: "c" layer { name: "c" type: "conv" num_output: 1
  kernelsize: 2 blobs_lr: 3 pool: AVE } }
"""
    report = Report()
    source = read_prototxt(text, file="v0.prototxt", report=report)
    assert str(source.span(1, "convolution_param", "kernel_size", 0)) == "v0.prototxt:3:3"
    assert str(source.span(1, "param", 0, "lr_mult")) == "v0.prototxt:3:17"
    assert str(source.span(1, "bottom", 0)) == "v0.prototxt:2:10"
    assert "unknown parameter pool for layer type conv" in str(report)


def test_wrong_blobs_written_as_text_are_all_reported_with_their_places() -> None:
    text = (
        b"layer { name: 'a'\n blobs { shape { dim: 3 } data: 1 }\n blobs { double_data: [1, 2] } }"
    )
    with pytest.raises(InputError) as caught:
        read_prototxt(text, file="n", report=Report())
    message = str(caught.value)
    assert "n:2:2: layer 'a': blob 0 has the shape 3 = 3 elements, but 1 are stored" in message
    assert "n:3:2: layer 'a': blob 1 has the shape scalar" in message


def test_raw_data_written_as_text_is_read() -> None:
    text = (
        rb'layer { blobs { shape { dim: 2 } raw_data_type: FLOAT16 raw_data: "\000\074\000\100" } }'
    )
    blob = read_prototxt(text, report=Report()).blobs(0)[0]
    assert blob.array.dtype == np.float16 and blob.array.tolist() == [1, 2]


def test_weights_files_have_layers_and_names_but_no_lines() -> None:
    source = read_caffemodel(ERRORS / "weights_exact_ok.caffemodel", report=Report())
    assert source.span(0).layer == source.net.layer[0].name and source.span(0).line == 0
    assert [len(source.blobs(i)) for i in range(len(source.net.layer))] == [2, 2]


def test_old_weights_files_keep_their_blobs_through_upgrading() -> None:
    for name, kind in {"bin_v1_model": "layers", "bin_v0_model": "layers"}.items():
        path = shared("golden", "legacy", f"{name}.caffemodel")
        source = read_caffemodel(path, report=Report())
        expected: Any = schema.dialect().new("NetParameter")
        expected.ParseFromString(path.with_suffix(".pb").read_bytes())
        assert kind not in [field.name for field, _ in source.net.ListFields()]
        for i, layer in enumerate(expected.layer):
            assert source.net.layer[i].name == layer.name
            got = [blob.array.reshape(-1).tolist() for blob in source.blobs(i)]
            assert got == [list(blob.data) for blob in layer.blobs]
