"""Trains a tiny net in child processes that are killed (-9) at random moments, resumed, and killed
again; prints where each was killed, and digests of what came out. Run by test_kill.py.

    python endless_kill.py FOLDER KILLS SOLVER DEVICE
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

from nnconv.api.finetune import SETTINGS, Session, Settings, reopen
from nnconv.converter.checkpoint.protobuf import read_pb
from nnconv.runtime.training.checkpoints import FILE
from nnconv.schemas.graph import Model
from tests.training_loop.nets import clusters, tiny_net


def session(folder: Path, solver: str, device: str) -> Session:
    if (folder / SETTINGS).exists():
        return reopen(folder, clusters())
    settings = Settings(
        solver=solver, solver_settings={"lr": 0.01, "policy": "step", "stepsize": 7},
        epochs=60, batch=8, val=0.2, seed=3, device=device, every=2, report=3,
    )  # fmt: skip
    begun = Session(tiny_net(), clusters(), settings, folder)
    begun.begin()
    return begun


def digest(model: Model) -> str:
    held = hashlib.sha256()
    for name, array in model.weights.items():
        held.update(name.encode() + array.tobytes())
    return held.hexdigest()


def kept(folder: Path) -> str:
    """All that the last checkpoint holds: parameters, the solver's arrays, where it stood."""
    return hashlib.sha256((folder / FILE).read_bytes()).hexdigest()


def _train_and_leave(folder: Path, solver: str, device: str) -> NoReturn:
    try:
        session(folder, solver, device).train()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def killed_run(folder: Path, solver: str, device: str, kills: int) -> list[int]:
    """Children train until one comes to the end; the first `kills` are killed. What iteration the
    checkpoint was of after each.
    """
    moments = random.Random(17)
    found: list[int] = []
    while True:
        before = stamp(folder)
        child = os.fork()
        if child == 0:
            _train_and_leave(folder, solver, device)
        if len(found) < kills:
            if len(found) % 4:  # every fourth is killed while it starts
                wait_for_progress(folder, before)
            time.sleep(moments.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return found
        if not os.WIFSIGNALED(status):
            sys.exit(f"a child failed by itself: {status}")
        found.append(read_pb(folder / FILE).iteration if stamp(folder) else -1)


def stamp(folder: Path) -> int:
    """Changes with every checkpoint; 0 while there is none."""
    file = folder / FILE
    return file.stat().st_mtime_ns if file.exists() else 0


def wait_for_progress(folder: Path, before: int) -> None:
    limit = time.monotonic() + 20
    while stamp(folder) == before and time.monotonic() < limit:
        time.sleep(0.001)


def main() -> None:
    root, kills, solver, device = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    iterations = killed_run(root / "killed", solver, device, kills)
    ended = [session(root / name, solver, device) for name in ("killed", "whole")]
    results = [run.train().model for run in ended]
    found = {
        "iterations": iterations,
        "digests": [digest(model) for model in results],
        "checkpoints": [kept(root / name) for name in ("killed", "whole")],
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
