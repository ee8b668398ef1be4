"""The rules of standard operators against onnx.shape_inference, on numbers and on symbols."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nnconv.schemas.dims import ceil_div
from nnconv.schemas.errors import InputError
from nnconv.schemas.infer.elementwise import BROADCASTING, COMPARISONS, UNARY
from nnconv.schemas.types import DType
from tests.schemas.infer.oracle import Case, by_onnx, by_rules, by_symbols

EXAMPLES = settings(max_examples=150, derandomize=True, deadline=None)
sizes = st.integers(1, 9)
shapes = st.lists(sizes, min_size=1, max_size=5).map(tuple)


def check(case: Case, symbols: bool = True) -> None:
    """Our rule says what onnx says, and refuses what onnx refuses."""
    wanted = by_onnx(case)
    if wanted is None:
        with pytest.raises(InputError):
            by_rules(case)
        return
    assert by_rules(case) == wanted
    if symbols:
        assert by_symbols(case) == wanted


def ints(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


@st.composite
def windows(draw: st.DrawFn, op: str) -> Case:
    """A convolution or pooling that fits, on one to three spatial axes."""
    count = draw(st.integers(1, 3))
    kernel = draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    spatial = draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))
    attributes: dict[str, Any] = {
        "strides": draw(st.lists(st.integers(1, 4), min_size=count, max_size=count)),
        "dilations": draw(st.lists(st.integers(1, 3), min_size=count, max_size=count)),
    }
    if draw(st.booleans()):
        attributes["pads"] = draw(
            st.lists(st.integers(0, 3), min_size=2 * count, max_size=2 * count)
        )
    elif draw(st.booleans()):
        attributes["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    n, c, m = draw(sizes), draw(sizes), draw(sizes)
    group = draw(st.sampled_from([1, 2, 3]))
    data = (n, c * group, *spatial)
    if op == "Conv":
        weights = (m * group, c, *kernel)
        return Case(op, [data, weights], attributes=attributes | {"group": group})
    if op == "ConvTranspose":
        return Case(op, [data, (c * group, m, *kernel)], attributes=attributes | {"group": group})
    attributes |= {"kernel_shape": kernel, "ceil_mode": draw(st.integers(0, 1))}
    return Case(op, [data], attributes=attributes)


def fits(case: Case) -> bool:
    """Whether every window finds room; where none does, Caffe and onnx go different ways."""
    kernel = case.attributes.get("kernel_shape") or case.inputs[1][2:]  # type: ignore[index]
    spatial = case.inputs[0][2:]  # type: ignore[index]
    pads = case.attributes.get("pads") or [0] * 2 * len(kernel)
    room = [size + sum(pads[axis :: len(kernel)]) for axis, size in enumerate(spatial)]
    dilations = case.attributes["dilations"]
    return all(r >= d * (k - 1) + 1 for r, d, k in zip(room, dilations, kernel, strict=True))


@EXAMPLES
@given(st.data(), st.sampled_from(["Conv", "MaxPool", "AveragePool", "LpPool"]))
def test_sliding_windows_fit_as_often_as_onnx_says(data: st.DataObject, op: str) -> None:
    case = data.draw(windows(op))
    assume(fits(case))
    check(case)


@EXAMPLES
@given(windows("ConvTranspose"))
def test_transposed_convolutions_spread_as_onnx_says(case: Case) -> None:
    wanted = by_onnx(case)
    assume(wanted is not None and min(wanted[0][1]) > 0)
    check(case)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "LRN"])
def test_global_pooling_and_lrn(op: str) -> None:
    check(Case(op, [(2, 3, 5, 7)], attributes={"size": 3} if op == "LRN" else {}))


@pytest.mark.parametrize("op", [op for op in UNARY if "." not in op])
def test_unary_operators_keep_the_shape(op: str) -> None:
    dtype = {"Not": DType.BOOL, "BitwiseNot": DType.INT32}.get(op, DType.FLOAT32)
    extra = [np.array(0, np.int64)] if op.startswith("Cum") else []
    check(Case(op, [(2, 3), *extra], dtype=dtype))


@EXAMPLES
@given(st.data(), st.sampled_from([*BROADCASTING, *COMPARISONS, "Where"]))
def test_broadcasting_follows_numpy(data: st.DataObject, op: str) -> None:
    full = data.draw(shapes)
    some = [
        tuple(
            1 if data.draw(st.booleans()) else size for size in full[data.draw(st.integers(0, 2)) :]
        )
        for _ in range(3 if op in ("Max", "Min", "Sum", "Mean") else 2)
    ]
    dtype = DType.FLOAT32
    attributes: dict[str, Any] = {}
    if op in ("And", "Or", "Xor"):
        dtype = DType.BOOL
    elif op.startswith("Bit"):
        dtype = DType.UINT8
    if op == "BitShift":
        attributes["direction"] = "LEFT"
    if op == "Where":
        some = [*some, np.ones(full, np.float32)]  # type: ignore[list-item]
        dtype = DType.BOOL
        some[1] = np.ones(some[1], np.float32)  # type: ignore[call-overload]
    check(Case(op, list(some), dtype=dtype, attributes=attributes))


@EXAMPLES
@given(shapes, shapes)
def test_shapes_that_do_not_broadcast_are_refused(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check(Case("Add", [a, b]), symbols=False)


@EXAMPLES
@given(st.data())
def test_matrix_products(data: st.DataObject) -> None:
    m, k, n = (data.draw(sizes) for _ in range(3))
    batch = data.draw(st.lists(sizes, max_size=2).map(tuple))
    a = data.draw(st.sampled_from([(k,), (m, k), (*batch, m, k)]))
    b = data.draw(st.sampled_from([(k,), (k, n), (*batch, k, n), (k + 1, n)]))
    check(Case("MatMul", [a, b]), symbols=b[0] != k + 1)


@pytest.mark.parametrize("a", [0, 1])
@pytest.mark.parametrize("b", [0, 1])
@pytest.mark.parametrize("bias", [None, (4,), (3, 4), (1, 4), (3, 1), ()])
def test_gemm_transposes_and_adds(a: int, b: int, bias: tuple[int, ...] | None) -> None:
    left, right = ((5, 3) if a else (3, 5)), ((4, 5) if b else (5, 4))
    check(Case("Gemm", [left, right, bias], attributes={"transA": a, "transB": b}))


@pytest.mark.parametrize(
    "case",
    [
        Case("BatchNormalization", [(2, 3, 4, 5), (3,), (3,), (3,), (3,)]),
        Case("InstanceNormalization", [(2, 3, 4, 5), (3,), (3,)]),
        Case("LayerNormalization", [(2, 3, 4), (4,), (4,)], outputs=3),
        Case("LayerNormalization", [(2, 3, 4), (3, 4)], outputs=3, attributes={"axis": 1}),
        Case("LpNormalization", [(2, 3)]),
        Case("Softmax", [(2, 3, 4)], attributes={"axis": 1}),
        Case("LogSoftmax", [(2, 3, 4)]),
        Case("Hardmax", [(2, 3, 4)], attributes={"axis": -2}),
        Case("Softmax", [(2, 3)], attributes={"axis": 2}),
        Case("Cast", [(2, 3)], attributes={"to": int(DType.INT32)}),
        Case("Clip", [(2, 3), np.array(0, np.float32), None]),
        Case("Dropout", [(2, 3)], outputs=2),
        Case("PRelu", [(2, 3, 4), (3, 1)]),
        Case("IsNaN", [(2, 3)]),
        Case("DepthToSpace", [(2, 12, 3, 4)], attributes={"blocksize": 2}),
        Case("SpaceToDepth", [(2, 3, 4, 6)], attributes={"blocksize": 2}),
        Case("SoftmaxCrossEntropyLoss", [(2, 3, 4), np.zeros((2, 4), np.int64)]),
        Case("NegativeLogLikelihoodLoss", [(2, 3), ints(0, 1)], attributes={"reduction": "none"}),
        Case("ConstantOfShape", [ints(2, 3)]),
        Case("ConstantOfShape", [ints(2, 3)], attributes={"value": ints(7)}),
        Case("Constant", [], attributes={"value": np.zeros((2, 1), np.float64)}),
        Case("Constant", [], attributes={"value_floats": [1.0, 2.0]}),
        Case("Constant", [], attributes={"value_int": 3}),
        Case("Range", [np.array(3), np.array(17), np.array(4)]),
        Case("Range", [np.array(3), np.array(-7), np.array(-4)]),
        Case("Range", [np.array(3), np.array(-7), np.array(4)]),
        Case("Range", [np.array(number, np.float32) for number in (0, 1, 0.3)]),
        Case("Shape", [(2, 3, 4)]),
        Case("Shape", [(2, 3, 4)], attributes={"start": -2, "end": 9}),
        Case("Size", [(2, 3, 4)]),
        Case("OneHot", [(2, 3), np.array(5), np.array([0, 1], np.float32)], dtype=DType.INT64),
        Case("GatherND", [(2, 3, 4), np.zeros((5, 2), np.int64)]),
        Case("GatherND", [(2, 3, 4), np.zeros((2, 5, 1), np.int64)], attributes={"batch_dims": 1}),
        Case("GatherElements", [(2, 3), np.zeros((2, 2), np.int64)]),
        Case("ScatterND", [(2, 3), np.zeros((1, 1), np.int64), (1, 3)]),
    ],
    ids=lambda case: case.op,
)  # fmt: skip
def test_other_single_nodes(case: Case) -> None:
    check(case)


REDUCTIONS = [
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
]


@EXAMPLES
@given(st.data(), st.sampled_from(REDUCTIONS), st.integers(0, 1), st.integers(0, 1))
def test_reductions(data: st.DataObject, op: str, keep: int, noop: int) -> None:
    shape = data.draw(shapes)
    places = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True))
    signed = [place - len(shape) if data.draw(st.booleans()) else place for place in places]
    chosen = data.draw(st.sampled_from([None, ints(*signed)]))
    attributes = {"keepdims": keep, "noop_with_empty_axes": noop}
    check(Case(op, [shape, chosen], attributes=attributes))


@EXAMPLES
@given(st.data(), st.sampled_from(["ArgMax", "ArgMin"]), st.integers(0, 1))
def test_positions_of_extremes(data: st.DataObject, op: str, keep: int) -> None:
    shape = data.draw(shapes)
    axis = data.draw(st.integers(-len(shape) - 1, len(shape)))
    check(Case(op, [shape], attributes={"axis": axis, "keepdims": keep}))


@EXAMPLES
@given(st.data())
def test_topk(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    k = data.draw(st.integers(1, shape[axis]))
    check(Case("TopK", [shape, ints(k)], outputs=2, attributes={"axis": axis}))


@EXAMPLES
@given(st.data())
def test_reshapes(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    wanted: list[int] = list(data.draw(st.permutations(shape)))
    for place in range(len(shape)):
        if wanted[place] == shape[place] and data.draw(st.booleans()):
            wanted[place] = 0
    if data.draw(st.booleans()):
        wanted[data.draw(st.integers(0, len(wanted) - 1))] = -1
    wanted += [1] * data.draw(st.integers(0, 2))
    check(Case("Reshape", [shape, ints(*wanted)]))


@EXAMPLES
@given(st.data())
def test_flatten_transpose_and_gather(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    axis = data.draw(st.integers(-len(shape), len(shape)))
    check(Case("Flatten", [shape], attributes={"axis": axis}))
    order = data.draw(st.permutations(range(len(shape))))
    check(Case("Transpose", [shape], attributes={"perm": order}))
    check(Case("Transpose", [shape]))
    places = np.zeros(data.draw(st.lists(sizes, max_size=2)), np.int64)
    check(Case("Gather", [shape, places], attributes={"axis": min(axis, len(shape) - 1)}))


@EXAMPLES
@given(st.data())
def test_squeeze_undoes_unsqueeze(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple))
    check(
        Case("Squeeze", [shape, ints(data.draw(st.integers(-len(shape), len(shape) - 1)))]),
        symbols=False,
    )
    check(Case("Squeeze", [shape]), symbols=False)
    rank = len(shape) + 2
    places = data.draw(st.lists(st.integers(-rank, rank - 1), min_size=2, max_size=2))
    check(Case("Unsqueeze", [shape, ints(*places)]))


@EXAMPLES
@given(st.data())
def test_concat_and_split(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    lengths = data.draw(st.lists(sizes, min_size=1, max_size=3))
    parts = [
        tuple(n if p == axis % len(shape) else s for p, s in enumerate(shape)) for n in lengths
    ]
    check(Case("Concat", list(parts), attributes={"axis": axis}), symbols=False)
    whole = tuple(sum(lengths) if p == axis % len(shape) else s for p, s in enumerate(shape))
    check(Case("Split", [whole, ints(*lengths)], len(lengths), attributes={"axis": axis}))
    count = data.draw(st.integers(1, 3))
    size = whole[axis]
    if ceil_div(size, count) * (count - 1) <= size:  # type: ignore[operator]
        check(Case("Split", [whole], count, attributes={"axis": axis, "num_outputs": count}))


@EXAMPLES
@given(st.data())
def test_pad_tile_and_expand(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    amounts = data.draw(
        st.lists(st.integers(-1, 4), min_size=2 * len(shape), max_size=2 * len(shape))
    )
    if all(size + amounts[p] + amounts[p + len(shape)] >= 0 for p, size in enumerate(shape)):
        check(Case("Pad", [shape, ints(*amounts)]))
    check(Case("Pad", [shape, ints(1, 2), None, ints(-1)]))
    check(
        Case(
            "Tile",
            [shape, ints(*data.draw(st.lists(sizes, min_size=len(shape), max_size=len(shape))))],
        )
    )
    wider = tuple(data.draw(sizes) if size == 1 else size for size in shape)
    check(Case("Expand", [shape, ints(2, *wider)]), symbols=False)


@EXAMPLES
@given(st.data())
def test_slices(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    bound = st.integers(-12, 12) | st.sampled_from([2**31 - 1, 2**63 - 1, -(2**63)])
    start, end = data.draw(bound), data.draw(bound)
    step = data.draw(st.integers(-3, 3).filter(bool))
    check(Case("Slice", [shape, ints(start), ints(end), ints(axis), ints(step)]), symbols=step > 0)
    check(Case("Slice", [shape, ints(-1), ints(-(2**63)), ints(axis), ints(-1)]))


@EXAMPLES
@given(st.data())
def test_resize_by_scales_and_to_sizes(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    factors = data.draw(
        st.lists(
            st.sampled_from([0.5, 1.0, 1.3, 2.0, 3.7]), min_size=len(shape), max_size=len(shape)
        )
    )
    scales = np.array(factors, np.float32)
    check(Case("Resize", [shape, None, scales]))
    check(Case("Resize", [shape, None, None, ints(*data.draw(st.permutations(shape)))]))
