"""Writes a model as Caffe's two files: the net as prototxt, the net with its weights as caffemodel.

A layer whose nodes are as they were read is written from its record, with every setting of the
source. Nodes that have changed, or never came from Caffe, are matched by the writing rules. Nothing
is written unless all of the model can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from nnconv.converter.caffe import layers as _layers
from nnconv.converter.caffe import schema
from nnconv.converter.caffe.blob import Blob
from nnconv.converter.caffe.layers.registry import READERS, WRITERS
from nnconv.converter.caffe.layers.writing import Written, is_fixed, sizes_of, stored_behind
from nnconv.converter.caffe.prototxt import print_message
from nnconv.converter.caffe.reader import NET_FIELDS
from nnconv.converter.caffe.records import fingerprint
from nnconv.converter.caffe.text import parse
from nnconv.converter.caffe.wire import write_net
from nnconv.schemas.errors import InputError, Report, UnsupportedError
from nnconv.schemas.files import AnyPath, atomic_write
from nnconv.schemas.graph import Graph, LayerRecord, Model, Node, Parameter, Value
from nnconv.schemas.types import DType

assert _layers.WRITERS


@dataclass(slots=True)
class Caffe:
    """A net ready to be written: the message without blobs, and the blobs of each of its layers."""

    net: Any
    blobs: list[list[Blob]] = field(default_factory=list)

    @property
    def prototxt(self) -> str:
        return print_message(self.net)


def export_caffe(
    model: Model,
    prototxt: AnyPath | None,
    caffemodel: AnyPath | None = None,
    *,
    report: Report | None = None,
) -> None:
    """Write the net to `prototxt` and net with weights to `caffemodel`, each where given.

    Each file takes the place of an old one only when it is complete. Raises UnsupportedError naming
    every operator that Caffe has no layer for, InputError for a parameter without weights; then
    neither is touched.
    """
    written = to_caffe(model, report=report, weights=caffemodel is not None)
    with ExitStack() as files:
        if prototxt is not None:
            text = files.enter_context(atomic_write(prototxt))
            text.write(written.prototxt.encode("utf-8", errors="surrogateescape"))
        if caffemodel is not None:
            binary = files.enter_context(atomic_write(caffemodel))
            write_net(binary, _binary(model, written.net), written.blobs)


def to_caffe(model: Model, *, report: Report | None = None, weights: bool = True) -> Caffe:
    """The model as a net message and blobs; see export_caffe."""
    return _Writer(model, report if report is not None else Report(model.name), weights).write()


def _binary(model: Model, net: Any) -> Any:
    """What Caffe puts into a caffemodel: name and layers, nothing of the net's own fields."""
    bare = type(net)(name=net.name)
    bare.layer.extend(net.layer)
    return bare


def _fitted(descriptor: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a dialect has them: a fork may have made a field repeated that others have
    once."""
    fitted: dict[str, Any] = {}
    for name, value in settings.items():
        field = descriptor.fields_by_name[name]
        if isinstance(value, dict):
            value = _fitted(field.message_type, value)
        elif field.is_repeated and not isinstance(value, list | tuple):
            value = [value]
        fitted[name] = value
    return fitted


def _is_size(value: Value) -> bool:
    return value.dtype is DType.INT64


class _Writer:
    """One export: `current` says which value each Caffe blob holds at this point, `names` the
    reverse."""

    def __init__(self, model: Model, report: Report, weights: bool) -> None:
        self.model = model
        self.graph: Graph = model.graph
        self.report = report
        self.weights = weights
        stated = model.source.dialect if model.source.format == "caffe" else ""
        self.dialect = schema.dialect(stated or schema.BASE)
        self.result = Caffe(self.dialect.new("NetParameter", name=model.name))
        self.layer_names: set[str] = set()
        self.current: dict[str, Value] = {}
        self.names: dict[Value, str] = {}
        self.stopped: set[Value] = set()
        self._running = {state.write for state in model.graph.state}

    def write(self) -> Caffe:
        self._net_fields()
        groups = self._groups()
        self._inputs(groups)
        for record, nodes in groups:
            layer = self._recorded(record, nodes)
            if record is not None and layer is not None:
                self._from_record(record, layer, nodes)
            else:
                self._from_nodes(nodes)
        self.report.raise_if_errors(UnsupportedError)
        return self.result

    def _net_fields(self) -> None:
        text = self.model.metadata.get(NET_FIELDS)
        if text:
            parsed = parse(
                text.encode(), "NetParameter", dialect=self.dialect, report=Report("metadata")
            )
            self.result.net.MergeFrom(parsed.message)
        self.result.net.name = self.model.name

    def _groups(self) -> list[tuple[LayerRecord | None, list[Node]]]:
        """The layers in order, each with its nodes. Records without nodes keep their places;
        nodes that a rewrite moved out of a layer's run form groups of their own, where they
        stand."""
        places = {id(record): place for place, record in enumerate(self.graph.layers)}
        groups: list[tuple[LayerRecord | None, list[Node]]] = []
        done = 0
        for node in self.graph.nodes:
            record = node.layer
            if groups and groups[-1][0] is record and groups[-1][1]:
                groups[-1][1].append(node)
                continue
            place = places.get(id(record), -1)
            while done < place:
                groups.append((self.graph.layers[done], []))
                done += 1
            done = max(done, place + 1)
            groups.append((record, [node]))
        groups.extend((record, []) for record in self.graph.layers[done:])
        return groups

    # --- layers as they were read ---------------------------------------------------------------

    def _recorded(self, record: LayerRecord | None, nodes: list[Node]) -> Any:
        """The layer of a record whose nodes are unchanged and whose blobs are the ones it read,
        or None."""
        if record is None or not record.message:
            return None
        if record.fingerprint != fingerprint(self.graph, record, nodes):
            return None
        layer: Any = self.dialect.new("LayerParameter")
        layer.ParseFromString(record.message)
        if layer.type == "Input" and not self._sizes_hold(layer):
            return None
        there = [self.current.get(name) for name in layer.bottom]
        made = {value for node in nodes for value in node.outputs}
        read = {value for node in nodes for value in node.inputs if value is not None} - made
        used = {value for value in read if not value.is_stored and value not in self._running}
        return layer if None not in there and used <= set(there) else None

    def _sizes_hold(self, layer: Any) -> bool:
        """Whether the sizes that an Input layer states are still the model's own."""
        shapes = [tuple(shape.dim) for shape in layer.input_param.shape] or [()]
        values = [self.graph.values.get(top) for top in layer.top]
        shapes = shapes * len(values) if len(shapes) == 1 else shapes
        return all(
            value is not None and sizes_of(value) == shape
            for value, shape in zip(values, shapes, strict=True)
        )

    def _from_record(self, record: LayerRecord, layer: Any, nodes: list[Node]) -> None:
        self.result.net.layer.append(layer)
        self.layer_names.add(record.name)
        values = [self.graph.values[name] for name in record.parameters]
        self.result.blobs.append(self._blobs(record.name, values, []))
        made = {value.name: value for node in nodes for value in node.outputs}
        made |= {value.name: value for value in self.graph.inputs if not nodes}
        for top in layer.top:
            value = made.get(f"{top}@{record.name}") or made.get(top)
            if value is not None:
                self._name(value, top)

    def _name(self, value: Value, blob: str) -> None:
        self.current[blob] = value
        self.names[value] = blob

    # --- layers from nodes ----------------------------------------------------------------------

    def _inputs(self, groups: list[tuple[LayerRecord | None, list[Node]]]) -> None:
        """Input layers for the graph's inputs that no record makes."""
        made: set[str] = set()
        for record, nodes in groups:
            if (
                not nodes
                and (layer := self._recorded(record, nodes)) is not None
                and not layer.bottom
            ):
                made.update(layer.top)
        for value in self.graph.inputs:
            if value.name not in made:
                self._input(value)

    def _input(self, value: Value) -> None:
        sizes = sizes_of(value)
        if sizes is None:
            raise InputError(
                f"input '{value.name}': Caffe needs numbers for its sizes ({value})",
                hint="say how large the input is when importing: --input-shape NAME:N,C,H,W",
            )
        layer = self._layer("Input", value.name, [], [value.name])
        layer.input_param.shape.add().dim.extend(sizes)
        self.result.blobs.append([])
        self._name(value, value.name)

    def _from_nodes(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if all(map(is_fixed, node.outputs)) or all(map(_is_size, node.outputs)):
                continue  # parameters and sizes are written with the layer that takes them
            if node.op == "nnconv.StopGradient" and self._stops(node):
                continue
            rule = WRITERS.get(node.op)
            written = rule(node) if rule else None
            if written is None or not self._connected(written):
                self._refuse(node, known=rule is not None)
            elif field := self._foreign_field(written):
                self._refuse_field(node, written.type, field)
            else:
                self._from_rule(node, written)
                continue
            for value in node.outputs:
                self._name(value, value.name)  # so that its readers are not refused too

    def _stops(self, node: Node) -> bool:
        """Let the layers that read the node read what stands before it, with propagate_down; False
        where nothing but layers may read it."""
        source, result = node.required(0), node.output
        if source not in self.names or result in self.graph.outputs:
            return False
        self.names[result] = self.names[source]
        self.stopped.add(result)
        return True

    def _foreign_field(self, written: Written) -> str:
        """The first setting that layers of this dialect do not have, '' where all are known."""
        known = self.dialect.descriptor("LayerParameter").fields_by_name
        return next((name for name in written.settings if name not in known), "")

    def _refuse_field(self, node: Node, kind: str, field: str) -> None:
        title = f"'{node.outputs[0].name}' ({node.op})"
        forks = ", ".join(schema.dialects_knowing("LayerParameter", field)[:3])
        text = f"{title}: layer type {kind} needs {field}, which {self.dialect.name} Caffe lacks"
        self.report.error(text, node.span, hint=f"forks that have it: {forks}" if forks else "")

    def _connected(self, written: Written) -> bool:
        return all(value in self.names for value in written.bottoms)

    def _refuse(self, node: Node, known: bool) -> None:
        name = node.outputs[0].name if node.outputs else node.op
        text = f"'{name}' ({node.op}): Caffe has no layer that does this"
        if known:
            text = (
                f"'{name}' ({node.op}): with these attributes and inputs Caffe has no equal layer"
            )
        self.report.error(text, node.span, hint="write ONNX or .nnir instead")

    def _from_rule(self, node: Node, written: Written) -> None:
        bottoms = [self.names[value] for value in written.bottoms]
        tops = [self._top(value, bottoms, index) for index, value in enumerate(written.tops)]
        layer = self._layer(written.type, node.name or written.tops[0].name, bottoms, tops)
        layer.loss_weight.extend(self._loss_weights(written))
        if self.stopped.intersection(written.bottoms):
            layer.propagate_down.extend(value not in self.stopped for value in written.bottoms)
        settings = _fitted(layer.DESCRIPTOR, written.settings)
        specs = settings.pop("param", None) or self._specs(written.blobs)
        layer.MergeFrom(self.dialect.new("LayerParameter", param=specs, **settings))
        blobs = [stored_behind(blob) or blob for blob in written.blobs]
        made = self._blobs(layer.name, blobs, written.shapes)
        self.result.blobs.append([blob.widened() for blob in made])

    def _top(self, value: Value, bottoms: list[str], index: int) -> str:
        """The name of a blob to make. A name that exists is made again only in place, as it was
        read."""
        name = value.name
        if name in self.current and not (index < len(bottoms) and bottoms[index] == name):
            name = f"{name}_"
            while name in self.current:
                name += "_"
        self._name(value, name)
        return name

    def _loss_weights(self, written: Written) -> list[float]:
        """Weights, where they are not the layer's own: 1 for the first top of a loss, else 0."""
        rule = READERS.get(written.type)
        own = [
            float(index == 0 and rule is not None and rule.loss)
            for index in range(len(written.tops))
        ]
        weights = [
            float(sum(loss.weight for loss in self.graph.losses if loss.value is top))
            for top in written.tops
        ]
        return weights if weights != own else []

    def _layer(self, kind: str, name: str, bottoms: list[str], tops: list[str]) -> Any:
        unique, count = name, 0
        while unique in self.layer_names:
            count += 1
            unique = f"{name}_{count}"
        self.layer_names.add(unique)
        layer = self.result.net.layer.add(name=unique, type=kind)
        layer.bottom.extend(bottoms)
        layer.top.extend(tops)
        return layer

    def _specs(self, blobs: list[Value]) -> list[dict[str, float]]:
        """Multipliers, where one is not 1."""
        specs = []
        for blob in blobs:
            parameter = blob.parameter or Parameter()
            chosen = {"lr_mult": parameter.lr_mult, "decay_mult": parameter.decay_mult}
            specs.append({key: value for key, value in chosen.items() if value != 1})
        return specs if any(specs) else []

    def _blobs(self, layer: str, values: list[Value], shapes: Sequence[Any]) -> list[Blob]:
        """The weights of a layer, seen in other `shapes` where those are given; none without
        weights."""
        blobs = []
        for index, value in enumerate(values if self.weights else ()):
            if value.data is None:
                raise InputError(
                    f"layer '{layer}': parameter '{value.name}' has no weights to write",
                    hint="write the prototxt alone, or load weights first",
                )
            array = value.data.reshape(shapes[index]) if index < len(shapes) else value.data
            blobs.append(Blob(tuple(array.shape), array))
        return blobs
