"""One node inferred three ways: by onnx, by our rules on numbers, and by our rules on symbols.

A case is an operator, its inputs (a shape, or an array for a stored constant) and its attributes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from nnconv.schemas.dims import Shape, Symbolic, evaluate_shape
from nnconv.schemas.graph import Graph, Value
from nnconv.schemas.types import DType

Input = tuple[int, ...] | np.ndarray[Any, Any] | None


@dataclass
class Case:
    op: str
    inputs: list[Input]
    outputs: int = 1
    dtype: DType = DType.FLOAT32
    attributes: dict[str, Any] = field(default_factory=dict)


def by_onnx(case: Case) -> list[tuple[int, tuple[int, ...]]] | None:
    """(element type, shape) of each output as onnx.shape_inference finds them; None when it
    refuses."""
    inputs, stored = [], []
    for index, given in enumerate(case.inputs):
        if isinstance(given, np.ndarray):
            stored.append(numpy_helper.from_array(given, f"i{index}"))
        elif given is not None:
            inputs.append(helper.make_tensor_value_info(f"i{index}", case.dtype.value, given))
    names = ["" if given is None else f"i{index}" for index, given in enumerate(case.inputs)]
    outputs = [f"o{index}" for index in range(case.outputs)]
    attributes = {
        key: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for key, value in case.attributes.items()
    }
    node = helper.make_node(case.op, names, outputs, **attributes)
    results = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs]
    graph = helper.make_graph([node], "case", inputs, results, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 28)], ir_version=13)
    try:
        inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return None
    return [_type_of(output) for output in inferred.graph.output]


def _type_of(output: Any) -> tuple[int, tuple[int, ...]]:
    tensor = output.type.tensor_type
    assert all(dim.HasField("dim_value") for dim in tensor.shape.dim), f"onnx left {output} open"
    return tensor.elem_type, tuple(dim.dim_value for dim in tensor.shape.dim)


def by_rules(case: Case) -> list[tuple[int, Shape | None]]:
    """(element type, shape) of each output by our rules; raises InputError when they refuse."""
    return _emit(case, lambda index, shape: shape)


def by_symbols(case: Case) -> list[tuple[int, Shape | None]]:
    """The same found with a name for every size, evaluated afterwards."""
    sizes: dict[str, int] = {}

    def named(index: int, shape: tuple[int, ...]) -> Shape:
        sizes.update({f"s{index}_{place}": size for place, size in enumerate(shape)})
        return tuple(Symbolic.name(f"s{index}_{place}") for place in range(len(shape)))

    found = _emit(case, named)
    return [
        (dtype, None if shape is None else evaluate_shape(shape, sizes)) for dtype, shape in found
    ]


def _emit(case: Case, shaped: Any) -> list[tuple[int, Shape | None]]:
    graph = Graph("case")
    inputs: list[Value | None] = []
    for index, given in enumerate(case.inputs):
        if given is None:
            inputs.append(None)
        elif isinstance(given, np.ndarray):
            inputs.append(graph.constant(given, name=f"i{index}"))
        else:
            inputs.append(graph.add_input(f"i{index}", case.dtype, shaped(index, given)))
    found = graph.emit(case.op, *inputs, outputs=case.outputs, **case.attributes)
    values = [found] if case.outputs == 1 else list(found)
    return [(int(value.dtype), value.shape) for value in values]
