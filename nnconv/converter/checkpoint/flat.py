"""A checkpoint as one flat table of names, for formats that have no other structure.

Parameters keep their names; state and the solver's arrays stand behind a prefix. A parameter whose
own name begins like a prefix gets the prefix `parameter:`. Files of others have no prefixes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.schemas.checkpoint import Arrays, Checkpoint, Header, Lazy
from nnconv.schemas.errors import InputError

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

_PARAMETER, _STATE, _OPTIMIZER = "parameter:", "state:", "optimizer:"
_PREFIXES = (_PARAMETER, _STATE, _OPTIMIZER)
PREFIX = "nnconv."
"""Before the keys of our own among a file's metadata."""


def flatten(checkpoint: Checkpoint) -> dict[str, tuple[Arrays, str]]:
    """Every array of a checkpoint by its flat name: the table it is in, and its name there."""
    found: dict[str, tuple[Arrays, str]] = {}
    for name in checkpoint.parameters:
        flat = _PARAMETER + name if name.startswith(_PREFIXES) else name
        found[flat] = checkpoint.parameters, name
    for name in checkpoint.state:
        found[_STATE + name] = checkpoint.state, name
    for slot, arrays in sorted(checkpoint.optimizer.items()):
        for name in arrays:
            # the slot's length says where it ends, whatever it is called
            found[f"{_OPTIMIZER}{len(slot)}:{slot}:{name}"] = arrays, name
    return found


def unflatten(arrays: Lazy) -> Checkpoint:
    """The checkpoint behind a flat table that `flatten` named."""
    parameters: dict[str, str] = {}
    state: dict[str, str] = {}
    slots: dict[str, dict[str, str]] = {}
    for flat in arrays:
        if flat.startswith(_STATE):
            state[flat] = flat.removeprefix(_STATE)
        elif flat.startswith(_OPTIMIZER):
            slot, name = _split(flat)
            slots.setdefault(slot, {})[flat] = name
        else:
            parameters[flat] = flat.removeprefix(_PARAMETER)
    return Checkpoint(
        arrays.select(parameters),
        arrays.select(state),
        {slot: arrays.select(names) for slot, names in slots.items()},
    )


def elements_of(data: memoryview, kind: Header) -> Array:
    """The array that `data` holds, low bytes first, as a view."""
    import numpy as np

    array: Array = np.frombuffer(data, kind.dtype.numpy.newbyteorder("<")).reshape(kind.shape)
    return array


def metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Iteration and metadata as pairs of text, with the mark that the file is ours."""
    own = {f"{PREFIX}version": "1"}
    if checkpoint.iteration:
        own[f"{PREFIX}iteration"] = str(checkpoint.iteration)
    return dict(sorted(checkpoint.metadata.items())) | own


def restore(checkpoint: Checkpoint, pairs: dict[str, str]) -> None:
    """Put into a checkpoint what `metadata` made of its iteration and metadata."""
    text = pairs.get(f"{PREFIX}iteration", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InputError(f"the iteration is {text[:40]!r}, not a number")
    checkpoint.iteration = int(text)
    checkpoint.metadata = {k: v for k, v in pairs.items() if not k.startswith(PREFIX)}


def _split(flat: str) -> tuple[str, str]:
    length, _, rest = flat.removeprefix(_OPTIMIZER).partition(":")
    if length.isascii() and length.isdigit() and len(length) < 6:
        slot, mark, name = rest[: int(length)], rest[int(length) :][:1], rest[int(length) + 1 :]
        if mark == ":":
            return slot, name
    raise InputError(f"'{flat[:80]}' is no name of a solver's array")
