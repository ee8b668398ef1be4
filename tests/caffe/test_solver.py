"""Solver files: what they say, against protobuf's own parser; what Caffe refuses; runs by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

import nnconv
from nnconv.api.solver import load_net
from nnconv.converter.caffe.schema import dialect
from nnconv.converter.caffe.solver import read_solver
from nnconv.runtime.training.metrics import read_metrics
from nnconv.schemas.errors import InputError, Report
from tests.cli.support import CommandLine
from tests.places import shared

FILES = sorted(shared("golden", "train").glob("*.solver.prototxt"))
ENUM = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
SAME = ("momentum", "momentum2", "delta", "rms_decay", "weight_decay", "clip_gradients",
        "iter_size", "max_iter")  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.partition(".")[0])
def test_every_recorded_solver_is_read_as_protobuf_reads_it(path: Path) -> None:
    wanted: Any = dialect().new("SolverParameter")
    text_format.Parse(path.read_text("utf-8"), wanted)
    found = read_solver(path)
    spec, schedule = found.spec, found.spec.schedule
    old = wanted.HasField("solver_type")
    assert spec.solver == (ENUM[wanted.solver_type] if old else wanted.type)
    assert [getattr(spec, name) for name in SAME] == [getattr(wanted, name) for name in SAME]
    assert spec.regularization == wanted.regularization_type
    assert (schedule.policy, schedule.base_lr) == (wanted.lr_policy, wanted.base_lr)
    assert (schedule.gamma, schedule.power) == (wanted.gamma, wanted.power)
    assert (schedule.stepsize, list(schedule.stepvalue)) == (
        wanted.stepsize, list(wanted.stepvalue)
    )  # fmt: skip
    assert found.net == wanted.net


USUAL = 'net: "n.prototxt" base_lr: 0.1 lr_policy: "fixed" '
REFUSED = {
    "two nets": (USUAL + '\ntrain_net: "m"', r"s:2:1: the solver has net and train_net"),
    "type twice": (USUAL + '\ntype: "SGD"\nsolver_type: SGD', r"s:3:1: .*both `solver_type`"),
    "unknown type": (
        USUAL + '\ntype: "Adem"',
        r"s:2:1: solver 'Adem'[^?]*did you mean 'Adam'",
    ),
    "no policy": ("base_lr: 1", "the solver has no lr_policy"),
    "no rate": ('lr_policy: "fixed"', "the solver has no base_lr"),
    "unknown policy": ('base_lr: 1\nlr_policy: "stp"', r"s:2:1: lr_policy 'stp' is not known"),
    "no stepsize": ('base_lr: 1 gamma: 1\nlr_policy: "step"', "step needs a stepsize above 0"),
    "gamma": ('base_lr: 1 lr_policy: "exp"\ngamma: -1', r"s:2:1: gamma must be 0 or more"),
    "poly": ('base_lr: 1 lr_policy: "poly"', "poly needs max_iter"),
    "momentum": (USUAL + 'momentum: 0.9\ntype: "RMSProp"', "RMSProp takes no momentum"),
    "decay": (USUAL + 'type: "RMSProp"\nrms_decay: 1', r"s:2:1: rms_decay must be"),
    "passes": (USUAL + "\niter_size: 0", r"s:2:1: iter_size must be 1 or more"),
    "regularization": (USUAL + '\nregularization_type: "L3"', r"s:2:1: regularization_type 'L3'"),
    "text": (USUAL + "momentum: x", "momentum"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_caffe_refuses_is_refused_at_its_place(tmp_path: Path, name: str) -> None:
    text, message = REFUSED[name]
    path = tmp_path / "s"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_solver(path)


def test_recorded_verdicts_on_old_solvers_are_ours() -> None:
    index = json.loads(shared("golden", "legacy", "index.json").read_text())["cases"]
    old = [case for case in index if case["kind"] == "solver_text"]
    assert old
    for case in old:
        text = shared("golden", "legacy", case["input"]).read_bytes()
        found = None
        if case["verdict"] != "ok":
            with pytest.raises(InputError):
                read_solver(text)
            continue
        wanted: Any = dialect().new("SolverParameter")
        wanted.ParseFromString(shared("golden", "legacy", case["output"]).read_bytes())
        if wanted.lr_policy and wanted.HasField("base_lr"):
            found = read_solver(text).spec
            assert found.solver == wanted.type, case["name"]


def test_what_is_not_obeyed_is_named_with_what_happens_instead() -> None:
    report = Report("s")
    found = read_solver(
        (USUAL + "test_iter: 10 test_interval: 500 display: 7 snapshot: 9 solver_mode: GPU "
         'weights: "a,b" weights: "c" train_state { level: 2 stage: "x" }').encode(),
        report=report,
    )  # fmt: skip
    said = [problem.message for problem in report]
    assert [text.partition(" ")[0] for text in said] == [
        "test_iter", "test_interval", "solver_mode"
    ]  # fmt: skip
    assert (found.display, found.snapshot, found.weights) == (7, 9, ("a", "b", "c"))
    assert (found.level, found.stages) == (2, ("x",))


NET = """
name: "line"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 5 dim: 4 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 5 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture
def nnconv_line(capsys: pytest.CaptureFixture[str], in_folder: Path) -> CommandLine:
    random = np.random.default_rng(0)
    np.savez("d.npz", x=random.standard_normal((40, 4), np.float32), y=np.arange(40) % 3)
    Path("nets").mkdir()
    Path("nets/n.prototxt").write_text(NET)
    Path("nets/s.prototxt").write_text(
        'net: "n.prototxt" base_lr: 0.2 lr_policy: "step" gamma: 0.5 stepsize: 4 momentum: 0.9\n'
        "max_iter: 12 display: 3 solver_type: NESTEROV random_seed: 7 test_interval: 3 test_iter: 1"
    )
    return CommandLine(capsys)


def test_finetune_trains_the_net_of_a_solver_as_it_says(nnconv_line: CommandLine) -> None:
    options = ("--data", "d.npz", "--batch", 5, "--val", 0, "-o", "o.caffemodel")
    done = nnconv_line("finetune", "--solver-file", "nets/s.prototxt", *options)
    assert done.code == 0, done.err
    assert "test_interval is not obeyed" in done.err
    settings = json.loads(Path("o.run/run.json").read_text())
    assert settings["iterations"] == 12
    assert settings["settings"]["solver"] == "Nesterov"
    assert settings["settings"]["seed"] == 7
    laps = read_metrics(Path("o.run"))
    assert [lap["iteration"] for lap in laps] == [3, 6, 9, 12]
    # of the last update before each report
    assert [lap["lr"] for lap in laps] == pytest.approx([0.2, 0.1, 0.05, 0.05])
    assert nnconv.load(Path("nets/n.prototxt"), "o.caffemodel").weights["ip/0"].shape == (3, 4)


def test_caffes_own_lenet_solver_trains_on_mnist(nnconv_line: CommandLine) -> None:
    """Its net has Data layers, which find out sizes from the data."""
    folder = Path("examples/mnist")
    folder.mkdir(parents=True)
    for name, place in (("lenet_solver", Path()), ("lenet_train_test", folder)):
        text = shared("models", "prototxt_only", f"{name}.prototxt").read_bytes()
        (place / f"{name}.prototxt").write_bytes(text)
    options = ("--data", shared("data", "mnist"), "--iterations", 2, "-o", "o.caffemodel")
    done = nnconv_line(
        "finetune", "--solver-file", "lenet_solver.prototxt", "--batch", 64, *options
    )
    assert done.code == 0, done.err
    settings = json.loads(Path("o.run/run.json").read_text())["settings"]["solver_settings"]
    assert (settings["base_lr"], settings["policy"]) == (pytest.approx(0.01), "inv")
    assert settings["momentum"] == pytest.approx(0.9)
    trained = nnconv.load("o.caffemodel", phase="train")  # as Caffe's snapshots: the training net
    assert trained.weights["conv1/0"].shape == (20, 1, 5, 5)


def test_the_command_line_has_the_last_word(nnconv_line: CommandLine) -> None:
    options = ("--data", "d.npz", "--val", 0, "-o", "o.nnir", "--lr", 0.5, "--set", "stepsize=2")
    done = nnconv_line(
        "finetune", "nets/n.prototxt", "--solver-file", "nets/s.prototxt", *options,
        "--iterations", 4, "--report", 1, "--seed", 3,
    )  # fmt: skip
    assert done.code == 0, done.err
    laps = read_metrics(Path("o.run"))
    assert [lap["lr"] for lap in laps] == pytest.approx([0.5, 0.5, 0.25, 0.25])
    assert json.loads(Path("o.run/run.json").read_text())["settings"]["seed"] == 3


def test_the_trainer_takes_what_the_file_says(nnconv_line: CommandLine) -> None:
    solver = read_solver("nets/s.prototxt")
    model = load_net(solver)
    with np.load("d.npz") as held:
        batch = {"data": held["x"][:5], "label": held["y"][:5].astype(np.float32)}
    from nnconv.runtime.training.fillers import fill_parameters

    fill_parameters(model.graph, seed=1)
    trainer = nnconv.Trainer(model, solver=solver.spec, device="reference")
    losses = trainer.fit([batch] * 20)
    assert len(losses) == 12  # max_iter
    assert losses[-1] < losses[0]


def test_a_solver_without_a_net_needs_a_model(nnconv_line: CommandLine) -> None:
    Path("s").write_text('base_lr: 0.1 lr_policy: "fixed" max_iter: 3')
    done = nnconv_line("finetune", "--solver-file", "s", "--data", "d.npz", "-o", "o.nnir")
    assert (done.code, "s: the solver names no net" in done.err) == (2, True)
    assert not Path("o.run").exists()


def test_mutated_files_give_clean_errors_or_content() -> None:
    whole = FILES[0].read_bytes()
    random = np.random.default_rng(4)
    refused = 0
    for _ in range(400):
        text = bytearray(whole)
        for place in random.integers(0, len(text), random.integers(1, 4)):
            text[place] = random.integers(0, 256)
        cut = int(random.integers(0, len(text))) if random.random() < 0.3 else len(text)
        try:
            read_solver(bytes(text[:cut]))
        except InputError:
            refused += 1
    assert 100 < refused < 400
