"""The parameters of a net while it is built: their sizes, weights, sharing, multipliers
(Net::AppendParam).

A parameter is stored as the file has it. What Caffe does with it before use (another float type, a
shape that a sharing layer sees differently) becomes nodes, which folding removes at compile time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnconv.converter.caffe.blob import Blob
from nnconv.converter.caffe.fillers import read_filler
from nnconv.converter.caffe.layers.layer import OPEN_SIZE, Layer, Settings, Sizes, product
from nnconv.converter.caffe.weights import Offer, mismatch
from nnconv.schemas.graph import Filler, Graph, Parameter, State, Value
from nnconv.schemas.types import DType

MULTIPLIERS = ("lr_mult", "decay_mult")


@dataclass(slots=True)
class ParamUse:
    """One parameter blob of one layer, as Caffe counts them; `owner` is the use that owns the
    storage, None for the owner itself. `stated` are the multipliers that the file gives."""

    layer: str
    index: int
    shape: tuple[int, ...]
    value: Value
    owner: ParamUse | None = None
    stated: dict[str, float] = field(default_factory=dict)


class Parameters:
    """All parameters of one graph, in order of layers; `offers` are what files have for the
    layer that is being read."""

    def __init__(self, graph: Graph, strict: bool) -> None:
        self.graph = graph
        self.strict = strict
        self.uses: list[ParamUse] = []
        self.offers: Sequence[Offer] = ()
        self._shared: dict[str, ParamUse] = {}
        self._order: dict[Value, tuple[int, int]] = {}
        self._running: dict[Value, Value] = {}

    def add(
        self,
        layer: Layer,
        index: int,
        shape: Sizes,
        filler: Settings | None,
        default: Filler | None,
        *,
        frozen: bool,
        exact: bool,
    ) -> Value:
        """Parameter `index` of `layer` as float32: a stored value, shared by name where the layer
        says so.

        `filler` are the file's settings or None, then `default` (or zeros) is the start; `frozen`
        says that solvers leave it alone; `exact` refuses own blobs of another shape in strict
        reading.
        """
        sizes = self._known_sizes(layer, index, shape)
        layer.check_sizes(sizes)
        start = default or Filler(options={"value": 0.0})
        if filler is not None and not any(offer.own and offer.blob(index) for offer in self.offers):
            start = read_filler(layer, filler, sizes)
        spec = layer.param[index] if index < len(layer.param) else None
        name = spec.name if spec is not None else ""
        data, order = self._data(layer, index, sizes, exact)
        owner = self._shared.get(name) if name else None
        if owner is None:
            value = self._store(layer, index, sizes, data, start, frozen)
            self._order[value] = order
        else:
            value = self._share(layer, spec, sizes, owner, data, order)
        use = ParamUse(layer.name, index, sizes, value, owner, _stated(spec, frozen))
        if name:
            self._shared.setdefault(name, use)
        _set_multipliers(layer, use)
        self.uses.append(use)
        layer.parameters.append(value)
        return self._as_float(layer, use)

    def _known_sizes(self, layer: Layer, index: int, shape: Sizes) -> tuple[int, ...]:
        """The sizes of a parameter; those that hang on an open input size are taken from the
        weights."""
        known = tuple(size for size in shape if size is not None)
        if len(known) == len(shape):
            return known
        for offer in reversed(self.offers):
            blob = offer.blob(index)
            if blob is not None and (fit := offer.fit(blob, shape)) is not None:
                return fit
        raise layer.error(
            "",
            f"the size of parameter {index} ({layer.show(shape)}) depends on an input whose "
            "size the net does not state",
            hint=f"give the weights too, or {OPEN_SIZE}",
        )

    def _data(
        self, layer: Layer, index: int, sizes: tuple[int, ...], exact: bool
    ) -> tuple[Any, tuple[int, int]]:
        """The array copied last into this parameter, and its place in the order of copying."""
        data, order = None, (-1, 0)
        for offer in self.offers:
            blob = offer.blob(index)
            if blob is None:
                continue
            if offer.own:
                fits = _own_fits(blob, sizes, exact and self.strict)
            else:
                fits = offer.fit(blob, sizes) is not None
            if not fits:
                hint = "were they made for another input size, or another net?"
                raise layer.error(
                    "", f"weights {index} are {mismatch(offer, blob, sizes)}", hint=hint
                )
            data, order = blob.array.reshape(sizes), offer.order
        return data, order

    def _store(
        self,
        layer: Layer,
        index: int,
        sizes: tuple[int, ...],
        data: Any,
        start: Filler,
        frozen: bool,
    ) -> Value:
        if frozen and data is not None:
            data = data.astype(
                np.float32, copy=False
            )  # state is written back in the type of the run
        name = self.graph.fresh_name(f"{layer.name}/{index}")
        return self.graph.add_parameter(name, sizes, data, parameter=Parameter(filler=start))

    def _share(
        self,
        layer: Layer,
        spec: Any,
        sizes: tuple[int, ...],
        owner: ParamUse,
        data: Any,
        order: tuple[int, int],
    ) -> Value:
        """One storage for two layers; the sharer's mode says how alike their shapes must be."""
        permissive = spec.share_mode == "PERMISSIVE"
        alike = product(sizes) == product(owner.shape) if permissive else sizes == owner.shape
        if not alike:
            raise layer.error(
                "param",
                f"parameter '{spec.name}' is {layer.show(owner.shape)} in layer "
                f"'{owner.layer}', here {layer.show(sizes)}",
                hint="share_mode: PERMISSIVE compares the number of elements only",
            )
        if data is not None and order > self._order[owner.value]:
            owner.value.data = data.reshape(owner.shape)
            self._order[owner.value] = order
        return owner.value

    def _as_float(self, layer: Layer, use: ParamUse) -> Value:
        value = use.value
        if value.dtype is not DType.FLOAT32:
            value = layer.emit("Cast", value, to=int(DType.FLOAT32))
        if value.shape != use.shape:
            value = layer.emit("Reshape", value, layer.ints(use.shape))
        return value

    def check_offers(self, layer: Layer) -> None:
        """Binary files must have all blobs of a layer that has been read, HDF5 files all but
        shared ones."""
        count = len(layer.parameters)
        hint = "is the file of another net, or another version of this layer?"
        for offer in self.offers:
            if offer.own and not count:
                layer.warning("", f"{offer.count} blobs for a layer without parameters are ignored")
            elif offer.count > count or (offer.count < count and not offer.hdf5):
                raise layer.error(
                    "", f"has {count} parameters, {offer.file} gives {offer.count}", hint=hint
                )
            elif offer.hdf5:
                uses = self.uses[len(self.uses) - count :]
                gaps = [
                    use.index for use in uses if use.owner is None and offer.blob(use.index) is None
                ]
                if gaps:
                    raise layer.error(
                        "", f"{offer.file} lacks the weights {gaps} of this layer", hint=hint
                    )

    # --- state across runs ----------------------------------------------------------------------

    def current(self, stored: Value) -> Value:
        """What a state value holds at this place of a run: as stored, or as an earlier layer
        left it."""
        return self._running.get(stored, stored)

    def update(self, stored: Value, following: Value) -> None:
        """Let `following` be what the next reader, or the next run, finds in `stored`."""
        self._running[stored] = following

    def states(self) -> list[State]:
        return [State(read.name, read, write) for read, write in self._running.items()]


def _own_fits(blob: Blob, sizes: tuple[int, ...], exact: bool) -> bool:
    """Blobs in the layer's own definition: most layers only use their elements, Convolution and
    PReLU compare shapes (base_conv_layer.cpp)."""
    return blob.shape == sizes if exact else blob.array.size == product(sizes)


def _stated(spec: Any, frozen: bool) -> dict[str, float]:
    stated = (
        {} if spec is None else {name: getattr(spec, name) for name in spec.stated(*MULTIPLIERS)}
    )
    return stated | ({"lr_mult": 0.0} if frozen else {})


def _set_multipliers(layer: Layer, use: ParamUse) -> None:
    """Of owner and sharers one may state a multiplier, or all the same (Net::AppendParam)."""
    owner = use.owner or use
    for name, number in use.stated.items():
        known = owner.stated.setdefault(name, number)
        if known != number:
            raise layer.error(
                name, f"the shared parameter has {name} {known:g} elsewhere, here {number:g}"
            )
    assert owner.value.parameter is not None
    for name, number in owner.stated.items():
        setattr(owner.value.parameter, name, number)
