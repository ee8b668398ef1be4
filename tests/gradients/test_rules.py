"""Every gradient rule against central differences in float64, with sizes known and sizes open."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.ops.rules import GRADIENTS, THROUGH
from tests.gradients.check import Case, case, check


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def floats(*values: float) -> Any:
    return np.array(values, np.float32)


def labels(*shape: int, classes: int = 4) -> Any:
    return np.random.default_rng(1).integers(0, classes, shape).astype(np.float32)


X = (2, 3)
WITH_ZEROS = np.array([[0.7, 0.0, 1.3, -0.8], [0.0, 0.5, 0.0, 2.0], [1.1, 0.9, 0.4, 0.0]])
PLANES = (2, 4, 6, 5)

ANYWHERE = [
    "Asinh", "Atan", "Cos", "Cosh", "Erf", "Exp", "Gelu", "Identity", "Mish", "Neg", "Sigmoid",
    "Sin", "Sinh", "Softplus", "Softsign", "Swish", "Tanh", "LogSoftmax", "Softmax",
]  # fmt: skip
PIECEWISE = [
    "Abs", "Celu", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Selu", "Shrink",
    "ThresholdedRelu",
]  # fmt: skip
WITHIN = {
    "Acos": (-0.8, 0.8), "Asin": (-0.8, 0.8), "Atanh": (-0.8, 0.8), "Acosh": (1.5, 3.0),
    "Log": (0.5, 2.0), "Reciprocal": (0.5, 2.0), "Sqrt": (0.5, 2.0), "Tan": (-1.0, 1.0),
}  # fmt: skip
ZERO = ["Ceil", "Floor", "Hardmax", "Round", "Sign"]
REDUCTIONS = [
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
]  # fmt: skip

MARKS = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])

CASES: list[Case] = [
    *(case(op, X) for op in ANYWHERE),
    *(case(op, X, smooth=op not in ("Abs", "Relu")) for op in PIECEWISE),
    *(case(op, X, low=low, high=high) for op, (low, high) in WITHIN.items()),
    *(case(op, X, smooth=False) for op in ZERO),
    *(case(op, X, (3,), low=0.5) for op in ("Add", "Div", "Mul", "Sub")),
    *(case(op, (3, 1), (2, 1, 4), low=0.5) for op in ("Add", "Div", "Mul", "Sub")),
    *(case(op, (2, 3), ints(1), low=0.5, keepdims=0) for op in REDUCTIONS),
    *(case(op, (2, 3, 2), ints(0, -1), low=0.5) for op in REDUCTIONS),
    *(case(op, (2, 3), low=0.5, keepdims=0) for op in REDUCTIONS),
    *(case(op, (2, 3), ints(), low=0.5, noop_with_empty_axes=1) for op in REDUCTIONS),
    *(case(op, X, (3,), (1, 1), smooth=False) for op in ("Max", "Mean", "Min", "Sum")),
    case("Gelu", X, approximate="tanh"),
    case("PRelu", X, (3,)),
    case("Pow", X, (3,), low=0.5),
    case("Pow", X, np.array(3, np.int64)),
    case("Where", np.array([[True, False, True]]), X, (3,)),
    case("Clip", X, np.array(-0.5), np.array(0.7), smooth=False),
    case("Cast", X, to=11),
    case("CastLike", X, (1,), smooth=False),
    case("SwiGLU", X, X),
    case("Mod", X, np.array(1.5), fmod=1, fixed=(1,), smooth=False),
    case("CumSum", X, np.array(1, np.int64), exclusive=1),
    case("CumSum", X, np.array(0, np.int64), reverse=1),
    *(
        case("CumProd", values, np.array(1, np.int64), exclusive=exclusive, reverse=reverse,
             smooth=values is X)
        for values in (X, WITH_ZEROS)
        for exclusive in (0, 1)
        for reverse in (0, 1)
    ),
    case("Einsum", (2, 3), (3, 4), equation="ij,jk->ik"),
    case("Einsum", (2, 3, 4), (5, 3), (5,), equation="bij, ki, k -> kb"),
    case("Einsum", (2, 3), (3,), equation="ba,a"),
    case("TopK", (2, 5), ints(2), outputs=2, axis=1),
    # shapes
    case("Reshape", (2, 6), ints(3, -1)),
    case("Flatten", (2, 3, 2)),
    case("nnconv.Flatten", (2, 3, 2, 2), axis=1, end_axis=2),
    case("nnconv.Reshape", (2, 6), dims=(2, 3), axis=1, num_axes=1),
    case("Squeeze", (2, 1, 3), ints(1)),
    case("Unsqueeze", X, ints(0, 3)),
    case("Transpose", (2, 3, 4), perm=(2, 0, 1)),
    case("Transpose", (2, 3, 4)),
    case("Concat", X, (4, 3), axis=0),
    case("Concat", X, (2, 1), axis=-1),
    case("Split", (2, 6), ints(1, 5), outputs=2, of=1, axis=1),
    case("Expand", (3, 1), ints(2, 3, 4)),
    case("Tile", X, ints(2, 3)),
    case("Pad", X, ints(1, 0, -1, 2)),
    *(case("Pad", (4, 3), ints(1, 0, 3, 2), mode=mode) for mode in ("reflect", "edge", "wrap")),
    case("Pad", (2, 4, 3), ints(2, -1, 0, 1), None, ints(-1, 1), mode="edge"),
    case("Trilu", (3, 4), np.array(1, np.int64), upper=0),
    *(case("DepthToSpace", (1, 8, 2, 3), blocksize=2, mode=mode) for mode in ("DCR", "CRD")),
    *(case("SpaceToDepth", (1, 2, 4, 6), blocksize=2, mode=mode) for mode in ("DCR", "CRD")),
    *(
        case("Resize", (2, 1, 4, 5), None, scales, sizes, mode=mode,
             coordinate_transformation_mode=place)
        for mode in ("nearest", "linear")
        for place in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
        for scales, sizes in ((floats(1, 1, 2, 0.6), None), (None, ints(2, 1, 3, 9)))
    ),
    case("Resize", (3, 4), None, floats(2.5), axes=(1,), nearest_mode="floor"),
    case("nnconv.Hook", X, key=-1),
    case("nnconv.SumTo", (2, 3, 4), ints(3, 1)),
    # indices
    case("Gather", (4, 3), ints(1, 1, -1), axis=0),
    case("Gather", (4, 3), np.array(2, np.int64), axis=1),
    case("nnconv.GatherGrad", (2, 3), ints(3, 0), ints(4, 3)),
    case("GatherElements", (4, 3), np.array([[0, 2, 2]], np.int64), axis=0),
    case("GatherND", (4, 3), np.array([[0, 2], [0, 2], [3, 1]], np.int64)),
    case("ScatterElements", (4, 3), np.array([[0, 2, 1]], np.int64), (1, 3)),
    case("ScatterElements", (4, 3), np.array([[0, 2, 1]], np.int64), (1, 3), reduction="add"),
    case("ScatterND", (4, 3), np.array([[0], [2]], np.int64), (2, 3)),
    case("ScatterND", (4, 3), np.array([[0], [0]], np.int64), (2, 3), reduction="add"),
    case("ReverseSequence", (4, 2, 3), ints(3, 2)),
    case("Slice", (6, 5), ints(4, 0), ints(0, 4), ints(0, 1), ints(-2, 1)),
    case("Slice", (6, 5), ints(-3), ints(2**31 - 1)),
    case("nnconv.SliceGrad", (2, 3), ints(4, 3), ints(1), ints(3), ints(0)),
    # products and convolutions
    *(
        case("Gemm", sa, sb, (3,), transA=ta, transB=tb, alpha=0.5, beta=2.0)
        for ta, sa in enumerate([(2, 4), (4, 2)])
        for tb, sb in enumerate([(4, 3), (3, 4)])
    ),
    case("Gemm", (2, 4), (4, 3)),
    case("MatMul", (2, 4), (4, 3)),
    case("MatMul", (5, 1, 2, 4), (3, 4, 2)),
    case("MatMul", (4,), (3, 4, 2)),
    case("MatMul", (3, 2, 4), (4,)),
    case("MatMul", (4,), (4,)),
    case("Conv", PLANES, (6, 2, 3, 2), (6,), group=2, strides=(2, 1), pads=(1, 0, 2, 1)),
    case("Conv", (2, 3, 8), (4, 3, 3), dilations=(2,), strides=(3,)),
    case("Conv", (1, 2, 4, 4, 3), (3, 2, 2, 2, 2), (3,)),
    case("Conv", (1, 2, 5, 5), (3, 2, 2, 2), auto_pad="SAME_LOWER"),
    case("nnconv.ConvGradData", (2, 3, 2), (3, 4, 3), ints(2, 4, 6), strides=(2,)),
    case("nnconv.ConvGradWeights", (2, 4, 6), (2, 3, 2), ints(3, 4, 3), strides=(2,)),
    case("ConvTranspose", (2, 4, 3, 2), (4, 3, 3, 2), (6,), group=2, strides=(2, 3),
         pads=(1, 0, 0, 1), output_padding=(1, 2)),
    case("ConvTranspose", (1, 2, 4), (2, 3, 3), dilations=(2,)),
    case("ConvTranspose", (1, 2, 4, 3), (2, 3, 2, 2), (3,), dilations=(3, 3),
         pads=(0, 1, 1, 1), output_padding=(2, 1)),
    case("nnconv.SigmoidCrossEntropyLoss", (2, 3), np.array([[0, 1, 1], [1, 0, 1]])),
    # windows
    case("MaxPool", PLANES, kernel_shape=(3, 2), strides=(2, 2), pads=(1, 0, 1, 1), ceil_mode=1),
    case("MaxPool", PLANES, kernel_shape=(2, 2), outputs=2, dilations=(2, 1)),
    case("nnconv.MaxPoolGrad", PLANES, (2, 4, 5, 4), kernel_shape=(2, 2)),
    case("AveragePool", PLANES, kernel_shape=(3, 2), strides=(2, 2), pads=(1, 0, 1, 1),
         ceil_mode=1),
    case("AveragePool", PLANES, kernel_shape=(3, 3), strides=(2, 3), pads=(1, 1, 1, 1),
         count_include_pad=1),
    case("nnconv.GlobalMaxPoolGrad", PLANES, (2, 4, 1, 1)),
    case("nnconv.AveragePoolGrad", (1, 2, 3), ints(1, 2, 5), kernel_shape=(3,)),
    case("LpPool", PLANES, kernel_shape=(2, 2), p=3, low=0.2),
    *(
        case("nnconv.PyramidPool", (2, 3, 5, 7), mode=mode, bins=bins)
        for mode in ("MAX", "AVE")
        for bins in (1, 2)
    ),
    case("GlobalAveragePool", PLANES),
    case("GlobalMaxPool", PLANES),
    *(
        case("nnconv.Pool", (2, 4, 7, 5), mode=mode, kernel_shape=(2, 1), strides=(3, 2),
             smooth=False)
        for mode in ("MAX", "AVE")
    ),
    # normalisations
    case("LRN", PLANES, size=3, alpha=0.5, beta=0.75, bias=2.0),
    case("LRN", PLANES, size=4, alpha=0.5, beta=0.75, bias=2.0),
    case("nnconv.LRNGrad", PLANES, PLANES, size=3, alpha=0.5, beta=0.75, bias=2.0, smooth=False),
    *(
        case("nnconv.BatchNorm", (4, 3, 2), (3,), (3,), (1,), use_global_stats=stored, outputs=4,
             low=0.5, fixed=(1, 2, 3), run_mode=mode)
        for stored in (-1, 0, 1)
        for mode in ("train", "test")
    ),
    *(
        case("nnconv.MVN", PLANES, across_channels=across, normalize_variance=divided)
        for across in (0, 1)
        for divided in (0, 1)
    ),
    *(case("nnconv.Dropout", PLANES, ratio=0.3, run_mode=mode) for mode in ("train", "test")),
    *(case("Dropout", PLANES, np.array(0.3), np.array(on), fixed=(1,)) for on in (True, False)),
    case("Dropout", PLANES),
    case("BatchNormalization", (4, 3, 2), (3,), (3,), (3,), (3,), low=0.5),
    case("BatchNormalization", (4, 3, 2), (3,), (3,), (3,), (3,), low=0.5, training_mode=1,
         outputs=3),
    case("InstanceNormalization", (2, 3, 4), (3,), (3,)),
    case("GroupNormalization", (2, 4, 3), (4,), (4,), num_groups=2),
    case("LayerNormalization", (2, 3, 4), (3, 4), (4,), axis=1),
    case("RMSNormalization", (2, 3, 4), (4,)),
    case("MeanVarianceNormalization", (2, 3, 4, 2)),
    case("LpNormalization", X, p=2, low=0.5),
    case("LpNormalization", X, p=1, low=0.5),
    # recurrences, over one step and several; marks and first states have no gradient
    *(
        case(f"nnconv.{op}", (steps, 2, gates * 3), MARKS[:steps], (gates * 3, 3),
             *[np.full((1, 2, 3), 0.5)] * states, outputs=states, of=of, fixed=(1, 3, 4))
        for op, gates, states, of in (("LSTM", 4, 2, 0), ("LSTM", 4, 2, 1), ("RNN", 1, 1, 0))
        for steps in (1, 3)
    ),
    case("nnconv.Select", (4, 3), np.array([0.0, 2.0, 0.0, -1.0]), size="K", fixed=(1,)),
    # losses
    case("nnconv.EuclideanLoss", (3, 4), (3, 2, 2)),
    *(
        case("nnconv.SoftmaxWithLoss", (3, 4, 2), labels(3, 2), ignore_label=ignored,
             normalization=how)
        for how in ("VALID", "FULL", "BATCH_SIZE", "NONE")
        for ignored in (None, 1)
    ),
    *(
        case("nnconv.SigmoidCrossEntropyLoss", (3, 4), labels(3, 4, classes=2),
             ignore_label=ignored, normalization=how)
        for how in ("VALID", "FULL", "BATCH_SIZE", "NONE")
        for ignored in (None, 1)
    ),
    *(
        case(op, (3, 4, 2), labels(3, 2).astype(np.int64), weights, ignore_index=ignored,
             reduction=how)
        for op in ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
        for how, ignored, weights in (("mean", None, None), ("sum", 1, None), ("none", None, (4,)),
                                      ("mean", 1, (4,)))
    ),
]  # fmt: skip


@pytest.mark.parametrize("one", CASES, ids=str)
def test_a_rule_gives_the_derivative(one: Case) -> None:
    check(one)


@pytest.mark.parametrize("one", CASES, ids=str)
def test_a_rule_gives_the_derivative_while_sizes_are_open(one: Case) -> None:
    check(one, open_sizes=True)


def test_every_rule_has_a_case() -> None:
    flat = {"ArgMax", "ArgMin", "ConstantOfShape", "EyeLike", "NonZero", "OneHot", "Range", "Shape",
            "Size", "nnconv.Accuracy"}  # fmt: skip
    first_order_reaches = {
        "nnconv.BatchNormGrad", "nnconv.DropoutGrad", "nnconv.LRNGrad",
        "nnconv.SoftmaxWithLossGrad", "nnconv.SigmoidCrossEntropyLossGrad",
    }  # fmt: skip
    known = (GRADIENTS.keys() | THROUGH.keys()) - flat - first_order_reaches
    assert known <= {one.op for one in CASES}
