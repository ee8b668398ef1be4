"""Other engines to compare with, each in a process of its own: `python -m nnconv.cli.peers ...`.

A worker loads the model, says how long that took, and then runs one block of runs for each line it
reads. So blocks of several engines can alternate, and none shares its threads with another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[], Any]


def _nnconv(file: str, x: Any, threads: int) -> Run:
    import nnconv

    executable = nnconv.compile(file, device="cpu", threads=threads)
    return lambda: executable(x)


def _onnxruntime(file: str, x: Any, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})[0]


def _openvino(file: str, x: Any, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(core.read_model(file), "CPU", settings).create_infer_request()
    return lambda: request.infer([x])[0]


def _opencv(file: str, x: Any, threads: int) -> Run:
    import cv2

    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(file)

    def run() -> Any:
        net.setInput(x)
        return net.forward()

    return run


ENGINES: dict[str, Callable[[str, Any, int], Run]] = {
    "nnconv": _nnconv,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "opencv": _opencv,
}


def serve(engine: str, file: str, picture: str, threads: int) -> None:
    """Answer on stdout in JSON: first what starting took, then a block of runs a line."""
    import numpy as np

    x = np.load(picture, allow_pickle=False)
    started = time.perf_counter()
    run = ENGINES[engine](file, x, threads)
    result = np.array(run())
    _say({"first_result_seconds": time.perf_counter() - started})
    np.save(f"{picture}.{engine}.npy", result)
    for line in sys.stdin:
        times: list[float] = []
        end = time.perf_counter() + float(line)
        while time.perf_counter() < end or len(times) < 3:
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
        _say({"seconds": times, "peak_bytes": _peak_memory()})


def _say(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _peak_memory() -> int:
    """The most memory this process has held, in bytes; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    line = next(x for x in status.read_text("ascii").splitlines() if x.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


class Worker:
    """An engine's process, waiting until it is told to run a block.

    Raises RuntimeError with the end of what it said when the engine cannot run the model.
    """

    def __init__(self, engine: str, file: Path, picture: Path, threads: int) -> None:
        self.engine = engine
        self.peak_bytes = 0
        self._result = Path(f"{picture}.{engine}.npy")
        command = [sys.executable, "-m", __name__, engine, str(file), str(picture), str(threads)]
        # numpy's BLAS threads keep spinning after use and would disturb whoever runs next
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=environment,
        )  # fmt: skip
        self.first_result_seconds: float = self._answer()["first_result_seconds"]

    def block(self, seconds: float) -> list[float]:
        """The times of the runs of a block of at least so many seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.peak_bytes = answer["peak_bytes"]
        times: list[float] = answer["seconds"]
        return times

    def result(self) -> Any:
        """What the model's first output was, once a block has run."""
        import numpy as np

        return np.load(self._result, allow_pickle=False)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None and self._process.stderr is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        lines = self._process.stderr.read().strip().splitlines()
        raise RuntimeError(lines[-1] if lines else "it ended without a word")


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
