"""`.nnir` files: what goes in comes out, other tools can read them, and damage is an InputError."""

from __future__ import annotations

import random
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from google.protobuf import text_format

from nnconv.schemas import ir_pb2 as ir
from nnconv.schemas.container import load, save
from nnconv.schemas.dims import Symbolic
from nnconv.schemas.errors import InputError, NnconvError, UnsupportedError
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType
from nnconv.schemas.validate import validate
from tests.schemas.sample import sample

FILES = {"binary": "m.nnir", "external": "m.nnir", "text": "m.nnirtxt"}


def stored(model: Model, folder: Path, how: str = "binary") -> Path:
    path = folder / FILES[how]
    save(model, path, external=how == "external")
    return path


def with_constant(array: Any, **attributes: Any) -> Model:
    graph = Graph("g")
    value = graph.constant(array, name="c")
    graph.outputs = [graph.emit("Identity", value)]
    graph.outputs[0].producer.attributes.update(attributes)  # type: ignore[union-attr]
    return Model(graph)


def describe(model: Model) -> dict[str, Any]:
    """Everything that a model holds, as plain values to compare."""
    graph = model.graph
    return {
        "model": (model.name, model.mode, model.labels, model.source, model.metadata),
        "listing": str(graph),
        "values": [(v.name, v.dtype, v.shape, v.parameter) for v in graph.values.values()],
        "data": {
            v.name: (v.data.dtype.str, v.data.tobytes())
            for v in graph.values.values() if v.data is not None
        },
        "nodes": [(n.op, n.name, str(n), n.layer) for n in graph.nodes],
        "state": [(s.name, s.read.name, s.write.name) for s in graph.state],
        "losses": [(loss.value.name, loss.weight) for loss in graph.losses],
        "layers": graph.layers,
        "sizes": graph.sizes,
        "preprocessing": {
            key: (p.channels, p.mean, p.scale, p.crop, p.mean_image.tobytes())  # type: ignore[union-attr]
            for key, p in model.preprocessing.items()
        },
    }  # fmt: skip


@pytest.mark.parametrize("how", FILES)
def test_a_model_comes_back_as_it_was(tmp_path: Path, how: str) -> None:
    model = sample()
    again = load(stored(model, tmp_path, how))
    assert describe(again) == describe(model)
    records = {id(node.layer) for node in again.graph.nodes if node.layer}
    assert records <= set(map(id, again.graph.layers))


@pytest.mark.parametrize("how", FILES)
def test_the_same_model_gives_the_same_bytes(tmp_path: Path, how: str) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    path = stored(sample(), first, how)
    stored(load(path), second, how)
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_any_protobuf_tool_reads_the_file(tmp_path: Path) -> None:
    data = stored(sample(), tmp_path).read_bytes()
    message = ir.Model.FromString(data)
    table = next(value for value in message.graph.values if value.name == "table").data
    found = np.frombuffer(message.weights, "<i8", 7 * 30, table.offset)
    np.testing.assert_array_equal(found.reshape(7, 30), sample().graph.values["table"].data)
    assert message.format == "nnir" and data.startswith(b"\x0a\x04nnir")


def test_weights_start_on_64_bytes_and_come_last(tmp_path: Path) -> None:
    for size in range(1, 70):  # headers of all lengths
        model = with_constant(np.full(100, size, np.float32))
        model.name = "n" * size
        data = stored(model, tmp_path).read_bytes()
        assert data.index(np.full(100, size, np.float32).tobytes()) % 64 == 0
        assert data.endswith(np.float32(size).tobytes())


def test_loaded_arrays_are_read_only_views_of_the_file(tmp_path: Path) -> None:
    table = load(stored(sample(), tmp_path)).graph.values["table"].data
    assert table is not None and not table.flags.owndata and not table.flags.writeable


def test_a_file_saved_again_by_another_tool_still_opens(tmp_path: Path) -> None:
    message = ir.Model.FromString(stored(sample(), tmp_path).read_bytes())
    message.ClearField("padding")
    unknown = b"\xa2\x06\x03abc" + b"\xa8\x06\x07"  # fields 100 and 101 behind the weights
    again = load(message.SerializeToString() + unknown)
    assert describe(again) == describe(sample())


@pytest.mark.parametrize(
    "dtype", [d for d in DType if d not in (DType.UNDEFINED, DType.STRING)], ids=str
)
@pytest.mark.parametrize("count", [0, 3, 200])
def test_every_element_type_comes_back(tmp_path: Path, dtype: DType, count: int) -> None:
    array = (np.arange(count) % 2).astype(dtype.numpy).reshape(-1, 1)
    again = load(stored(with_constant(array), tmp_path)).graph.values["c"]
    assert again.dtype is dtype and again.data is not None
    assert again.data.tobytes() == array.tobytes() and again.data.shape == (count, 1)


def test_strings_come_back(tmp_path: Path) -> None:
    model = with_constant(np.array([["a", "ß"], ["", "long " * 50]], object))
    again = load(stored(model, tmp_path)).graph.values["c"].data
    assert again is not None and again.tolist() == [["a", "ß"], ["", "long " * 50]]


@pytest.mark.parametrize(
    "array",
    [
        np.ndarray((50, 20), "<f4", bytes(range(256)) * 20, 0, (100, 5)),  # floats 5 bytes apart
        np.ndarray((300,), "<f4", bytes(range(256)) * 5, 1),  # not aligned
        np.arange(600.0).reshape(20, 30).T,
        np.arange(600, dtype=">i4"),
        np.arange(600_000.0)[::-2],
        np.broadcast_to(np.float32(1.5), (40, 50)),
        np.arange(600).astype(ml_dtypes.bfloat16)[::3],
    ],
    ids=["records", "unaligned", "transposed", "big-endian", "backward", "broadcast", "bfloat16"],
)
def test_arrays_of_any_layout_are_written(tmp_path: Path, array: Any) -> None:
    again = load(stored(with_constant(array), tmp_path)).graph.values["c"].data
    assert again is not None
    assert again.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()


def test_shared_arrays_are_stored_once_and_stay_shared(tmp_path: Path) -> None:
    graph, array = Graph("g"), np.arange(1000.0)
    a, b = graph.constant(array, name="a"), graph.constant(array, name="b")
    graph.outputs = [graph.emit("Add", a, b)]
    path = stored(Model(graph), tmp_path)
    assert path.stat().st_size < 1.2 * array.nbytes
    values = load(path).graph.values
    assert np.shares_memory(values["a"].data, values["b"].data)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -(2**63),
        0.0,
        1e-300,
        float("inf"),
        "",
        "tëxt",
        b"\xff\0",
        (),
        (1, -2),
        (1.5, 2.0),
        ("a", ""),
    ],
    ids=repr,
)
@pytest.mark.parametrize("how", ["binary", "text"])
def test_attributes_of_every_kind_come_back(tmp_path: Path, value: Any, how: str) -> None:
    filler = sample()
    options = filler.parameters["conv/0"].parameter.filler.options  # type: ignore[union-attr]
    options["option"] = value
    again = load(stored(filler, tmp_path, how)).parameters["conv/0"].parameter
    found = again.filler.options["option"]  # type: ignore[union-attr]
    assert found == value and type(found) is type(value)


def test_graphs_inside_attributes_may_read_values_outside(tmp_path: Path) -> None:
    outer = Graph("outer")
    flag = outer.add_input("flag", DType.BOOL, ())
    x = outer.add_input("x", DType.FLOAT32, (Symbolic.name("N"),))
    branches: dict[str, Any] = {}
    for name, factor in (("then_branch", 2.0), ("else_branch", 3.0)):
        inner = Graph(name)
        inner.outputs = [
            inner.emit("Mul", x, inner.constant(factor, DType.FLOAT32), outputs=[name])
        ]
        branches[name] = inner
    outer.outputs = [outer.emit("If", flag, **branches)]
    again = load(stored(Model(outer), tmp_path)).graph
    body = next(again.nodes).attributes["then_branch"]
    (node,) = body.nodes
    assert node.inputs[0] is again.values["x"] and str(body) == str(branches["then_branch"])


@pytest.mark.parametrize(
    "attribute", [object(), (1, "a"), 2**64], ids=["object", "mixed", "65 bits"]
)
def test_what_has_no_place_is_refused_by_name(tmp_path: Path, attribute: Any) -> None:
    with pytest.raises(UnsupportedError, match="'odd'"):
        save(with_constant(1.0, odd=attribute), tmp_path / "m.nnir")
    assert not list(tmp_path.iterdir())


def test_names_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    model = with_constant(1.0)
    model.graph.rename(model.graph.values["c"], "bad\udcff")
    with pytest.raises(InputError, match="UTF-8"):
        save(model, tmp_path / "m.nnir")


# --- damage ---------------------------------------------------------------------------------------

Change = Callable[[ir.Model], object]


def value(message: ir.Model, name: str) -> ir.Value:
    return next(item for item in message.graph.values if item.name == name)


def node(message: ir.Model, op: str) -> ir.Node:
    return next(item for item in message.graph.nodes if item.op == op)


DAMAGE: dict[str, tuple[Change, str]] = {
    "another format": (lambda m: setattr(m, "format", "onnx"), "no nnconv model"),
    "newer": (lambda m: setattr(m, "version", 99), "version 99"),
    "mode": (lambda m: setattr(m, "mode", "fast"), "mode"),
    "offset": (lambda m: setattr(value(m, "table").data, "offset", 2**63), "does not lie"),
    "unaligned": (lambda m: setattr(value(m, "table").data, "offset", 8), "does not lie"),
    "length": (lambda m: setattr(value(m, "table").data, "length", 2**62), "does not lie"),
    "dims 2^64": (lambda m: value(m, "table").data.sizes.extend([2**32, 2**33]), "bytes"),
    "dims 0": (lambda m: value(m, "table").data.sizes.append(0), "takes 0 bytes"),
    "axes": (lambda m: value(m, "table").data.sizes.extend([1] * 65), "axes"),
    "type": (lambda m: setattr(value(m, "table").data, "type", 77), "type 77"),
    "two names": (lambda m: setattr(value(m, "table"), "name", "data"), "two values"),
    "formula": (lambda m: value(m, "data").shape.formulas.__setitem__(0, "N*(")
                or None, "no size"),
    "formulas": (lambda m: value(m, "data").shape.formulas.append("K"), "formulas"),
    "size": (lambda m: value(m, "data").shape.sizes.__setitem__(1, -7), "no size"),
    "unknown op": (lambda m: setattr(node(m, "Conv"), "op", "Konv"), "unknown operator"),
    "arity": (lambda m: node(m, "Conv").inputs.extend(["data", "data"]), "inputs"),
    "attribute": (lambda m: node(m, "Conv").attributes.add(name="size", integer=1), "no attribute"),
    "no value": (lambda m: node(m, "Conv").attributes.add(name="pads"), "no value"),
    "missing input": (lambda m: node(m, "Conv").inputs.__setitem__(0, "nobody"), "does not exist"),
    "loop": (lambda m: node(m, "Conv").inputs.__setitem__(0, "scores"), "before it is made"),
    "made twice": (lambda m: node(m, "MatMul").outputs.__setitem__(0, "x"), "already made"),
    "layer": (lambda m: setattr(node(m, "Conv"), "layer", 9), "layer 9"),
    "output": (lambda m: m.graph.outputs.append("nobody"), "does not exist"),
    "input": (lambda m: m.graph.inputs.append("nobody"), "does not exist"),
    "stored input": (lambda m: m.graph.inputs.append("table"), "both an input and stored"),
    "state": (lambda m: m.graph.state.add(name="s", read="x", write="x"), "without a start"),
    "loss": (lambda m: m.graph.losses.add(value="nobody"), "does not exist"),
    "inline": (lambda m: setattr(value(m, "norm/0").data, "inline", b"123"), "3 are stored"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(tmp_path: Path, change: Change, words: str) -> None:
    path = stored(sample(), tmp_path)
    message = ir.Model.FromString(path.read_bytes())
    change(message)
    path.write_bytes(message.SerializeToString())
    with pytest.raises(NnconvError, match=words) as caught:
        load(path)
    assert caught.value.problems[0].span.file == str(path)  # type: ignore[union-attr]


@pytest.mark.parametrize("keep", [0, 1, 5, 100, -1, -100, -2000])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    path = stored(sample(), tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError):
        load(path)


def test_two_fields_of_weights_are_refused(tmp_path: Path) -> None:
    data = stored(sample(), tmp_path).read_bytes()
    with pytest.raises(InputError, match="two fields of weights"):
        load(data + b"\x7a\x01x")


def test_a_file_of_tiny_fields_is_refused_early() -> None:
    with pytest.raises(InputError, match="fields"):
        load(b"\x0a\x04nnir" + b"\x10\x01" * 5_000_000)


def nested(depth: int) -> bytes:
    """Graphs in attributes of nodes of graphs, as bytes: a tool would refuse to build them."""
    found = b""
    for tag in b"\x3a\x32\x22" * depth + b"\x3a":  # Attribute.graph, Node.attributes, Graph.nodes
        length = len(found)
        low = bytes([length & 127 | 128, length >> 7]) if length > 127 else bytes([length])
        found = bytes([tag]) + low + found
    return b"\x0a\x04nnir" + found


@pytest.mark.parametrize("depth", [1, 20, 40, 400])
def test_graphs_nested_too_deeply_are_refused(depth: int) -> None:
    with pytest.raises(NnconvError):
        load(nested(depth))
    with pytest.raises(InputError):
        load(b'format: "nnir"\n' + b"graph { nodes { attributes { " * depth * 10)


def test_a_model_nested_too_deeply_is_not_written(tmp_path: Path) -> None:
    model = with_constant(1.0)
    for _ in range(40):
        model = with_constant(1.0, body=model.graph)
    with pytest.raises(UnsupportedError, match="nested"):
        save(model, tmp_path / "m.nnir")


def test_claimed_sizes_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    message = ir.Model(format="nnir")
    tensor = message.graph.values.add(name="huge").data
    tensor.type, tensor.offset, tensor.length = 1, 0, 2**40
    tensor.sizes.extend([2**20, 2**18])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="does not lie"):
        load(message.SerializeToString())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("name", ["../m.weights", "/etc/passwd", "a/b", "..", "a\\b", "c:x"])
def test_the_side_file_stays_in_the_folder(tmp_path: Path, name: str) -> None:
    path = stored(sample(), tmp_path, "external")
    message = ir.Model.FromString(path.read_bytes())
    message.weights_file = name
    path.write_bytes(message.SerializeToString())
    with pytest.raises(InputError, match="same folder"):
        load(path)


def test_a_side_file_that_is_missing_linked_or_of_another_length_is_refused(tmp_path: Path) -> None:
    path, side = stored(sample(), tmp_path, "external"), tmp_path / "m.weights"
    data = side.read_bytes()
    side.write_bytes(data[:-1])
    with pytest.raises(InputError, match="belong together"):
        load(path)
    side.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"m\.weights.*no such file"):
        load(path)
    side.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="link"):
        load(path)
    with pytest.raises(InputError, match="from its path"):
        load(path.read_bytes())


def test_errors_in_text_say_the_line(tmp_path: Path) -> None:
    path = stored(sample(), tmp_path, "text")
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], "wrong: 1", *lines[2:]]), encoding="utf-8")
    with pytest.raises(InputError, match="wrong") as caught:
        load(path)
    assert caught.value.problems[0].span.line == 3  # type: ignore[union-attr]


def test_text_is_ordinary_protobuf_text(tmp_path: Path) -> None:
    text = stored(sample(), tmp_path, "text").read_text(encoding="utf-8")
    message = text_format.Parse(text, ir.Model())
    assert message.weights_file == "m.weights" and text.startswith('format: "nnir"')


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, cut out, doubled or replaced by extreme numbers."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(found) + 1)
        action = rng.randrange(5)
        if action == 0 and place < len(found):
            found[place] = rng.randrange(256)
        elif action == 1:
            del found[place : place + rng.randint(1, 30)]
        elif action == 2:
            found[place:place] = found[place : place + rng.randint(1, 30)]
        elif action == 3:
            found[place:place] = rng.choice(
                [b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x07", b"\0", b"\x7f"]
            )
        else:
            found[place : place + 4] = struct.pack("<i", rng.choice([-1, 0, 2**31 - 1]))
    return bytes(found)


@pytest.mark.parametrize(("how", "count"), [("binary", 20_000), ("text", 800)])
def test_mutated_files_load_or_are_refused(tmp_path: Path, how: str, count: int) -> None:
    model = sample()
    model.preprocessing.clear()
    for name in ("table", "ip/0", "conv/0"):
        model.graph.values[name].data = None
    model.graph.values["conv/0"].data = np.zeros(5, np.float32)
    data = stored(model, tmp_path, how).read_bytes()
    rng = random.Random(1)
    refused = 0
    for _ in range(count):
        try:
            validate(load(mutated(data, rng)))
        except NnconvError:
            refused += 1
    assert count // 10 < refused < count
