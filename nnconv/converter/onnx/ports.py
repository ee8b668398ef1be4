"""The inputs of a graph: their types, and names for the sizes that the file leaves open."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from nnconv.converter.onnx.scope import Scope
from nnconv.schemas.dims import Dim, Shape, Symbolic
from nnconv.schemas.errors import InputError, Report, UnsupportedError, did_you_mean
from nnconv.schemas.graph import Graph, Value
from nnconv.schemas.types import DType


class Ports:
    """Adds inputs to a graph. `shapes` holds what the user asked for, by input."""

    def __init__(self, graph: Graph, shapes: Mapping[str, tuple[int, ...]], report: Report) -> None:
        self.graph = graph
        self.shapes = shapes
        self.report = report
        self._names: dict[str, str] = {}  # the file's dim_param -> our name

    def add(self, inputs: Iterable[Any], scope: Scope, stored: set[str]) -> None:
        """All inputs but those that only declare an initializer (IR 3 demanded it)."""
        if self.shapes:
            self._check_shapes([info.name for info in inputs if info.name not in stored])
        for info in inputs:
            if info.name not in stored:
                dtype, shape = self._type(info)
                scope.define(info.name, self.graph.add_input(info.name, dtype, shape))

    def _check_shapes(self, known: list[str]) -> None:
        for name in self.shapes:
            if name not in known:
                hint = did_you_mean(name, known) or f"its inputs are {', '.join(known)}"
                raise InputError(f"the model has no input '{name}'", hint=hint)

    def complete(self, info: Any, value: Value) -> None:
        """Take the type and shape of an output from its declaration, where inference found none."""
        tensor = info.type.tensor_type
        if info.type.WhichOneof("value") != "tensor_type":
            return
        if value.dtype is DType.UNDEFINED:
            value.dtype = tensor_type(info)
        if value.shape is None and tensor.HasField("shape"):
            dims = enumerate(tensor.shape.dim)
            value.shape = tuple(self._dim(value.name, place, dim) for place, dim in dims)

    def _type(self, info: Any) -> tuple[DType, Shape | None]:
        dtype = tensor_type(info)
        wanted = self.shapes.get(info.name)
        tensor = info.type.tensor_type
        if not tensor.HasField("shape"):
            return dtype, None if wanted is None else self._named(info.name, wanted)
        dims = tuple(self._dim(info.name, place, dim) for place, dim in enumerate(tensor.shape.dim))
        if wanted is None:
            return dtype, dims
        if len(wanted) != len(dims):
            raise InputError(
                f"input '{info.name}' has {len(dims)} axes, the shape given for it {len(wanted)}"
            )
        return dtype, tuple(
            self._settled(info.name, *pair) for pair in zip(dims, wanted, strict=True)
        )

    def _named(self, name: str, wanted: tuple[int, ...]) -> Shape:
        dims = tuple(Symbolic.name(self._own_name(name, place)) for place in range(len(wanted)))
        return tuple(self._settled(name, *pair) for pair in zip(dims, wanted, strict=True))

    def _dim(self, name: str, place: int, dim: Any) -> Dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            return int(dim.dim_value)
        if not dim.dim_param:
            return Symbolic.name(self._own_name(name, place))
        if dim.dim_param not in self._names:
            self._names[dim.dim_param] = self._free(_identifier(dim.dim_param))
        return Symbolic.name(self._names[dim.dim_param])

    def _own_name(self, name: str, place: int) -> str:
        found = self._free(_identifier(f"{name}_{place}"))
        self._names[f"\0{found}"] = found
        return found

    def _free(self, name: str) -> str:
        taken = set(self._names.values())
        candidate, count = name, 0
        while candidate in taken:
            candidate = f"{name}_{(count := count + 1)}"
        return candidate

    def _settled(self, name: str, dim: Dim, wanted: int) -> Dim:
        """A size that the user gives: the default of an open one, or in place of a fixed one."""
        if wanted < 0:
            raise InputError(f"input '{name}': a size of {wanted} is impossible")
        if isinstance(dim, int):
            if dim != wanted:
                self.report.note(
                    f"input '{name}': size {dim} of the file is overridden by {wanted}"
                )
            return wanted
        (symbol,) = dim.names()
        if self.graph.sizes.setdefault(symbol, wanted) != wanted:
            raise InputError(
                f"input '{name}': {symbol} cannot be {self.graph.sizes[symbol]} and {wanted}"
            )
        return dim


def tensor_type(info: Any) -> DType:
    """The element type of an input or output; raises for what is no tensor."""
    kind = info.type.WhichOneof("value")
    if kind not in (None, "tensor_type"):
        raise UnsupportedError(f"'{info.name}' is no tensor but a {kind.removesuffix('_type')}")
    try:
        dtype = DType(info.type.tensor_type.elem_type)
    except ValueError:
        dtype = DType.UNDEFINED
    if dtype is DType.UNDEFINED:
        raise InputError(f"'{info.name}' has no element type")
    return dtype


def _identifier(text: str) -> str:
    """`text` as a plain name, as sizes are written in formulas."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "size"
    return f"d{name}" if name[0].isdigit() else name
