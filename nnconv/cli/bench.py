"""`nnconv bench`: how fast a model runs, where its time goes, and how that compares."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from nnconv.cli import options
from nnconv.cli.files import open_model
from nnconv.cli.options import Shapes, verb
from nnconv.schemas.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from nnconv.runtime.ceilings import Ceilings
    from nnconv.runtime.executor import Executable
    from nnconv.schemas.dims import Shape
    from nnconv.schemas.graph import Model

PEERS = ("onnxruntime", "openvino", "opencv")
_WATCHED_RUNS = 10
_ROUNDS = 5


@verb(
    ("nnconv bench zoo:lenet --batch 8", "latency, throughput, and the time of every step"),
    ("nnconv bench net.nnir --with onnxruntime", "the same model in another engine"),
    ("nnconv bench net.nnir --device opencl --profile", "steps against the device's limits"),
)
@options.MODEL
@options.WEIGHTS
@options.BATCH
@options.SHAPES
@options.device()
@options.THREADS
@click.option(
    "--winograd", type=options.OneOf("off", "2", "4"), default="4", show_default=True,
    help="Largest form of Winograd convolution allowed.",
)  # fmt: skip
@click.option("--tune", is_flag=True, help="Time kernels first and take the fastest.")
@click.option(
    "--seconds", type=options.Number(least=0.01), default=3.0, show_default=True,
    help="How long to measure.",
)  # fmt: skip
@click.option("--with", "peers", metavar="NAME,...", default="", help=f"Also: {', '.join(PEERS)}.")
@click.option("--profile", is_flag=True, help="Measure the device's limits, to judge steps by.")
@click.option("--trace", metavar="FILE.json", help="Write a run's steps for chrome://tracing.")
@options.JSON
def bench(
    model_file: str,
    weights: str | None,
    batch: int | None,
    shapes: Shapes,
    device: str | None,
    threads: int | None,
    winograd: str,
    tune: bool,
    seconds: float,
    peers: str,
    profile: bool,
    trace: str | None,
    as_json: bool,
) -> None:
    """Measure how fast a model runs, and where its time goes.

    Inputs are random. Times of steps are measured one by one, in runs of their own.
    """
    from nnconv.api import compile
    from nnconv.api.files import checked_target

    asked = _peers(peers)
    target = checked_target(trace) if trace else None
    model = open_model(model_file, weights, shapes=shapes)
    executable = compile(
        model, device=device, threads=threads, tune=tune,
        winograd=0 if winograd == "off" else int(winograd),
    )  # fmt: skip
    _refuse_idle(executable.device)
    inputs = random_inputs(executable, batch, shapes)
    facts = measure(executable, inputs, seconds)
    facts["device"], facts["load"] = executable.device, round(os.getloadavg()[0], 2)
    facts["limit_gflops"] = _limit(executable.device, threads)
    ceilings = _ceilings(executable.device, threads) if profile else None
    facts["steps"], events = watch(executable, inputs, ceilings)
    if ceilings is not None:
        facts["ceilings"] = ceilings._asdict()
    if asked:
        facts["peers"] = compare(model, inputs, asked, threads, seconds)
    if target is not None:
        target.write_text(json.dumps({"traceEvents": events}), "utf-8")
    if as_json:
        from nnconv.cli.output import print_json

        print_json("bench", {"model": model_file, **facts})
    else:
        print_facts(facts)


# what options decide about, by the beginning of the device's name
_IDLE = {"reference": ("threads", "winograd", "tune"), "opencl": ("threads",)}


def _refuse_idle(device: str) -> None:
    """Raise InputError for an option that changes nothing on the device."""
    context = click.get_current_context()
    for name in _IDLE.get(device.partition(":")[0], ()):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise InputError(f"--{name}: the device {device} has no such choice")


def _peers(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in PEERS:
            hint = did_you_mean(name, PEERS) or f"there are {', '.join(PEERS)}"
            raise InputError(f"--with {name}: nnconv does not know this engine", hint=hint)
    return names


def random_inputs(
    executable: Executable, batch: int | None, shapes: dict[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Normal random numbers for every input: zeros would run at another speed."""
    import numpy as np

    known = executable.stated_shapes() | shapes
    random, made = np.random.default_rng(0), {}
    for port in executable.inputs:
        shape = known.get(port.name) or _only_batch_open(port.shape)
        if shape is None:
            sizes = ",".join(map(str, port.shape or ("1", "3", "224", "224")))
            hint = f"--input-shape {port.name}:{sizes}, with numbers"
            raise InputError(f"the model states no size for '{port.name}'", hint=hint)
        if batch and shape and shape[0] != batch:
            if port.name in shapes:
                asked = ",".join(map(str, shape))
                raise InputError(f"--batch {batch} and --input-shape {port.name}:{asked} differ")
            shape = (batch, *shape[1:])
        data = random.standard_normal(shape) if port.dtype.is_float else np.zeros(shape)
        made[port.name] = data.astype(port.dtype.numpy)
    return made


def _only_batch_open(shape: Shape | None) -> tuple[int, ...] | None:
    """The shape for one sample, where nothing else is open."""
    rest = [dim for dim in (shape or ())[1:] if isinstance(dim, int)]
    return (1, *rest) if shape and len(rest) == len(shape) - 1 else None


def measure(executable: Executable, inputs: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Latency and throughput of whole runs, and what starting takes."""
    plan_shapes = {name: array.shape for name, array in inputs.items()}
    started = time.perf_counter()
    plan = executable.plan(plan_shapes)
    compiled = time.perf_counter() - started
    executable.run(inputs)
    first = time.perf_counter() - started
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        begun = time.perf_counter()
        executable.run(inputs)
        times.append(time.perf_counter() - begun)
    median = statistics.median(times)
    batch = next((shape[0] for shape in plan_shapes.values() if shape), 1)
    return {
        "inputs": {name: list(shape) for name, shape in plan_shapes.items()},
        "compile_ms": 1e3 * compiled, "first_run_ms": 1e3 * (first - compiled), "runs": len(times),
        "latency_ms": {f"p{p}": 1e3 * _percentile(times, p) for p in (1, 50, 90, 99)},
        "samples_per_second": batch / median, "gflops": 2e-9 * plan.cost.macs / median,
        "arena_bytes": plan.peak_bytes, "plan": dict(plan.facts),
    }  # fmt: skip


def _percentile(times: Sequence[float], percent: int) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def _ceilings(device: str, threads: int | None) -> Ceilings:
    from nnconv.runtime.ceilings import measure_ceilings

    return measure_ceilings(device, threads)


def watch(
    executable: Executable, inputs: dict[str, Any], ceilings: Ceilings | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The median time of every step, what of the ceilings it reaches, and one run's steps as trace
    events.
    """
    runs: list[list[tuple[Any, float]]] = []
    for _ in range(_WATCHED_RUNS):
        runs.append([])
        executable.run(inputs, watch=lambda step, spent: runs[-1].append((step, spent)))
    rows, events, at = [], [], 0.0
    for number, (step, spent) in enumerate(runs[-1]):
        median = statistics.median(run[number][1] for run in runs)
        result = step.writes[0] if step.writes else None
        rows.append({
            "result": result.name if result else "",
            "shape": [str(dim) for dim in (result.shape or ())] if result else [],
            "kernel": step.kernel, "ms": 1e3 * median,
            "gflops": 2e-9 * step.cost.macs / median if median else 0.0,
            "gigabytes_per_second": 1e-9 * step.cost.bytes / median if median else 0.0,
        })  # fmt: skip
        if ceilings is not None:
            rows[-1]["of_limit"] = ceilings.share(step, median)
        events.append({
            "name": rows[-1]["result"], "cat": step.kernel, "ph": "X", "pid": 1, "tid": 1,
            "ts": 1e6 * at, "dur": 1e6 * spent,
        })  # fmt: skip
        at += spent
    total = sum(row["ms"] for row in rows)
    for row in rows:
        row["share"] = row["ms"] / total if total else 0.0
    return rows, events


def _limit(device: str, threads: int | None) -> float | None:
    """What the processor's multiply-add units give here, in GFLOP/s; None on other devices."""
    if device != "cpu":
        return None
    from nnconv.runtime.tune import machine_limit

    return machine_limit(threads or 0) / 1e9


def compare(
    model: Model, inputs: dict[str, Any], names: list[str], threads: int | None, seconds: float
) -> dict[str, Any]:
    """Blocks of runs of every engine in turn; `lead` is how much faster nnconv is, pair by pair."""
    import numpy as np

    from nnconv.cli.peers import Worker
    from nnconv.runtime.devices.jobs import default_threads

    if len(inputs) != 1:
        raise InputError("--with compares models with one input only")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "input.npy"
        np.save(picture, next(iter(inputs.values())))
        files = write_files(model, inputs, Path(folder))
        workers, facts = [], dict[str, Any]()
        for name in ("nnconv", *names):
            try:
                file = files[name == "nnconv"]
                workers.append(Worker(name, file, picture, threads or default_threads()))
            except RuntimeError as error:
                facts[name] = {"error": str(error)}
        try:
            facts |= _alternate(workers, seconds / _ROUNDS)
        finally:
            for worker in workers:
                worker.close()
    return facts


def write_files(model: Model, inputs: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """The model as ONNX with the inputs' sizes, for peers, and as .nnir."""
    import onnx

    from nnconv.api import save
    from nnconv.converter.onnx.writer import export_onnx

    own, foreign = folder / "model.nnir", folder / "model.onnx"
    save(model, own)
    export_onnx(model, foreign)
    message = onnx.load(foreign)
    for value in message.graph.input:
        for dim, size in zip(
            value.type.tensor_type.shape.dim, inputs[value.name].shape, strict=True
        ):
            dim.dim_value = size
    for value in message.graph.output:
        value.type.tensor_type.ClearField("shape")
    onnx.save(onnx.shape_inference.infer_shapes(message), foreign)
    return foreign, own


def _alternate(workers: list[Any], seconds: float) -> dict[str, Any]:
    import numpy as np

    blocks: dict[str, list[float]] = {worker.engine: [] for worker in workers}
    for round_ in range(_ROUNDS + 1):
        for worker in workers:
            times = worker.block(seconds)
            if round_:  # the first is the warm-up
                blocks[worker.engine].append(statistics.median(times))
    facts: dict[str, Any] = {}
    ours = next((worker for worker in workers if worker.engine == "nnconv"), None)
    for worker in workers:
        found = {
            "ms": 1e3 * statistics.median(blocks[worker.engine]), "peak_bytes": worker.peak_bytes,
            "first_result_seconds": worker.first_result_seconds,
        }  # fmt: skip
        if ours is not None and worker is not ours:
            pairs = zip(blocks[worker.engine], blocks["nnconv"], strict=True)
            ratios = sorted(theirs / mine for theirs, mine in pairs)
            mine, theirs = ours.result(), worker.result()
            difference = np.abs(theirs.reshape(mine.shape) - mine).max() / np.abs(mine).max()
            found |= {"lead": statistics.median(ratios), "lead_least": ratios[0],
                      "lead_most": ratios[-1], "difference": float(difference)}  # fmt: skip
        facts[worker.engine] = found
    return facts


def print_facts(facts: dict[str, Any]) -> None:
    from nnconv.cli.output import print_table, size, table

    latency = ", ".join(f"{name} {ms:.3f}" for name, ms in facts["latency_ms"].items())
    click.echo(f"latency in ms: {latency} ({facts['runs']} runs, load {facts['load']})")
    limit = facts["limit_gflops"]
    share = f", {facts['gflops'] / limit:.0%} of this machine's {limit:.0f}" if limit else ""
    click.echo(
        f"{facts['samples_per_second']:.1f} samples/s, {facts['gflops']:.1f} GFLOP/s{share}; "
        f"compiled in {facts['compile_ms']:.0f} ms, {size(facts['arena_bytes'])} for results"
    )
    if facts["plan"]:
        click.echo(
            ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in facts["plan"].items())
        )
    if "ceilings" in facts:
        best = facts["ceilings"]
        operations, moved = best["operations"] / 1e9, best["bytes"] / 1e9
        click.echo(f"the device's limits, measured: {operations:.0f} GFLOP/s, {moved:.1f} GB/s")
    print_table(table(*_step_rows(facts["steps"])))
    for name, found in facts.get("peers", {}).items():
        click.echo(_peer_line(name, found))


def _step_rows(steps: list[dict[str, Any]]) -> tuple[list[str], list[tuple[str, ...]]]:
    """The table of steps: its head, and a row each."""
    head = ["result", ">shape", "kernel", ">ms", ">GFLOP/s", ">GB/s", ">share"]
    rows: list[tuple[str, ...]] = [
        (s["result"], "x".join(s["shape"]), s["kernel"], f"{s['ms']:.3f}", f"{s['gflops']:.1f}",
         f"{s['gigabytes_per_second']:.1f}", f"{s['share']:.1%}")
        for s in steps
    ]  # fmt: skip
    if steps and "of_limit" in steps[0]:
        head.append(">of limit")
        rows = [(*row, f"{s['of_limit']:.0%}") for row, s in zip(rows, steps, strict=True)]
    return head, rows


def _peer_line(name: str, found: dict[str, Any]) -> str:
    if "error" in found:
        return f"{name}: cannot run it ({found['error']})"
    line = f"{name}: {found['ms']:.3f} ms"
    if "lead" in found:
        line += (
            f", nnconv is {found['lead']:.2f}x as fast ({found['lead_least']:.2f} to "
            f"{found['lead_most']:.2f}), outputs differ by {found['difference']:.1e}"
        )
    return line
