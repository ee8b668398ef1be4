"""The layer language: what each line makes, compared with numpy and ONNX Runtime, and every error
at its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnconv.converter.checkpoint.npz import write_npz
from nnconv.converter.yaml.layers import WORDS, parse_text
from nnconv.converter.yaml.reader import import_yaml
from nnconv.converter.yaml.sections import training_spec
from nnconv.schemas.checkpoint import Checkpoint
from nnconv.schemas.errors import InputError, NnconvError
from nnconv.schemas.graph import Model
from nnconv.schemas.operators import is_operator
from nnconv.schemas.validate import validate

LENET = b"""
name: lenet
input: {data: [N, 1, 28, 28], scale: 0.00390625}
layers:
  - conv1: conv 20 5x5
  - pool1: max 2x2 /2
  - conv2: conv 50 5x5
  - pool2: max 2x2 /2
  - ip1: dense 500
  - relu
  - ip2: {op: dense, units: 10, lr_mult: 2}
  - prob: softmax
loss: cross_entropy
solver: {type: sgd, lr: 0.01, momentum: 0.9, policy: inv, gamma: 0.0001, power: 0.75,
         weight_decay: 0.0005}
"""


def nodes(model: Model) -> list[str]:
    return [f"{node.op}->{node.outputs[0].name}" for node in model.graph.nodes]


def refused(text: str) -> str:
    with pytest.raises(NnconvError) as caught:
        import_yaml(text.encode())
    return str(caught.value)


def test_the_example_of_the_design_is_lenet() -> None:
    model = import_yaml(LENET)
    assert validate(model).ok
    shapes = {name: value.shape for name, value in model.parameters.items()}
    assert shapes == {
        "conv1/0": (20, 1, 5, 5), "conv1/1": (20,), "conv2/0": (50, 20, 5, 5), "conv2/1": (50,),
        "ip1/0": (500, 800), "ip1/1": (500,), "ip2/0": (10, 500), "ip2/1": (10,),
    }  # fmt: skip
    assert [value.name for value in model.outputs] == ["prob"]
    assert str(model.outputs[0].shape) == "(N, 10)"
    settings = {name: value.parameter for name, value in model.parameters.items()}
    assert [s.lr_mult for s in settings.values() if s] == [1, 1, 1, 1, 1, 1, 2, 2]
    assert model.preprocessing["data"].scale == 0.00390625


def test_the_solver_section_is_a_training_spec() -> None:
    spec = training_spec(import_yaml(LENET))
    assert spec is not None
    assert (spec.solver, spec.momentum, spec.weight_decay) == ("SGD", 0.9, 0.0005)
    assert (spec.schedule.base_lr, spec.schedule.policy, spec.schedule.power) == (0.01, "inv", 0.75)


def test_in_phase_train_the_loss_takes_what_stands_before_the_softmax() -> None:
    model = import_yaml(LENET, phase="train")
    (loss,) = model.graph.losses
    assert loss.value.producer is not None
    assert [v.name for v in loss.value.producer.inputs if v] == ["ip2", "label"]
    assert [v.name for v in model.inputs] == ["data", "label"]


def test_blocks_repeat_with_names_of_their_own() -> None:
    model = import_yaml(b"""
input: {x: [N, 8, 6, 6]}
layers:
  - stage:
      repeat: 2
      layers:
        - a: conv 8 3x3 pad 1 no_bias
        - relu
        - out: {op: add, inputs: [in, relu]}
  - last: {op: mul, inputs: [stage, x]}
""")
    assert nodes(model) == [
        "Conv->stage1/a", "Relu->stage1/relu", "Add->stage1/out",
        "Conv->stage2/a", "Relu->stage2/relu", "Add->stage2/out", "Mul->last",
    ]  # fmt: skip
    second = model.graph.values["stage2/out"].producer
    assert second is not None
    assert [v.name for v in second.inputs if v] == ["stage1/out", "stage2/relu"]


def _conv(x: Any, w: Any, stride: int, pad: int) -> Any:
    """Convolution by the definition, in double precision."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], w.astype(np.float64))


def test_words_compute_what_they_say(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    arrays = {
        "c/0": random.standard_normal((4, 2, 3, 3), np.float32),
        "c/1": random.standard_normal(4, np.float32),
        "d/0": random.standard_normal((5, 16), np.float32),
        "d/1": random.standard_normal(5, np.float32),
    }
    write_npz(Checkpoint(arrays), tmp_path / "w.npz")
    (tmp_path / "m.yaml").write_text("""
input: {x: [N, 2, 8, 8]}
layers: [{c: conv 4 3x3 /2 pad 1}, {r: leaky_relu 0.2}, {m: max 2x2 /2}, {d: dense 5},
         {p: softmax}]
weights: w.npz
""")
    from nnconv.runtime.executor import compile_model

    x = random.standard_normal((3, 2, 8, 8), np.float32)
    got = compile_model(import_yaml(tmp_path / "m.yaml"), device="reference").run({"x": x})["p"]
    y = _conv(x, arrays["c/0"], 2, 1) + arrays["c/1"][:, None, None]
    y = np.where(y > 0, y, 0.2 * y)
    y = y.reshape(3, 4, 2, 2, 2, 2).max(axis=(3, 5)).reshape(3, 16)
    y = y @ arrays["d/0"].T.astype(np.float64) + arrays["d/1"]
    wanted = np.exp(y - y.max(1, keepdims=True))
    np.testing.assert_allclose(got, wanted / wanted.sum(1, keepdims=True), atol=1e-6)


TEXTS = [
    ("conv 20 5x5", {"channels": 20, "kernel": (5, 5)}),
    ("conv 64 3x3 /2 pad 1 group 2 no_bias",
     {"channels": 64, "kernel": (3, 3), "stride": (2,), "pad": (1,), "group": 2, "bias": False}),
    ("conv 64 kernel 3 stride 2x1", {"channels": 64, "kernel": (3,), "stride": (2, 1)}),
    ("max 2x2 /2 ceil", {"kernel": (2, 2), "stride": (2,), "ceil": True}),
    ("dropout 0.3", {"ratio": 0.3}),
    ("softmax -1", {"axis": -1}),
    ("reshape 0,-1,4", {"shape": (0, -1, 4)}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "settings"), TEXTS)
def test_text_and_mapping_say_the_same(text: str, settings: dict[str, Any]) -> None:
    assert parse_text(text) == (text.split()[0], settings)
    body = "input: {x: [N, 8, 16, 16]}\nlayers:\n  - y: "
    said = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    flow = ", ".join(f"{key}: {str(value).lower()}" for key, value in said.items())
    left = import_yaml(f"{body}{text}\n".encode())
    right = import_yaml(f"{body}{{op: {text.split()[0]}, {flow}}}\n".encode())
    assert str(left) == str(right)


def test_no_word_hides_an_operator() -> None:
    assert [word for word in WORDS if is_operator(word)] == []


def test_any_operator_goes_by_its_own_name_with_its_attributes() -> None:
    model = import_yaml(b"""
inputs: {x: [N, 6], i: {shape: [N], type: int64}}
constants: {axes: [1], table: {type: float32, shape: [2, 3], value: [1, 2, 3, 4, 5, 6]}}
layers:
  - s: {op: Split, inputs: [x], outputs: [s, t], axis: 1, num_outputs: 2}
  - u: {op: ReduceSum, inputs: [t, axes], keepdims: 0}
  - g: {op: Gather, inputs: [table, i]}
  - c: {op: Clip, inputs: [s, null, null]}
  - Selu
outputs: [u, g, Selu]
""")
    assert validate(model).ok
    assert [str(v.shape) for v in model.outputs] == ["(N,)", "(N, 3)", "(N, 3)"]


X3 = "input: {x: [N, 3]}\n"
ERRORS = [
    ("layers: []\nnme: x", "2:1: a model has no key 'nme'", "did you mean 'name'"),
    ("input: {x: [N, 3]}", "a model has layers", ""),
    ("input: {x: [N, -3]}\nlayers: [relu]", "1:16: a size is a number or a name", ""),
    (X3 + "layers: [rellu]", "2:10: unknown operator 'rellu'", "'relu'"),
    (X3 + "layers: [{a: relu}, {a: relu}]", "2:25: two layers", ""),
    (X3 + "layers: [{a: dense x}]", "dense does not know what to do with 'x'", ""),
    (X3 + "layers: [{a: dense}]", "dense needs units", "it takes units, bias"),
    (X3 + "layers: [{a: {op: Gemm, inputs: [x, w]}}]",
     "nothing before this layer is called 'w'", ""),
    (X3 + "layers: [{a: {op: Softmax, axs: 1}}]", "2:28: layer 'a' has no key 'axs'", "'axis'"),
    (X3 + "layers: [{a: {op: Softmax, axis: x}}]", "attribute 'axis' must be of type int", ""),
    ("input: {x: [N, C]}\nlayers: [{a: dense 3}]", "needs fixed sizes", "write numbers"),
    ("input: {x: [N, 3, H, W]}\nlayers: [{a: conv 4 3x3 group 2}]", "do not split into 2", ""),
    (X3 + "layers: [relu]\nsolver: {type: sgd, lr: fast}", "3:25: lr must be a number", ""),
    (X3 + "layers: [relu]\nloss: entropy", "3:7: loss cannot be 'entropy'", "cross_entropy"),
    (X3 + "layers: [relu]\nweights: ../w.npz", "3:10: the weights must lie in", ""),
    (X3 + "layers: [relu]\nweights: /etc/w.npz", "3:10: the weights must lie in", ""),
    (X3 + "layers: [relu]\nweights: w.pt", "'w.pt' is no weights file", ".npz"),
    (X3 + "constants: {c: {type: int8, value: [300]}}\nlayers: [relu]",
     "not all elements are of type int8", ""),
    (X3 + "constants: {c: {shape: [1099511627776], value: [1]}}\nlayers: [relu]", "here are 1", ""),
    (X3 + "layers: [{b: {repeat: 1000000000, layers: [relu]}}]", "more than 200,000 layers", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "hint"), ERRORS, ids=[e[1][:40] for e in ERRORS])
def test_mistakes_are_told_with_their_place(text: str, message: str, hint: str) -> None:
    told = refused(text)
    assert message in told
    assert hint in told


def test_one_run_finds_every_mistake_and_none_twice() -> None:
    told = refused("""input: {x: [N, 3, 8, 8]}
layers:
  - a: conv 4 frob
  - b: relu
  - c: {op: dense, units: many}
  - d: {op: add, inputs: [x, nowhere]}
solver: {type: sdg}
""")
    assert [line.partition(": ")[0] for line in told.splitlines() if line.startswith("model")] == [
        "model:3:8", "model:5:8", "model:6:8", "model:7:9",
    ]  # fmt: skip


def test_a_weights_file_that_does_not_fit_is_told(tmp_path: Path) -> None:
    write_npz(Checkpoint({"d/0": np.zeros((4, 4), np.float32)}), tmp_path / "w.npz")
    (tmp_path / "m.yaml").write_text(X3 + "layers: [{d: dense 4}]\nweights: w.npz\n")
    with pytest.raises(InputError, match=r"m\.yaml:3:10: no array of the file fits"):
        import_yaml(tmp_path / "m.yaml")
    (tmp_path / "link.npz").symlink_to(tmp_path / "w.npz")
    (tmp_path / "m.yaml").write_text(X3 + "layers: [relu]\nweights: link.npz\n")
    with pytest.raises(InputError, match="is a link"):
        import_yaml(tmp_path / "m.yaml")


def test_mutated_models_give_models_or_clean_errors() -> None:
    random = np.random.default_rng(17)
    outcomes = set()
    spare = b"{}[]:,-&*!|>'\"#\n  019abc"
    for _ in range(1500):
        data = bytearray(LENET)
        for position in random.integers(0, len(data), random.integers(1, 5)):
            data[position] = spare[random.integers(len(spare))]
        try:
            import_yaml(bytes(data))
            outcomes.add("read")
        except NnconvError as error:
            assert error.problems
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
