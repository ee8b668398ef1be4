"""How fast is a graphics card through OpenCL, against PyTorch's CUDA in single precision?

    python benchmarks/gpu.py [--works resnet50,lenet,mlp] [--device opencl] [--batch 32]
                             [--rounds 5] [--seconds 1] [--tune] [--steps 12]

ResNet-50 in inference, LeNet and an MLP 784-128-10 in training at batch 64 (SGD with momentum), the
same weights and batches on both sides; results and first losses are compared before anything is
timed. TF32 is off. Blocks alternate (A B A B ...), medians of block medians, ratios pair by pair
with their spread; the aim is 0.5. `host` times go from numpy arrays to numpy arrays, copies
included; `card` times leave copies out: the kernels by the device's own clock, and PyTorch with its
input on the card, waited for. Then the longest steps follow in GFLOP/s and GB/s, beside what the
device can do at best by nnconv's own kernels (runtime/ceilings.py) and by PyTorch's product.
--tune lets nnconv time its blocks first. Nothing needs to be installed but numpy, pyopencl, torch
and what nnconv itself imports; where a card or torch with CUDA is missing, one line says so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY)]
import common  # noqa: E402
import training  # noqa: E402

WORKS = "resnet50,lenet,mlp"
AIM = 0.5
SAMPLES = 64  # in a batch of training
COMPARED = 5  # losses of the first steps
TOLERANCE = {"resnet50": 1e-3, "lenet": 1e-4, "mlp": 1e-4}
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride of ResNet-50
CLASSES = 1000


class Contender(NamedTuple):
    """One side of a comparison: `host` and `card` run once and are waited for; `card` gives the
    seconds of the card itself where it knows them.
    """

    first: Any
    host: Callable[[], Any]
    card: Callable[[], float | None]


# -- ResNet-50, once for both sides


class Layer(NamedTuple):
    """A convolution with its normalisation; `relu` after it, or after what is added to it."""

    name: str
    inputs: int
    outputs: int
    size: int
    stride: int
    relu: bool


def bottlenecks() -> Iterator[tuple[list[Layer], Layer | None]]:
    """The three layers of each block, and the one beside them where shapes change."""
    inputs = 64
    for stage, (width, blocks, first) in enumerate(STAGES):
        for block in range(blocks):
            stride, name = first if block == 0 else 1, f"{stage + 2}{chr(97 + block)}"
            main = [
                Layer(f"{name}_1", inputs, width, 1, 1, True),
                Layer(f"{name}_2", width, width, 3, stride, True),
                Layer(f"{name}_3", width, 4 * width, 1, 1, False),
            ]
            beside = None
            if block == 0:
                beside = Layer(f"{name}_0", inputs, 4 * width, 1, stride, False)
            yield main, beside
            inputs = 4 * width


STEM = Layer("1", 3, 64, 7, 2, True)


def resnet_weights() -> dict[str, list[Any]]:
    """By layer: weights, then scale, shift, mean and variance of the normalisation."""
    random = np.random.default_rng(5)
    found: dict[str, list[Any]] = {}
    layers = [STEM]
    for main, beside in bottlenecks():
        layers += [*main, *([beside] if beside else [])]
    for layer in layers:
        shape = (layer.outputs, layer.inputs, layer.size, layer.size)
        scale = np.sqrt(2 / (layer.inputs * layer.size**2))
        numbers = [random.uniform(a, b, layer.outputs) for a, b in
                   ((0.4, 0.6), (-0.1, 0.1), (-0.1, 0.1), (0.8, 1.2))]  # fmt: skip
        weights = random.standard_normal(shape, np.float32) * np.float32(scale)
        found[layer.name] = [weights, *(each.astype(np.float32) for each in numbers)]
    last = random.standard_normal((CLASSES, 2048), np.float32) * np.float32(0.02)
    found["fc"] = [last, np.zeros(CLASSES, np.float32)]
    return found


def resnet_model(weights: dict[str, list[Any]]) -> Any:
    from nnconv.schemas.dims import Symbolic
    from nnconv.schemas.graph import Graph, Model
    from nnconv.schemas.types import DType

    graph = Graph("resnet50")
    x = graph.add_input("data", DType.FLOAT32, (Symbolic.name("N"), 3, 224, 224))

    def stored(name: str) -> list[Any]:
        return [graph.constant(each, DType.FLOAT32) for each in weights[name]]

    def layer(x: Any, layer: Layer) -> Any:
        w, *norm = stored(layer.name)
        pads = (layer.size // 2,) * 4
        y = graph.emit("Conv", x, w, pads=pads, strides=(layer.stride, layer.stride))
        y = graph.emit("BatchNormalization", y, *norm)
        return graph.emit("Relu", y) if layer.relu else y

    x = layer(x, STEM)
    x = graph.emit("MaxPool", x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    for main, beside in bottlenecks():
        skip = layer(x, beside) if beside else x
        for each in main:
            x = layer(x, each)
        x = graph.emit("Relu", graph.emit("Add", x, skip))
    x = graph.emit("Flatten", graph.emit("GlobalAveragePool", x), axis=1)
    graph.outputs = [graph.emit("Gemm", x, *stored("fc"), transB=1)]
    return Model(graph=graph)


def resnet_torch(weights: dict[str, list[Any]]) -> Callable[[Any], Any]:
    import torch
    from torch.nn import functional

    held = {n: [torch.from_numpy(w).cuda() for w in each] for n, each in weights.items()}

    def layer(x: Any, layer: Layer) -> Any:
        w, scale, shift, mean, variance = held[layer.name]
        y = functional.conv2d(x, w, stride=layer.stride, padding=layer.size // 2)
        y = functional.batch_norm(y, mean, variance, scale, shift)
        return functional.relu_(y) if layer.relu else y

    @torch.no_grad()
    def forward(x: Any) -> Any:
        x = functional.max_pool2d(layer(x, STEM), 3, 2, 1)
        for main, beside in bottlenecks():
            skip = layer(x, beside) if beside else x
            for each in main:
                x = layer(x, each)
            x = functional.relu_(x.add_(skip))
        return functional.linear(x.mean((2, 3)), *held["fc"])

    return forward


# -- contenders


def inference_pair(options: argparse.Namespace) -> tuple[Contender, Contender, Any]:
    import torch

    import nnconv

    weights = resnet_weights()
    x = np.random.default_rng(1).standard_normal((options.batch, 3, 224, 224), np.float32)
    executable = nnconv.compile(resnet_model(weights), device=options.device, tune=options.tune)
    forward, resident = resnet_torch(weights), torch.from_numpy(x).cuda()

    def on_card() -> float:
        return sum(seconds for _, seconds in watched(executable, {"data": x}))

    def torch_on_card() -> None:
        forward(resident)
        torch.cuda.synchronize()

    ours = Contender(executable(x), lambda: executable(x), on_card)
    theirs = Contender(
        forward(resident).cpu().numpy(),
        lambda: forward(torch.from_numpy(x).cuda()).cpu().numpy(),
        torch_on_card,
    )
    return ours, theirs, lambda: watched(executable, {"data": x})


def training_pair(net: str, options: argparse.Namespace) -> tuple[Contender, Contender, Any]:
    import torch

    from nnconv.runtime.training import Trainer

    x, label = training.held(net, SAMPLES)[0]
    trainer = Trainer(training.model(net), solver=training.spec("sgd"), device=options.device)
    batch = {"data": x, "label": label.astype(np.float32)}
    step = torch_step(net)
    given = torch.from_numpy(x).cuda(), torch.from_numpy(label).cuda()

    def report() -> list[tuple[Any, float]]:
        return watched(trainer.executable, {**batch, **rates(trainer)})

    def torch_on_card() -> None:
        step(*given)
        torch.cuda.synchronize()

    ours = Contender(
        np.array([trainer.step(batch).loss for _ in range(COMPARED)]),
        lambda: trainer.step(batch).loss,
        lambda: sum(seconds for _, seconds in report()),
    )
    theirs = Contender(
        np.array([float(step(*given)) for _ in range(COMPARED)]),
        lambda: float(step(torch.from_numpy(x).cuda(), torch.from_numpy(label).cuda())),
        torch_on_card,
    )
    return ours, theirs, report


def rates(trainer: Any) -> dict[str, Any]:
    """The trainer's own inputs: its rate."""
    names = {value.name for value in trainer.executable.inputs} - {"data", "label"}
    return {name: np.float32(training.RATES["sgd"]) for name in names}


def watched(executable: Any, feeds: dict[str, Any]) -> list[tuple[Any, float]]:
    """Steps on the card with their seconds, by its own clock; transfers are left out."""
    found: list[tuple[Any, float]] = []
    executable.run(feeds, watch=lambda step, seconds: found.append((step, seconds)))
    return [(step, seconds) for step, seconds in found if not step.kernel.startswith("opencl:to ")]


def torch_step(net: str) -> Callable[[Any, Any], Any]:
    """A step of training by PyTorch as it is usually written, everything on the card."""
    import torch
    from torch import nn

    heads: list[Any] = [nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)]
    if net == "lenet":
        heads = [
            nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
        ]  # fmt: skip
    module = nn.Sequential(*heads)
    with torch.no_grad():
        for parameter, data in zip(module.parameters(), training.weights(net), strict=True):
            parameter.copy_(torch.from_numpy(data))
    module.cuda()
    optimiser = torch.optim.SGD(module.parameters(), training.RATES["sgd"], momentum=0.9)
    entropy = nn.CrossEntropyLoss()

    def step(x: Any, label: Any) -> Any:
        optimiser.zero_grad()
        loss = entropy(module(x), label)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


# -- measuring


def block(run: Callable[[], Any], seconds: float, clock: bool) -> float:
    """The median time of a run; with `clock` what it says of the card's time, where it knows."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        started = time.perf_counter()
        known = run()
        spent = time.perf_counter() - started
        times.append(known if clock and known is not None else spent)
    return statistics.median(times)


def compare(work: str, options: argparse.Namespace) -> dict[str, Any]:
    pair = inference_pair(options) if work == "resnet50" else training_pair(work, options)
    ours, theirs, report = pair
    worst = float(np.abs(ours.first - theirs.first).max() / np.abs(theirs.first).max())
    if not worst <= TOLERANCE[work]:
        raise RuntimeError(f"{work}: nnconv and PyTorch differ by {worst:.1e} of the largest")
    found: dict[str, Any] = {"work": work, "difference": worst}
    for kind in ("host", "card"):
        runs = [getattr(side, kind) for side in (ours, theirs)]
        blocks: tuple[list[float], list[float]] = ([], [])
        for round_ in range(options.rounds + 1):
            for run, times in zip(runs, blocks, strict=True):
                spent = block(run, options.seconds, clock=kind == "card")
                if round_:  # the first is the warm-up
                    times.append(spent)
        found[kind] = {
            "ours_ms": 1e3 * statistics.median(blocks[0]),
            "torch_ms": 1e3 * statistics.median(blocks[1]),
            "ratio": common.ratios(blocks[1], blocks[0]),
        }
    found["steps"] = longest(report, options.steps)
    return found


def longest(report: Callable[[], list[tuple[Any, float]]], count: int) -> list[dict[str, Any]]:
    """The steps that take most of the time, by the best of five runs."""
    runs = [report() for _ in range(5)]
    steps = [(step, min(run[i][1] for run in runs)) for i, (step, _) in enumerate(runs[0])]
    whole = sum(seconds for _, seconds in steps)
    found = sorted(steps, key=lambda item: -item[1])[:count]
    return [
        {
            "kernel": step.kernel, "shapes": [str(value) for value in step.writes[:1]],
            "us": 1e6 * seconds, "share": seconds / whole,
            "gflops": 2e-9 * step.cost.macs / max(seconds, 1e-9),
            "gbs": 1e-9 * step.cost.bytes / max(seconds, 1e-9),
        }
        for step, seconds in found
    ]  # fmt: skip


def torch_ceiling(side: int = 4096) -> float:
    """Floating point operations a second of PyTorch's product."""
    import torch

    a, b = (torch.randn(side, side, device="cuda") for _ in range(2))
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def show(found: dict[str, Any]) -> None:
    for kind in ("host", "card"):
        each = found[kind]
        ratio = each["ratio"]
        print(
            f"| {found['work']} | {kind} | {each['ours_ms']:.3f} | {each['torch_ms']:.3f} "
            f"| {ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['most']:.2f}, aim {AIM}) "
            f"| {found['difference']:.1e} |"
        )
    for step in found["steps"]:
        print(
            f"    {step['us']:9.1f} us {100 * step['share']:5.1f} %  {step['gflops']:9.0f} GFLOP/s "
            f"{step['gbs']:7.0f} GB/s  {step['kernel']}  {' '.join(step['shapes'])}"
        )


def missing(device: str) -> str:
    """What this needs and does not find, in one line; nothing where all is there."""
    try:
        import torch
    except ImportError as error:
        return f"needs torch with CUDA to compare with ({error})"
    if not torch.cuda.is_available():
        return f"needs torch with CUDA: torch {torch.__version__} sees no card"
    from nnconv.runtime.devices.opencl.platform import select
    from nnconv.schemas.errors import NnconvError

    try:
        found = select(device.partition(":")[2])
    except NnconvError as error:
        return f"needs a card with an OpenCL driver: {error}".replace("\n", " ")
    if found.kind != "gpu":
        return f"needs a card with an OpenCL driver: {found.name} is {found.description}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--works", default=WORKS)
    parser.add_argument("--device", default="opencl")
    parser.add_argument("--batch", type=int, default=32, help="of ResNet-50")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=12, help="how many of the longest to show")
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    lacking = missing(options.device)
    if lacking:
        print(f"gpu.py {lacking}")
        return
    import torch

    from nnconv.runtime.ceilings import measure_ceilings

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    ceilings = measure_ceilings(options.device)
    print(f"at best: {1e-9 * ceilings.operations:.0f} GFLOP/s, {1e-9 * ceilings.bytes:.0f} GB/s; "
          f"PyTorch's product {1e-9 * torch_ceiling():.0f} GFLOP/s")  # fmt: skip
    print("| work | times | ours ms | PyTorch ms | PyTorch / ours | difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    found = []
    for work in options.works.split(","):
        found.append(compare(work, options))
        show(found[-1])
    facts = {"conditions": common.conditions(), "ceilings": ceilings._asdict(), "works": found}
    print(common.report("gpu", facts))


if __name__ == "__main__":
    main()
