"""Dropout on OpenCL devices, the run's step number going with it, bit for bit."""

from __future__ import annotations

import pytest

from nnconv.runtime.devices.opencl import OpenCLDevice
from tests.cpu.test_dropout import CASES, check


@pytest.mark.parametrize(("shape", "form"), CASES)
def test_opencl_drops_what_the_reference_drops(
    shape: tuple[int, ...], form: str, device: OpenCLDevice
) -> None:
    check(shape, form, device)
