"""How fast are whole nets, against ONNX Runtime, OpenVINO and OpenCV on the same weights?

    python benchmarks/inference.py [--nets resnet50,vgg19] [--batches 1,8] [--threads 2]

Every engine lives in a process of its own with the same number of threads on the same cores; blocks
of runs alternate (A B C A B C ...), each at least --seconds long. Reported are medians of block
medians, and the ratio to each peer pair by pair with its spread. Nets are golden/nets with recipe
weights; peers read the ONNX file that nnconv writes. All outputs are compared first: an engine that
is fast and wrong is a failure. The table and the JSON go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

# numpy's BLAS threads keep spinning after use and would disturb whoever runs next
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY)]
import common  # noqa: E402

from nnconv.cli.peers import ENGINES, Worker  # noqa: E402

SIZES = {
    "alexnet": 227, "googlenet": 224, "squeezenet_v11": 227, "resnet50": 224, "vgg19": 224,
    "mobilenet_v1": 224, "mobilenet_v2": 224,
}  # fmt: skip
GOALS = {"resnet50": 1.15, "vgg19": 1.5}
GOAL = 1.05
TOLERANCE = 1e-3  # of the largest output, between engines; nnconv's own tests are stricter


# -- nets and inputs


def picture(name: str, batch: int) -> Any:
    size = SIZES[name]
    random = np.random.default_rng(batch)
    return random.standard_normal((batch, 3, size, size)).astype(np.float32) * 50


def recipe_model(name: str) -> Any:
    """A net of golden/nets with the weights of its recipe; VGG-19 is VGG-16 and three layers
    more.
    """
    from nnconv.converter.caffe.reader import import_caffe
    from tests.golden.harness import cases, recipe_parameter, set_parameters

    source = "vgg16" if name == "vgg19" else name
    case = next(case for case in cases("nets") if case.name == source)
    if name == "vgg19":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vgg19.prototxt"
            path.write_text(_vgg19(case.prototxt.read_text("utf-8")), "utf-8")
            model = import_caffe(path, phase="test")
    else:
        model = import_caffe(case.prototxt, phase="test")
    kinds = {record.name: record.type for record in model.graph.layers}
    filled = {}
    for key, value in model.graph.parameters.items():
        layer, _, index = key.rpartition("/")
        shape = tuple(int(str(dim)) for dim in value.known_shape)
        gain, bias = case.entry["gain"].get(layer, 1), case.entry["bias_scale"]
        text = f"nnconv/{source}/{key}"
        filled[key] = recipe_parameter(kinds[layer], text, int(index), shape, gain, bias)
    set_parameters(model, filled)
    return model


def _vgg19(vgg16: str) -> str:
    """A fourth convolution, as wide as the third, before the pools 3, 4 and 5."""
    for stage, width in ((3, 256), (4, 512), (5, 512)):
        blob = f"conv{stage}_3"
        more = (
            f'layer {{ name: "conv{stage}_4" type: "Convolution" bottom: "{blob}" '
            f'top: "conv{stage}_4" '
            f"convolution_param {{ num_output: {width} pad: 1 kernel_size: 3 }} }}\n"
            f'layer {{ name: "relu{stage}_4" type: "ReLU" bottom: "conv{stage}_4" '
            f'top: "conv{stage}_4" }}\n'
        )
        start = vgg16.rindex("layer", 0, vgg16.index(f'name: "pool{stage}"'))
        pool, rest = vgg16[start:].split("}", 1)
        pool = pool.replace(f'bottom: "{blob}"', f'bottom: "conv{stage}_4"')
        vgg16 = vgg16[:start] + more + pool + "}" + rest
    return vgg16


def write_files(name: str, batch: int, path: Path) -> None:
    """The net as nnconv reads it (.nnir), and as the peers do, with fixed sizes (.onnx)."""
    import onnx

    import nnconv
    from nnconv.converter.onnx.writer import export_onnx

    net = recipe_model(name)
    nnconv.save(net, path.with_suffix(".nnir"))
    export_onnx(net, path)
    model = onnx.load(path)
    for dim, size in zip(
        model.graph.input[0].type.tensor_type.shape.dim, picture(name, batch).shape, strict=True
    ):
        dim.dim_value = size
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    onnx.save(onnx.shape_inference.infer_shapes(model), path)


# -- comparing


def compare(name: str, batch: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One net at one batch size: every engine's time, and nnconv's lead."""
    file, x = folder / f"{name}-{batch}.onnx", folder / "input.npy"
    write_files(name, batch, file)
    np.save(x, picture(name, batch))
    os.sched_setaffinity(
        0, sorted(os.sched_getaffinity(0))[: options.threads]
    )  # workers inherit it
    workers, failed = [], {}
    for engine in ENGINES:
        try:
            source = file.with_suffix(".nnir") if engine == "nnconv" else file
            workers.append(Worker(engine, source, x, options.threads))
        except RuntimeError as error:
            failed[engine] = str(error)
    blocks: dict[str, list[float]] = {worker.engine: [] for worker in workers}
    try:
        for round_ in range(options.rounds + 1):
            for worker in workers:
                times = worker.block(options.seconds)
                if round_:  # the first is the warm-up
                    blocks[worker.engine].append(statistics.median(times))
    finally:
        for worker in workers:
            worker.close()
    file.unlink()
    file.with_suffix(".nnir").unlink()
    return {
        "net": name, "batch": batch, "goal": GOALS.get(name, GOAL), "failed": failed,
        "load": round(os.getloadavg()[0], 2),
        "milliseconds": {e: round(1e3 * statistics.median(b), 3) for e, b in blocks.items()},
        "peak_bytes": {w.engine: w.peak_bytes for w in workers},
        "lead": {e: common.ratios(b, blocks["nnconv"]) for e, b in blocks.items() if e != "nnconv"},
        "differences": _differences(f"{name}, batch {batch}", workers),
    }  # fmt: skip


def _differences(what: str, workers: list[Worker]) -> dict[str, float]:
    """Largest difference to nnconv's result over the largest output; refuses a wrong engine."""
    ours = next(worker.result() for worker in workers if worker.engine == "nnconv")
    found = {}
    for worker in workers:
        theirs = worker.result().reshape(ours.shape)
        found[worker.engine] = float(np.abs(ours - theirs).max() / np.abs(ours).max())
        if not found[worker.engine] <= TOLERANCE:
            raise RuntimeError(f"{what}: {worker.engine} differs by {found[worker.engine]:.1e}")
    return found


def row(found: dict[str, Any]) -> str:
    cells = [f"{found['net']}, batch {found['batch']}"]
    for engine in ENGINES:
        time_ = found["milliseconds"].get(engine)
        text = "-" if time_ is None else f"{time_:.2f}"
        if engine in found["lead"]:
            lead = found["lead"][engine]
            text += f" ({lead['median']:.2f}x, {lead['least']:.2f}-{lead['most']:.2f})"
        cells.append(text)
    best = min(lead["median"] for lead in found["lead"].values())
    return "| " + " | ".join([*cells, f"{best:.2f} (goal {found['goal']})"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default=",".join(SIZES))
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    batches = [int(batch) for batch in options.batches.split(",")]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.nets.split(","):
            for batch in batches:
                rows.append(compare(name, batch, options, Path(folder)))
                print(row(rows[-1]), flush=True)
    facts = {"conditions": common.conditions(), "threads": options.threads, "nets": rows}
    print(common.report("inference", facts))


if __name__ == "__main__":
    main()
