"""An OpenCL device for these tests: `.ci/run` installs PoCL, so its absence is a failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnconv.runtime.devices.opencl import OpenCLDevice
from nnconv.runtime.devices.opencl_platform import Place, open_place, select
from nnconv.schemas.errors import NnconvError


@pytest.fixture(scope="session")
def place() -> Place:
    try:
        return open_place(select(""))
    except NnconvError as error:
        pytest.fail(f"no OpenCL device: {error}")


@pytest.fixture(scope="session", params=["walks", "buffers"])
def device(request: pytest.FixtureRequest, place: Place) -> OpenCLDevice:
    """The device as processors are used, in the host's memory, and as graphics cards are."""
    walks = request.param == "walks"
    assert place.walks, "these tests are made for PoCL"
    return OpenCLDevice(replace(place, walks=walks))


@pytest.fixture(autouse=True)
def _device_is_there(place: Place) -> None:
    """Every test here says the same where no device is installed."""
