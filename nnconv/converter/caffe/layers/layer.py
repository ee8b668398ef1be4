"""What a reading rule sees: the layer's settings with Caffe's defaults, and a builder for its
nodes.

`layer.lrn_param.alpha` reads a setting; `layer.emit` makes nodes that belong to the layer; a
parameter comes with its weights, sharing and multipliers already settled. Nothing here knows any
layer type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from nnconv.converter.caffe import schema
from nnconv.schemas.dims import evaluate
from nnconv.schemas.errors import InputError, SourceSpan, UnsupportedError
from nnconv.schemas.graph import Filler, Graph, LayerRecord, Value
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.converter.caffe.net import NetBuilder

Sizes = tuple["int | None", ...]

OPEN_SIZE = "say how large the input is: --input-shape NAME:N,C,H,W"
MOST_AXES = 32
MOST_ELEMENTS = 2**31 - 1


class Settings:
    """A message read by name: enums are their names, repeated fields tuples, messages Settings
    again."""

    __slots__ = ("_message",)

    def __init__(self, message: Message) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        field = self._message.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            return self._default_of_bvlc(name)
        value = getattr(self._message, name)
        if field.message_type is not None:
            return tuple(map(Settings, value)) if field.is_repeated else Settings(value)
        if field.enum_type is not None:
            names = field.enum_type.values_by_number
            return tuple(names[v].name for v in value) if field.is_repeated else names[value].name
        return tuple(value) if field.is_repeated else value

    def _default_of_bvlc(self, name: str) -> Any:
        """The default of a field that the file's fork has not, or has given up for another."""
        path = self._message.DESCRIPTOR.full_name.removeprefix(f"{schema.PACKAGE}.")
        try:
            base = schema.dialect().new(path)
        except KeyError:
            base = self._message
        if name not in base.DESCRIPTOR.fields_by_name:
            raise AttributeError(f"{path} has no field '{name}'")
        return getattr(Settings(base), name)

    def has(self, name: str) -> bool:
        """Whether the file states the field (repeated fields: has at least one value)."""
        field = self._message.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            return False
        if field.is_repeated:
            return bool(getattr(self._message, name))
        return self._message.HasField(name)

    def stated(self, *names: str) -> list[str]:
        """Those of `names` that the file states."""
        return [name for name in names if self.has(name)]


class Layer(Settings):
    """One layer while it is read; see the module's docstring."""

    __slots__ = ("index", "net", "parameters", "record", "tops")

    def __init__(self, net: NetBuilder, index: int, message: Message, record: LayerRecord) -> None:
        super().__init__(message)
        self.net = net
        self.index = index
        self.record = record
        self.tops: tuple[str, ...] = tuple(message.top)  # type: ignore[attr-defined]
        self.parameters: list[Value] = []

    @property
    def graph(self) -> Graph:
        return self.net.graph

    @property
    def title(self) -> str:
        return f"layer '{self.name}' ({self.type})"

    # --- problems -------------------------------------------------------------------------------

    def error(self, field: str, message: str, hint: str = "") -> InputError:
        """The error to raise when a setting is wrong; `field` may be '' or nested
        ('pooling_param.pad')."""
        return InputError(f"{self.title}: {message}", span=self.span(field), hint=hint)

    def unsupported(self, field: str, message: str, hint: str = "") -> UnsupportedError:
        return UnsupportedError(f"{self.title}: {message}", span=self.span(field), hint=hint)

    def warning(self, field: str, message: str, hint: str = "") -> None:
        self.net.report.warning(f"{self.title}: {message}", self.span(field), hint)

    def span(self, field: str = "") -> SourceSpan:
        """Where the layer, or one of its fields, stands in the file."""
        if not field:
            return self.record.span
        return self.net.source.span(self.index, *self._path(field))

    def _path(self, field: str) -> tuple[str, ...]:
        """The path to a field given by its bare name: its own, or that of the one settings message
        present which has it."""
        if "." in field or field in self._message.DESCRIPTOR.fields_by_name:
            return tuple(field.split("."))
        for descriptor, value in self._message.ListFields():
            inner = descriptor.message_type
            if inner is not None and not descriptor.is_repeated and field in inner.fields_by_name:
                return (
                    (descriptor.name, field) if Settings(value).has(field) else (descriptor.name,)
                )
        return ()

    # --- shapes ---------------------------------------------------------------------------------

    def shape(self, x: Value) -> Sizes:
        """The sizes of `x` at the source's own input sizes; None for one that the source leaves
        open."""
        if x.shape is None:
            raise self.error(
                "",
                f"the number of axes of '{x.name}' is not known here",
                hint=OPEN_SIZE,
            )
        return tuple(self._size(dim) for dim in x.shape)

    def _size(self, dim: Any) -> int | None:
        try:
            return evaluate(dim, self.graph.sizes)
        except KeyError:
            return None

    def axis(self, x: Value, number: int, field: str = "axis", end: bool = False) -> int:
        """`number` as an axis of `x` counted from the front, refused when there is none such."""
        rank = len(self.shape(x))
        if not -rank <= number < rank + end:
            raise self.error(field, f"axis {number} is out of range: '{x.name}' has {rank} axes")
        return number + rank if number < 0 else number

    def check_sizes(self, sizes: Sizes) -> None:
        """Refuse a blob that Caffe cannot make (blob.cpp, Reshape)."""
        if len(sizes) > MOST_AXES:
            raise self.error("shape", f"at most {MOST_AXES} axes are possible, got {len(sizes)}")
        if any(size is not None and size < 0 for size in sizes):
            raise self.error("shape", f"sizes cannot be negative, got {self.show(sizes)}")
        if (count := product(sizes)) is not None and count > MOST_ELEMENTS:
            raise self.error("shape", f"{self.show(sizes)} has more than 2^31 - 1 elements")

    def need_rank(self, x: Value, *ranks: int) -> None:
        if len(self.shape(x)) not in ranks:
            wanted = " or ".join(map(str, ranks))
            raise self.error("", f"'{x.name}' must have {wanted} axes, it has {self.show(x)}")

    def need_one_shape(self, xs: Sequence[Value]) -> None:
        """Refuse bottoms whose shapes differ."""
        first = self.shape(xs[0])
        for x in xs[1:]:
            if not same_sizes(self.shape(x), first):
                raise self.error(
                    "bottom",
                    f"all bottoms must have one shape: '{x.name}' is {self.show(x)}, "
                    f"'{xs[0].name}' {self.show(first)}",
                )

    def legacy_axes(self, x: Value) -> None:
        """In strict reading refuse more than the four axes that Caffe's old accessors know."""
        if self.net.strict and len(self.shape(x)) > 4:
            raise self.error(
                "bottom", f"Caffe's {self.type} takes at most 4 axes, '{x.name}' is {self.show(x)}"
            )

    def show(self, x: Value | Sizes) -> str:
        """Sizes as users read them: 1x3x224x224."""
        sizes = self.shape(x) if isinstance(x, Value) else x
        return (
            "x".join("?" if size is None else str(size) for size in sizes) or "no axes (a scalar)"
        )

    # --- building -------------------------------------------------------------------------------

    def emit(self, op: str, *inputs: Value | None, **attributes: Any) -> Value:
        """Add a node that belongs to this layer; returns its one output."""
        result: Value = self.graph.emit(op, *inputs, **attributes)
        return result

    def ints(self, numbers: Iterable[int]) -> Value:
        """A constant vector of integers: axes, sizes, starts."""
        return self.graph.constant(list(numbers), DType.INT64, self._fresh("ints"))

    def number(self, value: float) -> Value:
        """A constant scalar of the data's type."""
        return self.graph.constant(value, DType.FLOAT32, self._fresh("number"))

    def _fresh(self, kind: str) -> str:
        return self.graph.fresh_name(f"{self.name}:{kind}")

    def unsqueeze(self, x: Value, axes: Sequence[int]) -> Value:
        """`x` with axes of size 1 at the given places; `x` itself for none."""
        return self.emit("Unsqueeze", x, self.ints(axes)) if axes else x

    def parameter(
        self,
        index: int,
        shape: Sizes,
        filler: Any = None,
        default: Filler | None = None,
        frozen: bool = False,
        exact: bool = False,
    ) -> Value:
        """Parameter blob `index` of this layer as float32 of `shape` (see Parameters.add)."""
        return self.net.parameters.add(
            self, index, shape, filler, default, frozen=frozen, exact=exact
        )


def product(sizes: Iterable[int | None]) -> int | None:
    """The number of elements; None when a size is open."""
    total = 1
    for size in sizes:
        if size is None:
            return None
        total *= size
    return total


def same_sizes(a: Sequence[int | None], b: Sequence[int | None]) -> bool:
    """Whether two shapes agree, or may agree where a size is open."""
    return len(a) == len(b) and all(
        x is None or y is None or x == y for x, y in zip(a, b, strict=True)
    )
