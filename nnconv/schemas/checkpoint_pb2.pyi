from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Checkpoint(_message.Message):
    __slots__ = ("format", "version", "producer", "iteration", "metadata", "parameters", "state", "optimizer")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    format: str
    version: int
    producer: str
    iteration: int
    metadata: _containers.RepeatedCompositeFieldContainer[Pair]
    parameters: _containers.RepeatedCompositeFieldContainer[Tensor]
    state: _containers.RepeatedCompositeFieldContainer[Tensor]
    optimizer: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, format: _Optional[str] = ..., version: _Optional[int] = ..., producer: _Optional[str] = ..., iteration: _Optional[int] = ..., metadata: _Optional[_Iterable[_Union[Pair, _Mapping]]] = ..., parameters: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., state: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., optimizer: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "type", "sizes", "slot", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: int
    sizes: _containers.RepeatedScalarFieldContainer[int]
    slot: str
    data: bytes
    def __init__(self, name: _Optional[str] = ..., type: _Optional[int] = ..., sizes: _Optional[_Iterable[int]] = ..., slot: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class Pair(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
