"""Writes a model in the YAML language: short words where they say exactly what a node is, operators
by name elsewhere.

A node is written as a word when reading that word would make the very same node; `_short` holds one
small function for each operator that may be. The arrays go to a file beside the model's. The same
model gives the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from nnconv.converter.checkpoint.files import SUFFIXES, write_checkpoint
from nnconv.converter.yaml.scalars import number, quoted
from nnconv.converter.yaml.sections import LOSSES, TRAINING
from nnconv.schemas.checkpoint import Checkpoint
from nnconv.schemas.dims import Shape
from nnconv.schemas.dims import names as names_of
from nnconv.schemas.errors import InputError, Report, UnsupportedError
from nnconv.schemas.files import AnyPath, atomic_write, storable
from nnconv.schemas.graph import Filler, Graph, Model, Node, Parameter, Value
from nnconv.schemas.operators import operator
from nnconv.schemas.types import DType

MOST_INLINE = 64
"""Elements; larger constants go to the weights file."""
# standard operators of one input and no setting, by their word
_BARE = {
    "GlobalMaxPool": "global_max",
    "GlobalAveragePool": "global_average",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softplus": "softplus",
    "Abs": "abs",
    "Exp": "exp",
    "Identity": "identity",
}


def export_yaml(
    model: Model, path: AnyPath, weights: AnyPath | None = None, *, report: Report | None = None
) -> None:
    """Write the model to `path` and its arrays to `weights` (NAME.npz beside it by default).

    Raises UnsupportedError, naming the node, for graphs inside nodes and what else has no place in
    YAML; then nothing is written.
    """
    target = Path(path)
    stored = _stored(model.graph)
    side = Path(weights) if weights is not None else target.with_suffix(_suffix(stored))
    if side.suffix.lower() not in SUFFIXES:
        raise UnsupportedError(
            f"{side}: this is no weights file", hint=f"weights are {', '.join(SUFFIXES)}"
        )
    if stored and os.path.abspath(side.parent) != os.path.abspath(target.parent):  # noqa: PTH100
        raise InputError(f"{side}: the weights must lie in the folder of {target.name}")
    text = to_yaml(model, storable(side) if stored else "", report)
    with atomic_write(target) as file:  # takes its place after the weights have
        file.write(text.encode("utf-8"))
        file.flush()
        if stored:
            write_checkpoint(Checkpoint(stored), side)


def to_yaml(model: Model, weights: str = "", report: Report | None = None) -> str:
    """The text of a model file that names `weights` as the file of its arrays."""
    return "".join(f"{line}\n" for line in _Writer(model, weights, report or Report()).lines())


def _stored(graph: Graph) -> dict[str, Any]:
    """What goes to the weights file: all parameters with data, and large constants."""
    return {
        name: value.data
        for name, value in graph.values.items()
        if value.data is not None and (value.parameter is not None or not _inline(value))
    }


def _suffix(stored: dict[str, Any]) -> str:
    """.npz, unless it cannot hold a type (bfloat16 and smaller ones)."""
    plain = all(array.dtype.isbuiltin == 1 for array in stored.values())
    return ".npz" if plain else ".safetensors"


def _inline(value: Value) -> bool:
    assert value.data is not None
    fits = value.data.size <= MOST_INLINE or value.dtype is DType.STRING
    # small types of ml_dtypes would need their values spelled; the weights file holds them as bits
    return bool(fits and (value.data.dtype.isbuiltin == 1))


class _Writer:
    def __init__(self, model: Model, weights: str, report: Report) -> None:
        self.model = model
        self.graph = model.graph
        self.weights = weights
        self.report = report
        self.declared: dict[str, Parameter] = {}
        self.folded: set[Node] = set()

    def lines(self) -> Iterator[str]:
        model, graph = self.model, self.graph
        if model.name:
            yield f"name: {quoted(model.name)}"
        if model.mode != "test":
            yield f"mode: {model.mode}"
        yield from self._inputs()
        free = {name for v in graph.inputs for dim in v.shape or () for name in names_of(dim)}
        sizes = {
            name: size
            for name, size in sorted(graph.sizes.items())
            if size != 1 or name not in free
        }
        if sizes:
            yield f"sizes: {flow(sizes)}"
        layers = list(self._layers())
        yield from self._stored_values()
        yield "layers:"
        yield from layers
        yield from self._ends()
        yield from self._around()

    def _inputs(self) -> Iterator[str]:
        values = self.graph.inputs
        if len(values) == 1 and values[0].shape is not None and values[0].name not in _RESERVED:
            yield f"input: {flow({values[0].name: _shape(values[0])} | self._about(values[0]))}"
        elif values:
            yield "inputs:"
            for value in values:
                about = self._about(value)
                shape = _shape(value)
                shown = {"shape": shape} | about if about or shape is None else shape
                yield f"  {quoted(value.name)}: {flow(shown)}"

    def _about(self, value: Value) -> dict[str, Any]:
        """What an input says beyond its shape."""
        found: dict[str, Any] = {}
        if value.dtype is not DType.FLOAT32:
            found["type"] = str(value.dtype)
        how = self.model.preprocessing.get(value.name)
        if how is None:
            return found
        if how.mean_image is not None:
            self.report.warning(f"the mean image of input '{value.name}' is not written: "
                                "YAML has one mean a channel")  # fmt: skip
        options = {"channels": (how.channels, "BGR"), "scale": (how.scale, 1.0),
                   "mean": (list(how.mean), []), "crop": (how.crop, 0)}  # fmt: skip
        return found | {key: value for key, (value, usual) in options.items() if value != usual}

    # --- layers -----------------------------------------------------------------------------------

    def _layers(self) -> Iterator[str]:
        previous = self.graph.inputs[0] if self.graph.inputs else None
        for node in self.graph.nodes:
            if node in self.folded or self._folds_into_dense(node):
                continue
            name = node.outputs[0].name
            yield f"  - {quoted(name)}: {self._layer(node, previous)}"
            previous = node.outputs[0]

    def _folds_into_dense(self, node: Node) -> bool:
        """Whether this Flatten is the one that the word `dense` puts before its Gemm."""
        users = node.outputs[0].consumers if node.op == "Flatten" else []
        return (
            len(users) == 1
            and users[0].op == "Gemm"
            and node._after is users[0]
            and node.outputs[0].name == f"{users[0].outputs[0].name}:flatten"
            and not node.attributes
            and self._dense(users[0], node) is not None
        )

    def _dense(self, node: Node, flatten: Node | None) -> str | None:
        """`dense N` where a Gemm is what that word makes."""
        x, weights, bias = node.input(0), node.input(1), node.input(2)
        if len(node.inputs) != 3 or not x or not weights or node.attributes != {"transB": 1}:
            return None
        source = x if flatten is None else flatten.required(0)
        shape = source.shape
        if shape is None or (len(shape) == 2) != (flatten is None) or len(shape) < 2:
            return None
        inner = 1
        for dim in shape[1:]:
            if not isinstance(dim, int):
                return None
            inner *= dim
        units = weights.shape[0] if weights.shape and len(weights.shape) == 2 else 0
        fits = _own(node, weights, 0, (units, inner)) and (
            bias is None or _own(node, bias, 1, (units,))
        )
        if not fits or not self._usual(weights, bias) or weights.dtype is not DType.FLOAT32:
            return None
        return f"dense {units}" + ("" if bias is not None else " no_bias")

    def _usual(self, weights: Value, bias: Value | None) -> bool:
        """Whether the word's own parameters would be set as these are; else they are declared."""
        settings = [(weights, Filler("xavier")), (bias, Filler())]
        for value, filler in settings:
            if value is None:
                continue
            if value.parameter != Parameter(filler=filler) or value.dtype is not DType.FLOAT32:
                self.declared[value.name] = value.parameter or Parameter()
        return True

    def _layer(self, node: Node, previous: Value | None) -> str:
        text = self._short(node)
        x = node.input(0)
        if text is not None:
            flatten = x.producer if x is not None and node.op == "Gemm" else None
            if flatten is not None and self._folds_into_dense(flatten):
                x = flatten.required(0)
            if x is previous:
                return quoted(text)
            op, *rest = text.split(" ")
            assert x is not None
            if not rest:
                return flow({"op": op, "inputs": [x.name]})
        return self._operator(node, previous)

    def _short(self, node: Node) -> str | None:
        if len(node.outputs) != 1:
            return None
        if node.op in _BARE and not node.attributes:
            return _BARE[node.op]
        if node.op == "Gemm":
            x = node.input(0)
            before = x.producer if x is not None else None
            flatten = before if before is not None and before.op == "Flatten" else None
            return self._dense(node, flatten) or self._dense(node, None)
        short = _SHORT.get(node.op)
        return None if short is None else short(self, node)

    def _operator(self, node: Node, previous: Value | None) -> str:
        """The node by its operator's own name, with everything said."""
        for value in node.inputs:
            if value is not None and value.parameter is not None:
                self.declared[value.name] = value.parameter
        said: dict[str, Any] = {"op": node.op}
        only = len(node.inputs) == 1 and node.inputs[0] is previous
        if not only:
            said["inputs"] = [None if v is None else v.name for v in node.inputs]
        if len(node.outputs) > 1:
            said["outputs"] = [value.name for value in node.outputs]
        if clash := {"op", "inputs", "outputs"} & node.attributes.keys():
            raise UnsupportedError(f"{node.op} has an attribute '{clash.pop()}', a key of YAML's")
        for key, value in sorted(node.attributes.items()):
            said[key] = _attribute(node, key, value)
        if only and len(said) == 1:
            return quoted(node.op)
        return flow(said)

    # --- stored values ----------------------------------------------------------------------------

    def _stored_values(self) -> Iterator[str]:
        """Declarations stand before the layers, but are known only when those are written."""
        parameters = {
            name: value
            for name, value in self.graph.parameters.items()
            if name in self.declared or not value.uses
        }
        if parameters:
            yield "parameters:"
            for name, value in parameters.items():
                yield f"  {quoted(name)}: {flow(_parameter(value))}"
        constants = [
            value for value in self.graph.values.values()
            if value.is_stored and value.parameter is None
        ]  # fmt: skip
        if constants:
            yield "constants:"
            for value in constants:
                yield f"  {quoted(value.name)}: {flow(_constant(value))}"

    def _ends(self) -> Iterator[str]:
        graph = self.graph
        yield f"outputs: {flow([value.name for value in graph.outputs])}"
        if graph.state:
            yield "state:"
            for state in graph.state:
                said = {"name": state.name, "read": state.read.name, "write": state.write.name}
                yield f"  - {flow(said)}"
        if graph.losses:
            yield "losses:"
            for loss in graph.losses:
                yield f"  - {flow({'value': loss.value.name, 'weight': float(loss.weight)})}"

    def _around(self) -> Iterator[str]:
        training = _training(self.model)
        losses = training.get("loss")
        if losses and not self.graph.losses:  # else they have been built, and stand under `losses`
            yield f"loss: {flow(losses)}"
        if solver := training.get("solver"):
            yield f"solver: {flow(solver)}"
        if self.weights:
            yield f"weights: {quoted(self.weights)}"
        if self.model.labels:
            yield "labels:"
            for label in self.model.labels:
                yield f"  - {quoted(label)}"
        rest = {key: text for key, text in self.model.metadata.items() if key != TRAINING}
        if rest:
            yield "metadata:"
            for key, text in sorted(rest.items()):
                yield f"  {quoted(key)}: {json.dumps(text, ensure_ascii=False)}"


_RESERVED = frozenset(("type", "scale", "mean", "channels", "crop"))


def _own(node: Node, value: Value, index: int, shape: Shape) -> bool:
    """Whether a value is parameter `index` of the layer as a word would make it: of this name and
    shape, and of no other layer."""
    name = f"{node.outputs[0].name}/{index}"
    alone = len(value.uses) == 1 and value.parameter is not None
    return alone and value.name == name and value.shape == shape


def _training(model: Model) -> dict[str, Any]:
    try:
        found = json.loads(model.metadata.get(TRAINING, "{}"))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    losses = found.get("loss")
    if isinstance(losses, list) and all(
        isinstance(loss, dict) and loss.get("type") in LOSSES for loss in losses
    ):
        found["loss"] = [{key: v for key, v in loss.items() if v != ""} for loss in losses]
    return found


# --- words ----------------------------------------------------------------------------------------


def _window(node: Node) -> str | None:
    """Kernel, stride, pad and dilation as words, None where the words would make other attributes:
    they state all of them, but a pool's dilations only where these matter."""
    found: list[Any] = [node.attributes.get(key) for key in _WINDOW_KEYS]
    kernel, strides, pads, dilations = found
    if not kernel or not strides or pads is None or len(kernel) != 2:
        return None
    if tuple(pads[:2]) != tuple(pads[2:]) or (dilations is None) != (
        node.op not in ("Conv", "ConvTranspose") and dilations in (None, (1, 1))
    ):
        return None
    parts = ["x".join(map(str, kernel))]
    if set(strides) != {1}:
        parts.append(f"/{_pair(strides)}")
    if any(pads):
        parts.append(f"pad {_pair(pads[:2])}")
    if dilations and set(dilations) != {1}:
        parts.append(f"dilation {_pair(dilations)}")
    return " ".join(parts)


def _pair(sizes: Iterable[int]) -> str:
    first, second = sizes
    return str(first) if first == second else f"{first}x{second}"


_WINDOW_KEYS = ("kernel_shape", "strides", "pads", "dilations")


def _short_conv(writer: _Writer, node: Node) -> str | None:
    x, weights, bias = node.input(0), node.input(1), node.input(2)
    window = _window(node)
    if len(node.inputs) != 3 or not window or not x or not weights or weights.shape is None:
        return None
    if node.attributes.keys() - {*_WINDOW_KEYS, "group"} or x.shape is None or len(x.shape) != 4:
        return None
    inner, group = x.shape[1], node.attributes.get("group", 1)
    channels = weights.shape[0] if node.op == "Conv" else weights.shape[1]
    if not isinstance(inner, int) or not isinstance(channels, int):
        return None
    if node.op == "ConvTranspose":
        channels *= group
        shape = (inner, channels // group, *node.kernel_shape)
    else:
        shape = (channels, inner // group, *node.kernel_shape)
    fits = _own(node, weights, 0, shape) and (bias is None or _own(node, bias, 1, (channels,)))
    if not fits or not writer._usual(weights, bias):
        return None
    word = "conv" if node.op == "Conv" else "deconv"
    text = f"{word} {channels} {window}" + (f" group {group}" if group != 1 else "")
    return text if bias is not None else f"{text} no_bias"


def _short_pool(writer: _Writer, node: Node) -> str | None:
    window = _window(node)
    known = {*_WINDOW_KEYS, "ceil_mode"}
    if node.op == "AveragePool":
        known.add("count_include_pad")
    x = node.input(0)
    if window is None or node.attributes.keys() - known or x is None or x.rank != 4:
        return None
    text = f"{'max' if node.op == 'MaxPool' else 'average'} {window}"
    text += " ceil" if node.attributes.get("ceil_mode") == 1 else ""
    return text + (" count_pad" if node.attributes.get("count_include_pad") == 1 else "")


def _short_axis(word: str, usual: int) -> Callable[[_Writer, Node], str | None]:
    def short(writer: _Writer, node: Node) -> str | None:
        axis = node.axis
        return word if axis == usual and node.attributes.keys() <= {"axis"} else f"{word} {axis}"

    return short


def _short_dropout(writer: _Writer, node: Node) -> str | None:
    return f"dropout {number(node.ratio)}" if node.attributes.keys() <= {"ratio"} else None


def _short_leaky(writer: _Writer, node: Node) -> str | None:
    return f"leaky_relu {number(node.alpha)}"


_SHORT: dict[str, Callable[[_Writer, Node], str | None]] = {
    "Conv": _short_conv,
    "ConvTranspose": _short_conv,
    "MaxPool": _short_pool,
    "AveragePool": _short_pool,
    "Softmax": _short_axis("softmax", 1),
    "Flatten": _short_axis("flatten", 1),
    "nnconv.Dropout": _short_dropout,
    "LeakyRelu": _short_leaky,
}


# --- values ---------------------------------------------------------------------------------------


def _shape(value: Value) -> list[Any] | None:
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) else str(dim) for dim in value.shape]


def _parameter(value: Value) -> Any:
    setting = value.parameter or Parameter()
    said: dict[str, Any] = {"shape": _shape(value)}
    if value.dtype is not DType.FLOAT32:
        said["type"] = str(value.dtype)
    for key in ("lr_mult", "decay_mult"):
        if getattr(setting, key) != 1:
            said[key] = float(getattr(setting, key))
    if setting.filler is not None:
        said["filler"] = {"type": setting.filler.type, **setting.filler.options}
    return said if len(said) > 1 else said["shape"]


def _constant(value: Value) -> Any:
    assert value.data is not None
    said: dict[str, Any] = {"type": str(value.dtype), "shape": list(value.data.shape)}
    if not _inline(value):
        return said | {"stored": True}
    return said | {"value": value.data.reshape(-1).tolist()}


def _attribute(node: Node, key: str, value: Any) -> Any:
    declared = operator(node.op).attributes[key].type
    if isinstance(value, Graph) or declared in ("graph", "graphs"):
        raise UnsupportedError(
            f"{node.op} '{node.outputs[0].name}' holds a graph of its own, which YAML has no place "
            "for",
            hint=".nnir and .onnx have",
        )
    if declared == "tensor":
        return {"type": str(DType.of(value.dtype)), "shape": list(value.shape),
                "value": value.reshape(-1).tolist()}  # fmt: skip
    parts = value if isinstance(value, tuple) else (value,)
    if not all(type(part) in (int, float, str, bool) for part in parts):
        raise UnsupportedError(f"{node.op} has an attribute '{key}' that YAML has no place for")
    return list(value) if isinstance(value, tuple) else value


def flow(value: Any) -> str:
    """A value in flow style, on one line.

    >>> flow({"op": "Conv", "pads": [1, 1], "alpha": 0.5})
    '{op: Conv, pads: [1, 1], alpha: 0.5}'
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(str(k))}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return number(value)
    return "null" if value is None else quoted(value) if isinstance(value, str) else str(value)
