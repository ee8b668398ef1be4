"""Windows as large as a file may ask for: refused at once, with the layer named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nnconv
from nnconv.schemas.errors import InputError
from nnconv.schemas.graph import Graph, Model
from nnconv.schemas.types import DType

HUGE = 2**31
BOTH = {"kernel_shape": (HUGE, HUGE), "pads": (HUGE - 1,) * 4}
COLUMN = {"kernel_shape": (HUGE, 1), "pads": (HUGE - 1, 0, HUGE - 1, 0), "strides": (HUGE, 1)}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("MaxPool", BOTH),
    ("MaxPool", BOTH | {"strides": (HUGE, HUGE)}),
    ("MaxPool", COLUMN),
    ("AveragePool", COLUMN),
    ("AveragePool", COLUMN | {"count_include_pad": 1}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.timeout(30)
def test_a_pool_over_2_to_31_elements_is_refused(case: tuple[str, dict[str, Any]]) -> None:
    op, attributes = case
    graph = Graph("pool")
    x = graph.add_input("x", DType.FLOAT32, (1, 16, 8, 8))
    graph.outputs = [graph.emit(op, x, **attributes)]
    executable = nnconv.compile(Model(graph=graph), device="cpu")
    with pytest.raises(InputError, match=f"{op} '.*': .*(memory|never end)"):
        executable(np.ones((1, 16, 8, 8), np.float32))
