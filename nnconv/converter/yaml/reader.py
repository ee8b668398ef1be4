"""Reads a model written in YAML (docs/formats.md describes the language).

The tree comes with positions from `compose`; sections are read one after the other, each noting its
problems in one report, and the report is raised at the end. Layers become nodes as they are read.
"""

from __future__ import annotations

import os
from typing import Any

from nnconv.converter.yaml import layers as language
from nnconv.converter.yaml.builder import (
    BLOCK_INPUT,
    MOST_LAYERS,
    Broken,
    Builder,
    Layer,
    Scope,
    Training,
)
from nnconv.converter.yaml.compose import Item, Mapping, Scalar, Sequence, read
from nnconv.converter.yaml.fields import Fields, integer, kind, number
from nnconv.converter.yaml.sections import (
    LOSSES,
    TRAINING,
    read_default_sizes,
    read_inputs,
    read_losses,
    read_solver,
    read_stored,
)
from nnconv.converter.yaml.stored import load_section
from nnconv.converter.yaml.values import as_json, read_attribute, read_filler
from nnconv.schemas.errors import InputError, NnconvError, Report
from nnconv.schemas.files import map_file
from nnconv.schemas.graph import Graph, Loss, Model, Source, State, Value
from nnconv.schemas.operators import is_operator, operator, operators
from nnconv.schemas.types import DType

# keys of a layer's mapping that belong to no operator
_COMMON = ("op", "inputs", "outputs", "lr_mult", "decay_mult", "filler", "bias_filler")


def import_yaml(
    source: str | os.PathLike[str] | bytes,
    *,
    phase: str | None = None,
    report: Report | None = None,
) -> Model:
    """The model in a YAML file, with its weights where it names some.

    With `phase="train"` the losses are built, each with an input for its labels; otherwise they are
    only kept. Raises InputError with all problems found, each with line and column.
    """
    file = "model" if isinstance(source, bytes) else os.fspath(source)
    notes = Report(file) if report is None else report
    data = source if isinstance(source, bytes) else map_file(source)
    document = read(data, file, notes)
    model = _Reader(Fields(document, document.root, "a model"), phase).read()
    notes.raise_if_errors()
    model.source = Source("yaml", "", () if isinstance(source, bytes) else (file,))
    return model


class _Reader:
    def __init__(self, fields: Fields, phase: str | None) -> None:
        self.fields = fields
        self.document = fields.document
        self.graph = Graph(fields.text("name"))
        mode = fields.text("mode", "test", ("test", "train"))
        self.model = Model(self.graph, mode=phase or mode)
        self.builder = Builder(self.document, self.graph)

    def read(self) -> Model:
        fields, graph = self.fields, self.graph
        self._guarded(read_inputs, fields, self.model)
        read_default_sizes(fields, graph)
        elsewhere = read_stored(fields, graph)
        self.builder.scope.names.update({value.name: value for value in graph.inputs})
        self.builder.previous = graph.inputs[0] if graph.inputs else None
        if "layers" in fields:
            self._layers(fields.at("layers"))
        else:
            fields.error(None, "a model has layers", "layers: [...]")
        self._state()
        self._outputs()
        self._training()
        self.model.labels = tuple(fields.texts("labels"))
        self._metadata()
        load_section(fields, self.model, elsewhere)
        fields.finish()
        return self.model

    def _guarded(self, function: Any, fields: Fields, *arguments: Any) -> None:
        try:
            function(fields, *arguments)
        except NnconvError as error:
            self._note(fields.item, error)

    def _note(self, item: Item, error: NnconvError) -> None:
        for problem in error.problems:
            self.document.error(item, problem.message, problem.hint)

    # --- layers -----------------------------------------------------------------------------------

    def _layers(self, item: Item | None) -> None:
        if not isinstance(item, Sequence):
            shown = "empty" if item is None else kind(item)
            self.document.error(item or self.fields.item, f"layers must be a list, this is {shown}")
            return
        for part in item.items:
            self._layer(part)

    def _layer(self, item: Item) -> None:
        """One entry: `relu`, `name: text`, `name: {op: ...}`, or a block with `repeat`."""
        builder = self.builder
        builder.made += 1
        if builder.made > MOST_LAYERS:
            raise InputError(
                f"more than {MOST_LAYERS:,} layers, repeated ones counted",
                span=self.document.span(item),
            )
        if isinstance(item, Scalar):
            self._build("", item, item)
        elif isinstance(item, Mapping) and "repeat" in item.pairs:
            self._repeat("block", item)
        elif isinstance(item, Mapping) and len(item.pairs) == 1:
            ((name, (key, body)),) = item.pairs.items()
            if isinstance(body, Mapping) and ("repeat" in body.pairs or "layers" in body.pairs):
                self._repeat(name, body)
            else:
                self._build(name, key, body)
        else:
            self.document.error(
                item, f"a layer is a word, or one name with what it is; this is {kind(item)}",
                "- conv1: conv 20 5x5",
            )  # fmt: skip

    def _repeat(self, name: str, item: Mapping) -> None:
        """The layers of a block, `repeat` times, called NAME1/..., NAME2/...; a name inside a block
        means the layer of the same repetition."""
        fields = Fields(self.document, item, "a block")
        times = fields.integer("repeat", 1, least=1)
        body = fields.at("layers")
        fields.finish()
        builder, outer = self.builder, self.builder.scope
        for count in range(1, times + 1):
            before = None if builder.stale else builder.previous
            builder.scope = Scope({BLOCK_INPUT: before}, outer, f"{outer.prefix}{name}{count}/")
            errors = len(self.document.report.errors)
            self._layers(body)
            if len(self.document.report.errors) > errors:
                break  # the next repetition would only say the same
        builder.scope = outer
        outer.names[name] = None if builder.stale else builder.previous

    def _build(self, name: str, at: Item, body: Item) -> None:
        builder = self.builder
        made: Value | None = None
        try:
            made = self._one(name, at, body)
        except Broken:
            pass
        except NnconvError as error:
            self._note(body, error)
        except (KeyError, ValueError, OverflowError, RecursionError) as error:
            self._note(body, InputError(f"this cannot be built: {type(error).__name__} {error}"))
        if made is not None:
            name = name or made.name.removeprefix(builder.scope.prefix)
        builder.finish(name, made)

    def _one(self, name: str, at: Item, body: Item) -> Value:
        """Build one layer and return its value."""
        builder = self.builder
        fields: Fields | None = None
        if isinstance(body, Scalar):
            op, settings = language.parse_text(body.text)
        elif isinstance(body, Mapping):
            fields = Fields(self.document, body, f"layer '{name}'")
            op = fields.text("op")
            if not op:
                raise InputError(f"layer '{name}' does not say what it is", hint="{op: conv, ...}")
            settings = {}
        else:
            raise InputError(f"a layer is text or a mapping, this is {kind(body)}")
        if op not in language.WORDS and not is_operator(op):
            raise language.unknown(op, operators())
        full = builder.scope.prefix + name if name else self._fresh(builder.scope.prefix + op)
        if full in self.graph.values:
            raise InputError(f"two layers or inputs are called '{name}'")
        span = self.document.span(at, full)
        training = Training() if fields is None else _training(fields)
        layer = Layer(builder, full, op, body, training, span)
        self.graph.layers.append(layer.record)
        with self.graph.source(layer.record):
            if op in language.WORDS:
                made = self._word(layer, op, settings, fields)
            else:
                made = self._operator(layer, op, fields)
        layer.record.parameters = tuple(layer.stored)
        return made

    def _fresh(self, stem: str) -> str:
        return self.graph.fresh_name(stem)

    def _word(
        self, layer: Layer, op: str, settings: dict[str, Any], fields: Fields | None
    ) -> Value:
        word = language.WORDS[op]
        if fields is not None:
            settings = _word_settings(op, word, fields)
            fields.finish()
        inputs: list[Value | None] = [] if fields is None else self._inputs(fields)
        if not inputs:
            inputs = [self.builder.current()]
        wrong = len(inputs) < 2 if word.inputs < 0 else len(inputs) != word.inputs
        if wrong or None in inputs:
            wanted = "two or more inputs" if word.inputs < 0 else f"{word.inputs} input(s)"
            raise InputError(f"{op} takes {wanted}, got {len(inputs)}", hint="inputs: [a, b]")
        return word.build(layer, *inputs, language.completed(op, word, settings))

    def _operator(self, layer: Layer, op: str, fields: Fields | None) -> Value:
        """An operator of the table by its own name, with its attributes."""
        schema = operator(op)
        if fields is None:
            return layer.emit(op, self.builder.current())
        attributes = {
            key: read_attribute(fields, key, spec.type)
            for key, spec in schema.attributes.items()
            if key in fields and key not in ("op", "inputs", "outputs")
        }
        names = fields.texts("outputs") or [layer.name]
        fields.asked.update((*schema.attributes, *_COMMON))
        fields.finish()
        for other in names:
            if other in self.graph.values:
                raise InputError(f"two layers or inputs are called '{other}'")
        inputs = self._inputs(fields)
        if "inputs" not in fields and any(formal.kind == "single" for formal in schema.inputs):
            inputs = [self.builder.current()]
        if len(names) > max(len(schema.outputs), 1) and schema.outputs[-1].kind != "variadic":
            raise InputError(f"{op} has {len(schema.outputs)} outputs, {len(names)} are named")
        made = self.graph.emit(op, *inputs, outputs=names, **attributes)
        first: Value = made if len(names) == 1 else made[0]
        return first

    def _inputs(self, fields: Fields) -> list[Value | None]:
        """The values named under `inputs`; null for one that is left out."""
        found: list[Value | None] = []
        for item in fields.items("inputs"):
            if not isinstance(item, Scalar):
                raise InputError(f"an input is the name of a layer, this is {kind(item)}")
            found.append(None if item.value is None else self.builder.value(item.text))
        return found

    # --- around the layers ------------------------------------------------------------------------

    def _state(self) -> None:
        item = self.fields.at("state")
        if item is not None and not isinstance(item, Sequence):
            self.document.error(item, "state is a list of {name, read, write}")
            return
        for part in item.items if item is not None else []:
            inner = Fields(self.document, part, "a state")
            read, write = (self._find(inner, key) for key in ("read", "write"))
            if read is not None and write is not None:
                if not read.is_stored:
                    inner.error(inner.at("read"), f"'{read.name}' is not stored")
                self.graph.state.append(State(inner.text("name", read.name), read, write))
            inner.asked.add("name")
            inner.finish()

    def _find(self, fields: Fields, key: str) -> Value | None:
        item = fields.at(key)
        if not isinstance(item, Scalar):
            fields.error(item, f"{fields.what} needs the key {key}, the name of a value")
            return None
        return self._named(item)

    def _named(self, item: Scalar) -> Value | None:
        try:
            return self.builder.value(item.text)
        except Broken:
            return None
        except InputError as error:
            self._note(item, error)
            return None

    def _outputs(self) -> None:
        """What `outputs` names, else every layer's value that no layer reads."""
        graph = self.graph
        if "outputs" in self.fields:
            items = [item for item in self.fields.items("outputs") if isinstance(item, Scalar)]
            found = [self._named(item) for item in items]
            graph.outputs = [value for value in found if value is not None]
            return
        written = {state.write for state in graph.state}
        graph.outputs = [
            node.outputs[0]
            for node in graph.nodes
            if not node.outputs[0].uses and node.outputs[0] not in written
        ]

    def _training(self) -> None:
        losses, solver = read_losses(self.fields), read_solver(self.fields)
        kept = {key: value for key, value in (("loss", losses), ("solver", solver)) if value}
        if kept:
            self.model.metadata[TRAINING] = as_json(kept)
        if self.model.mode == "train":
            for loss in losses:
                self._guarded(self._build_loss, self.fields, loss)
        item = self.fields.at("losses")
        for part in item.items if isinstance(item, Sequence) else []:
            inner = Fields(self.document, part, "a loss")
            value = self._find(inner, "value")
            weight = inner.number("weight", 1.0)
            inner.finish()
            if value is not None:
                self.graph.losses.append(Loss(value, weight))

    def _build_loss(self, fields: Fields, loss: dict[str, Any]) -> None:
        """A loss over the scores of a layer and a new input with the labels. Where the layer is a
        Softmax, the loss takes what stands before it: it has a Softmax of its own."""
        graph = self.graph
        if loss["input"]:
            try:
                scores = self.builder.value(loss["input"])
            except Broken:
                return
        elif graph.outputs:
            scores = graph.outputs[-1]
        else:
            return
        op = LOSSES[loss["type"]]
        if op == "nnconv.SoftmaxWithLoss" and scores.producer and scores.producer.op == "Softmax":
            scores = scores.producer.required(0)
        shape = scores.known_shape
        wanted = shape[:1] + shape[2:] if op == "nnconv.SoftmaxWithLoss" else shape
        label = graph.values.get(loss["label"])
        if label is None:
            label = graph.add_input(loss["label"], DType.FLOAT32, wanted)
        value = graph.emit(op, scores, label, outputs=[graph.fresh_name("loss")])
        graph.losses.append(Loss(value, loss["weight"]))
        graph.outputs.append(value)

    def _metadata(self) -> None:
        inner = self.fields.mapping("metadata")
        if inner is not None:
            self.model.metadata |= {key: inner.text(key) for key in inner.pairs}


def _training(fields: Fields) -> Training:
    """lr_mult and decay_mult hold for both parameters of the layer."""
    return Training(
        fields.number("lr_mult", 1.0),
        fields.number("decay_mult", 1.0),
        read_filler(fields),
        read_filler(fields, "bias_filler"),
    )


def _word_settings(op: str, word: language.Word, fields: Fields) -> dict[str, Any]:
    """The settings of a word from a layer's mapping; wrong kinds are InputErrors."""
    fields.asked.update(_COMMON)
    found: dict[str, Any] = {}
    for name, wanted in word.settings.items():
        item = fields.at(name)
        if item is None:
            continue
        value = _setting(item, wanted)
        if value is None:
            raise InputError(f"{name} of {op} must be a {wanted}, this is {kind(item)}")
        found[name] = value
    return found


def _setting(item: Item, wanted: str) -> Any:
    if wanted == language.FLAG:
        return item.value if isinstance(item, Scalar) and isinstance(item.value, bool) else None
    if wanted == language.INTEGER:
        return integer(item)
    if wanted == language.NUMBER:
        return number(item)
    if isinstance(item, Sequence):
        numbers = [integer(part) for part in item.items]
        most = 2 if wanted == language.SIZES else 64
        whole = tuple(value for value in numbers if value is not None)
        return whole if len(whole) == len(numbers) and 0 < len(whole) <= most else None
    return language.convert(wanted, item.text) if isinstance(item, Scalar) else None
