"""How fast is a training step, against PyTorch eager and torch.compile?

    python benchmarks/training.py [--nets mlp,lenet,resnet] [--solvers sgd,adam] [--batches 64]
                                  [--sources loader,held] [--threads 2]

The nets are an MLP 784-128-10, LeNet (20 and 50 channels, 500 hidden) and a ResNet for pictures of
3x32x32 (three stages of two basic blocks, 16, 32 and 64 channels, BatchNorm by the batch's own
statistics), with the same seeded weights and batches in every engine; losses of the first steps are
compared before anything is timed. Every engine lives in a process of its own with the same number
of threads on the same cores; blocks of steps alternate (A B C A B C ...). Reported are medians of
block medians, and the ratio to each peer pair by pair with its spread, and the most memory that
each process held.

`held` feeds a few batches that lie ready, in turn. `loader` reads shuffled batches of 6400 pictures
of floats in memory: nnconv's Loader with one worker, reading ahead; PyTorch's DataLoader over a
TensorDataset with a BatchSampler, which takes a whole batch by one indexing (the fastest of its
ways for tensors in memory: sample by sample costs several times a step, worker processes more). The
JSON goes to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# numpy's BLAS threads keep spinning after use and would disturb whoever runs next
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY)]
import common  # noqa: E402

BATCHES = 8  # different ones, taken in turn
PICTURES = 6400  # of the loaders
COMPARED = 10  # losses of the first steps
TOLERANCE = 1e-4  # relative, between their losses
BLOCKS = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
"""Of the ResNet: channels before and after, and the stride."""


def resnet_shapes() -> list[tuple[int, ...]]:
    """Each convolution with the scale and offset of the BatchNorm behind it, and the last layer."""
    kernels: list[tuple[int, ...]] = [(16, 3, 3, 3)]
    for before, after, stride in BLOCKS:
        kernels += [(after, before, 3, 3), (after, after, 3, 3)]
        kernels += [(after, before, 1, 1)] if stride > 1 else []
    return [shape for k in kernels for shape in (k, k[:1], k[:1])] + [(10, 64), (10,)]


SHAPES: dict[str, list[tuple[int, ...]]] = {
    "mlp": [(128, 784), (128,), (10, 128), (10,)],
    "lenet": [
        (20, 1, 5, 5), (20,), (50, 20, 5, 5), (50,), (500, 800), (500,), (10, 500), (10,),
    ],
    "resnet": resnet_shapes(),
}  # fmt: skip
PICTURE = {"mlp": (784,), "lenet": (1, 28, 28), "resnet": (3, 32, 32)}
GOALS = {
    ("mlp", "eager"): 3.5, ("lenet", "eager"): 3.0, ("lenet", "compile"): 2.0,
    ("resnet", "eager"): 1.5,
}  # fmt: skip
RATES = {"sgd": 0.01, "adam": 0.001}
# Adam divides gradients by their size, and those behind a BatchNorm are partly rounding alone: no
# two engines' losses stay together
LEFT_OUT = {("resnet", "adam")}
Step = Callable[[Any, Any], float]
Feed = Iterator[tuple[Any, Any]]


# -- the same work for everybody


def weights(net: str) -> list[Any]:
    random = np.random.default_rng(7)
    found: list[Any] = []
    for shape in SHAPES[net]:
        scale = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.01
        behind = net == "resnet" and bool(found) and found[-1].ndim == 4
        found.append((random.standard_normal(shape) * scale + behind).astype(np.float32))
    return found


def pictures(net: str, count: int) -> tuple[Any, Any]:
    """Pictures and their classes."""
    random = np.random.default_rng(11)
    return random.random((count, *PICTURE[net]), np.float32), random.integers(0, 10, count)


def held(net: str, size: int) -> list[tuple[Any, Any]]:
    x, label = pictures(net, size * BATCHES)
    return list(zip(np.split(x, BATCHES), np.split(label, BATCHES), strict=True))


def nnconv_loader(net: str, size: int) -> Feed:
    import nnconv

    x, label = pictures(net, PICTURES)
    points = nnconv.data.arrays(data=x, label=label.astype(np.float32))
    for batch in nnconv.data.Loader(points, batch=size, workers=1).stream():
        yield batch["data"], batch["label"]


def torch_loader(net: str, size: int) -> Feed:
    import torch
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    points = TensorDataset(*map(torch.from_numpy, pictures(net, PICTURES)))
    sampler = BatchSampler(RandomSampler(points), size, drop_last=True)
    loader = DataLoader(points, sampler=sampler, batch_size=None)
    while True:
        yield from loader


# -- engines


def model(net: str) -> Any:
    from nnconv.schemas.dims import Symbolic
    from nnconv.schemas.graph import Graph, Loss, Model, Parameter
    from nnconv.schemas.types import DType

    graph = Graph(net)
    x = graph.add_input("data", DType.FLOAT32, (Symbolic.name("N"), *PICTURE[net]))
    label = graph.add_input("label", DType.FLOAT32, (Symbolic.name("N"),))
    stored = [graph.constant(w, DType.FLOAT32) for w in weights(net)]
    for value in stored:
        value.parameter = Parameter()
    if net == "lenet":
        for w, b in (stored[0:2], stored[2:4]):
            x = graph.emit("Conv", x, w, b)
            x = graph.emit("MaxPool", x, kernel_shape=(2, 2), strides=(2, 2), ceil_mode=1)
        x, stored = graph.emit("Flatten", x, axis=1), stored[4:]
    if net == "resnet":
        scores = graph.emit("Gemm", residual_blocks(graph, x, iter(stored)), *stored[-2:], transB=1)
    else:
        hidden = graph.emit("Relu", graph.emit("Gemm", x, *stored[0:2], transB=1))
        scores = graph.emit("Gemm", hidden, *stored[2:4], transB=1)
    loss = graph.emit("nnconv.SoftmaxWithLoss", scores, label)
    graph.outputs, graph.losses = [loss], [Loss(loss)]
    return Model(graph=graph, mode="train")


def residual_blocks(graph: Any, x: Any, stored: Iterator[Any]) -> Any:
    """The ResNet up to the mean of its last planes."""

    def normed(x: Any, side: int, stride: int = 1) -> Any:
        kernel = next(stored)
        settings = {"strides": (stride, stride), "pads": (side // 2,) * 4}
        x = batch_norm(graph, graph.emit("Conv", x, kernel, **settings), kernel.data.shape[0])
        axes = graph.constant(np.array([1, 2]))
        scale, offset = (graph.emit("Unsqueeze", next(stored), axes) for _ in range(2))
        return x * scale + offset

    x = graph.emit("Relu", normed(x, 3))
    for _, _, stride in BLOCKS:
        y = normed(graph.emit("Relu", normed(x, 3, stride)), 3)
        x = graph.emit("Relu", y + (normed(x, 1, stride) if stride > 1 else x))
    return graph.emit("Flatten", graph.emit("AveragePool", x, kernel_shape=(8, 8)), axis=1)


def batch_norm(graph: Any, x: Any, channels: int) -> Any:
    from nnconv.schemas.graph import State

    sums = [graph.constant(np.zeros(size, np.float32)) for size in (channels, channels, 1)]
    settings = {"epsilon": 1e-5, "moving_average_fraction": 0.9}
    y, *following = graph.emit("nnconv.BatchNorm", x, *sums, outputs=4, **settings)
    for read, write in zip(sums, following, strict=True):
        graph.state.append(State(read.name, read, write))
    return y


def spec(solver: str) -> Any:
    from nnconv.schemas.training import Schedule, TrainingSpec

    # AdamW without decay is Adam as PyTorch has it; Caffe's has delta inside the correction
    kind = {"sgd": "SGD", "adam": "AdamW"}[solver]
    return TrainingSpec(kind, Schedule(RATES[solver], "fixed"), momentum=0.9, momentum2=0.999)


def nnconv_trainer(net: str, solver: str, threads: int) -> Step:
    from nnconv.runtime.training import Trainer

    trainer = Trainer(model(net), solver=spec(solver), device="cpu", threads=threads)

    def step(x: Any, label: Any) -> float:
        return trainer.step({"data": x, "label": label}).loss

    return step


def torch_module(net: str) -> Any:
    from torch import nn

    if net == "resnet":
        return torch_resnet()
    heads = [nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)]
    if net == "lenet":
        convolutions = [nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)]
        heads = [*convolutions, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)]
    return nn.Sequential(*heads)


def torch_resnet() -> Any:
    from torch import nn

    def normed(before: int, after: int, side: int, stride: int = 1) -> Any:
        conv = nn.Conv2d(before, after, side, stride, side // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(after))

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            first, second = normed(before, after, 3, stride), normed(after, after, 3)
            self.body = nn.Sequential(first, nn.ReLU(), second)
            self.past = normed(before, after, 1, stride) if stride > 1 else nn.Identity()
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.past(x))

    blocks = [Block(*each) for each in BLOCKS]
    tail = (nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(normed(3, 16, 3), nn.ReLU(), *blocks, *tail)


def torch_eager(net: str, solver: str, threads: int, compiled: bool = False) -> Step:
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    module = torch_module(net)
    with torch.no_grad():
        for parameter, data in zip(module.parameters(), weights(net), strict=True):
            parameter.copy_(torch.from_numpy(data))
    rate = RATES[solver]
    kinds = {
        "sgd": lambda p: torch.optim.SGD(p, rate, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, rate),
    }
    optimiser = kinds[solver](module.parameters())
    entropy = nn.CrossEntropyLoss()

    def forward(x: Any, label: Any) -> Any:
        return entropy(module(x), label)

    update = optimiser.step
    if compiled:
        forward, update = torch.compile(forward), torch.compile(optimiser.step)

    def step(x: Any, label: Any) -> float:
        optimiser.zero_grad()
        loss = forward(torch.as_tensor(x), torch.as_tensor(label))
        loss.backward()
        update()
        return float(loss.item())

    return step


def torch_compile(net: str, solver: str, threads: int) -> Step:
    return torch_eager(net, solver, threads, compiled=True)


ENGINES = {
    "nnconv": nnconv_trainer,
    "eager": torch_eager,
    "compile": torch_compile,
}
PEERS = ("eager", "compile")


# -- a process an engine


def work(engine: str, net: str, solver: str, size: int, threads: int, source: str) -> None:
    """Say the first losses, then for each line with a number of seconds the time of a step."""
    given = held(net, size)
    if engine == "nnconv":
        given = [(x, label.astype(np.float32)) for x, label in given]
    started = time.perf_counter()
    step = ENGINES[engine](net, solver, threads)
    losses = [step(*given[i % BATCHES]) for i in range(COMPARED)]
    first = time.perf_counter() - started
    print(json.dumps({"losses": losses, "first_seconds": first}), flush=True)
    loader = nnconv_loader if engine == "nnconv" else torch_loader
    feed = loader(net, size) if source == "loader" else itertools.cycle(given)
    for line in sys.stdin:
        started, busy, steps = time.perf_counter(), time.process_time(), 0
        while (spent := time.perf_counter() - started) < float(line):
            step(*next(feed))
            steps += 1
        busy = (time.process_time() - busy) / steps
        facts = {"step": spent / steps, "busy": busy, "peak": common.peak_memory()}
        print(json.dumps(facts), flush=True)
    sys.stdout.flush()
    os._exit(0)  # a loader's threads may be waiting


class Worker:
    """An engine in its process."""

    def __init__(self, engine: str, *args: object) -> None:
        command = [sys.executable, __file__, "--worker", engine, *map(str, args)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.engine = engine
        facts = self._answer()
        self.losses: list[float] = facts["losses"]
        self.first_seconds: float = facts["first_seconds"]
        self.peak = 0

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.engine} ended with code {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def block(self, seconds: float) -> tuple[float, float]:
        """The time of a step, reading its batch included, and the processor time of one."""
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)
        facts = self._answer()
        self.peak = facts["peak"]
        return facts["step"], facts["busy"]

    def close(self) -> None:
        self._process.communicate()


def compare(
    net: str, solver: str, batch: int, source: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Every engine's time, and nnconv's lead."""
    settings = (net, solver, batch, options.threads, source)
    if "nnconv" in options.engines.split(","):  # kernels are compiled once, not by every process
        Worker("nnconv", *settings).close()
    workers = [Worker(engine, *settings) for engine in options.engines.split(",")]
    _check(f"{net}, {solver}", workers)
    blocks: dict[str, list[float]] = {worker.engine: [] for worker in workers}
    busy: dict[str, list[float]] = {worker.engine: [] for worker in workers}
    for round_ in range(options.rounds + 1):
        for worker in workers:
            step, processor = worker.block(options.seconds)
            if round_:  # the first is the warm-up
                blocks[worker.engine].append(step)
                busy[worker.engine].append(processor)
    for worker in workers:
        worker.close()
    measured = busy if options.processor else blocks
    return {
        "net": net, "solver": solver, "batch": batch, "source": source,
        "load": round(os.getloadavg()[0], 2),
        "microseconds": {e: round(1e6 * statistics.median(b), 1) for e, b in blocks.items()},
        "processor_microseconds": {
            e: round(1e6 * statistics.median(b), 1) for e, b in busy.items()
        },
        "best": {e: round(1e6 * min(b), 1) for e, b in blocks.items()},
        "first_seconds": {w.engine: round(w.first_seconds, 2) for w in workers},
        "peak_bytes": {w.engine: w.peak for w in workers},
        "lead": {e: common.ratios(measured[e], measured["nnconv"]) for e in PEERS if e in blocks},
        "goals": {peer: GOALS[net, peer] for peer in PEERS if (net, peer) in GOALS},
    }  # fmt: skip


def _check(what: str, workers: list[Worker]) -> None:
    """Refuses an engine whose first losses are others."""
    wanted = np.array(workers[0].losses)
    for worker in workers:
        worst = float(np.abs(np.array(worker.losses) / wanted - 1).max())
        if not worst <= TOLERANCE:
            raise RuntimeError(f"{what}: {worker.engine}'s losses differ by {worst:.1e}")


def row(found: dict[str, Any]) -> str:
    cells = [f"{found['net']}, {found['solver']}, {found['batch']}, {found['source']}"]
    for engine, time_ in found["microseconds"].items():
        peak = found["peak_bytes"][engine] / 1e6
        cells.append(f"{engine} {time_:,.0f} us, {peak:.0f} MB")
    for peer, lead in found["lead"].items():
        goal = found["goals"].get(peer)
        aim = f", goal {goal}" if goal else ""
        cells.append(f"{lead['median']:.2f}x {peer} ({lead['least']:.2f}-{lead['most']:.2f}{aim})")
    return "| " + " | ".join(cells) + f" | load {found['load']} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default="mlp,lenet,resnet")
    parser.add_argument("--solvers", default="sgd,adam")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--batches", default="64", help="sizes, as 64,50")
    parser.add_argument("--sources", default="loader,held")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument(
        "--processor", action="store_true",
        help="ratios of processor time: use with --threads 1 on a busy machine",
    )  # fmt: skip
    parser.add_argument("--worker", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        engine, net, solver, size, threads, source = options.worker
        work(engine, net, solver, int(size), int(threads), source)
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])  # inherited
    split = (part.split(",") for part in (options.nets, options.solvers, options.batches))
    rows = []
    for net, solver, batch, source in itertools.product(*split, options.sources.split(",")):
        if (net, solver) in LEFT_OUT:
            continue
        rows.append(compare(net, solver, int(batch), source, options))
        print(row(rows[-1]), flush=True)
    facts = {"conditions": common.conditions(), "threads": options.threads, "steps": rows}
    print(common.report("training", facts))


if __name__ == "__main__":
    main()
