"""Whole training steps on the cpu device: what plans leave to the reference, and what stays the
same whoever takes a step. Caffe's recorded runs are in tests/training/test_golden_train.py."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from nnconv.runtime.executor import Executable, compile_model
from nnconv.runtime.training.solvers import corrections
from nnconv.runtime.training.step import CORRECTIONS, build_step
from nnconv.schemas.dims import Shape, Symbolic
from nnconv.schemas.graph import Graph, Loss, Model, Parameter, State, Value
from nnconv.schemas.training import TrainingSpec
from nnconv.schemas.types import DType

Array = np.ndarray[Any, Any]


class Builder:
    """Small nets with seeded weights."""

    def __init__(self, *shape: int) -> None:
        self.graph = Graph("net")
        self.random = np.random.default_rng(4)
        size: Shape = (Symbolic.name("N"), *shape)
        self.x = self.graph.add_input("data", DType.FLOAT32, size)
        self.label = self.graph.add_input("label", DType.FLOAT32, size[:1])

    def weights(self, *shape: int) -> Value:
        scale = 1 / np.sqrt(max(1.0, float(np.prod(shape[1:]))))
        data = (self.random.standard_normal(shape) * scale).astype(np.float32)
        value = self.graph.constant(data, DType.FLOAT32)
        value.parameter = Parameter()
        return value

    def dense(self, x: Value, inputs: int, outputs: int) -> Value:
        operands = (x, self.weights(outputs, inputs), self.weights(outputs))
        return self.graph.emit("Gemm", *operands, transB=1)  # type: ignore[no-any-return]

    def conv(self, x: Value, inputs: int, outputs: int, side: int, **settings: Any) -> Value:
        weights = self.weights(outputs, inputs, side, side), self.weights(outputs)
        return self.graph.emit("Conv", x, *weights, **settings)  # type: ignore[no-any-return]

    def bare(self, x: Value, inputs: int, outputs: int, side: int, **settings: Any) -> Value:
        weights = self.weights(outputs, inputs, side, side)
        return self.graph.emit("Conv", x, weights, **settings)  # type: ignore[no-any-return]

    def normed(self, x: Value, channels: int, scaled: bool = True) -> Value:
        """BatchNorm by the batch's statistics, and Caffe's Scale."""
        sums = [self.graph.constant(np.zeros(n, np.float32)) for n in (channels, channels, 1)]
        y, *following = self.graph.emit("nnconv.BatchNorm", x, *sums, outputs=4, epsilon=1e-3)
        for read, write in zip(sums, following, strict=True):
            self.graph.state.append(State(read.name, read, write))
        if not scaled:
            return y  # type: ignore[no-any-return]
        axes = self.graph.constant(np.arange(1, x.rank - 1)) if x.rank > 2 else None
        factors = (self.weights(channels) for _ in range(2))
        scale, offset = (
            self.graph.emit("Unsqueeze", f, axes) if axes is not None else f for f in factors
        )
        return y * scale + offset  # type: ignore[no-any-return]

    def pool(self, x: Value) -> Value:
        settings: dict[str, Any] = {"kernel_shape": (2, 2), "strides": (2, 2), "ceil_mode": 1}
        return self.graph.emit("MaxPool", x, **settings)  # type: ignore[no-any-return]

    def model(self, scores: Value) -> Model:
        loss = self.graph.emit("nnconv.SoftmaxWithLoss", scores, self.label)
        self.graph.outputs, self.graph.losses = [loss], [Loss(loss)]
        return Model(graph=self.graph)


def mlp() -> Model:
    net = Builder(20)
    hidden = net.graph.emit("Relu", net.dense(net.x, 20, 33))
    return net.model(net.dense(hidden, 33, 10))


def lenet() -> Model:
    net = Builder(1, 16, 16)
    a = net.pool(net.conv(net.x, 1, 6, 5))
    b = net.pool(net.conv(a, 6, 9, 3))
    flat = net.graph.emit("Flatten", b, axis=1)
    hidden = net.graph.emit("Relu", net.dense(flat, 36, 20))
    return net.model(net.dense(hidden, 20, 10))


def padded() -> Model:
    """ReLU between convolution and pool, padding, strides, a residual, a mean over planes."""
    net = Builder(3, 9, 9)
    a = net.graph.emit("Relu", net.conv(net.x, 3, 8, 3, pads=(1, 1, 1, 1)))
    b = net.graph.emit("Relu", net.conv(a, 8, 8, 3, pads=(1, 1, 1, 1)) + a)
    c = net.pool(net.graph.emit("Relu", net.conv(b, 8, 12, 3, strides=(2, 2), pads=(1, 1, 1, 1))))
    settings: dict[str, Any] = {"kernel_shape": (3, 3), "strides": (1, 1)}
    d = net.graph.emit("Flatten", net.graph.emit("AveragePool", c, **settings), axis=1)
    return net.model(net.dense(d, 12, 10))


def residual() -> Model:
    """BatchNorm with and without scale, ReLU, residual and projection; Dropout and LRN. Layers in
    front of a BatchNorm have no bias, whose gradient would be 0 but for rounding."""
    net = Builder(3, 9, 9)
    relu, same = partial(net.graph.emit, "Relu"), {"pads": (1, 1, 1, 1)}
    a = relu(net.normed(net.bare(net.x, 3, 8, 3, **same), 8))
    b = relu(net.normed(net.bare(a, 8, 8, 3, **same), 8))
    c = relu(net.normed(net.bare(b, 8, 8, 1), 8) + a)
    past = net.normed(net.bare(c, 8, 12, 1, strides=(2, 2)), 12, scaled=False)
    d = relu(net.normed(net.bare(c, 8, 12, 3, strides=(2, 2), **same), 12) + past)
    e = net.graph.emit("LRN", d, size=3, alpha=0.2, beta=0.75, bias=1.5)
    flat = net.graph.emit("nnconv.Dropout", net.graph.emit("Flatten", e, axis=1), ratio=0.3)
    hidden = net.graph.emit("Gemm", flat, net.weights(20, 300), transB=1)
    return net.model(net.dense(relu(net.normed(hidden, 20)), 20, 10))


NETS = {"mlp": mlp, "lenet": lenet, "padded": padded, "residual": residual}
SOLVERS = {
    "sgd": TrainingSpec("SGD", momentum=0.9, weight_decay=5e-4),
    "nesterov": TrainingSpec("Nesterov", momentum=0.9, iter_size=2),
    "adam": TrainingSpec("Adam", momentum=0.9, momentum2=0.999, delta=1e-3, clip_gradients=1.0),
}


def compiled(model: Model, spec: TrainingSpec, device: str, **settings: Any) -> Executable:
    step = Model(graph=model.graph.copy())
    build_step(step.graph, spec)
    return compile_model(step, device=device, mode="train", **settings)


def feeds(executable: Executable, samples: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    shapes = {port.name: port.shape for port in executable.inputs}
    sizes = [int(str(dim)) for dim in (shapes["data"] or ())[1:]]
    found: dict[str, Any] = {
        "data": random.standard_normal((samples, *sizes)).astype(np.float32),
        "label": random.integers(0, 10, samples).astype(np.float32),
        "train:rate": np.float32(0.05),
    }
    if "train:last" in shapes:
        found["train:last"] = np.bool_(seed % 2)
    numbers = zip(CORRECTIONS, corrections(SOLVERS["adam"], seed), strict=True)
    return found | {name: value for name, value in numbers if name in shapes}


@pytest.mark.parametrize("samples", [1, 16, 37])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("net", NETS)
def test_steps_are_those_of_the_reference_on_any_number_of_threads(
    net: str, solver: str, samples: int
) -> None:
    model, spec = NETS[net](), SOLVERS[solver]
    wanted = compiled(model, spec, "reference", precision="f64")
    runs = [compiled(model, spec, "cpu", threads=n, in_place=n == 2) for n in (1, 2)]
    for seed in range(4):
        given = feeds(wanted, samples, seed)
        expected = wanted.run(given)["train:loss"]
        for run in runs:
            assert run.run(given)["train:loss"] == pytest.approx(float(expected), rel=1e-5)
    one, two = (run.state for run in runs)
    for name, want in wanted.state.items():
        scale = max(float(np.abs(want).max(initial=0)), 1e-6)
        assert float(np.abs(one[name] - want).max(initial=0)) <= 1e-4 * scale, name
        assert one[name].tobytes() == two[name].tobytes(), name


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("net", NETS)
def test_a_step_of_floats_leaves_nothing_to_the_reference(net: str, solver: str) -> None:
    executable = compiled(NETS[net](), SOLVERS[solver], "cpu")
    shapes = {name: np.shape(array) for name, array in feeds(executable, 24, 0).items()}
    steps = executable.plan(shapes).steps
    assert [s.kernel for s in steps if s.kernel.startswith("reference:")] == []


def test_parameters_are_written_over_and_the_model_stays_as_it_was() -> None:
    model = mlp()
    before = {name: np.array(value.data) for name, value in model.graph.parameters.items()}
    executable = compiled(model, SOLVERS["sgd"], "cpu", in_place=True)
    homes = {name: array.ctypes.data for name, array in executable._state.items()}
    start = executable.state
    executable.run(feeds(executable, 8, 0))
    name = next(iter(before))
    assert not np.array_equal(executable.state[name], start[name])
    now = executable._state.items()
    moved = {name for name, array in now if array.ctypes.data != homes[name]}
    assert moved == set()
    for name, value in model.graph.parameters.items():
        np.testing.assert_array_equal(value.data, before[name])


def test_the_state_before_a_step_is_kept_unless_asked_otherwise() -> None:
    executable = compiled(mlp(), SOLVERS["sgd"], "cpu")
    before = executable.live_state
    copies = executable.state
    executable.run(feeds(executable, 8, 0))
    for name, array in before.items():
        np.testing.assert_array_equal(array, copies[name])


def test_a_state_that_is_an_output_too_keeps_its_value() -> None:
    """What the caller is given must not change with the next step."""
    graph = Graph("count")
    total = graph.constant(np.zeros(5, np.float32), DType.FLOAT32, name="total")
    x = graph.add_input("x", DType.FLOAT32, (5,))
    graph.state.append(State("total", total, total + x))
    graph.outputs = [graph.emit("Identity", total), graph.state[0].write]
    run = compile_model(Model(graph=graph), device="cpu", mode="train", in_place=True)
    one = np.ones(5, np.float32)
    first = list(run.run({"x": one}).values())
    second = list(run.run({"x": one}).values())
    assert [a[0] for a in first] == [0, 1]
    assert [a[0] for a in second] == [1, 2]
