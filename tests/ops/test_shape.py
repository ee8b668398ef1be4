"""What moves elements: against ONNX Runtime, Caffe's own by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.ops import evaluate_node
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import Graph
from nnconv.schemas.types import DType
from tests.ops.check import Case, cases, check, compute


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


STANDARD = [
    Case("Reshape", ((2, 3, 4), ints(0, -1))),
    Case("Reshape", ((2, 3, 4), ints(4, 0, 2))),
    Case("Flatten", ((2, 3, 4),), {"axis": 2}),
    Case("Flatten", ((2, 3, 4),), {"axis": -1}),
    Case("Flatten", ((2, 3),), {"axis": 0}),
    Case("Squeeze", ((1, 3, 1, 2),)),
    Case("Squeeze", ((1, 3, 1, 2), ints(-2))),
    Case("Unsqueeze", ((3, 2), ints(0, -1))),
    Case("Transpose", ((2, 3, 4),)),
    Case("Transpose", ((2, 3, 4),), {"perm": (1, 2, 0)}),
    *cases("Concat", (2, 3, 4), (2, 1, 4), (2, 2, 4), axis=[1, -2]),
    Case("Split", ((6, 4),), {"num_outputs": 3}, 3),
    Case("Split", ((7, 4),), {"num_outputs": 3}, 3),
    Case("Split", ((6, 4), ints(1, 0, 5)), {"axis": 0}, 3),
    Case("Expand", ((3, 1), ints(2, 1, 4))),
    Case("Tile", ((2, 3), ints(2, 3))),
    Case("Shape", ((2, 3, 4),), {"start": 1}),
    Case("Shape", ((2, 3, 4),), {"start": -2, "end": -1}),
    Case("Size", ((2, 3, 4),)),
    *cases("Pad", (3, 4), ints(1, 0, 2, 3), mode=["constant", "edge", "reflect", "wrap"]),
    Case("Pad", ((3, 4), ints(1, -1, 0, 2), np.float32(7))),
    Case("Pad", ((3, 4, 5), ints(1, 2), np.float32(7), ints(-2))),
    *cases("DepthToSpace", (2, 8, 3, 4), blocksize=[2], mode=["DCR", "CRD"]),
    Case("SpaceToDepth", ((2, 3, 4, 6),), {"blocksize": 2}),
    *cases("EyeLike", (3, 4), k=[-1, 0, 2]),
    *cases("Trilu", (2, 3, 4), ints(1), upper=[0, 1]),
    Case("Range", (np.float32(1), np.float32(4.2), np.float32(0.5))),
    Case("ConstantOfShape", (ints(2, 3),)),
    Case("ConstantOfShape", (ints(2, 3),), {"value": np.array([5], np.int32)}),
]


@pytest.mark.parametrize("case", STANDARD, ids=str)
def test_shapes_of_onnx(case: Case) -> None:
    case.inputs = [np.asarray(x) if isinstance(x, np.generic) else x for x in case.inputs]
    check(case)


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ({"dims": (0, -1)}, (2, 60)),
        ({"dims": (0, 0, 20)}, (2, 3, 20)),
        ({"dims": (-1,), "axis": 1, "num_axes": 2}, (2, 12, 5)),
        ({"dims": (6, 2), "axis": 1, "num_axes": 2}, (2, 6, 2, 5)),
        ({"dims": (1,), "axis": -1, "num_axes": 0}, (2, 3, 4, 5, 1)),
        ({"dims": (-1,)}, (120,)),
    ],
    ids=str,
)
def test_caffe_reshape_replaces_some_axes(
    attributes: dict[str, Any], shape: tuple[int, ...]
) -> None:
    case = Case("nnconv.Reshape", ((2, 3, 4, 5),), attributes)
    (y,) = compute(case)
    (x,) = case.arrays()
    assert x is not None
    np.testing.assert_array_equal(y, x.reshape(shape))


@pytest.mark.parametrize(
    ("axis", "end", "shape"),
    [(1, -1, (2, 60)), (0, 1, (6, 4, 5)), (-2, -1, (2, 3, 20)), (2, 2, (2, 3, 4, 5))],
)
def test_caffe_flatten_merges_axes(axis: int, end: int, shape: tuple[int, ...]) -> None:
    (y,) = compute(Case("nnconv.Flatten", ((2, 3, 4, 5),), {"axis": axis, "end_axis": end}))
    assert y.shape == shape


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        ({"value": np.array([[1, 2]], np.int32)}, np.array([[1, 2]], np.int32)),
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_ints": (1, 2)}, ints(1, 2)),
    ],
    ids=str,
)
def test_constant_takes_the_attribute_that_is_set(attributes: dict[str, Any], wanted: Any) -> None:
    (y,) = compute(Case("Constant", (), attributes))
    assert DType.of(y.dtype) == DType.of(wanted.dtype)
    np.testing.assert_array_equal(y, wanted)


def test_a_result_that_no_memory_holds_is_refused_with_its_name() -> None:
    graph = Graph("large")
    shape = graph.constant(ints(2**50))
    node = graph.emit("ConstantOfShape", shape, outputs=["huge"]).producer
    with pytest.raises(InputError, match="'huge': not enough memory"):
        evaluate_node(node, [shape.data])


def test_pieces_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(InputError):
        compute(Case("Split", ((6, 4), ints(1, 2)), {}, 2))
