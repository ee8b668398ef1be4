"""nevermind-neu's weights: layers by position, buffers by id, in both layouts it has had.

The wire format is walked over the mapped file, so that packed weights are views. Parameters are
called as the model reader calls them: `layer1/0` the weights of the first layer behind the input,
`layer1/1` its bias.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from nnconv.converter.located import in_message
from nnconv.converter.wire_format import LENGTH, Field, Malformed, fields, without
from nnconv.schemas import nevermind_pb2 as pb
from nnconv.schemas.checkpoint import Checkpoint, Header, Lazy
from nnconv.schemas.errors import InputError
from nnconv.schemas.files import AnyPath, atomic_write, map_file
from nnconv.schemas.types import DType

if TYPE_CHECKING:
    from nnconv.schemas.types import Array

WEIGHTS, BIAS = 0, 3
_INDEX = {WEIGHTS: 0, BIAS: 1}
_OLD, _NEW = 1, 2
MOST_LAYERS, MOST_BUFFERS = 10_000, 64
_VALUES = frozenset({1})


class Buffer(NamedTuple):
    """One stored array of a layer."""

    id: int
    shape: tuple[int, ...]
    load: Callable[[], Array]


def read_state(path: AnyPath) -> Checkpoint:
    """The weights in a state file; raises InputError, naming layer and buffer, for what is wrong
    with them."""
    with in_message(path, hint="was it cut short, or is it no state of nevermind-neu?"):
        return _read(map_file(path))


def _read(data: memoryview) -> Checkpoint:
    arrays = Lazy()
    found = fields(data, 0, len(data), frozenset({1}))
    layers = list(islice(found, MOST_LAYERS + 1))
    if len(layers) > MOST_LAYERS or any(field.wire_type != LENGTH for field in layers):
        raise InputError("this is no state of nevermind-neu")
    if not layers:
        raise InputError("the state holds no layers")
    for position, layer in enumerate(layers):
        for buffer in _buffers(data, layer, position):
            index = _INDEX.get(buffer.id)
            if index is None:  # gradients and outputs, which nobody saves
                continue
            name = f"layer{position}/{index}"
            if name in arrays.headers:
                raise InputError(f"layer {position} holds the buffer {buffer.id} twice")
            _check(buffer, position, 2 - index)
            arrays.add(name, Header(DType.FLOAT32, buffer.shape), _shaped(buffer))
    return Checkpoint(arrays, metadata={"nevermind.layers": str(len(layers))})


def _shaped(buffer: Buffer) -> Callable[[], Array]:
    return lambda: buffer.load().reshape(buffer.shape)


def _buffers(data: memoryview, layer: Field, position: int) -> Iterator[Buffer]:
    found = fields(data, layer.start, layer.end, frozenset({_OLD, _NEW}))
    inner = list(islice(found, MOST_BUFFERS + 1))
    if len(inner) > MOST_BUFFERS:
        raise InputError(f"layer {position} holds more than {MOST_BUFFERS} buffers")
    new = [field for field in inner if field.number == _NEW and field.wire_type == LENGTH]
    old = [field for field in inner if field.number == _OLD and field.wire_type == LENGTH]
    if new:
        yield from (_buffer(data, field) for field in new)
        return
    for place, field in enumerate(old):
        rows, columns, load = _old_buffer(data, field)
        if not rows and not columns:
            continue  # the input layer of the old layout holds an empty matrix
        shape = (rows, columns) if place == 0 else (rows,)
        if place and columns != 1:
            raise InputError(f"layer {position}: the bias is {rows}x{columns}, it should be a row")
        yield Buffer(WEIGHTS if place == 0 else BIAS, shape, load)


def _check(buffer: Buffer, position: int, rank: int) -> None:
    where, shape = f"layer {position}, buffer {buffer.id}", list(buffer.shape)
    if len(shape) != rank or min(shape, default=0) < 0:
        raise InputError(f"{where}: the shape is {shape}, it should have {rank} sizes")
    count = buffer.load().size
    if math.prod(shape) != count:
        raise InputError(f"{where}: the shape {shape} wants {math.prod(shape)} values, {count} are "
                         "there")  # fmt: skip


def _buffer(data: memoryview, field: Field) -> Buffer:
    small, values = _split(data, field)
    message = pb.Buffer.FromString(small)
    return Buffer(message.buf_id, tuple(message.shape), _floats(message.vals, values))


def _old_buffer(data: memoryview, field: Field) -> tuple[int, int, Callable[[], Array]]:
    small, values = _split(data, field)
    message = pb.OldBuffer.FromString(small)
    return message.shape_size, message.shape_prev_size, _floats(message.vals, values)


def _split(data: memoryview, field: Field) -> tuple[bytes, memoryview | None]:
    """The buffer's message without its packed values, and these; None where they are unpacked or in
    several pieces, which protobuf then puts together."""
    packed = list(islice(fields(data, field.start, field.end, _VALUES), 2))
    if len(packed) == 1 and packed[0].wire_type == LENGTH:
        (values,) = packed
        if (values.end - values.start) % 4:
            raise Malformed("packed floats must fill whole numbers", values.tag)
        return without(data, field.start, field.end, packed), data[values.start : values.end]
    return bytes(data[field.start : field.end]), None


def _floats(unpacked: object, packed: memoryview | None) -> Callable[[], Array]:
    import numpy as np

    if packed is not None:
        view = np.frombuffer(packed, "<f4")
    else:
        view = np.array(unpacked, np.float32)
    return lambda: view


def write_state(checkpoint: Checkpoint, path: AnyPath) -> None:
    """Write the parameters `layerN/0` and `layerN/1` as nevermind-neu 0.2.0 does, an empty entry
    for the input layer first. Raises InputError for parameters of other names."""
    import numpy as np

    layers: dict[int, dict[int, str]] = {}
    for name in checkpoint.parameters:
        found = re.fullmatch(r"layer([0-9]{1,4})/([01])", name)
        if found is None:
            raise InputError(
                f"'{name}' has no place in a state of nevermind-neu",
                hint="its parameters are layer1/0, layer1/1, layer2/0 ...",
            )
        layers.setdefault(int(found[1]), {})[int(found[2])] = name
    message = pb.State()
    for position in range(max(layers, default=0) + 1):
        entry = message.layers.add()
        for index, name in sorted(layers.get(position, {}).items()):
            array = checkpoint.parameters[name]
            values = np.asarray(array, np.float32).reshape(-1)
            entry.bufs.add(vals=values, shape=array.shape, buf_id=(WEIGHTS, BIAS)[index])
    with atomic_write(path) as file:
        file.write(message.SerializeToString(deterministic=True))
