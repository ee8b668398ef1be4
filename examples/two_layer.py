"""The classic lecture's network: 64 x 1000 -> 100 -> 1000, ReLU, squared error; trained by SGD and
by Adam, and compared with PyTorch, step by step, where that is installed.

python examples/two_layer.py [STEPS] [--plot loss.svg]
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import nnconv
from nnconv.schemas.graph import Graph, Loss, Model
from nnconv.schemas.types import DType

N, INPUTS, HIDDEN, OUTPUTS = 64, 1000, 100, 1000
SOLVERS: dict[str, dict[str, Any]] = {"sgd": {"lr": 1e-6}, "adam": {"lr": 1e-3, "delta": 1e-8}}
Array = Any


def data() -> dict[str, Array]:
    random = np.random.default_rng(0)
    shapes = {"x": (N, INPUTS), "y": (N, OUTPUTS), "w1": (INPUTS, HIDDEN), "w2": (HIDDEN, OUTPUTS)}
    return {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def network(arrays: dict[str, Array]) -> Model:
    """relu(x w1) w2 with the sum of squared differences from y as its loss."""
    graph = Graph("two_layer")
    x = graph.add_input("x", DType.FLOAT32, (N, INPUTS))
    y = graph.add_input("y", DType.FLOAT32, (N, OUTPUTS))
    w1, w2 = (graph.add_parameter(w, arrays[w].shape, arrays[w]) for w in ("w1", "w2"))
    guess = graph.emit("MatMul", graph.emit("Relu", graph.emit("MatMul", x, w1)), w2)
    loss = graph.emit("ReduceSumSquare", guess - y, keepdims=0, outputs=["loss"])
    graph.outputs, graph.losses = [guess], [Loss(loss)]
    return Model(graph)


def train(solver: str, steps: int, device: str | None = None) -> list[float]:
    arrays = data()
    trainer = nnconv.Trainer(network(arrays), solver=solver, device=device, **SOLVERS[solver])
    return [trainer.step({"x": arrays["x"], "y": arrays["y"]}).loss for _ in range(steps)]


def train_torch(solver: str, steps: int) -> list[float]:
    import torch

    torch.set_num_threads(1)
    x, y, w1, w2 = map(torch.from_numpy, data().values())
    parameters = [w1.requires_grad_(), w2.requires_grad_()]
    rate = SOLVERS[solver]["lr"]
    optimizers: dict[str, Callable[[], Any]] = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=rate),
        "adam": lambda: torch.optim.Adam(parameters, lr=rate, eps=1e-8),
    }
    optimizer = optimizers[solver]()
    losses = []
    for _ in range(steps):
        loss = ((x @ w1).clamp(min=0) @ w2 - y).pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def plot(curves: dict[str, list[float]], file: str) -> None:
    from matplotlib import pyplot

    for name, losses in curves.items():
        pyplot.semilogy(losses, label=name)
    pyplot.xlabel("iteration")
    pyplot.ylabel("loss")
    pyplot.legend()
    pyplot.savefig(file)


def main() -> None:
    words = sys.argv[1:]
    file = words[words.index("--plot") + 1] if "--plot" in words else ""
    steps = int(words[0]) if words and words[0].isdigit() else 500
    curves = {solver: train(solver, steps) for solver in SOLVERS}
    for solver, losses in curves.items():
        print(f"{solver:5} {losses[0]:14.6g} -> {losses[-1]:.6g}")
        try:
            theirs = train_torch(solver, steps)
        except ImportError:
            continue
        worst = max(abs(a - b) / b for a, b in zip(losses, theirs, strict=True))
        print(f"{'':5} furthest from PyTorch, relative: {worst:.1e}")
    if file:
        plot(curves, file)


if __name__ == "__main__":
    main()
