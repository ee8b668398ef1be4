"""Shapes, element types, stored arrays, fillers and attribute values, as YAML writes them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from nnconv.converter.yaml.compose import Item, Scalar, Sequence
from nnconv.converter.yaml.fields import LARGEST, Fields, integer, kind, number
from nnconv.schemas.dims import Dim, Shape
from nnconv.schemas.dims_text import parse
from nnconv.schemas.errors import InputError, NnconvError
from nnconv.schemas.fillers import FILLERS
from nnconv.schemas.graph import Filler
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

MOST_AXES = 64
_TYPES = {str(dtype): dtype for dtype in DType if dtype is not DType.UNDEFINED}
_WORDS = {"value", "min", "max", "mean", "std"}


def read_shape(fields: Fields, item: Item) -> Shape | None:
    """Sizes, names and formulas: `[N, 1, 28, (H + 1)//2]`; None for null, an unknown rank."""
    if isinstance(item, Scalar) and item.value is None:
        return None
    if not isinstance(item, Sequence) or len(item.items) > MOST_AXES:
        fields.error(item, f"a shape is a list of sizes, this is {kind(item)}", "[N, 3, 224, 224]")
        return ()
    return tuple(_dim(fields, part) for part in item.items)


def _dim(fields: Fields, item: Item) -> Dim:
    size = integer(item)
    if size is not None and 0 <= size <= LARGEST:
        return size
    if isinstance(item, Scalar) and size is None and isinstance(item.value, str):
        try:
            return parse(item.value)
        except NnconvError as error:
            fields.error(item, error.problems[0].message)
            return 1
    fields.error(item, f"a size is a number or a name, this is {kind(item)}")
    return 1


def read_sizes(fields: Fields, item: Item) -> tuple[int, ...]:
    """A shape of numbers only."""
    shape = read_shape(fields, item)
    fixed = tuple(dim for dim in shape or () if isinstance(dim, int))
    if shape is None or len(fixed) != len(shape):
        fields.error(item, "the shape of something stored has numbers only")
    return fixed


def read_type(fields: Fields, default: DType = DType.FLOAT32) -> DType:
    """The element type under the key `type`."""
    name = fields.text("type", str(default), _TYPES)
    return _TYPES[name]


def read_filler(fields: Fields, key: str = "filler") -> Filler | None:
    """`xavier`, or `{type: gaussian, std: 0.01}`."""
    item = fields.at(key)
    if item is None:
        return None
    if isinstance(item, Scalar):
        return Filler(fields.text(key, "constant", FILLERS))
    inner = Fields(fields.document, item, "a filler")
    name = inner.text("type", "constant", FILLERS)
    options: dict[str, Any] = {}
    for option in FILLERS[name]:
        if option in inner:
            if option == "variance_norm":
                options[option] = inner.text(option, "FAN_IN", ("FAN_IN", "FAN_OUT", "AVERAGE"))
            elif option in _WORDS:
                options[option] = inner.number(option)
            else:
                options[option] = inner.integer(option)
    inner.finish()
    return Filler(name, options)


def read_array(
    fields: Fields, key: str, dtype: DType | None, shape: tuple[int, ...] | None
) -> Array:
    """The elements under `key`, flat, as an array; without a type the numbers decide.

    Raises InputError when they do not fit the type or the shape.
    """
    import numpy as np

    item = fields.at(key)
    parts = item.items if isinstance(item, Sequence) else [item] if item is not None else []
    values = [_element(fields, part) for part in parts]
    if dtype is None:
        dtype = DType.INT64 if all(type(value) is int for value in values) else DType.FLOAT32
    if shape is None:
        shape = (len(values),) if isinstance(item, Sequence) else ()
    if math.prod(shape) != len(values):
        raise InputError(f"the shape {list(shape)} wants {math.prod(shape):,} elements, "
                         f"here are {len(values):,}")  # fmt: skip
    _check_elements(values, dtype)
    try:
        return np.array(values, dtype=dtype.numpy).reshape(shape)
    except (OverflowError, ValueError, TypeError):
        raise InputError(f"not all elements are of type {dtype}") from None


def _check_elements(values: list[Any], dtype: DType) -> None:
    """numpy would round, wrap or parse; here a word is no number and 1.5 no integer."""
    wanted: tuple[type, ...] = (int, float)
    if dtype is DType.STRING:
        wanted = (str,)
    elif dtype is DType.BOOL:
        wanted = (bool,)
    elif dtype.is_integer:
        wanted = (int,)
    for value in values:
        if type(value) not in wanted:
            raise InputError(f"{value!r} is not of type {dtype}")


def _element(fields: Fields, item: Item) -> Any:
    if isinstance(item, Scalar) and item.value is not None:
        return item.value
    raise InputError(f"an element must be a number or text, this is {kind(item)}")


def read_attribute(fields: Fields, key: str, declared: str) -> Any:
    """An attribute of an operator, of the type that the operator's table declares.

    Raises InputError for a value of another type, and for graphs, which have no place in YAML.
    """
    item = fields.at(key)
    assert item is not None
    if declared == "tensor":
        inner = Fields(fields.document, item, "a tensor")
        dtype = read_type(inner) if "type" in inner else None
        shape = inner.at("shape")
        sizes = None if shape is None else read_sizes(inner, shape)
        array = read_array(inner, "value", dtype, sizes)
        inner.finish()
        return array
    if declared not in _ATTRIBUTES and declared.removesuffix("s") not in _ATTRIBUTES:
        raise InputError(f"attribute '{key}' is a {declared}, which YAML has no place for")
    if declared.endswith("s") and isinstance(item, Sequence):
        return tuple(_single(key, part, declared.removesuffix("s")) for part in item.items)
    if declared.endswith("s"):
        raise InputError(f"attribute '{key}' is a list, this is {kind(item)}", hint=f"{key}: [...]")
    return _single(key, item, declared)


_ATTRIBUTES = ("int", "float", "string")


def _single(key: str, item: Item, declared: str) -> Any:
    found: Any
    if declared == "int":
        found = integer(item)
        if found is None and isinstance(item, Scalar) and isinstance(item.value, bool):
            found = int(item.value)
        if found is not None and not -(1 << 63) <= found < 1 << 63:
            found = None
    elif declared == "float":
        found = number(item)
        found = None if found is None else float(found)
    else:
        found = item.value if isinstance(item, Scalar) and isinstance(item.value, str) else None
    if found is None:
        raise InputError(f"attribute '{key}' must be of type {declared}, this is {kind(item)}")
    return found


def as_json(value: Any) -> str:
    """Settings as the text that a model's metadata holds."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
