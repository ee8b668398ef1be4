from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataStorage(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: _containers.RepeatedCompositeFieldContainer[Sample]
    def __init__(self, data: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("input", "expected")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    input: _containers.RepeatedScalarFieldContainer[float]
    expected: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, input: _Optional[_Iterable[float]] = ..., expected: _Optional[_Iterable[float]] = ...) -> None: ...

class State(_message.Message):
    __slots__ = ("layers",)
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    def __init__(self, layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("ws", "bufs")
    WS_FIELD_NUMBER: _ClassVar[int]
    BUFS_FIELD_NUMBER: _ClassVar[int]
    ws: _containers.RepeatedCompositeFieldContainer[OldBuffer]
    bufs: _containers.RepeatedCompositeFieldContainer[Buffer]
    def __init__(self, ws: _Optional[_Iterable[_Union[OldBuffer, _Mapping]]] = ..., bufs: _Optional[_Iterable[_Union[Buffer, _Mapping]]] = ...) -> None: ...

class Buffer(_message.Message):
    __slots__ = ("vals", "shape", "buf_id")
    VALS_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    BUF_ID_FIELD_NUMBER: _ClassVar[int]
    vals: _containers.RepeatedScalarFieldContainer[float]
    shape: _containers.RepeatedScalarFieldContainer[int]
    buf_id: int
    def __init__(self, vals: _Optional[_Iterable[float]] = ..., shape: _Optional[_Iterable[int]] = ..., buf_id: _Optional[int] = ...) -> None: ...

class OldBuffer(_message.Message):
    __slots__ = ("vals", "shape_size", "shape_prev_size")
    VALS_FIELD_NUMBER: _ClassVar[int]
    SHAPE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_PREV_SIZE_FIELD_NUMBER: _ClassVar[int]
    vals: _containers.RepeatedScalarFieldContainer[float]
    shape_size: int
    shape_prev_size: int
    def __init__(self, vals: _Optional[_Iterable[float]] = ..., shape_size: _Optional[int] = ..., shape_prev_size: _Optional[int] = ...) -> None: ...
