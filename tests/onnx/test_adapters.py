"""Old versions of operators mean, after lifting, what they meant: ONNX Runtime runs the old node
itself.

ONNX Runtime has no kernels for most operators as they were before opset 7; there numpy says what
the specification of the time says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from nnconv.converter.onnx.adapters import ADAPTERS
from nnconv.converter.onnx.proto import known_operators, versions
from nnconv.converter.onnx.reader import import_onnx
from nnconv.converter.onnx.writer import export_onnx
from nnconv.runtime.executor import compile_model
from nnconv.runtime.ops import has_kernel
from nnconv.schemas.errors import UnsupportedError
from tests.onnx.support import Array, node_model, run, worst


def _floats(*shape: int, low: float = -2.0, high: float = 2.0) -> Array:
    generator = np.random.default_rng(sum(shape) + len(shape))
    return generator.uniform(low, high, shape).astype(np.float32)


X = _floats(2, 3, 4, 5)
CHANNELS = _floats(3)
FLAGS = X > 0


@dataclass(frozen=True)
class Old:
    """One node of an old opset; `formula` says what it gives where ONNX Runtime cannot."""

    op: str
    opset: int
    inputs: dict[str, Any]  # arrays and numpy numbers
    attributes: dict[str, Any] = field(default_factory=dict)
    stored: tuple[str, ...] = ()
    outputs: int = 1
    formula: Callable[..., Any] | None = None

    def __str__(self) -> str:
        given = "-".join(f"{key}={value}" for key, value in self.attributes.items())
        return f"{self.op}-{self.opset}-{given}".replace(" ", "")

    def model(self) -> onnx.ModelProto:
        return node_model(
            self.op,
            self.opset,
            self.inputs,
            stored=self.stored,
            outputs=self.outputs,
            **self.attributes,
        )


def softmax(x: Array, axis: int) -> Array:
    flat = x.reshape(int(np.prod(x.shape[:axis])), -1).astype(np.float64)
    powers: Array = np.exp(flat - flat.max(1, keepdims=True))
    shares: Array = powers / powers.sum(1, keepdims=True)
    return shares.reshape(x.shape).astype(np.float32)


def _integers(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def _scales(*numbers: float) -> Array:
    return np.array(numbers, np.float32)


def _statistics(*shape: int) -> dict[str, Array]:
    positive = _floats(*shape, low=0.5, high=1.5)
    return {"s": _floats(*shape), "b": _floats(*shape) + 1, "m": _floats(*shape) - 1, "v": positive}


def _batch_norm(x: Array, s: Array, b: Array, m: Array, v: Array) -> Array:
    s, b, m, v = (array.reshape(-1, 1, 1) for array in (s, b, m, v))
    result: Array = (x - m) / np.sqrt(v + 1e-5) * s + b
    return result


UPSCALE = _scales(1, 1, 2, 3)
SHRINK = _scales(1, 1, 0.5, 0.6)

CASES = [
    # broadcasting by axis, before 7
    *(Old(op, 6, {"a": X, "b": _floats(3, 4) + 3}, {"broadcast": 1, "axis": 1},
          formula=lambda a, b, f=f: f(a, b[:, :, None]))
      for op, f in {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply,
          "Div": np.divide}.items()),
    Old("Add", 1, {"a": X, "b": X}, {"consumed_inputs": (0, 0)}, formula=np.add),
    Old("Mul", 6, {"a": X, "b": _floats(5)}, {"broadcast": 1}, formula=np.multiply),
    Old("Add", 6, {"a": X, "b": _floats(4, 5)}, {"broadcast": 1, "axis": -2}, formula=np.add),
    Old("Pow", 1, {"a": abs(X), "b": CHANNELS}, {"broadcast": 1, "axis": 1},
        formula=lambda a, b: a ** b[:, None, None]),
    *(Old(op, 1, {"a": FLAGS, "b": FLAGS[0, :, :1, 0]}, {"broadcast": 1, "axis": 1},
          formula=lambda a, b, f=f: f(a, b[:, :, None]))
      for op, f in {"And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor}.items()),
    *(Old(op, 1, {"a": X, "b": CHANNELS}, {"broadcast": 1, "axis": 1},
          formula=lambda a, b, f=f: f(a, b[:, None, None]))
      for op, f in {"Greater": np.greater, "Less": np.less}.items()),
    Old("Equal", 1, {"a": _integers(1, 2, 3), "b": _integers(1, 0, 3)}, formula=np.equal),
    Old("Gemm", 6, {"a": _floats(2, 3), "b": _floats(3, 4), "c": _floats(4)}, {"broadcast": 1},
        formula=lambda a, b, c: a @ b + c),
    Old("PRelu", 6, {"x": X, "slope": CHANNELS},
        formula=lambda x, slope: np.where(x > 0, x, x * slope[:, None, None])),
    Old("PRelu", 6, {"x": X, "slope": _floats(1)}, formula=lambda x, slope: np.where(x > 0, x,
        x * slope)),
    Old("Selu", 1, {"x": X},
        formula=lambda x: np.where(x > 0, 1.0507 * x,
            1.0507 * 1.6732 * (np.exp(x) - 1)).astype(np.float32)),
    *(Old(op, 1, {"x": abs(X) + 0.1}, {"consumed_inputs": (0,)}, formula=f)
      for op, f in {"Abs": np.abs, "Exp": np.exp, "Log": np.log, "Neg": np.negative,
          "Sqrt": np.sqrt,
                    "Tanh": np.tanh, "Floor": np.floor, "Ceil": np.ceil}.items()),
    Old("Reciprocal", 1, {"x": abs(X) + 1}, formula=lambda x: 1 / x),
    Old("Relu", 1, {"x": X}, {"consumed_inputs": (0,)}, formula=lambda x: np.maximum(x, 0)),
    Old("Sigmoid", 1, {"x": X}, formula=lambda x: 1 / (1 + np.exp(-x))),
    Old("LeakyRelu", 1, {"x": X}, {"alpha": 0.2}, formula=lambda x: np.where(x > 0, x,
        0.2 * x).astype(np.float32)),
    Old("Elu", 1, {"x": X}, {"alpha": 0.5},
        formula=lambda x: np.where(x > 0, x, 0.5 * (np.exp(x) - 1)).astype(np.float32)),
    *(Old(op, 1, {"a": X, "b": X[::-1]}, formula=lambda a, b, f=f: f(a, b))
      for op, f in {"Max": np.maximum, "Min": np.minimum, "Sum": np.add}.items()),
    # types and bounds
    Old("Cast", 1, {"x": X}, {"to": "INT32"}, formula=lambda x: x.astype(np.int32)),
    Old("Cast", 6, {"x": X}, {"to": 7}),
    Old("Clip", 1, {"x": X}, {"min": -1.0, "max": 0.5}, formula=lambda x: np.clip(x, -1,
        np.float32(0.5))),
    Old("Clip", 6, {"x": X}, {"min": -1.0, "max": 0.5}),
    Old("Clip", 6, {"x": X}, {"max": 0.5}),
    Old("Clip", 6, {"x": X}),
    # reductions
    *(Old(f"Reduce{name}", opset, {"x": abs(X) + 0.1}, attributes)
      for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare",
          "Sum")
      for opset, attributes in ((7, {"axes": (1, 2), "keepdims": 0}), (11, {"axes": (-1,)}), (11,
          {}))),
    # softmax over everything behind the axis
    *(Old(op, opset, {"x": X}, attributes)
      for op in ("Softmax", "LogSoftmax", "Hardmax")
      for opset, attributes in ((7, {}), (11, {"axis": 2}), (11, {"axis": -1}), (11, {"axis": 0}),
          (11, {"axis": -2}))),
    Old("Softmax", 9, {"x": _floats(2, 7, 1, 1)}),
    Old("Softmax", 1, {"x": X}, {"axis": 2}, formula=lambda x: softmax(x, 2)),
    # attributes that became inputs
    Old("TopK", 1, {"x": _floats(3, 9)}, {"k": 4, "axis": 1}, outputs=2),
    Old("TopK", 10, {"x": _floats(3, 9), "k": _integers(4)}, stored=("k",), outputs=2),
    Old("Reshape", 1, {"x": X}, {"shape": (0, -1)}, formula=lambda x: x.reshape(2, -1)),
    Old("Reshape", 5, {"x": X, "shape": _integers(0, 6, -1)}, stored=("shape",)),
    Old("Concat", 1, {"a": X, "b": X}, formula=lambda a, b: np.concatenate([a, b], 1)),
    Old("Slice", 1, {"x": X}, {"starts": (1, 0), "ends": (3, -1), "axes": (1, 3)}),
    Old("Slice", 9, {"x": X}, {"starts": (1, 1), "ends": (9, 2)}),
    Old("Slice", 10, {"x": X, "s": _integers(3), "e": _integers(-9), "a": _integers(2),
        "d": _integers(-2)},
        stored=("s", "e", "a", "d")),
    Old("Pad", 1, {"x": X}, {"paddings": (0, 0, 1, 2, 0, 0, 0, 1), "value": 1.5},
        formula=lambda x: np.pad(x, ((0, 0), (0, 0), (1, 0), (2, 1)), constant_values=1.5)),
    Old("Pad", 2, {"x": X}, {"pads": (0, 0, 1, 2, 0, 0, 0, 1), "value": 1.5}),
    Old("Pad", 2, {"x": X}, {"pads": (0, 0, 1, 2, 0, 0, 2, 1), "mode": "reflect"}),
    Old("Pad", 2, {"x": X}, {"pads": (0, 0, 1, 2, 0, 0, 2, 1), "mode": "edge"}),
    Old("Pad", 2, {"x": X}, {"pads": (0, 0, -1, 0, 0, 0, 0, -2)}),
    Old("Squeeze", 1, {"x": X[:, :1]}, {"axes": (1,)}),
    Old("Squeeze", 11, {"x": X[:, :1]}, {"axes": (-3,)}),
    Old("Squeeze", 11, {"x": X[:1, :1]}),
    Old("Unsqueeze", 1, {"x": X}, {"axes": (0, 5)}),
    Old("Unsqueeze", 11, {"x": X}, {"axes": (-1, 1)}),
    Old("Split", 1, {"x": X, "parts": _integers(1, 2)}, {"axis": 1}, stored=("parts",), outputs=2,
        formula=lambda x, parts: (x[:, :1], x[:, 1:])),
    Old("Split", 1, {"x": X}, {"split": (1, 1)}, outputs=2, formula=lambda x: (x[:1], x[1:])),
    Old("Split", 2, {"x": X}, {"axis": 3, "split": (1, 4)}, outputs=2),
    Old("Split", 2, {"x": X}, {"axis": 2}, outputs=2),
    Old("Split", 13, {"x": X}, {"axis": 2}, outputs=2),
    Old("Tile", 1, {"x": X, "tiles": _scales(2), "axis": _scales(1)}, stored=("tiles", "axis"),
        formula=lambda x, tiles, axis: np.tile(x, (1, 2, 1, 1))),
    Old("Tile", 6, {"x": X, "r": _integers(1, 2, 1, 3)}, stored=("r",)),
    Old("Scatter", 9, {"x": X, "i": np.array([[[[1]]]]), "u": _floats(1, 1, 1, 1)}, {"axis": 3}),
    Old("DFT", 17, {"x": _floats(1, 6, 1)}, {"axis": 1}),
    # resampling
    Old("Upsample", 7, {"x": X}, {"scales": (1.0, 1.0, 2.0, 3.0)}),
    Old("Upsample", 7, {"x": X}, {"scales": (1.0, 1.0, 2.0, 3.0), "mode": "linear"}),
    Old("Upsample", 9, {"x": X, "scales": UPSCALE}, {"mode": "linear"}, stored=("scales",)),
    Old("Upsample", 9, {"x": X, "scales": UPSCALE}, stored=("scales",)),
    Old("Upsample", 1, {"x": X}, {"height_scale": 2.0, "width_scale": 3.0, "mode": "nearest"},
        formula=lambda x: x.repeat(2, 2).repeat(3, 3)),
    Old("Resize", 10, {"x": X, "scales": UPSCALE}, stored=("scales",)),
    Old("Resize", 10, {"x": X, "scales": SHRINK}, stored=("scales",)),
    Old("Resize", 10, {"x": X, "scales": UPSCALE}, {"mode": "linear"}, stored=("scales",)),
    Old("Resize", 10, {"x": X, "scales": SHRINK}, {"mode": "linear"}, stored=("scales",)),
    Old("Resize", 11, {"x": X, "roi": _scales(), "scales": UPSCALE},
        {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"},
        stored=("roi", "scales")),
    Old("Resize", 11, {"x": X, "roi": _scales(), "scales": SHRINK}, {"mode": "cubic",
        "cubic_coeff_a": -0.5},
        stored=("roi", "scales")),
    Old("GridSample", 16, {"x": X, "grid": _floats(2, 3, 3, 2) / 2}, {"mode": "bicubic"}),
    Old("GridSample", 16, {"x": X, "grid": _floats(2, 3, 3, 2) / 2}),
    Old("RoiAlign", 10, {"x": X, "rois": _scales(0, 0, 3, 3).reshape(1, 4), "b": _integers(1)},
        {"output_height": 2, "output_width": 2}),
    # normalisation, pooling, recurrence
    Old("BatchNormalization", 1, {"x": X, **_statistics(3)}, {"is_test": 1, "consumed_inputs": (0,
        0, 0, 1, 1)},
        formula=_batch_norm),
    Old("BatchNormalization", 6, {"x": X, **_statistics(3)}, {"is_test": 1}, formula=_batch_norm),
    Old("BatchNormalization", 7, {"x": X, **_statistics(3)}),
    Old("BatchNormalization", 7, {"x": X, **_statistics(3, 4, 5)}, {"spatial": 0}),
    Old("BatchNormalization", 9, {"x": X, **_statistics(3)}, {"epsilon": 1e-3}),
    Old("GroupNormalization", 18, {"x": _floats(2, 6, 4), "s": _floats(3), "b": _floats(3)},
        {"num_groups": 3}),
    Old("Dropout", 1, {"x": X}, {"is_test": 1, "ratio": 0.3}, formula=lambda x: x),
    Old("Dropout", 7, {"x": X}, {"ratio": 0.3}),
    Old("Dropout", 10, {"x": X}, {"ratio": 0.3}),
    Old("LpPool", 1, {"x": X}, {"kernel_shape": (2, 2), "p": 2.0},
        formula=lambda x: np.sqrt(sum(x[:, :, i:3 + i, j:4 + j] ** 2 for i in (0, 1) for j in (0,
            1)))),
    Old("GlobalLpPool", 1, {"x": X}, {"p": 2.0},
        formula=lambda x: np.sqrt((x.astype(np.float64) ** 2).sum((2, 3),
            keepdims=True)).astype(np.float32)),
    Old("AveragePool", 1, {"x": X}, {"kernel_shape": (2, 2)},
        formula=lambda x: sum(x[:, :, i:3 + i, j:4 + j] for i in (0, 1) for j in (0,
            1)) / np.float32(4)),
    Old("AveragePool", 7, {"x": X}, {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1),
        "count_include_pad": 1}),
    Old("MaxPool", 1, {"x": X}, {"kernel_shape": (2, 2), "auto_pad": "SAME_UPPER", "strides": (2,
        2)}),
    Old("MaxPool", 8, {"x": X}, {"kernel_shape": (2, 3), "strides": (1, 2)}),
    *(Old(op, 7, {"x": _floats(4, 2, 3), "w": _floats(1, gates * 5, 3) / 4, "r": _floats(1,
        gates * 5, 5) / 4},
          {"hidden_size": 5}, outputs=2)
      for op, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4))),
    Old("QuantizeLinear", 10, {"x": X, "s": np.float32(0.1), "z": np.uint8(7)}, stored=("s", "z")),
    Old("DequantizeLinear", 10, {"x": np.arange(9, dtype=np.uint8), "s": np.float32(0.1),
        "z": np.uint8(7)},
        stored=("s", "z")),
    Old("Gather", 1, {"x": X, "i": _integers(2, 0)}, {"axis": 1}),
    Old("ArgMax", 1, {"x": X}, {"axis": 1}),
    Old("Flatten", 1, {"x": X}, {"axis": 2}),
    Old("Shape", 1, {"x": X}),
    Old("Transpose", 1, {"x": X}, {"perm": (0, 2, 3, 1)}),
    Old("OneHot", 9, {"i": _integers(0, 2, 1), "d": _integers(3), "v": _scales(0, 1)}, stored=("d",
        "v")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_lifted_node_computes_what_the_old_one_did(case: Old, tmp_path: Path) -> None:
    proto = case.model()
    fed = {name: array for name, array in case.inputs.items() if name not in case.stored}
    if case.formula is None:
        wanted = run(proto.SerializeToString(), fed)
    else:
        found = case.formula(*case.inputs.values())
        parts = found if isinstance(found, tuple) else (found,)
        wanted = {f"y{place}": np.asarray(part) for place, part in enumerate(parts)}

    model = import_onnx(proto.SerializeToString())
    export_onnx(model, tmp_path / "new.onnx")

    assert worst(run(tmp_path / "new.onnx", fed), wanted) <= 2e-6
    if all(map(has_kernel, model.graph.nodes)):
        here = compile_model(model, device="reference").run(fed)
        assert worst(dict(here), wanted) <= 2e-6


def test_each_attribute_or_input_that_went_away_has_an_adapter() -> None:
    missing = []
    for op in known_operators():
        if op.startswith("ai.onnx.ml."):
            continue  # refused by name, see below
        for old, new in zip(versions(op), versions(op)[1:], strict=False):
            gone = set(old.attributes) - set(new.attributes) - {"consumed_inputs"}
            moved = gone or new.deprecated or new.least_inputs > old.least_inputs
            if moved and new.since <= 28 and (op, new.since) not in ADAPTERS:
                missing.append((op, new.since, sorted(gone)))
    assert missing == []


def test_every_adapter_belongs_to_a_version_that_exists() -> None:
    for op, to in ADAPTERS:
        assert to in [version.since for version in versions(op)], (op, to)


def test_every_adapter_is_tried_by_a_case_here() -> None:
    untried = {
        (op, to)
        for op, to in ADAPTERS
        if not any(case.op == op and case.opset < to for case in CASES)
    }
    # GRU of opsets 1 and 2 has its case from 7 on; Scan-8 is refused below
    assert untried <= {(op, 7) for op in ("RNN", "GRU", "LSTM")} | {("GRU", 3), ("Scan", 9)}


REFUSED = [
    (
        Old("Resize", 10, {"x": X, "scales": _scales(1, 1, 2, 0.5)}, stored=("scales",)),
        "shrinks another",
    ),
    (Old("Dropout", 7, {"x": X}, outputs=2), "mask as numbers"),
    (Old("LpPool", 1, {"x": X}, {"kernel_shape": (2, 2), "p": 1.5}), "p = 1.5"),
]


@pytest.mark.parametrize(("case", "words"), REFUSED, ids=str)
def test_what_cannot_be_lifted_is_refused_naming_the_node(case: Old, words: str) -> None:
    proto = case.model()
    proto.graph.node[0].name = "the_node"
    for name in [output.name for output in proto.graph.output]:
        assert name.startswith("y")
    with pytest.raises(UnsupportedError, match=words) as caught:
        import_onnx(proto.SerializeToString())
    assert "the_node" in str(caught.value)


PINNED = [
    Old("DynamicQuantizeLinear", 11, {"x": X}, outputs=3),
    Old("DynamicQuantizeLinear", 11, {"x": np.zeros(3, np.float32)}, outputs=3),
    Old("MatMulInteger", 10, {"a": FLAGS[0, 0].astype(np.uint8) * 9, "b": np.arange(10,
        dtype=np.uint8)[:, None]
         .reshape(5, 2), "p": np.uint8(3), "q": np.uint8(2)}),
    Old("QuantizeLinear", 13, {"x": X, "s": _scales(0.1, 0.2, 0.3), "z": np.array([1, 0, -3],
        np.int8)},
        {"axis": 1}),
    Old("DequantizeLinear", 13, {"x": FLAGS.astype(np.int8) * 5, "s": _scales(0.1, 0.2, 0.3)},
        {"axis": 1}),
]  # fmt: skip


@pytest.mark.parametrize("case", PINNED, ids=str)
def test_quantised_operators_compute_here_what_onnx_runtime_computes(case: Old) -> None:
    proto = case.model().SerializeToString()
    inputs = {name: np.asarray(array) for name, array in case.inputs.items()}
    here = compile_model(import_onnx(proto), device="reference").run(inputs)
    assert worst(dict(here), run(proto, inputs)) <= 1e-6
