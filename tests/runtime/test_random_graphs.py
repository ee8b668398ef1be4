"""Random graphs of any rank: kernels give what the reference gives in double precision, forward and
backward, on any number of threads, and stay inside their memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnconv.runtime.autodiff import gradients
from nnconv.runtime.executor import compile_model
from nnconv.schemas.graph import Model
from nnconv.schemas.types import DType
from tests.cpu.extents import outside
from tests.cpu.planner import KINDS, Planner
from tests.runtime.random_graphs import random_graph, sizes

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
seeds = st.integers(0, 1_000_000)


def agree(model: Model, feeds: Arrays) -> None:
    """The cpu device's results are near the reference's in double precision: as near as those of
    single precision are, where numbers cancel. One thread and two give the same bits."""
    wanted = compile_model(model, device="reference", precision="f64").run(feeds)
    single = compile_model(model, device="reference").run(feeds)
    one, two = (
        compile_model(model, device="cpu", threads=n, winograd=0).run(feeds) for n in (1, 2)
    )
    for name, want in wanted.items():
        if not np.isfinite(single[name]).all():  # numbers grew too large for single precision
            continue
        assert one[name].shape == want.shape, name
        scale = max(float(np.abs(want).max(initial=0)), 1e-3)
        inevitable = float(np.abs(single[name] - want).max(initial=0))
        limit = 2e-5 * scale + 40 * inevitable
        assert float(np.abs(one[name] - want).max(initial=0)) <= limit, name
        assert one[name].tobytes() == two[name].tobytes(), name


@settings(max_examples=120, deadline=None, derandomize=True)
@given(seed=seeds)
def test_a_random_graph_gives_what_the_reference_gives(seed: int) -> None:
    agree(*random_graph(seed))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=seeds)
def test_gradients_of_a_random_graph_are_those_of_the_reference(seed: int) -> None:
    model, feeds = random_graph(seed, layers=5)
    graph, random = model.graph, np.random.default_rng(seed)
    slopes = {}
    for number, y in enumerate(graph.outputs):
        slopes[y] = graph.add_input(f"dy{number}", DType.FLOAT32, sizes(y))
        feeds[f"dy{number}"] = random.standard_normal(sizes(y)).astype(np.float32)
    moving = [
        value for value in graph.inputs if value.name in feeds and value not in slopes.values()
    ]
    learnt = [value for value in graph.parameters.values() if value.uses]
    graph.outputs = list(gradients(graph, slopes, [*moving, *learnt]).values())
    read = {value.name for value in graph.inputs if value.uses or value in graph.outputs}
    agree(model, {name: array for name, array in feeds.items() if name in read})


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=120, deadline=None, derandomize=True)
@given(seed=seeds)
def test_kernels_of_a_random_graph_stay_inside_their_memory(kind: str, seed: int) -> None:
    model, feeds = random_graph(seed)
    planner = Planner(kind)
    compile_model(model, device=planner).plan({name: x.shape for name, x in feeds.items()})
    assert [problem for made in planner.made for problem in outside(made)] == []
