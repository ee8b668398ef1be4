"""What of training steps runs on the host: nothing, whether on processors or on graphics cards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nnconv.converter.caffe.layers import READERS
from nnconv.converter.caffe.reader import import_caffe
from nnconv.runtime.executor import compile_model
from nnconv.runtime.training.losses import add_loss
from nnconv.runtime.training.step import build_step
from nnconv.schemas.dims import evaluate_shape
from nnconv.schemas.graph import Model
from nnconv.schemas.training import TrainingSpec
from tests.cpu.planner import KINDS, Planner
from tests.golden.harness import Case
from tests.places import shared
from tests.training.golden import RUNS, Run, is_covered

COVERED = [case for case in RUNS if is_covered(case, READERS)]
SGD = TrainingSpec("SGD", momentum=0.9, weight_decay=5e-4)
NETS: dict[str, tuple[int, ...]] = {  # with pictures large enough for their pools and dense layers
    "alexnet_deploy": (2, 3, 227, 227),
    "googlenet_deploy": (2, 3, 224, 224),
    "squeezenet_v1.1_deploy": (2, 3, 64, 64),
    "vgg16_deploy": (2, 3, 224, 224),
    "resnet50_deploy": (2, 3, 224, 224),
    "mobilenet_v1_deploy": (2, 3, 64, 64),
    "mobilenet_v2_deploy": (2, 3, 64, 64),
}


def on_the_host(
    model: Model, spec: TrainingSpec, device: str, shapes: Callable[[str], tuple[int, ...]]
) -> list[str]:
    """Operators of a training step that reference kernels compute."""
    step = Model(graph=model.graph.copy())
    build_step(step.graph, spec)
    planner = Planner(device)
    executable = compile_model(step, device=planner, mode="train")
    executable.plan({port.name: shapes(port.name) for port in executable.inputs})
    return sorted(planner.host)


@pytest.mark.parametrize("device", KINDS)
@pytest.mark.parametrize("case", COVERED, ids=str)
def test_no_step_of_a_recorded_run_is_left_to_the_host(case: Case, device: str) -> None:
    run = Run(case)
    batch = run.batch(0)

    def shapes(name: str) -> tuple[int, ...]:
        return np.shape(batch[name]) if name in batch else ()

    found = on_the_host(run.model, run.spec, device, shapes)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("device", KINDS)
@pytest.mark.parametrize("net", NETS)
def test_no_step_of_a_published_net_is_left_to_the_host(
    net: str, device: str, tmp_path: Path
) -> None:
    text = shared("models", "prototxt_only", f"{net}.prototxt").read_text()
    narrow = tmp_path / f"{net}.prototxt"  # hundreds of megabytes less, the same operators
    narrow.write_text(text.replace("num_output: 4096", "num_output: 32"))
    model = import_caffe(narrow, phase="train")
    graph, size = model.graph, NETS[net]
    for value in graph.parameters.values():
        if value.data is None:
            sizes = evaluate_shape(value.known_shape, graph.sizes)
            value.data = np.zeros(sizes, np.float32)
    loss = add_loss(graph, "cross_entropy")
    label = loss.producer.required(1) if loss.producer is not None else loss

    def shapes(name: str) -> tuple[int, ...]:
        if name == label.name:
            return evaluate_shape(label.known_shape, dict.fromkeys(("N",), size[0]))
        return () if name.startswith("train:") else size

    found = on_the_host(model, SGD, device, shapes)
    assert not found, "\n".join(found)
