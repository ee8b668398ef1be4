"""Reads the recorded results of real Caffe in ../shared/golden and compares with them (its
README.md).

A case is a net, the arrays to put in, and the arrays that came out. Which cases the importer covers
is asked of the importer's own table of rules, so the tests grow with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nnconv.converter.caffe.layers import READERS
from nnconv.converter.caffe.reader import import_caffe
from nnconv.schemas.graph import Graph, Model, Value
from tests.places import shared

Array = np.ndarray[Any, Any]

DEVICES: dict[str, dict[str, Any]] = {
    "reference": {"device": "reference"},
    "cpu": {"device": "cpu"},
    "cpu-direct": {"device": "cpu", "winograd": 0},
}
"""What recorded results are compared on, and how it is said to `compile_model`."""


@dataclass(frozen=True)
class Case:
    """One entry of an index.json; keys that it lacks have their defaults."""

    folder: str
    entry: Mapping[str, Any] = field(hash=False)

    @property
    def name(self) -> str:
        return str(self.entry["name"])

    @property
    def phase(self) -> str:
        return str(self.entry.get("phase", "TEST")).lower()

    @property
    def flags(self) -> frozenset[str]:
        return frozenset(self.entry.get("flags", ()))

    @property
    def steps(self) -> int:
        return int(self.entry.get("steps", 1))

    @property
    def prototxt(self) -> Path:
        return shared("golden", self.folder, f"{self.name}.prototxt")

    @property
    def types(self) -> frozenset[str]:
        """The layer types that a rule must exist for."""
        return (
            frozenset(self.entry["types"]) if "types" in self.entry else layer_types(self.prototxt)
        )

    @property
    def covered(self) -> bool:
        return self.types <= READERS.keys()

    def tolerance(self, group: str) -> float | None:
        limit = self.entry["tol"].get(group)
        return None if limit is None else float(limit)

    def arrays(self) -> dict[str, Array]:
        with np.load(shared("golden", self.folder, f"{self.name}.npz")) as stored:
            return {key: stored[key] for key in stored.files}

    def model(self) -> Model:
        return import_caffe(self.prototxt, phase=self.phase)

    def __str__(self) -> str:
        return self.name


@cache
def cases(folder: str) -> tuple[Case, ...]:
    """All cases of a folder, in the order of its index."""
    index = json.loads(shared("golden", folder, "index.json").read_text("utf-8"))
    entries = index["cases"] if isinstance(index, dict) else index
    return tuple(Case(folder, entry) for entry in entries)


def covered(folder: str) -> list[Case]:
    """The cases all of whose layers the importer knows."""
    return [case for case in cases(folder) if case.covered]


@cache
def layer_types(prototxt: Path) -> frozenset[str]:
    """The types written in a V2 prototxt, whether a phase takes them or not; fillers have types
    too, so they are told apart by standing in a `*_filler`."""
    from google.protobuf import text_format

    from nnconv.converter.caffe.schema import dialect

    net: Any = dialect().new("NetParameter")
    text_format.Parse(prototxt.read_text("utf-8"), net)
    return frozenset(layer.type for layer in net.layer)


def part(arrays: Mapping[str, Array], group: str, step: int = 0) -> dict[str, Array]:
    """The arrays of one group ("in", "out", "param" ...) and one step, by name."""
    prefix = f"step{step}/{group}/" if step else f"{group}/"
    return {key[len(prefix) :]: array for key, array in arrays.items() if key.startswith(prefix)}


def parameter(graph: Graph, key: str) -> Value:
    """A parameter by layer and index; a shared one is found under each of its layers."""
    layer, _, index = key.rpartition("/")
    if key in graph.values:
        return graph.values[key]
    (record,) = [record for record in graph.layers if record.name == layer]
    return graph.values[record.parameters[int(index)]]


def set_parameters(model: Model, arrays: Mapping[str, Array]) -> None:
    """Give parameters their data; the shapes must be Caffe's."""
    for name, array in arrays.items():
        value = parameter(model.graph, name)
        assert value.shape == array.shape, f"{name}: {value.shape} here, {array.shape} in Caffe"
        value.data = array


def distance(got: Array, reference: Array) -> float:
    """max |got - reference| / max |reference| over finite entries, absolute where the reference
    is all zero; infinite where shapes, NaN or infinities differ."""
    if got.shape != reference.shape:
        return np.inf
    finite = np.isfinite(reference)
    if not np.array_equal(got[~finite], reference[~finite], equal_nan=True):
        return np.inf
    if not finite.any():
        return 0.0
    difference = np.abs(got[finite].astype(np.float64) - reference[finite])
    largest = np.abs(reference[finite].astype(np.float64)).max()
    return float(difference.max() / (largest or 1.0))


# The recipe of golden/nets


def _raw(text: str, count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    generator: Any = np.random.Philox(key=key)
    raw: np.ndarray[Any, np.dtype[np.uint64]] = generator.random_raw(count)
    return raw


def uniform(text: str, count: int) -> Array:
    """u(T, n): doubles from 0 to below 1."""
    return (_raw(text, count) >> np.uint64(11)) * 2.0**-53


def _signed(text: str, count: int) -> Array:
    return 2 * uniform(text, count) - 1


def _matrix(text: str, shape: tuple[int, ...], gain: float) -> Array:
    count = int(np.prod(shape))
    scale: float = gain * (6 / (count // shape[0])) ** 0.5
    return _signed(text, count) * scale


def recipe_parameter(
    kind: str, text: str, index: int, shape: tuple[int, ...], gain: float, bias: float
) -> Array:
    """Parameter blob `index` of a layer of type `kind`, as float32 in Caffe's shape."""
    count = int(np.prod(shape))
    if kind in ("Convolution", "Deconvolution", "InnerProduct"):
        values = _matrix(text, shape, gain) if index == 0 else _signed(text, count) * bias
    elif kind == "BatchNorm":
        u = uniform(text, count)
        values = ((2 * u - 1) * 0.4, 0.75 + 1.5 * u, 1 + u)[index]
    elif kind == "Scale":
        u = uniform(text, count)
        values = gain * (0.75 + 0.5 * u) if index == 0 else (2 * u - 1) * 0.1
    elif kind == "PReLU":
        values = 0.25 + 0.1 * _signed(text, count)
    elif kind in ("LSTM", "RNN"):
        factor = np.sqrt(9 / shape[1]) if len(shape) > 1 else 0.1
        values = _signed(text, count) * factor
    else:
        values = _signed(text, count) * (1.0 if index == 0 else 0.1)
    return values.astype(np.float32).reshape(shape)


def recipe_input(kind: str, text: str, shape: tuple[int, ...]) -> Array:
    """An input blob, as float32."""
    u = uniform(text, int(np.prod(shape)))
    s = 2 * u - 1
    if kind.startswith("int"):
        values = np.floor(u * int(kind[3:]))
    elif kind == "cont":
        values = (u >= 0.15).astype(np.float64)
        values.reshape(shape)[0] = 0
    else:
        values = {
            "unit": s * np.sqrt(3),
            "01": u,
            "pix": s * 128,
            "bin": (u >= 0.5) * 1.0,
            "ign8": np.where(u >= 0.9, -1, np.floor(u / 0.9 * 8)),
        }[kind]
    return np.asarray(values, np.float32).reshape(shape)


def recipe_parameters(case: Case, model: Model) -> dict[str, Array]:
    """All parameters of a net of golden/nets, by name; checks them against the recorded digest."""
    entry = case.entry
    kinds = {record.name: record.type for record in model.graph.layers}
    filled = {}
    digest = hashlib.sha256()
    for name, shape in entry["param_shapes"].items():
        layer, _, index = name.rpartition("/")
        text = f"nnconv/{entry['weights_name']}/{name}"
        gain = entry["gain"].get(layer, 1)
        filled[name] = recipe_parameter(
            kinds[layer], text, int(index), tuple(shape), gain, entry["bias_scale"]
        )
        digest.update(filled[name].tobytes())
    assert digest.hexdigest() == entry["weights_sha256"]
    return filled


def recipe_inputs(case: Case) -> dict[str, Array]:
    """All inputs of a net of golden/nets; checks each against its recorded digest."""
    inputs = {}
    for name, spec in case.entry["inputs"].items():
        text = f"nnconv/{case.entry['input_name']}/input/{name}"
        inputs[name] = recipe_input(spec["kind"], text, tuple(spec["shape"]))
        assert hashlib.sha256(inputs[name].tobytes()).hexdigest() == spec["sha256"]
    return inputs


def sampled(array: Array, count: int) -> Array:
    """The `count` elements that golden/nets stores of a larger array."""
    places = np.arange(count) * array.size // count
    return np.asarray(array.ravel()[places])


def relative_l2(got: Array, reference: Array) -> float:
    """|got - reference| / |reference| in the Euclidean norm."""
    difference = got.astype(np.float64) - reference
    return float(np.linalg.norm(difference) / (np.linalg.norm(reference.astype(np.float64)) or 1.0))
