"""`pair:A,B` gives A's results while B agrees, and names the first value that does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nnconv.runtime.devices import open_device
from nnconv.runtime.devices.base import Settings
from nnconv.runtime.devices.opencl.platform import Place
from nnconv.runtime.devices.pair import PairDevice, difference
from nnconv.runtime.devices.reference import ReferenceDevice
from nnconv.runtime.executor import compile_model
from nnconv.runtime.plan import SlotProgram
from nnconv.schemas.errors import InputError, MismatchError
from tests.cpu.test_plans import pictures, small_net


class Wrong(ReferenceDevice):
    """A device whose MaxPool is off by one hundredth in its last element."""

    name = "wrong"

    def lower(self, graph: Any, settings: Settings) -> Any:
        program = super().lower(graph, settings)
        steps = [_off(s) if s.kernel.endswith("MaxPool") else s for s in program.steps]
        return SlotProgram(graph, steps, settings.shared)


def _off(step: Any) -> Any:
    def call(arrays: Any, number: int) -> Any:
        results = [result.copy() for result in step.call(arrays, number)]
        results[0].reshape(-1)[-1] += 0.01 * np.abs(results[0]).max()
        return tuple(results)

    return replace(step, call=call)


def test_devices_that_agree_give_the_first_ones_results(place: Place) -> None:
    x = pictures(1, 3, 24, 24)
    pair = compile_model(small_net(), device=f"pair:reference,{place.name}")
    assert pair.device == f"pair:reference,{place.name}"
    single = compile_model(small_net(), device="reference", optimise=True)
    assert np.array_equal(pair(x), single(x))
    kernels = {step.kernel.split(":")[0] for step in pair.plan({"x": x.shape}).steps}
    assert kernels == {"reference", "opencl"}


def test_a_planted_difference_is_found_at_its_first_value(place: Place) -> None:
    pair = PairDevice(open_device(place.name), Wrong())
    with pytest.raises(MismatchError, match=rf"{place.name} and wrong part at 'maxpool'") as caught:
        compile_model(small_net(), device=pair)(pictures(1, 3, 24, 24))
    assert "MaxPool" in str(caught.value) and "[0, 31, 23, 23]" in str(caught.value)


@pytest.mark.parametrize("name", ["pair", "pair:", "pair:cpu", "pair:cpu,", "pair:cpu,cpu,cpu"])
def test_a_pair_names_two_devices(name: str) -> None:
    with pytest.raises(InputError, match="does not name two devices"):
        open_device(name)


@pytest.mark.parametrize(
    ("a", "b", "shown"),
    [
        ([1.0, 2.0], [1.0, 2.00001], ""),
        ([1.0, 2.0], [1.0, 2.1], "2.0 against 2.1"),
        ([np.nan, 1.0], [np.nan, 1.0], ""),
        ([np.nan, 1.0], [0.0, 1.0], "nan against 0.0"),
        ([np.inf, 1.0], [np.inf, 1.0], ""),
        ([np.inf, 1.0], [-np.inf, 1.0], "inf against -inf"),
        ([1.0, 1.0], [1.0, np.nan], "1.0 against nan at [1]"),
        ([0.0, 0.0], [0.0, 1e-9], "0.0 against"),
    ],
)
def test_floats_are_compared_to_the_largest(a: list[float], b: list[float], shown: str) -> None:
    found = difference(np.array(a, np.float32), np.array(b, np.float32))
    assert found.startswith(shown) if shown == "" else shown in found
    assert bool(found) == bool(shown)


def test_integers_shapes_and_types_must_be_equal() -> None:
    assert difference(np.array([1, 2]), np.array([1, 2])) == ""
    assert "2 against 3" in difference(np.array([1, 2]), np.array([1, 3]))
    assert difference(np.zeros(2), np.zeros(3)) != ""
    assert difference(np.zeros(2, np.float32), np.zeros(2)) != ""
