"""Dropout by kernels: the reference's numbers bit for bit, in whatever form the values lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Graph, Model, Value
from nnconv.schemas.types import DType

STEPS = (0, 1, 5, 2**33 + 7)
SHAPES = [
    (3,), (5, 7), (64, 96), (33, 10, 3), (37, 6, 5, 5), (18, 3, 4, 6), (2, 3, 4, 4, 2), (1, 1),
]  # fmt: skip


def plain(graph: Graph, x: Value) -> Value:
    return x


def blocked(graph: Graph, x: Value) -> Value:
    return graph.emit("MaxPool", x, kernel_shape=(1, 1))  # type: ignore[no-any-return]


def samples(graph: Graph, x: Value) -> Value:
    weights = graph.add_input("w", DType.FLOAT32, (5, x.known_shape[1], 1, 1))
    return graph.emit("Conv", x, weights)  # type: ignore[no-any-return]


FORMS = {"plain": plain, "blocked": blocked, "samples": samples}
CASES = [(s, f) for s in SHAPES for f in FORMS if f == "plain" or len(s) == 4]


def net(shape: tuple[int, ...], form: str) -> Model:
    """y and the gradient by the same mask, of what lies in a form."""
    graph = Graph("net")
    x = FORMS[form](graph, graph.add_input("x", DType.FLOAT32, shape))
    y = graph.emit("nnconv.Dropout", x, ratio=0.4, seed=3, outputs=["y"])
    again = graph.emit("nnconv.DropoutGrad", y, x, ratio=0.4, seed=3, outputs=["dx"])
    graph.outputs = [x, y, again]
    return Model(graph=graph)


def feeds(shape: tuple[int, ...], form: str) -> dict[str, Any]:
    random = np.random.default_rng(1)
    found = {"x": random.standard_normal(shape).astype(np.float32)}
    if form == "samples":
        found["w"] = random.standard_normal((5, shape[1], 1, 1)).astype(np.float32)
    return found


def check(shape: tuple[int, ...], form: str, device: Any) -> None:
    """What is dropped, and to what the rest is scaled, is what the reference says of the same x."""
    given = feeds(shape, form)
    ours = compile_model(net(shape, form), device=device, mode="train", seed=9)
    steps = ours.plan({name: array.shape for name, array in given.items()}).steps
    assert not [s.kernel for s in steps if s.kernel.startswith("reference:")]
    for step in STEPS:
        ours.step = step
        x, y, dx = ours.run(given).values()
        theirs = compile_model(net(x.shape, "plain"), device="reference", mode="train", seed=9)
        theirs.step = step
        _, wanted, _ = theirs.run({"x": x}).values()
        assert y.tobytes() == wanted.tobytes() == dx.tobytes(), step


@pytest.mark.parametrize(("shape", "form"), CASES)
def test_the_cpu_drops_what_the_reference_drops(shape: tuple[int, ...], form: str) -> None:
    check(shape, form, "cpu")


def test_each_step_and_each_seed_drops_others() -> None:
    x, runs = np.ones((64, 96), np.float32), []
    for seed in (1, 2):
        run = compile_model(net(x.shape, "plain"), device="cpu", mode="train", seed=seed)
        for step in (0, 1, 2**32):
            run.step = step
            runs.append(run.run({"x": x})["y"])
    kept = np.array([(y > 0).mean() for y in runs])
    assert np.abs(kept - 0.6).max() < 0.03
    same = [(a == b).mean() for i, a in enumerate(runs) for b in runs[:i]]
    assert np.abs(np.array(same) - (0.6**2 + 0.4**2)).max() < 0.03
