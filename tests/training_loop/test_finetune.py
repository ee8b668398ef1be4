"""Fine-tuning as users meet it: heads, freezing, resuming, and what is said when it goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nnconv
from nnconv.api.finetune import Session, Settings, prepare, reopen
from nnconv.converter.checkpoint.protobuf import read_pb
from nnconv.runtime import data
from nnconv.runtime.training.metrics import Lap, Record, read_metrics
from nnconv.schemas.errors import InputError, MismatchError
from nnconv.schemas.graph import Model
from tests.cli.support import CommandLine
from tests.places import shared
from tests.training_loop.nets import clusters, tiny_net, two_headed_net

pytestmark = pytest.mark.usefixtures("reference")


def weights(model: Model) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in model.weights.items()}


def test_training_learns_and_leaves_the_given_model_alone() -> None:
    model = tiny_net()
    before = weights(model)
    done = nnconv.finetune(model, clusters(), epochs=20, batch=8, lr=0.01)
    untrained, trained = (
        nnconv.evaluate(each, clusters(300, seed=9)) for each in (model, done.model)
    )
    assert untrained.accuracy is not None
    assert trained.accuracy is not None
    assert untrained.accuracy < 0.7 < 0.9 < trained.accuracy
    assert trained.loss < untrained.loss / 3
    assert all((model.weights[name] == array).all() for name, array in before.items())


def test_a_run_is_decided_by_its_seed() -> None:
    runs = [
        weights(nnconv.finetune(tiny_net(), clusters(), epochs=2, batch=8, seed=seed).model)
        for seed in (1, 1, 2)
    ]
    assert all((runs[0][name] == runs[1][name]).all() for name in runs[0])
    assert any((runs[0][name] != runs[2][name]).any() for name in runs[0])


def test_frozen_layers_stay_and_are_free_again_in_the_result() -> None:
    model = tiny_net()
    done = nnconv.finetune(model, clusters(), epochs=2, freeze=("ip1",), lr=0.01)
    after = done.model
    assert (after.weights["ip1/0"] == model.weights["ip1/0"]).all()
    assert (after.weights["ip2/0"] != model.weights["ip2/0"]).any()
    kept = after.parameters["ip1/0"].parameter
    assert kept is not None
    assert kept.lr_mult == 1


def test_a_pattern_that_freezes_nothing_is_an_error_with_the_nearest_layer() -> None:
    with pytest.raises(InputError, match=r"--freeze ip3.*\n.*did you mean 'ip[12]'"):
        nnconv.finetune(tiny_net(), clusters(), freeze=("ip3",))


def test_of_several_outputs_the_named_one_is_trained() -> None:
    settings: dict[str, Any] = {"epochs": 2, "batch": 8, "lr": 0.01, "val": 0}
    wanted = nnconv.finetune(tiny_net(dropout=False), clusters(), **settings)
    done = nnconv.finetune(two_headed_net(), clusters(), scores="prob", **settings)
    trained = weights(wanted.model)
    assert all((array == trained[name]).all() for name, array in weights(done.model).items())
    hidden = nnconv.finetune(
        two_headed_net(), clusters(), scores="ip1", loss="cross_entropy", **settings
    )
    assert (weights(hidden.model)["ip1/0"] != trained["ip1/0"]).any()
    assert (weights(hidden.model)["ip2/0"] == weights(tiny_net())["ip2/0"]).all()


def test_the_output_that_was_trained_can_be_judged() -> None:
    named, only = (
        nnconv.evaluate(net, clusters(), scores=scores)
        for net, scores in ((two_headed_net(), "prob"), (tiny_net(), None))
    )
    assert (named.loss, named.accuracy) == (only.loss, only.accuracy)


@pytest.mark.parametrize(
    ("scores", "message", "hint"),
    [
        (None, "the model has several outputs: which is trained?", "--scores prob (or ip1)"),
        ("prop", "--scores prop: no output is called so", "did you mean 'prob'?"),
        ("ip1", "'ip1' ends in Gemm: which loss is it?", "--loss cross_entropy"),
    ],
)
def test_without_the_right_name_of_an_output_nothing_is_trained(
    scores: str | None, message: str, hint: str
) -> None:
    net = two_headed_net()
    with pytest.raises(InputError) as refused:
        nnconv.finetune(net, clusters(), scores=scores, loss=None if scores else "cross_entropy")
    assert message in str(refused.value) and hint in refused.value.problems[0].hint


def test_a_new_head_has_fresh_weights_and_the_names_of_the_folders(tmp_path: Path) -> None:
    for index, name in enumerate(("cat", "dog", "eel", "fox")):
        (tmp_path / name).mkdir()
        Image.new("L", (28, 28), 60 * index).save(tmp_path / name / "1.png")
    lenet = nnconv.load("zoo:lenet")
    pictures = data.open_dataset(tmp_path)
    made = [prepare(lenet, pictures, Settings(seed=seed), head=0) for seed in (1, 1, 2)]
    assert made[0].labels == ("cat", "dog", "eel", "fox")
    fresh = [model.weights["ip2/0"] for model in made]
    assert fresh[0].shape == (4, 500)
    assert (fresh[0] == fresh[1]).all()
    assert (fresh[0] != fresh[2]).any()
    assert np.abs(fresh[0]).max() <= np.sqrt(3 / 500)  # xavier, as the prototxt says
    assert (made[0].weights["conv2/0"] == lenet.weights["conv2/0"]).all()
    assert lenet.weights["ip2/0"].shape == (10, 500)


@pytest.mark.parametrize("suffix", ["nnir", "caffemodel", "onnx"])
def test_a_model_with_a_new_head_goes_out_in_any_format(tmp_path: Path, suffix: str) -> None:
    digits = data.arrays(data=np.zeros((6, 1, 28, 28), np.float32), label=[0, 1, 2] * 2)
    file = tmp_path / f"new.{suffix}"
    done = nnconv.finetune("zoo:lenet", digits, file, head=3, epochs=1, batch=3, val=0)
    x = np.random.default_rng(0).random((2, 1, 28, 28), np.float32)
    expected, got = (nnconv.compile(m).run({"data": x})["prob"] for m in (done.model, file))
    assert got.shape == (2, 3)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_labels_beyond_the_models_classes_are_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match=r"the model tells 3 classes apart\n.*--replace-head 5"):
        nnconv.finetune(tiny_net(), data.arrays(data=np.zeros((5, 6)), label=np.arange(5)))


def test_folders_named_as_the_models_classes_are_matched_by_name(repository: Path) -> None:
    """In the order of the alphabet "seven" is class 0; the model says it is class 7."""
    digits = nnconv.zoo.find("lenet").pictures
    assert digits is not None
    folder = data.PictureFolder(
        "digits", [digits / "seven.png", digits / "two.png"], np.array([0, 1]), ("seven", "two")
    )
    found = nnconv.evaluate("zoo:lenet", folder)
    assert found.accuracy == 1.0
    assert found.confusion is not None
    assert np.argwhere(found.confusion).tolist() == [[2, 2], [7, 7]]


def test_regression_on_a_table(tmp_path: Path) -> None:
    x = np.random.default_rng(2).normal(0, 1, (200, 6)).astype(np.float32)
    y = (x @ np.arange(6))[:, None].astype(np.float32)
    done = nnconv.finetune(
        tiny_net(dropout=False), data.arrays(data=x, label=np.hstack([y, -y, 0 * y])),
        loss="euclidean", epochs=1, batch=20, val=0.2, head=None,
    )  # fmt: skip
    assert done.validation is not None
    assert done.validation.accuracy is None
    assert np.isfinite(done.validation.loss)


# --- resuming -------------------------------------------------------------------------------------


def settings(**changed: object) -> Settings:
    plain = {"epochs": 4, "batch": 8, "val": 0.2, "seed": 3, "every": 5, "report": 3}
    return Settings(**{**plain, **changed})  # type: ignore[arg-type]


def begun(folder: Path, **changed: object) -> Session:
    session = Session(tiny_net(), clusters(), settings(**changed), folder)
    session.begin()
    return session


class StopAt:
    def __init__(self, session: Session, iteration: int) -> None:
        self.session, self.iteration = session, iteration

    def saw(self, record: Record) -> None:
        if record.iteration >= self.iteration:
            self.session.stop()


@pytest.mark.parametrize("iter_size", [1, 2])
@pytest.mark.parametrize("solver", ["sgd", "adamw"])
def test_stopped_and_resumed_is_the_unbroken_run(
    tmp_path: Path, solver: str, iter_size: int
) -> None:
    options = {"solver": solver, "solver_settings": {"lr": 0.01, "iter_size": iter_size}}
    whole = begun(tmp_path / "whole", **options).train()
    broken = begun(tmp_path / "broken", **options)
    stopped = broken.train([StopAt(broken, 6)])
    assert (stopped.outcome.finished, stopped.outcome.iteration) == (False, 6)
    resumed = reopen(tmp_path / "broken", clusters()).train()
    before, after = weights(whole.model), weights(resumed.model)
    assert all((before[name] == after[name]).all() for name in before)


def test_a_checkpoint_holds_all_that_a_run_is(tmp_path: Path) -> None:
    begun(tmp_path / "run").train()
    found = read_pb(tmp_path / "run" / "checkpoint.pb")
    assert found.iteration == 36
    assert set(found.parameters) == {"ip1/0", "ip1/1", "ip2/0", "ip2/1"}
    assert {slot: set(held) for slot, held in found.optimizer.items()} == {
        "history0": set(found.parameters), "history1": set(found.parameters)
    }  # fmt: skip
    assert found.metadata["solver"] == "Adam"


def test_an_unfinished_run_is_not_overwritten(tmp_path: Path) -> None:
    session = begun(tmp_path / "run")
    session.train([StopAt(session, 6)])
    with pytest.raises(InputError, match=r"at iteration 6 of 36\n.*--resume .*run goes on"):
        begun(tmp_path / "run")


def swap(folder: Path, **changed: object) -> None:
    """Other settings under a checkpoint."""
    file = folder / "run.json"
    facts = json.loads(file.read_text())
    facts["settings"] |= changed
    file.write_text(json.dumps(facts))


def test_resuming_with_another_solver_is_refused(tmp_path: Path) -> None:
    begun(tmp_path / "run").train()
    swap(tmp_path / "run", solver="sgd")
    with pytest.raises(InputError, match="made with Adam, this run uses SGD"):
        reopen(tmp_path / "run", clusters())


def test_resuming_with_another_net_says_where_shapes_differ(tmp_path: Path) -> None:
    session = begun(tmp_path / "run")
    session.train()
    other = prepare(tiny_net(), clusters(), settings(), head=5)
    nnconv.save(other, tmp_path / "run" / "model.nnir")
    with pytest.raises(InputError) as caught:
        reopen(tmp_path / "run", clusters())
    assert "layer ip2, blob 0: file 3x8, net 5x8" in str(caught.value)
    assert "layer ip2, blob 1: file 3, net 5" in str(caught.value)
    assert "history1 ip2/1: file 3, net 5" in str(caught.value)


def test_resuming_with_other_data_is_refused(tmp_path: Path) -> None:
    begun(tmp_path / "run").train()
    with pytest.raises(InputError, match="begun with 72 samples, the data now has 40"):
        reopen(tmp_path / "run", clusters(50))


WRONG_FILES = {
    "net.caffemodel": (b"\x0a\x03net", "Caffe weights, not a checkpoint"),
    "net.onnx": (b"\x08\x0a", "an ONNX model, not a checkpoint"),
    "net.nnir": (b"\x0a\x04nnir", "an nnconv model, not a checkpoint"),
    "a.solverstate": (b"\x08\x64", "the state of a Caffe solver"),
    "a.npz": (b"PK\x03\x04", "a numpy archive"),
    "noise": (b"\xff" * 20, "no file that nnconv knows"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_resume_says_what_it_was_given_instead(tmp_path: Path, name: str) -> None:
    content, message = WRONG_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        reopen(tmp_path / name)


NO_PATH = '{"version": 1, "iterations": 1, "samples": 90, "settings": {"freeze": [], "output": 5}}'


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"settings": 3}', "[" * 100_000, NO_PATH])
def test_damaged_settings_are_an_input_error(tmp_path: Path, text: str) -> None:
    begun(tmp_path / "run").train()
    (tmp_path / "run" / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json: these are no settings"):
        reopen(tmp_path / "run", clusters())


# --- divergence -----------------------------------------------------------------------------------


def test_training_stops_at_the_first_bad_value_and_keeps_the_last_good_state(
    tmp_path: Path,
) -> None:
    points = clusters()
    poisoned = points.held["data"].copy()
    poisoned[17] = np.inf
    bad = data.arrays(data=poisoned, label=points.held["label"])
    session = Session(tiny_net(), bad, settings(val=0.0), tmp_path / "run")
    session.begin()
    with pytest.raises(MismatchError, match=r"iteration \d+: .*(ip1|data)") as caught:
        session.train()
    found = read_pb(tmp_path / "run" / "checkpoint.pb")
    assert f"iteration {found.iteration}: " in str(caught.value)
    assert f"the checkpoint of iteration {found.iteration} is kept" in str(caught.value)
    assert "the rate was 0.001" in str(caught.value) or "try a tenth" in str(caught.value)
    assert all(np.isfinite(array).all() for array in found.parameters.values())


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def points(in_folder: Path) -> Path:
    held = clusters().held
    np.savez(in_folder / "points.npz", x=held["data"], y=held["label"])
    nnconv.save(tiny_net(), in_folder / "tiny.nnir")
    return in_folder


def test_finetune_test_and_plot_work_together(command_line: CommandLine, points: Path) -> None:
    options = ("--epochs", 10, "--batch", 8, "--lr", 0.01, "--report", 10, "-o", "out.nnir")
    done = command_line("finetune", "tiny.nnir", "--data", "points.npz", *options)
    assert done.code == 0
    assert done.out.startswith("out.nnir: validation loss ")
    lines = done.err.splitlines()
    assert lines[0].startswith("iteration  10/101  epoch 0.99  loss ")
    measured = command_line("test", "out.nnir", "--data", "points.npz", "--json").json
    assert measured["samples"] == 90
    assert [sum(row) for row in measured["confusion"]] == [30, 30, 30]
    right = sum(measured["confusion"][i][i] for i in range(3))
    assert measured["accuracy"] == pytest.approx(right / 90)
    shown = command_line("test", "out.nnir", "--data", "points.npz").out
    assert f"accuracy {right / 90:.2%}" in shown
    assert command_line("plot", "out.run").out.startswith("loss: training ")


@pytest.mark.parametrize("said", [(), ("-o", "third/said.nnir")], ids=["as-begun", "said-anew"])
def test_a_resumed_run_writes_where_the_command_line_said(
    command_line: CommandLine, points: Path, said: tuple[str, ...]
) -> None:
    for name in ("first", "second", "third"):
        (points / name).mkdir()
    options = ("--run", "second/kept", "--epochs", 1, "-q", "-o", "first/out.nnir")
    command_line("finetune", "tiny.nnir", "--data", "points.npz", *options)
    (points / "first/out.nnir").unlink()
    done = command_line("finetune", "--resume", "second/kept", *said)
    wanted = said[1] if said else "first/out.nnir"
    assert (done.code, done.out) == (0, f"{wanted}\n")
    assert [str(path.relative_to(points)) for path in points.glob("*/*.nnir")] == [wanted]


def test_a_resumed_run_refuses_a_bad_output_before_it_trains(
    command_line: CommandLine, points: Path
) -> None:
    options = ("--epochs", 1, "-q", "-o", "out.nnir")
    command_line("finetune", "tiny.nnir", "--data", "points.npz", *options)
    for output, why in (("out.xyz", "does not write this format"), ("points.npz", "overwrite")):
        done = command_line("finetune", "--resume", "out.run", "-o", output)
        assert (done.code, why in done.err) == (2, True), done.err


def test_a_run_that_was_moved_with_its_model_writes_there(
    command_line: CommandLine, points: Path
) -> None:
    (points / "old").mkdir()
    options = ("--epochs", 1, "-q", "-o", "old/out.nnir")
    command_line("finetune", "tiny.nnir", "--data", "points.npz", *options)
    (points / "old").rename(points / "new")
    done = command_line("finetune", "--resume", "new/out.run")
    assert (done.code, done.out) == (0, "new/out.nnir\n")


def test_json_says_how_it_came_out(command_line: CommandLine, points: Path) -> None:
    options = ("--epochs", 1, "-o", "out.nnir", "-q", "--json")
    done = command_line("finetune", "tiny.nnir", "--data", "points.npz", *options)
    assert done.err == ""
    assert (done.json["finished"], done.json["output"]) == (True, "out.nnir")
    assert done.json["validation"]["samples"] == 9


BAD_LINES = {
    "no data": (["tiny.nnir", "-o", "a.nnir"], "--data DATA is missing"),
    "unknown solver": (["--solver", "adma"], "did you mean 'Adam'"),
    "unknown setting": (["--set", "momentun=1"], "did you mean 'momentum"),
    "no value": (["--set", "momentum"], "this is not NAME=VALUE"),
    "head": (["--replace-head", "0"], "give a number of outputs, or auto"),
    "auto without names": (["--replace-head", "auto"], "does not say how many classes"),
    "unknown loss": (["--loss", "crossentropy"], "did you mean 'cross_entropy'"),
    "epochs": (["--epochs", "0"], "epochs must be more than 0"),
    "val": (["--val", "1"], "must be in [0, 1)"),
    "jitter": (["--jitter", "2"], "only folders of pictures"),
    "output": (["-o", "out.xyz"], "does not write this format"),
    "over the input": (["-o", "tiny.nnir"], "overwrite"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_command_lines_are_explained_and_leave_nothing(
    command_line: CommandLine, points: Path, name: str
) -> None:
    words, message = BAD_LINES[name]
    if "-o" not in words:
        words = [*words, "-o", "out.nnir"]
    if "tiny.nnir" not in words[:1]:
        words = ["tiny.nnir", "--data", "points.npz", *words]
    before = sorted(path.name for path in points.iterdir())
    done = command_line("finetune", *words)
    assert (done.code, message in done.err) == (2, True), done.err
    assert sorted(path.name for path in points.iterdir()) == before


def test_mnist_is_measured_as_the_shipped_model_was(command_line: CommandLine) -> None:
    found = command_line(
        "test", "zoo:lenet", "--data", shared("data", "mnist"), "--device", "cpu", "--json"
    ).json
    assert found["samples"] == 10_000
    assert found["accuracy"] > 0.985
    assert found["top"]["5"] > 0.999
    assert sum(map(sum, found["confusion"])) == 10_000
    assert {c["class"]: c["samples"] for c in found["classes"]}["seven"] == 1028


# --- figures --------------------------------------------------------------------------------------


def test_the_figures_of_a_run_are_those_that_watchers_saw(tmp_path: Path) -> None:
    seen: list[Record] = []

    class Keeps:
        def saw(self, record: Record) -> None:
            seen.append(record)

    begun(tmp_path / "run").train([Keeps()])
    found = read_metrics(tmp_path / "run")
    assert [(r["kind"], r["iteration"], r["loss"]) for r in found] == [
        (record.kind, record.iteration, record.loss) for record in seen
    ]
    laps = [record for record in seen if isinstance(record, Lap)]
    assert [lap.iteration for lap in laps] == list(range(3, 37, 3))
    assert laps[-1].epoch == pytest.approx(4.0)
