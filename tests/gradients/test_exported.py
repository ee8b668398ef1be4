"""Gradient graphs as ONNX: every rule's gradient, written and computed by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import nnconv as door
from nnconv.converter.onnx.writer import export_onnx
from nnconv.runtime.autodiff import gradients
from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Graph, Model, Value
from nnconv.schemas.operators_gradients import OPERATORS
from nnconv.schemas.types import DType
from tests.cli.support import CommandLine
from tests.golden.harness import Case as Net
from tests.golden.harness import covered, recipe_inputs, relative_l2, sampled
from tests.gradients.check import Case
from tests.gradients.test_golden_nets import GROUPS, loaded, targets_of
from tests.gradients.test_rules import CASES

Array = np.ndarray[Any, Any]


def is_comparable(case: Case) -> bool:
    """Not what ONNX Runtime draws by itself, and not what is newer than it (opset 26 and more)."""
    draws = case.op == "Dropout" and len(case.inputs) > 2 and bool(case.inputs[2])
    is_new = case.op in ("SwiGLU", "CumProd") or case.attributes.get("mode") == "CRD"
    return not draws and not is_new


COMPARED = [case for case in CASES if is_comparable(case)]


def differentiated(case: Case) -> tuple[Model, dict[str, Array]]:
    """The gradients of a case's weighted result by all that moves, in float32, and what to feed."""
    graph = Graph("case")
    feeds: dict[str, Array] = {}
    moving: list[Value] = []
    values: list[Value | None] = []
    for place, x in enumerate(case.arrays()):
        if x is None or x.dtype != np.float64 or place in case.fixed:
            plain = x if x is None or x.dtype != np.float64 else x.astype(np.float32)
            values.append(None if plain is None else graph.constant(plain, name=f"fixed{place}"))
            continue
        feeds[f"x{place}"] = x.astype(np.float32)
        moving.append(graph.add_input(f"x{place}", DType.FLOAT32, x.shape))
        values.append(moving[-1])
    result = graph.emit(case.op, *values, outputs=case.outputs, **case.attributes)
    y: Value = result if case.outputs == 1 else result[case.of]
    graph.outputs = [y]
    (shown,) = compile_model(Model(graph), device="reference", mode="test").run(feeds).values()
    weights = np.asarray(np.random.default_rng(2).normal(size=shown.shape), np.float32)
    found = gradients(graph, {y: graph.constant(weights, name="weights")}, moving, mode="test")
    graph.outputs = list(found.values())
    return Model(graph), feeds


def by_onnx_runtime(file: Path, feeds: dict[str, Array], names: list[str]) -> list[Array]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    taken = {item.name for item in session.get_inputs()}
    return list(session.run(names, {name: x for name, x in feeds.items() if name in taken}))


@pytest.mark.parametrize("case", COMPARED, ids=str)
def test_the_gradient_of_an_operator_is_the_same_in_onnx(case: Case, tmp_path: Path) -> None:
    model, feeds = differentiated(case)
    ours = compile_model(model, device="reference", mode="test").run(feeds)
    export_onnx(model, tmp_path / "g.onnx")
    for (name, mine), theirs in zip(
        ours.items(), by_onnx_runtime(tmp_path / "g.onnx", feeds, list(ours)), strict=True
    ):
        assert mine.shape == theirs.shape, name
        scale = max(float(np.abs(mine).max(initial=0)), 1e-3)
        assert float(np.abs(mine - theirs).max(initial=0)) <= 1e-4 * scale, name


def test_every_operator_that_gradients_need_is_among_them() -> None:
    used = {node.op for case in COMPARED for node in differentiated(case)[0].graph.nodes}
    assert used >= OPERATORS.keys()


NETS = [net for net in covered("nets") if net.name in ("lenet_loss", "cifar10_full_loss")]


@pytest.mark.parametrize("net", NETS, ids=str)
def test_the_gradients_of_a_net_are_caffes_in_onnx_runtime_too(net: Net, tmp_path: Path) -> None:
    model = loaded(net)
    stored = {key: a for key, a in net.arrays().items() if key.startswith(GROUPS)}
    targets = targets_of(model, stored)
    found = gradients(model.graph, wrt=targets.values(), mode="test")
    model.graph.outputs = list(found.values())
    export_onnx(model, tmp_path / "g.onnx")
    names = [found[value].name for value in targets.values()]
    results = by_onnx_runtime(tmp_path / "g.onnx", recipe_inputs(net), names)
    for (key, reference), got in zip(stored.items(), results, strict=True):
        facts = net.entry["arrays"][key]
        seen = sampled(got, facts["sub"]) if "sub" in facts else got
        assert relative_l2(seen, reference) <= 1e-4, key


@pytest.fixture
def nnconv(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


def test_what_grad_writes_converts_to_onnx(nnconv: CommandLine, in_folder: Path) -> None:
    made = nnconv("grad", "zoo:lenet", "--of", "ip2", "--wrt", "data,conv1/0", "-o", "g.nnir")
    assert made.code == 0
    assert nnconv("convert", "g.nnir", "g.onnx").code == 0
    picture = np.random.default_rng(0).random((1, 1, 28, 28)).astype(np.float32)
    ours = door.compile("g.nnir", device="reference").run({"data": picture})
    theirs = by_onnx_runtime(Path("g.onnx"), {"data": picture}, list(ours))
    for (name, mine), other in zip(ours.items(), theirs, strict=True):
        np.testing.assert_allclose(other, mine, atol=2e-5 * float(np.abs(mine).max()), err_msg=name)
