"""Which devices there are, and which one a name means.

A device is a module of this package with `devices()`, what it offers here, and
`open_device(name)`; modules are imported when a device of theirs is asked for. A name is KIND or
KIND:WHICH (`opencl:0`).
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nnconv.schemas.errors import InputError, UnsupportedError, did_you_mean

if TYPE_CHECKING:
    from nnconv.runtime.devices.base import Device, DeviceInfo

# In order of preference: the first available one is the default. OpenCL devices are only used when
# named: which of them would be faster than the processor cannot be known beforehand.
KINDS = ("cpu", "reference", "opencl")
# These read the whole name themselves: it may hold parts of names, or names of other devices.
_NAMED_FREELY = ("opencl", "pair")
_DEFAULTS = ("cpu", "reference")


def available() -> list[DeviceInfo]:
    """All devices this machine offers, and those it cannot, with the reason."""
    found: list[DeviceInfo] = []
    for kind in _built_kinds():
        found += _module(kind).devices()
    return found


def open_device(name: str | None = None) -> Device:
    """The device called `name`; by default that of NNCONV_DEVICE, else cpu where it works, else
    reference.

    Raises InputError for a name that no device has, UnsupportedError when it is not available here.
    """
    name = name or os.environ.get("NNCONV_DEVICE") or _default()
    kind = name.partition(":")[0]
    if kind in _NAMED_FREELY:
        chosen: Device = _module(kind).open_device(name)
        return chosen
    if kind not in _built_kinds():
        known = [info.name for info in available()]
        hint = did_you_mean(name, known) or f"there are: {', '.join(known)}"
        raise InputError(f"there is no device '{name}'", hint=hint)
    offered = {info.name: info for info in _module(kind).devices()}
    info = offered.get(name) or (next(iter(offered.values()), None) if name == kind else None)
    if info is None:
        hint = f"there are: {', '.join(offered)}" if offered else f"no {kind} device was found here"
        raise InputError(f"there is no device '{name}'", hint=hint)
    if not info.available:
        hint = "the reference device always works"
        raise UnsupportedError(f"device '{name}' is not available: {info.reason}", hint=hint)
    device: Device = _module(kind).open_device(info.name)
    return device


def _default() -> str:
    for kind in _DEFAULTS:
        if kind in _built_kinds() and any(info.available for info in _module(kind).devices()):
            return kind
    return "reference"


def _built_kinds() -> list[str]:
    return [kind for kind in KINDS if find_spec(f"{__name__}.{kind}") is not None]


def _module(kind: str) -> Any:
    return import_module(f"{__name__}.{kind}")


__all__ = ["KINDS", "available", "open_device"]
