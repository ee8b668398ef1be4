"""How long from a model file to its first result, and with how much memory, against the peers?

    python benchmarks/start.py [--nets resnet50,squeezenet_v11] [--rounds 5] [--threads 2]

Every figure comes from a fresh process, contenders alternating. nnconv runs twice: cold, with an
empty cache (NNCONV_HOME), so that every kernel is compiled, and warm, with the cache that an
earlier process filled. Time runs from behind `import numpy`, which all of them need, to the first
result: import, open, compile, run. Python's bytecode is there for everybody, as after an
installation. Reported are medians; for nnconv also where the time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# numpy's BLAS threads keep spinning after use and would disturb whoever runs next
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY)]
import common  # noqa: E402

NETS = "alexnet,googlenet,squeezenet_v11,resnet50,vgg19,mobilenet_v1,mobilenet_v2"
PEERS = ("onnxruntime", "openvino", "opencv")
CONTENDERS = ("nnconv cold", "nnconv warm", *PEERS)


# -- one contender, in its own process


class Phases:
    """Seconds by name; what a phase does inside another one counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._turn()
        self._open.append(name)
        yield
        self._turn()
        self._open.pop()

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._open:
            spent = self.seconds.get(self._open[-1], 0.0)
            self.seconds[self._open[-1]] = spent + now - self._since
        self._since = now

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Let calls of a function count as a phase."""
        function: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **options: Any) -> Any:
            with self.phase(name):
                return function(*args, **options)

        setattr(owner, attribute, timed)


def nnconv_first_result(file: str, x: Any, threads: int) -> dict[str, float]:
    phases = Phases()
    with phases.phase("import"):
        import nnconv
        import nnconv.converter.formats
        import nnconv.runtime.executor as executor
        import nnconv.runtime.lowering.pack as pack
        import nnconv.schemas.container
        from nnconv.runtime.devices import cpu, jit
    phases.wrap(executor, "run_passes", "passes")
    phases.wrap(pack.Store, "settle", "packing")
    phases.wrap(jit, "load_all", "kernels")
    phases.wrap(cpu, "lower", "lowering")
    with phases.phase("open"):
        model = nnconv.load(file)
    with phases.phase("compile"):
        executable = nnconv.compile(model, device="cpu", threads=threads)
    with phases.phase("compile"):
        executable.plan({executable.inputs[0].name: x.shape})
    with phases.phase("first run"):
        executable(x)
    return phases.seconds


def first_result(engine: str, file: str, picture: str, threads: int) -> dict[str, Any]:
    from nnconv.cli.peers import ENGINES

    x = np.load(picture, allow_pickle=False)
    started = time.perf_counter()
    if engine == "nnconv":
        phases = nnconv_first_result(file, x, threads)
    else:
        phases = {}
        ENGINES[engine](file, x, threads)()
    spent = time.perf_counter() - started
    return {"seconds": spent, "phases": phases, "peak_bytes": common.peak_memory()}


# -- all of them


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One net: every contender's medians."""
    from inference import picture, write_files

    file, x = folder / f"{name}.onnx", folder / "input.npy"
    write_files(name, 1, file)
    np.save(x, picture(name, 1))
    found: dict[str, list[dict[str, Any]]] = {contender: [] for contender in CONTENDERS}
    for round_ in range(options.rounds + 1):
        for contender in CONTENDERS:
            engine, _, state = contender.partition(" ")
            source = file.with_suffix(".nnir") if engine == "nnconv" else file
            with tempfile.TemporaryDirectory() as empty:
                home = empty if state == "cold" else str(folder / "home")
                result = common.in_fresh_process(
                    __file__, "--engine", engine, str(source), str(x), str(options.threads), home
                )
            if round_:  # the first fills caches
                found[contender].append(result)
    file.unlink()
    file.with_suffix(".nnir").unlink()
    return {"net": name, "load": round(os.getloadavg()[0], 2)} | {
        contender: _medians(results) for contender, results in found.items()
    }


def _medians(results: list[dict[str, Any]]) -> dict[str, Any]:
    names = results[0]["phases"]
    return {
        "seconds": statistics.median(r["seconds"] for r in results),
        "peak_bytes": statistics.median(r["peak_bytes"] for r in results),
        "phases": {n: statistics.median(r["phases"][n] for r in results) for n in names},
    }


def row(found: dict[str, Any]) -> str:
    cells = [found["net"]]
    for contender in CONTENDERS:
        result = found[contender]
        cells.append(f"{result['seconds']:.2f} s, {result['peak_bytes'] / 2**20:.0f} MB")
    parts = found["nnconv warm"]["phases"] | {
        "kernels, cold": found["nnconv cold"]["phases"]["kernels"]
    }
    cells.append(", ".join(f"{name} {1e3 * seconds:.0f}" for name, seconds in parts.items()))
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default=NETS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        engine, file, x, threads, os.environ["NNCONV_HOME"] = options.engine
        print(json.dumps(first_result(engine, file, x, int(threads))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "bytecode")
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
        for name in options.nets.split(","):
            rows.append(measure(name, options, Path(folder)))
            print(row(rows[-1]), flush=True)
    facts = {"conditions": common.conditions(), "threads": options.threads, "nets": rows}
    print(common.report("start", facts))


if __name__ == "__main__":
    main()
