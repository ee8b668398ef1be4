"""Builds a graph from a Caffe net exactly as Caffe builds the net (net.cpp, insert_splits.cpp).

Layers are taken in file order, which is the order of execution. Caffe puts a Split layer where a
blob has several readers; here a value simply has many uses, but what follows from the splits (an
in-place layer beside another reader is refused, explicit loss weights move) is kept. All problems
of a net end up in one report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nnconv.converter.caffe.blob import Blob
from nnconv.converter.caffe.layers.known import KNOWN
from nnconv.converter.caffe.layers.layer import Layer, Settings, Sizes
from nnconv.converter.caffe.layers.registry import READERS, Rule
from nnconv.converter.caffe.parameters import Parameters
from nnconv.converter.caffe.records import fingerprint
from nnconv.converter.caffe.sequences import Sequences
from nnconv.converter.caffe.source import NetSource
from nnconv.converter.caffe.weights import Offer, Weights
from nnconv.schemas.dims import Dim, Symbolic
from nnconv.schemas.errors import (
    InputError,
    InternalError,
    NnconvError,
    Report,
    UnsupportedError,
    did_you_mean,
)
from nnconv.schemas.graph import (
    Graph,
    LayerRecord,
    Loss,
    Preprocessing,
    Value,
)
from nnconv.schemas.types import DType

MOST_PROBLEMS = 100
"""Problems of one net that are listed; a file of another kind may have one a layer."""

SPATIAL = {3: ("L",), 4: ("H", "W"), 5: ("D", "H", "W")}


@dataclass(frozen=True, slots=True)
class NetState:
    """What the layers' include and exclude rules look at."""

    phase: str = "TEST"
    level: int = 0
    stages: tuple[str, ...] = ()

    def meets(self, rule: Any) -> bool:
        """Whether a NetStateRule matches; an empty one always does."""
        return (
            (not rule.has("phase") or rule.phase == self.phase)
            and (not rule.has("min_level") or self.level >= rule.min_level)
            and (not rule.has("max_level") or self.level <= rule.max_level)
            and set(rule.stage) <= set(self.stages)
            and not set(rule.not_stage) & set(self.stages)
        )


@dataclass(slots=True)
class Blobs:
    """One version of a blob: its value (None after an error), and the layer and top that made
    it."""

    name: str
    value: Value | None
    producer: tuple[int, int]


class NetBuilder:
    """Builds one graph; make it, call `build` once."""

    def __init__(
        self,
        source: NetSource,
        state: NetState,
        weights: Weights,
        report: Report,
        *,
        strict: bool = False,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.source = source
        self.state = state
        self.weights = weights
        self.report = report
        self.strict = strict
        self.shapes = shapes or {}
        self.graph = Graph(source.net.name)
        self.preprocessing: dict[str, Preprocessing] = {}
        self.mean_files: dict[str, str] = {}
        self.parameters = Parameters(self.graph, strict)
        self.matched: list[tuple[str, bool]] = []
        self._available: dict[str, Blobs] = {}
        self._latest: dict[str, Blobs] = {}
        self._uses: Counter[tuple[int, int]] = Counter()
        self._made: set[str] = set()
        self._batches: dict[int | None, int] = {}
        self._problems: list[NnconvError] = []
        self._counts = 0
        self._sequences = Sequences(source.net)

    def build(self) -> Graph:
        """The graph; raises InputError (or UnsupportedError) with all problems of the net."""
        included = [
            index
            for index, layer in enumerate(self.source.net.layer)
            if self._includes(index, layer)
        ]
        self._uses = self._count_uses(included)
        names = [self.source.net.layer[index].name for index in included]
        first = {name: position for position, name in reversed(list(enumerate(names)))}
        last = {name: position for position, name in enumerate(names)}
        for position, index in enumerate(included):
            name = names[position]
            self.parameters.offers = self._offered(
                index, name, first[name] == position, last[name] == position
            )
            self._layer(index)
            if len(self._problems) >= MOST_PROBLEMS:
                break
        self._raise_problems()
        self._finish()
        return self.graph

    # --- which layers ---------------------------------------------------------------------------

    def _includes(self, index: int, message: Any) -> bool:
        """Net::FilterNet: any include rule must match, or no exclude rule."""
        layer = Settings(message)
        if layer.include and layer.exclude:
            self._fail(index, "include", "either include or exclude rules, not both")
            return False
        if layer.include:
            kept = any(map(self.state.meets, layer.include))
        else:
            kept = not any(map(self.state.meets, layer.exclude))
        if not kept:
            text = (
                f"layer '{layer.name}' ({layer.type}): left out by its rules for {self.state.phase}"
            )
            self.report.note(text, self.source.span(index), rule="left-out")
        return kept

    def _offered(self, index: int, name: str, first: bool, last: bool) -> list[Offer]:
        """What files have for a layer: its own blobs first, then those of weights files in
        order."""
        own: list[Blob | None] = list(self.source.blobs(index))
        offers = [Offer(own, self.source.file, (0, index), len(own), own=True)] if own else []
        return offers + self.weights.of(name, first, last)

    def _count_uses(self, included: list[int]) -> Counter[tuple[int, int]]:
        """How often each version of a blob is read, plus one where its maker gives it a loss
        weight."""
        uses: Counter[tuple[int, int]] = Counter()
        version: dict[str, tuple[int, int]] = {}
        for index in included:
            layer = self.source.net.layer[index]
            uses.update(version[name] for name in layer.bottom if name in version)
            for top, name in enumerate(layer.top):
                version[name] = (index, top)
                if top < len(layer.loss_weight) and layer.loss_weight[top] != 0:
                    uses[index, top] += 1
        return uses

    @cached_property
    def _all_tops(self) -> frozenset[str]:
        """Every blob that some layer of the file makes, in any phase."""
        return frozenset(name for layer in self.source.net.layer for name in layer.top)

    # --- one layer ------------------------------------------------------------------------------

    def _layer(self, index: int) -> None:
        message = self.source.net.layer[index]
        record = LayerRecord(
            message.name,
            message.type,
            message.SerializeToString(deterministic=True),
            self.source.span(index),
        )
        layer = Layer(self, index, message, record)
        self.graph.layers.append(record)
        results: Sequence[Value | None] = [None] * len(layer.tops)
        in_place: list[bool] = [False] * len(layer.tops)
        try:
            read = self._bottoms(layer)
            in_place = self._check_tops(layer, read)
            rule = self._rule(layer)
            self._check_counts(layer, rule, in_place)
            if all(blob.value is not None for blob in read):
                with self.graph.source(record):
                    results = self._apply(layer, rule, [blob.value for blob in read])
        except (InputError, UnsupportedError) as error:
            self._problems.append(error)
        for top, (name, value) in enumerate(zip(layer.tops, results, strict=False)):
            self._bind(layer, top, name, value, in_place[top])

    def _bottoms(self, layer: Layer) -> list[Blobs]:
        """The blobs that the layer reads, which are then no longer outputs of the net."""
        found = []
        for position, name in enumerate(layer.bottom):
            blob = self._latest.get(name)
            if blob is None:
                hint = (
                    "it is made further down or in another phase; layers run in file order"
                    if name in self._all_tops
                    else did_you_mean(name, self._latest)
                )
                raise InputError(
                    f"{layer.title}: there is no blob '{name}' to read",
                    span=self.source.span(layer.index, "bottom", position),
                    hint=hint,
                )
            found.append(blob)
        for blob in found:
            self._available.pop(blob.name, None)
        return found

    def _check_tops(self, layer: Layer, read: list[Blobs]) -> list[bool]:
        """Which tops are in place. A top of a name that exists is refused otherwise; a blob read
        twice was split, so writing it in place would make a second blob of that name."""
        in_place = []
        made: set[str] = set()
        for top, name in enumerate(layer.tops):
            same = top < len(read) and read[top].name == name
            alone = same and self._uses[read[top].producer] == 1
            if name in made or (name in self._made and not alone):
                hint = "give it another name"
                if same:
                    hint = "another reader, or a loss weight, needs what in place would overwrite"
                raise InputError(
                    f"{layer.title}: top '{name}' is made by two layers",
                    span=self.source.span(layer.index, "top", top),
                    hint=hint,
                )
            made.add(name)
            in_place.append(alone)
        return in_place

    def _rule(self, layer: Layer) -> Rule:
        rule = READERS.get(layer.type)
        if rule is not None:
            return rule
        if not layer.type:
            raise layer.error("", "the layer has no type")
        if layer.type in KNOWN:
            raise layer.unsupported(
                "type", f"layers of type {layer.type} ({KNOWN[layer.type]}) are not supported yet"
            )
        hint = did_you_mean(layer.type, [*READERS, *KNOWN]) or "a layer of your own fork?"
        raise layer.error("type", f"unknown layer type '{layer.type}'", hint=hint)

    def _check_counts(self, layer: Layer, rule: Rule, in_place: list[bool]) -> None:
        count = len(layer.bottom)
        if len(layer.propagate_down) not in (0, count):
            raise layer.error(
                "propagate_down",
                f"propagate_down must be given for all {count} bottoms, got "
                f"{len(layer.propagate_down)}",
            )
        tops = max(len(layer.tops), 1) if rule.loss else len(layer.tops)
        for what, number, (least, most) in (
            ("bottom", count, rule.bottoms),
            ("top", tops, rule.tops),
        ):
            if number < least or (most is not None and number > most):
                wanted = (
                    f"{least}"
                    if most == least
                    else f"{least} to {most}"
                    if most
                    else f"at least {least}"
                )
                raise layer.error(what, f"takes {wanted} {what}s, got {number}")
        if any(in_place) and not rule.in_place:
            raise layer.error(
                "top", f"{layer.type} cannot work in place", hint="give the top another name"
            )
        self._check_loss_weight(layer, tops)

    def _check_loss_weight(self, layer: Layer, tops: int) -> None:
        stated = len(layer.loss_weight)
        if stated not in (0, tops) and not self._moved(layer):
            raise layer.error(
                "loss_weight", f"loss_weight must be given for all {tops} tops, got {stated}"
            )

    def _apply(self, layer: Layer, rule: Rule, bottoms: Sequence[Any]) -> list[Value]:
        bottoms = [self._stopped(layer, *bottom) for bottom in enumerate(bottoms)]
        result = rule.read(layer, *bottoms)
        values = list(result) if isinstance(result, tuple) else [result]
        count = len(layer.parameters)
        if len(layer.param) > count:
            raise layer.error("param", f"{len(layer.param)} param entries for {count} parameters")
        self.parameters.check_offers(layer)
        layer.record.parameters = tuple(value.name for value in layer.parameters)
        if count:
            self.matched.append((layer.name, bool(self.parameters.offers)))
        outputs = [
            self._own(layer, value, values[:place], bottoms) for place, value in enumerate(values)
        ]
        self._losses(layer, rule, outputs)
        return outputs

    def _stopped(self, layer: Layer, position: int, bottom: Value) -> Value:
        """A bottom behind what keeps gradients from it, where propagate_down is false; a net with
        force_backward does not look at that (net.cpp, Init)."""
        stated = layer.propagate_down
        if not stated or stated[position] or self.source.net.force_backward:
            return bottom
        stop: Value = layer.emit("nnconv.StopGradient", bottom)
        return stop

    def _own(
        self, layer: Layer, value: Value, before: list[Value], bottoms: Sequence[Any]
    ) -> Value:
        """A value of its own for each top: a rule may hand back a bottom, a parameter, or one
        value twice."""
        shared = value in bottoms or value in before or value.is_stored
        result: Value = layer.emit("Identity", value) if shared else value
        return result

    def _bind(self, layer: Layer, top: int, name: str, value: Value | None, in_place: bool) -> None:
        """Give a top its name; of an in-place chain the last writer has it, earlier ones are
        NAME@LAYER."""
        old = self._latest.get(name)
        blob = Blobs(name, value, (layer.index, top))
        self._latest[name] = self._available[name] = blob
        self._made.add(name)
        self._note_split(layer, top, blob)
        if value is None or value in self.graph.inputs:
            return
        graph, taken = self.graph, self.graph.values.get(name)
        if in_place and old is not None and old.value is taken and taken is not None:
            if taken in graph.inputs:  # what users feed keeps its name
                graph.rename(value, graph.fresh_name(f"{name}@{layer.name}"))
                return
            maker = self.source.net.layer[old.producer[0]].name
            graph.rename(taken, graph.fresh_name(f"{name}@{maker}"))
        elif in_place and old is not None:
            name = f"{name}@{layer.name}"
        graph.rename(value, graph.fresh_name(name))

    def _note_split(self, layer: Layer, top: int, blob: Blobs) -> None:
        """The names that Caffe's split of a blob takes. Where a loss weight made one of its
        tops, nobody reads that: it is an output of the net."""
        readers = self._uses[layer.index, top]
        names = [f"{blob.name}_{layer.name}_{top}_split_{number}" for number in range(readers)]
        if readers > 1:
            self._made.update(names)
            if top < len(layer.loss_weight) and layer.loss_weight[top]:
                self._available[names[0]] = blob

    # --- losses ---------------------------------------------------------------------------------

    def _moved(self, layer: Layer) -> bool:
        """Whether a split takes over an explicit loss weight; Caffe then clears the layer's
        whole list."""
        return any(
            weight and self._uses[layer.index, top] > 1
            for top, weight in enumerate(layer.loss_weight)
        )

    def _losses(self, layer: Layer, rule: Rule, values: list[Value]) -> None:
        moved = self._moved(layer)
        weights = list(layer.loss_weight)
        for top, value in enumerate(values):
            split = self._uses[layer.index, top] > 1
            weight = weights[top] if top < len(weights) else 0.0
            if moved and not split:
                weight = 0.0
            if rule.loss and top == 0 and (not weights or (moved and not split)):
                weight = 1.0
                if self._uses[layer.index, top]:
                    layer.warning(
                        "top",
                        "its loss is read by another layer and has no loss_weight of its own: "
                        "Caffe would not train it",
                        hint="write loss_weight: 1",
                    )
            if weight:
                self.graph.losses.append(Loss(value, weight))

    # --- inputs ---------------------------------------------------------------------------------

    def input(self, name: str, sizes: Sizes | None, batch: int = 0) -> Value:
        """A graph input. Sizes are names with the source's own value as default, so that other
        sizes can be fed; the second axis stays a number, because weights fix it. None leaves a
        size, or all, open."""
        if name in self.shapes:
            sizes = self._asked(name, sizes)
        elif sizes and sizes[0] in self._batches:  # labels follow the pictures
            sizes = (self._batches[sizes[0]], *sizes[1:])
        if sizes is None:
            if batch:
                self._symbol("N", batch, name)
            return self.graph.add_input(name, DType.FLOAT32, None)
        stems = self._sequences.axes(name, sizes)
        dims = [self._dim(name, axis, sizes, stems) for axis in range(len(sizes))]
        return self.graph.add_input(name, DType.FLOAT32, tuple(dims))

    def _asked(self, name: str, stated: Sizes | None) -> Sizes:
        """The sizes that the caller wants for an input; what the net states fixes the number of
        axes and the channels."""
        wanted = tuple(map(int, self.shapes[name]))
        known = wanted if stated is None else stated
        fixed = slice(2, None) if self._sequences.axes(name, known) else slice(1, 2)
        channels = zip(known[fixed], wanted[fixed], strict=False)
        fits = len(known) == len(wanted) and all(size in (None, asked) for size, asked in channels)
        if not fits or min(wanted, default=1) < 1:
            shown = "x".join("?" if size is None else str(size) for size in known)
            got = "x".join(map(str, wanted))
            raise InputError(f"input '{name}' is {shown}, it cannot be {got}")
        if known and known[0] is not None and fixed.start == 1:
            self._batches[known[0]] = wanted[0]
        return wanted

    def _dim(self, name: str, axis: int, sizes: Sizes, stems: tuple[str | None, ...]) -> Dim:
        size, rank = sizes[axis], len(sizes)
        if stems:
            stem = stems[axis] if axis < len(stems) else None
            if stem is None and size is not None:
                return size
        elif axis == 1 and size is not None:
            return size
        else:
            spatial = SPATIAL.get(rank) or tuple(f"D{number}" for number in range(2, rank))
            stem = ("N", "C", *spatial)[axis]
        return 0 if size == 0 else self._symbol(stem or f"D{axis}", size, name)

    def _symbol(self, stem: str, size: int | None, name: str) -> Dim:
        """The size called `stem`; inputs share it while their own sizes agree."""
        sizes = self.graph.sizes
        if size is None:
            return Symbolic.name(f"{stem}_{name}" if stem != "N" else stem)
        symbol = stem if sizes.get(stem, size) == size else f"{stem}_{name}"
        while sizes.get(symbol, size) != size:
            symbol += "_"
        sizes[symbol] = size
        return Symbolic.name(symbol)

    def counted(self, start: int | None) -> str:
        """A new name for a size that only a run tells; `start` is what Caffe begins with."""
        self._counts += 1
        name = f"K{self._counts}"
        if start is not None:
            self.graph.sizes[name] = start
        return name

    def preprocess(self, name: str, preprocessing: Preprocessing, mean_file: str = "") -> None:
        """Note how pictures become the input `name`."""
        self.preprocessing[name] = preprocessing
        if mean_file:
            self.mean_files[name] = mean_file

    # --- the end --------------------------------------------------------------------------------

    def _fail(self, index: int, field: str, message: str) -> None:
        layer = self.source.net.layer[index]
        text = f"layer '{layer.name}' ({layer.type}): {message}"
        self._problems.append(InputError(text, span=self.source.span(index, field)))

    def _raise_problems(self) -> None:
        for error in self._problems:
            self.report.extend(error)
        only_unsupported = all(isinstance(error, UnsupportedError) for error in self._problems)
        self.report.raise_if_errors(UnsupportedError if only_unsupported else InputError)

    def _finish(self) -> None:
        graph = self.graph
        for name in self.shapes:
            if all(value.name != name for value in graph.inputs):
                inputs = [value.name for value in graph.inputs]
                hint = did_you_mean(name, inputs) or f"the inputs are {', '.join(inputs)}"
                raise InputError(f"the net has no input called '{name}'", hint=hint)
        outputs = [self._available[name].value for name in sorted(self._available)]
        if None in outputs:
            raise InternalError("an output has no value")
        graph.outputs = [value for value in outputs if value is not None]
        graph.state = self.parameters.states()
        nodes: dict[int, list[Any]] = {id(record): [] for record in graph.layers}
        for node in graph.nodes:
            nodes[id(node.layer)].append(node)
        for record in graph.layers:
            record.fingerprint = fingerprint(graph, record, nodes[id(record)])
        count = len(graph.layers)
        self.report.note(f"{count} layers converted", rule="converted")
