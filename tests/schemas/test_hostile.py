"""`.nnir` files made up of very many parts that say next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nnconv.converter.wire_format import length_delimited as part
from nnconv.schemas import ir_pb2 as ir
from nnconv.schemas.container import load, save
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType
from nnconv.schemas.unpack import MOST_GRAPHS, MOST_LAYERS
from tests.places import REPOSITORY

HEAD = ir.Model(format="nnir", version=1).SerializeToString()
FILL = 4 << 20


def in_graph(unit: bytes) -> bytes:
    return HEAD + part(7, unit * (FILL // len(unit)))


def in_attribute(number: int, unit: bytes) -> bytes:
    """A Relu whose one attribute lists as many tensors, graphs or numbers."""
    value = part(number, unit * (FILL // len(unit)))
    return HEAD + part(7, part(4, part(1, b"Relu") + part(6, part(1, b"a") + value)))


MANY = {
    "values": in_graph(b"\x12\0"),
    "values of a type": in_graph(part(2, b"\x10\x01")),
    "values of one name": in_graph(part(2, part(1, b"a"))),
    "shapes": in_graph(part(2, b"\x1a\0")),
    "inputs": in_graph(b"\x1a\0"),
    "nodes": in_graph(b"\x22\0"),
    "nodes of one letter": in_graph(part(4, part(1, b"a"))),
    "nodes of unknown operators": in_graph(part(4, part(1, b"abcdef"))),
    "attributes": in_graph(part(4, part(1, b"Relu") + b"\x32\0" * 1000)),
    "states": in_graph(b"\x32\0"),
    "losses": in_graph(b"\x3a\0"),
    "layers": in_graph(b"\x42\0"),
    "layers of a name": in_graph(part(8, part(1, b"abcdef"))),
    "sizes": in_graph(b"\x4a\0"),
    "tensors": in_attribute(11, b"\x0a\0"),
    "graphs": in_attribute(12, b"\x0a\0"),
    "named graphs": in_attribute(12, part(1, part(1, b"abcdef"))),
    "metadata": HEAD + b"\x5a\0" * 1000 + in_graph(b"\x22\0"),
}
WITHIN = """
import pathlib, resource, sys
from nnconv.schemas.container import load
from nnconv.schemas.errors import NnconvError
load(sys.argv[1] + "/warm.nnir")
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
for path in sorted(pathlib.Path(sys.argv[1]).glob("*[0-9].nnir")):
    room = (64 << 20) + 12 * path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
    try: load(path)
    except NnconvError: print(path.name)
"""


def chain(count: int) -> Model:
    """Nodes and values as small as they can be."""
    graph = Graph("g")
    value = graph.add_input("x", DType.FLOAT32, (1,))
    for number in range(count):
        value = graph.emit("Abs", value, outputs=[f"{number:x}"])
    graph.outputs = [value]
    return Model(graph)


def test_four_megabytes_of_next_to_nothing_are_refused_within_twelve_times_their_room(
    tmp_path: Path,
) -> None:
    save(chain(3), tmp_path / "warm.nnir")
    for number, data in enumerate(MANY.values()):
        (tmp_path / f"{number:02}.nnir").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", WITHIN, str(tmp_path)], cwd=REPOSITORY, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{number:02}.nnir" for number in range(len(MANY))]


def test_many_tiny_nodes_that_say_something_are_read(tmp_path: Path) -> None:
    save(chain(30_000), tmp_path / "m.nnir")
    assert len(load(tmp_path / "m.nnir").graph) == 30_000


def test_more_graphs_than_any_net_has_are_refused() -> None:
    graphs = part(12, b"\x0a\0" * MOST_GRAPHS)
    node = part(4, part(1, b"Relu") + part(6, part(1, b"a") + graphs))
    with pytest.raises(InputError, match=f"more than {MOST_GRAPHS:,} graphs"):
        load(HEAD + part(7, node))


@pytest.mark.parametrize("nodes", [0, 100])
def test_layers_that_nothing_came_from_are_bounded(nodes: int) -> None:
    message = ir.Model(format="nnir", version=1)
    message.graph.values.add(name="x", type=1)
    message.graph.inputs.append("x")
    for number in range(nodes):
        message.graph.values.add(name=f"{number}")
        message.graph.nodes.add(op="Abs", inputs=["x"], outputs=[f"{number}"])
    most = MOST_LAYERS + 2 * nodes + 1
    for number in range(most):
        message.graph.layers.add(name=f"{number}")
    assert len(load(message.SerializeToString()).graph.layers) == most
    message.graph.layers.add(name="one more")
    with pytest.raises(InputError, match=f"{most + 1:,} layers, {most:,} is the most"):
        load(message.SerializeToString())
