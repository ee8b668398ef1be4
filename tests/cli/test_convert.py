"""The verbs between formats, as a user calls them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cli.support import CommandLine, contents


def test_a_caffe_net_becomes_every_other_format(
    nnconv: CommandLine, in_folder: Path, lenet: Path
) -> None:
    source = (lenet / "lenet.prototxt", lenet / "lenet.caffemodel")
    for target in ("a.onnx", "a.yaml", "a.nnir", "b.prototxt", "c.caffemodel"):
        done = nnconv("convert", *source, target)
        assert (done.code, done.out.endswith("; outputs equal\n")) == (0, True), done.err
    assert nnconv("diff", "a.yaml", "a.nnir").code == 0
    nnconv("convert", source[1], "d.caffemodel")
    assert Path("d.caffemodel").read_bytes() == source[1].read_bytes()


def test_weights_say_that_they_are_not_the_net(nnconv: CommandLine, in_folder: Path) -> None:
    done = nnconv("convert", "zoo:lenet", "w.safetensors")
    assert done.code == 0
    assert "holds weights only: the net itself is not written" in done.err


def test_a_failed_conversion_leaves_nothing(
    nnconv: CommandLine, in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("old.onnx").write_bytes(b"old")
    monkeypatch.setattr("nnconv.api.convert.TOLERANCE", -1.0)
    done = nnconv("convert", "zoo:lenet", "old.onnx")
    assert (done.code, "does not mean the same" in done.err) == (1, True)
    assert contents() == {"old.onnx": b"old"}
    assert nnconv("convert", "zoo:lenet", "old.onnx", "--no-check").code == 0


def test_the_input_is_never_overwritten(nnconv: CommandLine, in_folder: Path) -> None:
    nnconv("convert", "zoo:lenet", "m.yaml")
    before = contents()
    for target in ("m.yaml", "./m.yaml"):
        assert nnconv("convert", "m.yaml", target).code == 2
    assert nnconv("convert", "m.npz", "m.onnx").code == 2
    assert contents() == before


VERBS = [
    ("ir2yaml", "m.yaml", "yaml2ir"), ("ir2onnx", "m.onnx", "onnx2ir"), ("ir2npz", "m.npz", ""),
    ("ir2pb", "m.pb", ""),
]  # fmt: skip


@pytest.mark.parametrize(("out", "file", "back"), VERBS)
def test_ir_goes_out_and_comes_back(
    nnconv: CommandLine, in_folder: Path, out: str, file: str, back: str
) -> None:
    assert nnconv(out, "zoo:lenet", "-o", file).code == 0
    if not back:
        assert nnconv("diff", file, "zoo:lenet").code == 0
        return
    assert nnconv(back, file, "-o", "m.nnir", "--report", "r.json").code == 0
    assert json.loads(Path("r.json").read_text())["ok"] is True
    found = nnconv("diff", "zoo:lenet", "m.nnir", "--json")
    kinds = {row["kind"] for row in found.json["differences"]}
    assert kinds <= {"model"}  # labels and pictures, which ONNX has no place for
    assert nnconv(out, "zoo:lenet", "-o", "wrong.txt").code == 2


def test_diff_shows_what_differs_and_exits_with_1(nnconv: CommandLine, in_folder: Path) -> None:
    nnconv("ir2npz", "zoo:lenet", "-o", "a.npz")
    arrays = dict(np.load("a.npz"))
    arrays["ip2/1"][3] += 0.5
    arrays["new"] = arrays.pop("ip1/1")
    np.savez("b.npz", **arrays)
    done = nnconv("diff", "a.npz", "b.npz", "--json")
    assert done.code == 1
    rows = {row["name"]: row for row in done.json["differences"]}
    assert rows.keys() == {"ip2/1", "ip1/1", "new", "nnconv:metadata"}
    assert "in 1 of 10" in rows["ip2/1"]["right"]
    assert nnconv("diff", "a.npz", "b.npz", "--tolerance", "10").code == 1
    assert "weights  ip2/1" in nnconv("diff", "a.npz", "b.npz").out


def test_diff_tells_changed_layers(nnconv: CommandLine, in_folder: Path) -> None:
    text = "input: {x: [N, 3]}\nlayers: [{a: dense 4}, {b: %s}]\n"
    Path("one.yaml").write_text(text % "relu")
    Path("two.yaml").write_text(text % "tanh")
    done = nnconv("diff", "one.yaml", "two.yaml")
    assert done.code == 1
    assert "Relu(a)" in done.out
    assert "Tanh(a)" in done.out


def test_load_weights_reports_and_writes(nnconv: CommandLine, in_folder: Path, lenet: Path) -> None:
    net = lenet / "lenet.prototxt"
    done = nnconv("load-weights", net, lenet / "lenet.caffemodel", "-o", "m.nnir", "--json")
    assert (done.code, len(done.json["matched"]), done.json["missing"]) == (0, 8, [])
    assert nnconv("diff", "m.nnir", "zoo:lenet").out.count("weights") == 0
    shutil.copy(lenet / "lenet.caffemodel", "w.caffemodel")
    strict = nnconv("load-weights", net, "w.caffemodel", "--map", "ip1*=fc*", "--strict",
                    "-o", "n.nnir")  # fmt: skip
    assert (strict.code, Path("n.nnir").exists()) == (1, False)
    assert "the file has no array for 'ip1/0', 'ip1/1'" in strict.err


def test_mistakes_in_yaml_are_told_with_line_and_column(
    nnconv: CommandLine, in_folder: Path
) -> None:
    Path("m.yaml").write_text(
        "input: {x: [N, 3]}\nlayers:\n  - a: dens 4\n  - b: {op: tanh, k: 1}\n"
    )
    done = nnconv("yaml2ir", "m.yaml", "-o", "m.nnir", "--report", "r.json")
    assert done.code == 2
    assert done.err.startswith("m.yaml:3:8: 'dens' is no word of the layer language")
    assert "did you mean 'dense'" in done.err
    assert json.loads(Path("r.json").read_text())["ok"] is False
    assert sorted(contents()) == ["m.yaml", "r.json"]
