"""What a checkpoint holds: parameters by name, state, the solver's own arrays, and where training
stood.

Arrays may be read lazily: a `Lazy` table knows every shape and type at once, and makes an array
only when it is asked for, so that shapes are compared before memory is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from nnconv.schemas.errors import InputError
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.graph import Model
    from nnconv.schemas.types import Array


MOST_ARRAYS = 1 << 19
"""In one file: 131,072 parameters, as many as a caffemodel may hold blobs, and three arrays of the
solver for each."""


class Header(NamedTuple):
    """What is known of an array before it is read."""

    dtype: DType
    shape: tuple[int, ...]


class Lazy(Mapping[str, "Array"]):
    """Arrays by name, each read when it is first asked for."""

    def __init__(self) -> None:
        self.headers: dict[str, Header] = {}
        self._loaders: dict[str, Callable[[], Array]] = {}

    def add(self, name: str, header: Header, load: Callable[[], Array]) -> None:
        self.headers[name] = header
        self._loaders[name] = load

    def __getitem__(self, name: str) -> Array:
        return self._loaders[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers)

    def __len__(self) -> int:
        return len(self.headers)

    def select(self, names: Mapping[str, str]) -> Lazy:
        """The arrays under the keys of `names`, called by its values."""
        chosen = Lazy()
        for old, new in names.items():
            chosen.add(new, self.headers[old], self._loaders[old])
        return chosen


Arrays = Mapping[str, "Array"]


@dataclass(slots=True)
class Checkpoint:
    """`optimizer` maps what of the solver (`momentum`, say) to arrays by parameter name.

    `padded` says that shapes may have ones in front that mean nothing, as in old Caffe files.
    """

    parameters: Arrays = field(default_factory=dict)
    state: Arrays = field(default_factory=dict)
    optimizer: Mapping[str, Arrays] = field(default_factory=dict)
    iteration: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    padded: bool = False

    @staticmethod
    def of(model: Model) -> Checkpoint:
        """The parameters of a model, and its state as far as that is none of them."""
        held = {
            state.name: state.read.data
            for state in model.graph.state
            if state.read.parameter is None and state.read.data is not None
        }
        return Checkpoint(dict(model.weights), held)


def check_number(count: int) -> None:
    """Raise InputError for more arrays than a file may hold."""
    if count > MOST_ARRAYS:
        raise InputError(
            f"the file holds {count:,} arrays, {MOST_ARRAYS:,} is the most",
            hint="no net has so many",
        )


def header(arrays: Arrays, name: str) -> Header:
    """Type and shape of an array, without reading one that is lazy."""
    if isinstance(arrays, Lazy):
        return arrays.headers[name]
    array = arrays[name]
    return Header(DType.of(array.dtype), array.shape)
