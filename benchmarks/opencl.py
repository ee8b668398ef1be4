"""How fast are OpenCL devices, against our own cpu device on the same nets?

    python benchmarks/opencl.py [--nets resnet50,vgg19] [--device opencl] [--threads 2]

Each device lives in a process of its own; blocks of runs alternate (A B A B ...), each at least
--seconds long, after a warm-up. Reported are medians of block medians and the ratio pair by pair
with its spread (1 is as fast as cpu, the aim on PoCL is 0.7), with the difference of the results,
the time of the first run with an empty cache of kernels and with a full one, and the count of
programs. Nets are golden/nets with recipe weights. The table and the JSON go to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# numpy's BLAS threads keep spinning after use and would disturb whoever runs next
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY)]
import common  # noqa: E402
import inference  # noqa: E402

NETS = {"lenet": 28, "squeezenet_v11": 227, "resnet50": 224, "vgg19": 224, "mobilenet_v1": 224}
CHANNELS = {"lenet": 1}
AIM = 0.7
TOLERANCE = 1e-4  # of the largest output


# -- one device, in a process of its own


def serve(device: str, name: str, batch: int, threads: int, result: Path) -> None:
    """Answer on stdout: first what starting took, then for each line of stdin a block of runs."""
    import nnconv

    model = inference.recipe_model(name)
    x = picture(name, batch)
    started = time.perf_counter()
    executable = nnconv.compile(model, device=device, threads=threads)
    first = np.asarray(executable(x))
    facts: dict[str, Any] = {"first_run_seconds": time.perf_counter() - started}
    np.save(result, first)
    program = executable.plan({executable.inputs[0].name: x.shape}).program
    facts |= getattr(program, "facts", {})
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        times: list[float] = []
        end = time.perf_counter() + float(line)
        while time.perf_counter() < end or len(times) < 3:
            begun = time.perf_counter()
            executable(x)
            times.append(time.perf_counter() - begun)
        print(json.dumps(statistics.median(times)), flush=True)


def picture(name: str, batch: int) -> Any:
    random = np.random.default_rng(batch)
    shape = (batch, CHANNELS.get(name, 3), NETS[name], NETS[name])
    return random.standard_normal(shape).astype(np.float32)


class Worker:
    """A process that serves blocks of runs."""

    def __init__(self, device: str, name: str, options: Any, folder: Path, cache: Path) -> None:
        self.result = folder / f"{device.partition(':')[0]}.npy"
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "NNCONV_CACHE": str(cache),
            "POCL_CACHE_DIR": str(cache / "pocl"),
            "POCL_MAX_PTHREAD_COUNT": str(options.threads),
        }
        call = ["--serve", device, "--nets", name, "--batch", str(options.batch)]
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


def compare(name: str, options: Any, folder: Path) -> dict[str, Any]:
    cache = folder / f"cache-{name}"
    cold = Worker(options.device, name, options, folder, cache)
    cold.close()
    workers = {d: Worker(d, name, options, folder, cache) for d in ("cpu", options.device)}
    for worker in workers.values():
        worker.block(options.seconds)
    blocks: dict[str, list[float]] = {device: [] for device in workers}
    for _ in range(options.rounds):
        for device, worker in workers.items():
            blocks[device].append(worker.block(options.seconds))
    for worker in workers.values():
        worker.close()
    ours, theirs = (np.load(worker.result) for worker in workers.values())
    difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    if not difference <= TOLERANCE:
        raise RuntimeError(f"{name}: {options.device} differs from cpu by {difference:.1e}")
    return {
        "net": name, "batch": options.batch, "aim": AIM, "difference": difference,
        "milliseconds": {d: round(1e3 * statistics.median(b), 3) for d, b in blocks.items()},
        "ratio": common.ratios(blocks["cpu"], blocks[options.device]),
        "cold_seconds": cold.facts["first_run_seconds"], **workers[options.device].facts,
    }  # fmt: skip


def row(found: dict[str, Any]) -> str:
    cpu, device = found["milliseconds"].values()
    ratio = found["ratio"]
    return (
        f"| {found['net']}, batch {found['batch']} | {cpu:.2f} | {device:.2f} "
        f"| {ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['most']:.2f}, aim {AIM}) "
        f"| {found['difference']:.1e} | {found['cold_seconds']:.1f} "
        f"| {found['first_run_seconds']:.2f} | {found['kernels']} in {found['programs']} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--device", default="opencl")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.nets, options.batch, options.threads, options.result)
        return
    print("| net | cpu ms | opencl ms | ratio | difference | cold s | warm s | kernels |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.nets.split(","):
            rows.append(compare(name, options, Path(folder)))
            print(row(rows[-1]), flush=True)
    facts = {"conditions": common.conditions(), "threads": options.threads, "nets": rows}
    print(common.report("opencl", facts))


if __name__ == "__main__":
    main()
