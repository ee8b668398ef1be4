"""How fast are OpenCL devices, against our own cpu device and tinygrad on the same driver?

    python benchmarks/opencl.py [--nets resnet50,train:lenet] [--device opencl] [--threads 2]
                                [--peers cpu,tinygrad] [--cache FOLDER]

Each contender lives in a process of its own; blocks of runs alternate (A B A B ...), each at least
--seconds long, after a warm-up. Reported are medians of block medians and the ratio to each peer
pair by pair with its spread (the aim on PoCL is 0.7 of cpu and 5 times tinygrad), with the
difference of the results, the time of the first run with an empty cache of kernels and with a full
one, and the count of programs. Nets are golden/nets with recipe weights; `train:lenet` is a step of
training at batch 64 with SGD and momentum. tinygrad (DEV=CL) runs the ONNX file that nnconv writes,
or the same layers and weights in training, under its TinyJit, its input already on the device; its
kernels are not searched for (no BEAM). --cache keeps compiled kernels, then nothing is cold. The
table and the JSON go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# numpy's BLAS threads keep spinning after use and would disturb whoever runs next
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY)]
import common  # noqa: E402
import inference  # noqa: E402

NETS = {**inference.SIZES, "lenet": 28}
CHANNELS = {"lenet": 1}
TRAINING = "train:lenet"
SAMPLES = 64  # in a batch of training
SHOWN = "lenet,squeezenet_v11,alexnet,googlenet,resnet50,vgg19,mobilenet_v1,mobilenet_v2"
AIMS = {"cpu": 0.7, "tinygrad": 5.0}
TOLERANCE = 1e-4  # of the largest output, or of the losses of the first steps
FIRST_STEPS = 5
NAME = re.compile(r"[^a-z0-9]+")


# -- one contender, in a process of its own


def serve(engine: str, work: str, options: Any) -> None:
    """Answer on stdout: first what starting took, then for each line of stdin a block of runs."""
    begun = time.perf_counter()
    make = tinygrad_work if engine == "tinygrad" else own_work
    run, first, facts = make(engine, work, options)
    np.save(options.result, first)
    print(json.dumps({"first_run_seconds": time.perf_counter() - begun, **facts}), flush=True)
    for line in sys.stdin:
        times: list[float] = []
        end = time.perf_counter() + float(line)
        while time.perf_counter() < end or len(times) < 3:
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
        print(json.dumps(statistics.median(times)), flush=True)


Work = tuple[Callable[[], Any], Any, dict[str, Any]]


def own_work(device: str, work: str, options: Any) -> Work:
    """What to run again and again, the first results, and what the plan says of itself."""
    import nnconv

    if work == TRAINING:
        batch = samples()
        trainer = lenet_trainer(device, options.threads)
        losses = [trainer.step(batch).loss for _ in range(FIRST_STEPS)]
        plan = trainer.executable.plan({name: array.shape for name, array in batch.items()})
        return lambda: trainer.step(batch), np.array(losses), dict(plan.facts)
    x = picture(work, options.batch)
    executable = nnconv.compile(
        inference.recipe_model(work), device=device, threads=options.threads
    )
    first = np.asarray(executable(x))
    facts = executable.plan({executable.inputs[0].name: x.shape}).facts
    return lambda: executable(x), first, dict(facts)


def lenet_trainer(device: str, threads: int) -> Any:
    import nnconv

    return nnconv.Trainer(
        inference.recipe_model("lenet"), loss="cross_entropy", device=device, threads=threads,
        lr=0.001, momentum=0.9,
    )  # fmt: skip


def samples() -> dict[str, Any]:
    random = np.random.default_rng(0)
    data = random.random((SAMPLES, 1, 28, 28), np.float32)
    return {"data": data, "label": random.integers(0, 10, SAMPLES).astype(np.float32)}


def tinygrad_work(engine: str, work: str, options: Any) -> Work:
    if work == TRAINING:
        return tinygrad_training()
    from tinygrad import Tensor, TinyJit
    from tinygrad.nn.onnx import OnnxRunner

    from nnconv.cli.bench import write_files

    model, x = inference.recipe_model(work), picture(work, options.batch)
    name = model.graph.inputs[0].name
    with tempfile.TemporaryDirectory() as folder:
        foreign, _ = write_files(model, {name: x}, Path(folder))
        net = OnnxRunner(foreign)
        net({name: Tensor(x)})  # reads the weights
    given = Tensor(x).realize()
    jit = TinyJit(lambda x: next(iter(net({name: x}).values())).realize())
    for _ in range(3):  # it records in its second run
        first = jit(given).numpy()
    return lambda: jit(given).numpy(), first, {}


def tinygrad_training() -> Work:
    """Caffe's LeNet, as tinygrad would have it written, from the weights that ours starts with."""
    from tinygrad import Context, Tensor, TinyJit
    from tinygrad.nn.optim import SGD

    state = lenet_trainer("cpu", 1).executable.state
    names = [f"{layer}/{n}" for layer in ("conv1", "conv2", "ip1", "ip2") for n in (0, 1)]
    w1, b1, w2, b2, w3, b3, w4, b4 = weights = [Tensor(state[name]) for name in names]
    optimizer = SGD(weights, lr=0.001, momentum=0.9)
    batch = samples()
    x = Tensor(batch["data"]).realize()
    y = Tensor(batch["label"].astype(np.int32)).realize()

    @TinyJit
    @Context(TRAINING=1)
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        h = x.conv2d(w1, b1).max_pool2d((2, 2)).conv2d(w2, b2).max_pool2d((2, 2))
        h = h.flatten(1).linear(w3.T, b3).relu().linear(w4.T, b4)
        loss = h.sparse_categorical_crossentropy(y).backward()
        return loss.realize(*optimizer.schedule_step())

    losses = [step(x, y).item() for _ in range(FIRST_STEPS)]
    return lambda: step(x, y).item(), np.array(losses), {}


def picture(name: str, batch: int) -> Any:
    random = np.random.default_rng(batch)
    shape = (batch, CHANNELS.get(name, 3), NETS[name], NETS[name])
    return random.standard_normal(shape).astype(np.float32)


class Worker:
    """A process that serves blocks of runs."""

    def __init__(self, engine: str, work: str, options: Any, folder: Path, cache: Path) -> None:
        self.result = folder / f"{NAME.sub('-', engine)}.npy"
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "NNCONV_CACHE": str(cache),
            "POCL_CACHE_DIR": str(cache / "pocl"),
            "POCL_MAX_PTHREAD_COUNT": str(options.threads),
            "DEV": "CL",  # tinygrad's device
        }
        call = ["--serve", engine, "--nets", work, "--batch", str(options.batch)]
        call += ["--threads", str(options.threads), "--result", str(self.result)]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *call],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.facts: dict[str, Any] = self._answer()

    def block(self, seconds: float) -> float:
        """The median of a block of runs."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process for {self.result.stem} ended")
        return json.loads(line)


# -- comparing


def compare(work: str, options: Any, folder: Path) -> dict[str, Any]:
    cache = options.cache or folder / f"cache-{NAME.sub('-', work)}"
    peers = [name for name in options.peers.split(",") if name]
    cold = None
    if options.cache is None:
        worker = Worker(options.device, work, options, folder, cache)
        cold = worker.facts["first_run_seconds"]
        worker.close()
    workers = {e: Worker(e, work, options, folder, cache) for e in (options.device, *peers)}
    for worker in workers.values():
        worker.block(options.seconds)
    blocks: dict[str, list[float]] = {engine: [] for engine in workers}
    for _ in range(options.rounds):
        for engine, worker in workers.items():
            blocks[engine].append(worker.block(options.seconds))
    for worker in workers.values():
        worker.close()
    results = {engine: np.load(worker.result) for engine, worker in workers.items()}
    ours = results[options.device]
    found = {}
    for peer in peers:
        difference = float(np.abs(ours - results[peer]).max() / np.abs(ours).max())
        if not difference <= TOLERANCE:
            raise RuntimeError(f"{work}: {options.device} and {peer} differ by {difference:.1e}")
        found[peer] = {
            "milliseconds": 1e3 * statistics.median(blocks[peer]), "difference": difference,
            "ratio": common.ratios(blocks[peer], blocks[options.device]), "aim": AIMS[peer],
        }  # fmt: skip
    batch = SAMPLES if work == TRAINING else options.batch
    return {
        "net": work, "batch": batch, "peers": found, "cold_seconds": cold,
        "milliseconds": 1e3 * statistics.median(blocks[options.device]),
        **workers[options.device].facts,
    }  # fmt: skip


def rows(found: dict[str, Any]) -> list[str]:
    cold = f"{found['cold_seconds']:.1f}" if found["cold_seconds"] else "-"
    made = []
    for name, peer in found["peers"].items():
        ratio = peer["ratio"]
        made.append(
            f"| {found['net']}, batch {found['batch']} | {found['milliseconds']:.2f} | {name} "
            f"| {peer['milliseconds']:.2f} | {ratio['median']:.2f} ({ratio['least']:.2f}-"
            f"{ratio['most']:.2f}, aim {peer['aim']:g}) | {peer['difference']:.1e} | {cold} "
            f"| {found['first_run_seconds']:.2f} | {found['kernels']} in {found['programs']} |"
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default=f"{SHOWN},{TRAINING}")
    parser.add_argument("--device", default="opencl")
    parser.add_argument("--peers", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--cache", type=Path, help="keep compiled kernels here")
    parser.add_argument("--name", default="opencl", help="of the file under results/")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.nets, options)
        return
    print("| work | opencl ms | peer | its ms | ratio | difference | cold s | warm s | kernels |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for work in options.nets.split(","):
            found.append(compare(work, options, Path(folder)))
            print("\n".join(rows(found[-1])), flush=True)
    facts = {"conditions": common.conditions(), "threads": options.threads, "nets": found}
    print(common.report(options.name, facts))


if __name__ == "__main__":
    main()
