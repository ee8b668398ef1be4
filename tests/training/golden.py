"""The recorded training runs of real Caffe (golden/train): nets, solvers, batches, and what came
out."""

from __future__ import annotations

import gzip
from functools import cache
from typing import Any

import numpy as np

from nnconv.converter.caffe.reader import import_caffe
from nnconv.converter.caffe.solver import read_solver
from nnconv.runtime.training import Trainer
from nnconv.schemas.graph import Graph, Value
from nnconv.schemas.training import TrainingSpec
from tests.golden.harness import Array, Case, cases, layer_types, recipe_parameter, sampled
from tests.places import shared

RUNS = cases("train")
FEEDS = ("stored", "mnist")


def net(case: Case) -> Any:
    return shared("golden", "train", f"{case.name}.net.prototxt")


def is_covered(case: Case, readers: Any) -> bool:
    return case.entry["feed"] in FEEDS and layer_types(net(case)) <= readers.keys()


def read_spec(case: Case) -> TrainingSpec:
    """The solver file as a TrainingSpec."""
    return read_solver(shared("golden", "train", f"{case.name}.solver.prototxt")).spec


class Run:
    """One run: its model with the recorded start, its batches, and its records."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.arrays = case.arrays()
        self.spec = read_spec(case)
        self.model = import_caffe(net(case), phase="train")
        self.start()

    def start(self) -> None:
        for facts in self.case.entry["params"]:
            value = parameter(self.model.graph, facts["key"])
            shape = tuple(facts["shape"])
            if facts["subsampled"]:
                value.data = self.recipe(facts["key"], shape)
            else:
                value.data = self.arrays[f"param0/{facts['key']}"].reshape(value.shape)

    def recipe(self, key: str, shape: tuple[int, ...]) -> Array:
        layer, _, index = key.rpartition("/")
        entry = self.case.entry
        text, gain = f"nnconv/{entry['weights_name']}/{key}", entry["gain"].get(layer, 0.7)
        return recipe_parameter("Convolution", text, int(index), shape, gain, 0.1)

    def batch(self, number: int, rows: int = 32) -> dict[str, Array]:
        if self.case.entry["feed"] == "mnist":
            pictures, labels = mnist()
            part = slice(number * rows, (number + 1) * rows)
            scaled = pictures[part].astype(np.float32) * np.float32(0.00390625)
            return {"data": scaled.reshape(rows, 1, 28, 28), "label": labels[part].astype("f4")}
        stored = {k[6:]: a for k, a in self.arrays.items() if k.startswith("batch/")}
        return {name: array[number % len(array)] for name, array in stored.items()}

    def compared(self, trainer: Trainer, key: str) -> tuple[Array, Array]:
        """A parameter now and as recorded after as many updates."""
        array = trainer.model.graph.values[parameter(self.model.graph, key).name].data
        assert array is not None
        reference = self.arrays[f"param{trainer.iteration}/{key}"]
        facts = next(f for f in self.case.entry["params"] if f["key"] == key)
        got = sampled(array, reference.size) if facts["subsampled"] else array
        return got.reshape(reference.shape), reference


def parameter(graph: Graph, key: str) -> Value:
    layer, _, index = key.rpartition("/")
    if key in graph.values:
        return graph.values[key]
    (record,) = [record for record in graph.layers if record.name == layer]
    return graph.values[record.parameters[int(index)]]


@cache
def mnist() -> tuple[Array, Array]:
    """The training pictures [60000, 28, 28] and labels, as bytes."""
    with gzip.open(shared("data", "mnist", "train-images-idx3-ubyte.gz")) as file:
        pictures = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(shared("data", "mnist", "train-labels-idx1-ubyte.gz")) as file:
        return pictures, np.frombuffer(file.read(), np.uint8, offset=8)
