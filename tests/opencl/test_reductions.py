"""Reductions, losses and their gradients on an OpenCL device: no host step, the right numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.devices.opencl import OpenCLDevice
from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Model
from nnconv.schemas.types import DType
from tests.cpu.test_gradient_kernels import numbers, shapes, single
from tests.cpu.test_losses import over_labels
from tests.cpu.test_reductions import reduction

Array = np.ndarray[Any, Any]


def agree(model: Model, feeds: dict[str, Array], device: OpenCLDevice) -> None:
    """Equal to the reference in double precision; nothing is done on the host."""
    wanted = compile_model(model, device="reference", precision="f64").run(feeds)
    executable = compile_model(model, device=device)
    plan: Any = executable.plan(shapes(feeds))
    assert plan.program.facts["host_steps"] == 0
    for name, got in executable.run(feeds).items():
        scale = max(float(np.abs(wanted[name]).max()), 1e-3)
        assert float(np.abs(got - wanted[name]).max()) <= 5e-6 * scale, name


@pytest.mark.parametrize(
    ("op", "shape", "axes"),
    [
        ("ReduceL1", (3, 4, 5), [0, 2]),
        ("ReduceMean", (2, 40, 7, 7), [2, 3]),
        ("ReduceMax", (7, 33), [0]),
        ("ReduceSumSquare", (40_003, 2), None),
        ("ReduceLogSumExp", (4, 100), [1]),
    ],
)
def test_reductions(
    op: str, shape: tuple[int, ...], axes: list[int] | None, device: OpenCLDevice
) -> None:
    agree(reduction(op, shape, axes, keepdims=0), numbers(shape), device)


@pytest.mark.parametrize(("shape", "axis"), [((5, 19), 1), ((2, 5, 20), 1)])
@pytest.mark.parametrize("labels", [DType.FLOAT32, DType.INT64])
@pytest.mark.parametrize(
    ("op", "others"),
    [("nnconv.SoftmaxWithLoss", []), ("nnconv.SoftmaxWithLossGrad", [()]), ("nnconv.Accuracy", [])],
)
def test_losses_over_labels(
    op: str, others: list[tuple[int, ...]], shape: tuple[int, ...], axis: int, labels: DType,
    device: OpenCLDevice,
) -> None:  # fmt: skip
    agree(*over_labels(op, shape, axis, labels, *others, ignore_label=3), device)


def test_losses_against_targets(device: OpenCLDevice) -> None:
    shape = (3, 700)
    for op in ("nnconv.EuclideanLoss", "nnconv.SigmoidCrossEntropyLoss"):
        agree(single(op, shape, shape), numbers(shape, shape), device)
    slope = single("nnconv.SigmoidCrossEntropyLossGrad", shape, shape, ())
    agree(slope, numbers(shape, shape, ()), device)


def test_the_gradient_of_lrn(device: OpenCLDevice) -> None:
    shape = (2, 9, 5, 6)
    model = single("nnconv.LRNGrad", shape, shape, size=5, alpha=0.7, beta=0.75)
    agree(model, numbers(shape, shape), device)
