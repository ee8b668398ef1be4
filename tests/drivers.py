"""Which OpenCL device the tests run on: the one that NNCONV_DEVICE names (`opencl:nvidia`), else
the one that `opencl` means. `.ci/run` installs PoCL.
"""

from __future__ import annotations

import os

import pytest

from nnconv.runtime.devices.opencl.platform import Place, open_place, select
from nnconv.schemas.errors import NnconvError

FORMS = ("walks", "buffers", "groups")


def the_place() -> Place:
    """Raises NnconvError where there is no such device."""
    kind, _, which = os.environ.get("NNCONV_DEVICE", "opencl").partition(":")
    return open_place(select(which if kind == "opencl" else ""))


def place_or_failure() -> Place:
    """The device of a test, which fails without one."""
    try:
        return the_place()
    except NnconvError as error:
        pytest.fail(f"no OpenCL device: {error}")


def forms() -> tuple[str, ...]:
    """The ways in which the device can be used: in the host's own memory, which only PoCL can; with
    buffers of its own; and as graphics cards are. All of them where there is no device, so that
    its absence is seen.
    """
    try:
        return FORMS if the_place().walks else FORMS[1:]
    except NnconvError:
        return FORMS
