"""Files made up to exhaust memory, crash or mislead: one clear error, before anything is taken."""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from nnconv.converter.onnx.reader import import_onnx
from nnconv.converter.onnx.wire import MANY_NODES
from nnconv.converter.wire_format import length_delimited, varint
from nnconv.schemas.errors import InputError, NnconvError
from tests.onnx.support import stored_model
from tests.places import REPOSITORY

MUTATIONS = 20_000


def tensor_model(tensor: TensorProto) -> bytes:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Relu", ["w"], ["y"])], "g", [], [y], [tensor])
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()
    )


def claiming(*dims: int, data: bytes = bytes(16), data_type: int = 1) -> bytes:
    return tensor_model(TensorProto(name="w", dims=dims, data_type=data_type, raw_data=data))


SIZES = [
    (1 << 60,), (1 << 31, 1 << 29), (1 << 31,), (1 << 32,), (1 << 62, 4), (1 << 32, 1 << 32),
    (-1,), (-4, -1),
    (0, 1 << 62), ((1 << 63) - 1,), (5,), (3,), tuple([1] * 70 + [4]),
]  # fmt: skip


@pytest.mark.parametrize("dims", SIZES, ids=str)
@pytest.mark.parametrize(
    "data_type", [1, 2, 7, 9, 16, 22], ids=["f32", "u8", "i64", "bool", "bf16", "i4"]
)
def test_dimensions_that_the_bytes_do_not_bear_out_are_refused(
    dims: tuple[int, ...], data_type: int
) -> None:
    with pytest.raises(InputError, match="'w'"):
        import_onnx(claiming(*dims, data_type=data_type))


@pytest.mark.parametrize("field", ["float_data", "int32_data", "string_data"])
def test_typed_fields_are_counted_too(field: str) -> None:
    kinds = {"float_data": 1, "int32_data": 3, "string_data": 8}
    tensor = TensorProto(name="w", dims=[1 << 60], data_type=kinds[field])
    getattr(tensor, field).append(b"x" if field == "string_data" else 1)
    with pytest.raises(InputError, match="'w'"):
        import_onnx(tensor_model(tensor))


def nested(depth: int) -> bytes:
    """If within If, `depth` deep, its length fields right."""
    graph = b""
    for _ in range(depth):
        attribute = length_delimited(1, b"then_branch") + length_delimited(6, graph)
        attribute += varint(20 << 3) + varint(5)
        node = length_delimited(4, b"If") + length_delimited(5, attribute)
        graph = length_delimited(1, node) + length_delimited(2, b"g" * 600)
    return varint(8) + varint(8) + length_delimited(7, graph)


@pytest.mark.parametrize("depth", [40, 100, 1000])
def test_deep_nesting_is_refused(depth: int) -> None:
    with pytest.raises(InputError):
        import_onnx(nested(depth))


NOT_A_MODEL = {
    "empty message": b"\x08\x08",
    "text": b"name: 'lenet' layer { }",
    "zeros": bytes(1000),
    "cut length": b"\x3a\xff\xff\xff\xff\x0f",
    "endless varint": b"\x08" + b"\xff" * 20,
    "group": b"\x0b\x0c",
    "name that is no text": varint(58) + varint(6) + length_delimited(2, b"\xff\xfe\xff\xff"),
}


@pytest.mark.parametrize("data", NOT_A_MODEL.values(), ids=NOT_A_MODEL.keys())
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        import_onnx(data)


@pytest.mark.parametrize("name", ["missing.onnx", "."])
def test_what_cannot_be_opened_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        import_onnx(tmp_path / name)


def test_a_truncated_file_is_refused_at_every_length() -> None:
    data = stored_model("onnx/factorio_mnist").read_bytes()
    for length in range(0, len(data), 7):
        with pytest.raises(NnconvError):
            import_onnx(data[:length])


LIMITED = """
import resource, sys
from nnconv.converter.onnx.reader import import_onnx
from nnconv.schemas.errors import InputError
import numpy, google.protobuf.message_factory
room = 64 << 20
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
try:
    import_onnx(sys.argv[1])
except InputError as error:
    print("refused:", error)
"""


def _external() -> TensorProto:
    tensor = TensorProto(name="w", dims=[1 << 58], data_type=1, data_location=TensorProto.EXTERNAL)
    for key, text in (("location", "w.bin"), ("offset", "0"), ("length", str(1 << 60))):
        tensor.external_data.add(key=key, value=text)
    return tensor


def _expanding() -> bytes:
    text = """<ir_version: 7, opset_import: ["" : 11]>
    g (float[1] x) => (float[?] y) <int64[1] s = {1152921504606846976}> { y = Expand(x, s) }"""
    return bytes(parser.parse_model(text).SerializeToString())


BOMBS: dict[str, Callable[[], bytes]] = {
    "raw": lambda: claiming(1 << 60),
    "float_data": lambda: tensor_model(
        TensorProto(name="w", dims=[1 << 58], data_type=1, float_data=[1.0])
    ),
    "strings": lambda: tensor_model(
        TensorProto(name="w", dims=[1 << 58], data_type=8, string_data=[b"x"])
    ),
    "int4": lambda: claiming(1 << 58, data_type=22),
    "external": lambda: tensor_model(_external()),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_tensor_of_2_to_the_60_is_refused_within_64_mib(
    bomb: Callable[[], bytes], tmp_path: Path
) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    path = tmp_path / "bomb.onnx"
    path.write_bytes(bomb())
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.startswith("refused:"), done.stderr


def test_a_result_of_2_to_the_60_is_a_shape_and_no_allocation() -> None:
    model = import_onnx(_expanding())
    assert model.outputs[0].shape == (1 << 60,)


# --- very many parts that are next to nothing -----------------------------------------------------


def node(*inputs: str, output: str = "", op: str = "Abs") -> bytes:
    """A node on the wire, as short as it can be."""
    content = b"".join(length_delimited(1, name.encode()) for name in inputs)
    content += length_delimited(2, output.encode()) if output else b""
    return length_delimited(1, content + length_delimited(4, op.encode()))


def port(number: int, name: str) -> bytes:
    """A graph's input or output, float[1]."""
    shape = length_delimited(2, length_delimited(1, b"\x08\x01"))
    return length_delimited(
        number,
        length_delimited(1, name.encode())
        + length_delimited(2, length_delimited(1, b"\x08\x01" + shape)),
    )


def filled(unit: bytes, within: Callable[[bytes], bytes] = bytes) -> bytes:
    """A model with four megabytes of one part, between ports that it needs."""
    return model(within(unit * ((4 << 20) // len(unit))))


def model(graph: bytes) -> bytes:
    ports = length_delimited(2, b"g") + port(11, "x") + port(12, "y")
    opset = length_delimited(8, b"\x10\x0d")
    return b"\x08\x08" + length_delimited(7, graph + ports) + opset


def in_branch(nodes: bytes) -> bytes:
    attribute = length_delimited(1, b"then_branch") + length_delimited(6, nodes)
    inner = length_delimited(2, b"y") + length_delimited(4, b"If") + length_delimited(5, attribute)
    return length_delimited(1, inner)


def numbered(count: int) -> bytes:
    """Nodes with results of their own, the shortest there can be, all wrong."""
    return b"".join(node(output=f"{number:x}") for number in range(count))


MANY: dict[str, Callable[[], bytes]] = {
    "nodes without a result": lambda: filled(node("x")),
    "nodes with one result": lambda: filled(node(output="y")),
    "nodes of no operator": lambda: filled(length_delimited(1, b"\x1a\x06abcdef")),
    "nodes of unknown operators": lambda: filled(node(op="Abcdef")),
    "nodes of unknown fields": lambda: filled(length_delimited(1, b"\x78\x01" * 4)),
    "nodes of empty texts": lambda: filled(length_delimited(1, b"\x0a\x00" * 4)),
    "nodes of empty attributes": lambda: filled(length_delimited(1, b"\x2a\x00" * 60)),
    "nodes in a branch": lambda: filled(node("x"), in_branch),
    "nodes that take nothing": lambda: model(numbered(300_000)),
    "attributes": lambda: filled(
        b"\x2a\x00", lambda run: length_delimited(1, b"\x12\x01y\x22\x03Abs" + run)
    ),
    "tensors": lambda: filled(b"\x2a\x00"),
    "inputs": lambda: filled(length_delimited(11, b"\x0a\x06abcdef")),
    "outputs": lambda: filled(length_delimited(12, b"\x0a\x06abcdef")),
    "declarations": lambda: filled(b"\x6a\x00"),
}  # fmt: skip
WITHIN = """
import pathlib, resource, sys
from nnconv.converter.onnx.reader import import_onnx
from nnconv.schemas.errors import NnconvError
import numpy
import_onnx(sys.argv[1] + "/warm.onnx")
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
for path in sorted(pathlib.Path(sys.argv[1]).glob("*[0-9].onnx")):
    room = (64 << 20) + 12 * path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
    try: import_onnx(path)
    except NnconvError: print(path.name)
"""


def test_four_megabytes_of_next_to_nothing_are_refused_within_twelve_times_their_room(
    tmp_path: Path,
) -> None:
    (tmp_path / "warm.onnx").write_bytes(model(node("x", output="y")))
    for number, make in enumerate(MANY.values()):
        (tmp_path / f"{number:02}.onnx").write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", WITHIN, str(tmp_path)], cwd=REPOSITORY, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{number:02}.onnx" for number in range(len(MANY))]


def test_many_short_nodes_that_say_something_are_read() -> None:
    count = MANY_NODES + 1000
    names = ["x", *(f"{number:x}" for number in range(count)), "y"]
    chain = b"".join(node(before, output=after) for before, after in itertools.pairwise(names))
    assert len(import_onnx(model(chain)).graph) == count + 1


# --- mutation -------------------------------------------------------------------------------------


def seeds() -> list[bytes]:
    """Small models that between them use most of what the reader knows."""
    found = []
    for source in (LAYERS, FUNCTIONS):
        proto = parser.parse_model(source)
        for info in proto.graph.value_info:  # declared above without a value
            dims = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
            proto.graph.initializer.append(
                numpy_helper.from_array(np.ones(dims, np.float32), info.name)
            )
        import_onnx(proto.SerializeToString())
        found.append(bytes(proto.SerializeToString()))
    return [
        *found,
        stored_model("onnx/factorio_mnist").read_bytes(),
        stored_model("onnx/iris_logreg").read_bytes(),
    ]


LAYERS = """<ir_version: 7, opset_import: ["" : 11]>
g (float[N, 4, 6, 6] x, bool c) => (float[?, ?, ?, ?] y, float[?, ?] z)
  <float[2, 4, 3, 3] w, float[4] r, int64[2] s = {0, -1}> {
  a = Conv <pads = [1, 1, 1, 1]> (x, w)
  b = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
  p = Pad <mode = "constant"> (b, q)
  q = Constant <value: tensor = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}> ()
  d, e = Split <axis = 1> (p)
  f = Clip (d)
  y = If (c) <then_branch = t () => (float[?, ?, ?, ?] h) { h = Relu(f) },
              else_branch = u () => (float[?, ?, ?, ?] h) { h = Neg(e) }>
  i = Reshape(b, s)
  k = Softmax <axis = 1> (i)
  z = ReduceMean <axes = [1]> (k)
}
"""
FUNCTIONS = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[2, 3] x) => (float[2, 3] y) { y = own.Scaled <gain = 3.0> (x) }
<domain: "own", opset_import: ["" : 9]>
Scaled <gain> (a) => (b) {
  c = Constant <value_float: float = @gain> ()
  u = Upsample <mode = "nearest"> (a, k)
  k = Constant <value: tensor = float[2] {1.0, 1.0}> ()
  t = LeakyRelu <alpha: float = @gain> (u)
  b = Selu(t)
}
""".replace("value_float: float = @gain", "value: tensor = float[1] {2.0}")


def mutated(data: bytes, generator: random.Random) -> bytes:
    """One to four bytes flipped, set to an extreme, taken out, put in or copied from elsewhere."""
    out = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        place, kind = generator.randrange(len(out)), generator.randrange(6)
        if kind == 0:
            out[place] ^= 1 << generator.randrange(8)
        elif kind == 1:
            out[place] = generator.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del out[place : place + generator.randint(1, 8)]
        elif kind == 3:
            out[place:place] = generator.randbytes(generator.randint(1, 8))
        elif kind == 4:
            start = generator.randrange(len(out))
            out[place : place + 8] = out[start : start + 8]
        else:
            out[place] = (out[place] + generator.choice((-1, 1))) % 256
        if not out:
            return data
    return bytes(out)


EXTREMES: dict[str, tuple[Any, ...]] = {
    "int": (0, 1, -1, 2, 255, 1 << 31, (1 << 63) - 1, -(1 << 63)),
    "float": (0.0, -1.0, float("nan"), float("inf"), 1e38),
}


def rewritten(data: bytes, generator: random.Random) -> bytes:
    """A few fields set to extremes or to what stands elsewhere; elements repeated, or left out."""
    model = onnx.ModelProto.FromString(data)
    places = list(_fields(model))
    for _ in range(generator.randint(1, 3)):
        message, field, value = generator.choice(places)
        if field.is_repeated:
            elements = getattr(message, field.name)
            if elements and generator.random() < 0.5:
                del elements[generator.randrange(len(elements))]
            elif elements:
                elements.append(_other(field, generator.choice(elements), places, generator))
        elif field.type != field.TYPE_MESSAGE:
            with contextlib.suppress(ValueError):  # out of the range of its type
                setattr(message, field.name, _other(field, value, places, generator))
    return bytes(model.SerializeToString())


def _fields(message: Any) -> Iterator[tuple[Any, Any, Any]]:
    for field, value in message.ListFields():
        yield message, field, value
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                yield from _fields(inner)


def _other(field: Any, value: Any, places: list[Any], generator: random.Random) -> Any:
    if isinstance(value, str | bytes):
        return generator.choice([v for _, f, v in places if type(v) is type(value)] or [value])
    return generator.choice(EXTREMES.get(type(value).__name__, (value,)))


def test_mutated_models_are_read_or_refused_and_nothing_else() -> None:
    generator = random.Random(20260101)
    originals = seeds()
    verdicts = {True: 0, False: 0}
    for count in range(MUTATIONS):
        mutate = rewritten if count % 4 == 0 else mutated
        data = mutate(generator.choice(originals), generator)
        try:
            import_onnx(data)
            verdicts[True] += 1
        except NnconvError as error:
            assert str(error) and error.exit_code == 2, data.hex()
            verdicts[False] += 1
        except Exception:
            print(data.hex())
            raise
    assert min(verdicts.values()) > MUTATIONS // 20
