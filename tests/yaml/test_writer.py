"""What is written in YAML reads back as the same graph, bit for bit the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnconv.converter.caffe.reader import import_files
from nnconv.converter.yaml.reader import import_yaml
from nnconv.converter.yaml.writer import export_yaml, to_yaml
from nnconv.schemas.errors import UnsupportedError
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType
from tests.places import shared
from tests.yaml.test_reader import LENET

NETS = ["lenet", "cifar10_full", "alexnet", "googlenet", "squeezenet_v11", "resnet18", "fcn8s",
        "mobilenet_v2", "mnist_autoencoder"]  # fmt: skip


def facts(model: Model) -> dict[str, object]:
    """All that two equal models have in common."""
    graph = model.graph
    stored = {
        name: (value.dtype, value.shape, value.parameter,
               None if value.data is None else value.data.tobytes())
        for name, value in graph.values.items() if value.is_stored
    }  # fmt: skip
    return {
        "nodes": [str(node) for node in graph.nodes],
        "stored": stored,
        "sizes": graph.sizes,
        "inputs": [str(value) for value in graph.inputs],
        "outputs": [value.name for value in graph.outputs],
        "state": [(s.name, s.read.name, s.write.name) for s in graph.state],
        "losses": [(loss.value.name, loss.weight) for loss in graph.losses],
        "about": (model.name, model.mode, model.labels, model.preprocessing, model.metadata),
    }


def fill(model: Model) -> None:
    random = np.random.default_rng(5)
    for value in model.parameters.values():
        value.data = random.standard_normal(value.known_shape, np.float32)  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", ["test", "train"])
@pytest.mark.parametrize("net", NETS)
def test_caffe_nets_come_back_as_they_were(net: str, phase: str) -> None:
    source = import_files([shared("golden", "nets", f"{net}.prototxt")], phase=phase)
    again = import_yaml(to_yaml(source).encode())
    assert facts(again) == facts(source)
    assert to_yaml(again) == to_yaml(source)


def test_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    source = import_files([shared("golden", "nets", "resnet_small_loss.prototxt")], phase="train")
    fill(source)
    source.labels = ("no", "a: b", "1")
    export_yaml(source, tmp_path / "net.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.npz", "net.yaml"]
    assert facts(import_yaml(tmp_path / "net.yaml")) == facts(source)
    first = (tmp_path / "net.yaml").read_bytes(), (tmp_path / "net.npz").read_bytes()
    export_yaml(import_yaml(tmp_path / "net.yaml"), tmp_path / "net.yaml")
    assert ((tmp_path / "net.yaml").read_bytes(), (tmp_path / "net.npz").read_bytes()) == first


def test_words_are_written_where_they_say_everything() -> None:
    text = to_yaml(import_yaml(LENET))
    for line in ("- conv1: conv 20 5x5", "- pool2: max 2x2 /2", "- ip1: dense 500", "- relu: relu",
                 "- prob: softmax"):  # fmt: skip
        assert f"  {line}\n" in text


def test_small_constants_stand_in_the_text_and_large_ones_beside_it(tmp_path: Path) -> None:
    graph = Graph("constants")
    x = graph.add_input("x", DType.FLOAT32, (2, 100))
    small = graph.constant(np.array([0.1, np.inf, -0.0, 1e-45], np.float32), name="small")
    large = graph.constant(np.arange(100, dtype=np.float32), name="large")
    half = graph.constant(np.ones((2, 1)), DType.BFLOAT16, name="half")
    y = graph.emit("Add", x, large, outputs=["y"])
    top = graph.emit("ReduceMax", small, outputs=["top"])
    cast = graph.emit("Cast", half, to=int(DType.FLOAT32), outputs=["cast"])
    graph.outputs = [y, top, cast]
    model = Model(graph)
    export_yaml(model, tmp_path / "c.yaml")
    assert (tmp_path / "c.safetensors").exists()  # bfloat16 has no place in .npz
    assert facts(import_yaml(tmp_path / "c.yaml")) == facts(model)
    assert "small: {type: float32" in (tmp_path / "c.yaml").read_text()


def test_graphs_inside_nodes_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    inner = Graph()
    inner.outputs = [inner.constant([1.0], DType.FLOAT32)]
    graph = Graph()
    condition = graph.add_input("c", DType.BOOL, ())
    graph.outputs = [graph.emit("If", condition, then_branch=inner, else_branch=inner.copy())]
    with pytest.raises(UnsupportedError, match="If 'if' holds a graph of its own"):
        export_yaml(Model(graph), tmp_path / "m.yaml")
    assert list(tmp_path.iterdir()) == []
