"""One operator, one line: cases are data, and `check` knows the oracles.

A case is an operator with arrays and attributes. `check` runs it through the reference kernel and
compares with ONNX Runtime (a model of that one node) or with a formula over float64 arrays; shapes
and types must also be those that inference says.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from nnconv.runtime import ops
from nnconv.schemas.graph import Graph, Node
from nnconv.schemas.types import DType

Array = Any

OPSET = 21
"""The newest opset whose kernels ONNX Runtime has for every operator tested here ..."""
NEWER = {"RMSNormalization": 23, "Swish": 24}
"""... but for these, which came later."""


@dataclass
class Case:
    """An operator, its inputs (None where omitted; tuples of ints are shapes to fill), and
    attributes.
    """

    op: str
    inputs: Sequence[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    low: float = -2.0
    high: float = 2.0

    def __str__(self) -> str:
        shown = [
            "-" if x is None else "x".join(map(str, np.shape(x))) or "0d" for x in self.arrays()
        ]
        extra = [f"{key}={value}" for key, value in self.attributes.items()]
        return " ".join([self.op, *shown, *extra]).replace(", ", ",")

    def arrays(self) -> list[Array | None]:
        """The inputs; shapes are filled with the same float32 numbers every time."""
        random = np.random.default_rng(7)
        return [self._filled(x, random) if isinstance(x, tuple) else x for x in self.inputs]

    def _filled(self, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        return random.uniform(self.low, self.high, shape).astype(np.float32)


def cases(op: str, *inputs: Any, outputs: int = 1, **attributes: Sequence[Any]) -> list[Case]:
    """All combinations of the given attribute values, for one list of inputs."""
    names = list(attributes)
    return [
        Case(op, inputs, dict(zip(names, values, strict=True)), outputs)
        for values in itertools.product(*attributes.values())
    ]


def floats(values: Any) -> Array:
    return np.asarray(values, np.float32)


def node_of(case: Case, arrays: Sequence[Array | None] | None = None) -> Node:
    """The case as a node over stored values."""
    graph = Graph("case")
    arrays = case.arrays() if arrays is None else arrays
    values = [
        None if array is None else graph.constant(array, name=f"in{index}")
        for index, array in enumerate(arrays)
    ]
    names = [f"out{index}" for index in range(case.outputs)]
    graph.emit(case.op, *values, outputs=names, **case.attributes)
    return next(iter(graph.nodes))


def compute(case: Case, wide: bool = False) -> list[Array]:
    """The outputs by the reference kernel, on request with float64 inputs."""
    arrays = [_widened(array) for array in case.arrays()] if wide else case.arrays()
    node = node_of(case, arrays)
    results = ops.evaluate_node(node, arrays)
    for value, result in zip(node.outputs, results, strict=True):
        if value.dtype:  # undefined: inference has no rule for this operator yet
            assert DType.of(result.dtype) == value.dtype, (
                f"{value.name} was inferred as {value.dtype}"
            )
        assert value.shape is None or result.shape == value.shape, f"inferred {value.shape}"
    return list(results)


def _widened(array: Array | None) -> Array | None:
    return array.astype(np.float64) if array is not None and array.dtype == np.float32 else array


def onnxruntime_outputs(case: Case) -> list[Array]:
    """The outputs of a model of this one node, by ONNX Runtime."""
    given = {f"in{i}": array for i, array in enumerate(case.arrays()) if array is not None}
    names = [f"in{i}" if array is not None else "" for i, array in enumerate(case.arrays())]
    attributes = {
        key: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for key, value in case.attributes.items()
    }
    outputs = [f"out{index}" for index in range(case.outputs)]
    node = helper.make_node(case.op, names, outputs, **attributes)
    inputs = [_declared(name, array.dtype, array.shape) for name, array in given.items()]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph([node], "case", inputs, results)
    imports = [helper.make_opsetid("", NEWER.get(case.op, OPSET))]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(outputs, given))


def _declared(name: str, dtype: Any, shape: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
    )


def check(case: Case, against: str | Callable[..., Any] = "onnxruntime", rel: float = 1e-6) -> None:
    """The reference kernel gives what the oracle gives: max |a - b| / max |b| at most `rel`.

    `against` is "onnxruntime", or a formula that takes the inputs (floats as float64) and
    attributes.
    """
    got = compute(case)
    if callable(against):
        wanted = against(*map(_widened, case.arrays()), **case.attributes)
        wanted = list(wanted) if isinstance(wanted, tuple) else [wanted]
    else:
        wanted = onnxruntime_outputs(case)
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == np.shape(other)
        assert_close(one, other, rel)


def assert_close(got: Array, wanted: Array, rel: float) -> None:
    """Integers and booleans equal; floats within `rel` of the largest, NaN and infinities in
    place.
    """
    wanted = np.asarray(wanted)
    if wanted.dtype.kind not in "f":
        np.testing.assert_array_equal(got, wanted)
        return
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(np.isfinite(got), finite)
    np.testing.assert_array_equal(got[~finite], wanted[~finite])
    if finite.any():
        scale = np.abs(wanted[finite]).max()
        error = np.abs(got[finite].astype(np.float64) - wanted[finite]).max()
        assert error <= rel * max(scale, np.finfo(np.float32).tiny), f"{error / scale:.1e} off"
