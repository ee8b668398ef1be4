from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Model(_message.Message):
    __slots__ = ("format", "version", "producer", "operator_sets", "name", "mode", "graph", "preprocessing", "labels", "source", "metadata", "weights_file", "weights_length", "padding", "weights")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_SETS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FILE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    format: str
    version: int
    producer: str
    operator_sets: _containers.RepeatedCompositeFieldContainer[OperatorSet]
    name: str
    mode: str
    graph: Graph
    preprocessing: _containers.RepeatedCompositeFieldContainer[Preprocessing]
    labels: Labels
    source: Source
    metadata: _containers.RepeatedCompositeFieldContainer[Pair]
    weights_file: str
    weights_length: int
    padding: bytes
    weights: bytes
    def __init__(self, format: _Optional[str] = ..., version: _Optional[int] = ..., producer: _Optional[str] = ..., operator_sets: _Optional[_Iterable[_Union[OperatorSet, _Mapping]]] = ..., name: _Optional[str] = ..., mode: _Optional[str] = ..., graph: _Optional[_Union[Graph, _Mapping]] = ..., preprocessing: _Optional[_Iterable[_Union[Preprocessing, _Mapping]]] = ..., labels: _Optional[_Union[Labels, _Mapping]] = ..., source: _Optional[_Union[Source, _Mapping]] = ..., metadata: _Optional[_Iterable[_Union[Pair, _Mapping]]] = ..., weights_file: _Optional[str] = ..., weights_length: _Optional[int] = ..., padding: _Optional[bytes] = ..., weights: _Optional[bytes] = ...) -> None: ...

class OperatorSet(_message.Message):
    __slots__ = ("domain", "version")
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    domain: str
    version: int
    def __init__(self, domain: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class Labels(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[_Iterable[str]] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("format", "dialect", "files")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    DIALECT_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    format: str
    dialect: str
    files: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, format: _Optional[str] = ..., dialect: _Optional[str] = ..., files: _Optional[_Iterable[str]] = ...) -> None: ...

class Pair(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Graph(_message.Message):
    __slots__ = ("name", "values", "inputs", "nodes", "outputs", "state", "losses", "layers", "sizes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: _containers.RepeatedCompositeFieldContainer[Value]
    inputs: _containers.RepeatedScalarFieldContainer[str]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    outputs: _containers.RepeatedScalarFieldContainer[str]
    state: _containers.RepeatedCompositeFieldContainer[State]
    losses: _containers.RepeatedCompositeFieldContainer[Loss]
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    sizes: _containers.RepeatedCompositeFieldContainer[Size]
    def __init__(self, name: _Optional[str] = ..., values: _Optional[_Iterable[_Union[Value, _Mapping]]] = ..., inputs: _Optional[_Iterable[str]] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., outputs: _Optional[_Iterable[str]] = ..., state: _Optional[_Iterable[_Union[State, _Mapping]]] = ..., losses: _Optional[_Iterable[_Union[Loss, _Mapping]]] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., sizes: _Optional[_Iterable[_Union[Size, _Mapping]]] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("name", "type", "shape", "data", "parameter")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: int
    shape: Shape
    data: Tensor
    parameter: Parameter
    def __init__(self, name: _Optional[str] = ..., type: _Optional[int] = ..., shape: _Optional[_Union[Shape, _Mapping]] = ..., data: _Optional[_Union[Tensor, _Mapping]] = ..., parameter: _Optional[_Union[Parameter, _Mapping]] = ...) -> None: ...

class Shape(_message.Message):
    __slots__ = ("sizes", "formulas")
    SIZES_FIELD_NUMBER: _ClassVar[int]
    FORMULAS_FIELD_NUMBER: _ClassVar[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    formulas: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sizes: _Optional[_Iterable[int]] = ..., formulas: _Optional[_Iterable[str]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("type", "sizes", "inline", "offset", "length", "strings")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    type: int
    sizes: _containers.RepeatedScalarFieldContainer[int]
    inline: bytes
    offset: int
    length: int
    strings: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, type: _Optional[int] = ..., sizes: _Optional[_Iterable[int]] = ..., inline: _Optional[bytes] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., strings: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Parameter(_message.Message):
    __slots__ = ("lr_mult", "decay_mult", "filler")
    LR_MULT_FIELD_NUMBER: _ClassVar[int]
    DECAY_MULT_FIELD_NUMBER: _ClassVar[int]
    FILLER_FIELD_NUMBER: _ClassVar[int]
    lr_mult: float
    decay_mult: float
    filler: Filler
    def __init__(self, lr_mult: _Optional[float] = ..., decay_mult: _Optional[float] = ..., filler: _Optional[_Union[Filler, _Mapping]] = ...) -> None: ...

class Filler(_message.Message):
    __slots__ = ("type", "options")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    type: str
    options: _containers.RepeatedCompositeFieldContainer[Attribute]
    def __init__(self, type: _Optional[str] = ..., options: _Optional[_Iterable[_Union[Attribute, _Mapping]]] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("op", "name", "inputs", "omitted", "outputs", "attributes", "layer")
    OP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OMITTED_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    op: str
    name: str
    inputs: _containers.RepeatedScalarFieldContainer[str]
    omitted: _containers.RepeatedScalarFieldContainer[int]
    outputs: _containers.RepeatedScalarFieldContainer[str]
    attributes: _containers.RepeatedCompositeFieldContainer[Attribute]
    layer: int
    def __init__(self, op: _Optional[str] = ..., name: _Optional[str] = ..., inputs: _Optional[_Iterable[str]] = ..., omitted: _Optional[_Iterable[int]] = ..., outputs: _Optional[_Iterable[str]] = ..., attributes: _Optional[_Iterable[_Union[Attribute, _Mapping]]] = ..., layer: _Optional[int] = ...) -> None: ...

class Attribute(_message.Message):
    __slots__ = ("name", "integer", "number", "text", "data", "tensor", "graph", "integers", "numbers", "texts", "tensors", "graphs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    GRAPHS_FIELD_NUMBER: _ClassVar[int]
    name: str
    integer: int
    number: float
    text: str
    data: bytes
    tensor: Tensor
    graph: Graph
    integers: Integers
    numbers: Numbers
    texts: Texts
    tensors: Tensors
    graphs: Graphs
    def __init__(self, name: _Optional[str] = ..., integer: _Optional[int] = ..., number: _Optional[float] = ..., text: _Optional[str] = ..., data: _Optional[bytes] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., graph: _Optional[_Union[Graph, _Mapping]] = ..., integers: _Optional[_Union[Integers, _Mapping]] = ..., numbers: _Optional[_Union[Numbers, _Mapping]] = ..., texts: _Optional[_Union[Texts, _Mapping]] = ..., tensors: _Optional[_Union[Tensors, _Mapping]] = ..., graphs: _Optional[_Union[Graphs, _Mapping]] = ...) -> None: ...

class Integers(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, items: _Optional[_Iterable[int]] = ...) -> None: ...

class Numbers(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, items: _Optional[_Iterable[float]] = ...) -> None: ...

class Texts(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, items: _Optional[_Iterable[str]] = ...) -> None: ...

class Tensors(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, items: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class Graphs(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Graph]
    def __init__(self, items: _Optional[_Iterable[_Union[Graph, _Mapping]]] = ...) -> None: ...

class State(_message.Message):
    __slots__ = ("name", "read", "write")
    NAME_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    name: str
    read: str
    write: str
    def __init__(self, name: _Optional[str] = ..., read: _Optional[str] = ..., write: _Optional[str] = ...) -> None: ...

class Loss(_message.Message):
    __slots__ = ("value", "weight")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    value: str
    weight: float
    def __init__(self, value: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("name", "type", "message", "span", "parameters", "fingerprint")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    message: bytes
    span: Span
    parameters: _containers.RepeatedScalarFieldContainer[str]
    fingerprint: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., message: _Optional[bytes] = ..., span: _Optional[_Union[Span, _Mapping]] = ..., parameters: _Optional[_Iterable[str]] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("file", "line", "column", "layer", "excerpt")
    FILE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    EXCERPT_FIELD_NUMBER: _ClassVar[int]
    file: str
    line: int
    column: int
    layer: str
    excerpt: str
    def __init__(self, file: _Optional[str] = ..., line: _Optional[int] = ..., column: _Optional[int] = ..., layer: _Optional[str] = ..., excerpt: _Optional[str] = ...) -> None: ...

class Size(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: int
    def __init__(self, name: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...

class Preprocessing(_message.Message):
    __slots__ = ("input", "channels", "mean", "mean_image", "scale", "crop")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    MEAN_IMAGE_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    CROP_FIELD_NUMBER: _ClassVar[int]
    input: str
    channels: str
    mean: _containers.RepeatedScalarFieldContainer[float]
    mean_image: Tensor
    scale: float
    crop: int
    def __init__(self, input: _Optional[str] = ..., channels: _Optional[str] = ..., mean: _Optional[_Iterable[float]] = ..., mean_image: _Optional[_Union[Tensor, _Mapping]] = ..., scale: _Optional[float] = ..., crop: _Optional[int] = ...) -> None: ...
