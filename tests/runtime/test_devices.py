"""Which devices there are and how one is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.devices import available, open_device
from nnconv.runtime.devices.reference import ReferenceDevice
from nnconv.runtime.executor import compile_model
from nnconv.schemas.errors import InputError, UnsupportedError
from nnconv.schemas.graph import Graph, Model, Node
from nnconv.schemas.types import DType
from tests.runtime.nets import N, batch_norm_net, lenet, numbers


def test_the_reference_device_is_always_available() -> None:
    found = {info.name: info for info in available()}
    assert found["reference"].available and "numpy" in found["reference"].description


def test_the_environment_chooses_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNCONV_DEVICE", "reference")
    assert compile_model(lenet()).device == "reference"
    monkeypatch.setenv("NNCONV_DEVICE", "referense")
    with pytest.raises(InputError, match="'referense'"):
        compile_model(lenet())


@pytest.mark.parametrize("name", ["quantum", "refrence", "reference:3", "../reference"])
def test_a_device_that_does_not_exist_is_refused_with_those_that_do(name: str) -> None:
    with pytest.raises(InputError) as caught:
        open_device(name)
    assert "reference" in str(caught.value)


def test_an_operator_nobody_computes_is_named_with_its_place() -> None:
    graph = Graph("strange")
    x = graph.add_input("x", DType.FLOAT32, (1, 1, 4, 4))
    graph.outputs = [graph.emit("Det", x, outputs=["y"])]
    with pytest.raises(UnsupportedError, match="Det 'y'"):
        compile_model(Model(graph), "reference").plan({"x": (1, 1, 4, 4)})


class StandardOnly(ReferenceDevice):
    """A device that computes no operator of our own domain, as a new one would begin."""

    name = "standard"

    def supports(self, node: Node) -> bool:
        return not node.op.startswith("nnconv.")


LABELS = np.array([0, 2, 3], np.float32)
PICTURE = numbers(2, 3, 7, 6)
OWN: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("nnconv.Flatten", [PICTURE], {"axis": 1, "end_axis": 2}),
    ("nnconv.Reshape", [PICTURE], {"dims": (0, -1), "axis": 1}),
    ("nnconv.Pool", [PICTURE], {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ("nnconv.Pool", [PICTURE], {"kernel_shape": (2, 2), "strides": (4, 4), "pads": (0, 0, 0, 0)}),
    (
        "nnconv.Pool",
        [PICTURE],
        {"kernel_shape": (3, 2), "strides": (2, 2), "pads": (1, 0, 1, 0), "mode": "AVE"},
    ),
    ("nnconv.EuclideanLoss", [numbers(3, 4), numbers(3, 4, seed=5)], {}),
    ("nnconv.SoftmaxWithLoss", [numbers(3, 4), LABELS], {"ignore_label": 2}),
    ("nnconv.SoftmaxWithLoss", [numbers(3, 4), LABELS], {"normalization": "FULL"}),
    ("nnconv.SigmoidCrossEntropyLoss", [numbers(3, 4), np.abs(numbers(3, 4, seed=5))], {}),
    ("nnconv.Accuracy", [numbers(3, 4), LABELS], {"top_k": 2}),
]


@pytest.mark.parametrize(("op", "arrays", "attributes"), OWN, ids=lambda part: str(part)[:40])
def test_an_operator_without_a_kernel_runs_by_its_body(
    op: str, arrays: list[Any], attributes: dict[str, Any]
) -> None:
    graph = Graph("own")
    feeds = {f"x{index}": array for index, array in enumerate(arrays)}
    values = [graph.add_input(n, DType.FLOAT32, (N, *a.shape[1:])) for n, a in feeds.items()]
    graph.outputs = [graph.emit(op, *values, outputs=["y"], **attributes)]
    by_kernel, by_body = (
        compile_model(Model(graph), device) for device in ("reference", StandardOnly())
    )
    shapes = {name: array.shape for name, array in feeds.items()}
    assert [step.kernel for step in by_kernel.plan(shapes).steps] == [f"reference:{op}"]
    assert f"reference:{op}" not in [step.kernel for step in by_body.plan(shapes).steps]
    np.testing.assert_allclose(by_body.run(feeds)["y"], by_kernel.run(feeds)["y"], rtol=1e-5)


def test_batch_norm_by_its_body_moves_the_same_state() -> None:
    x = numbers(2, 3, 6, 5)
    one, other = (
        compile_model(batch_norm_net(), d, "train") for d in ("reference", StandardOnly())
    )
    np.testing.assert_allclose(other(x), one(x), rtol=1e-4, atol=1e-5)
    for name, array in one.state.items():
        np.testing.assert_allclose(other.state[name], array, rtol=1e-5, atol=1e-6)
