"""An OpenCL device for these tests: `.ci/run` installs PoCL, so its absence is a failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnconv.runtime.devices.opencl import OpenCLDevice
from nnconv.runtime.devices.opencl.platform import Place, as_card, open_place, select
from nnconv.schemas.errors import NnconvError


@pytest.fixture(scope="session")
def place() -> Place:
    try:
        return open_place(select(""))
    except NnconvError as error:
        pytest.fail(f"no OpenCL device: {error}")


@pytest.fixture(scope="session", params=["walks", "buffers", "groups"])
def device(request: pytest.FixtureRequest, place: Place) -> OpenCLDevice:
    """The device as processors are used, in the host's memory; with memory of its own; and as
    graphics cards are, with kernels that work in groups.
    """
    assert place.walks, "these tests are made for PoCL"
    if request.param == "groups":
        return OpenCLDevice(as_card(place))
    return OpenCLDevice(replace(place, walks=request.param == "walks"))


@pytest.fixture(autouse=True)
def _device_is_there(place: Place) -> None:
    """Every test here says the same where no device is installed."""
