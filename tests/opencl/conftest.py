"""The OpenCL device of these tests, in every form that its driver can be used in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnconv.runtime.devices.opencl import OpenCLDevice
from nnconv.runtime.devices.opencl.platform import Place, as_card
from tests.drivers import forms, place_or_failure

_FORMS = forms()
collect_ignore = [] if "walks" in _FORMS else ["test_walk.py"]


@pytest.fixture(scope="session")
def place() -> Place:
    return place_or_failure()


@pytest.fixture(scope="session", params=_FORMS)
def device(request: pytest.FixtureRequest, place: Place) -> OpenCLDevice:
    """The device as processors are used, in the host's memory; with memory of its own; and as
    graphics cards are, with kernels that work in groups.
    """
    if request.param == "groups":
        return OpenCLDevice(as_card(place))
    return OpenCLDevice(replace(place, walks=request.param == "walks"))


@pytest.fixture(autouse=True)
def _device_is_there(place: Place) -> None:
    """Every test here says the same where no device is installed."""
