"""Which OpenCL devices there are, which one a name means, and what kernels may assume about it.

pyopencl is imported here, on first use. A `Place` is a device opened: its context, the kind of
target that kernels are printed for, and the programs built so far; there is one a device and
process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import tempfile
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnconv.runtime.devices import jit
from nnconv.runtime.kernels.opencl import Form
from nnconv.runtime.kernels.target import Groups, Target
from nnconv.schemas.errors import InputError, MissingExtraError, NnconvError, UnsupportedError

_HOW = (
    "any processor: apt-get install pocl-opencl-icd (Debian, Ubuntu); graphics cards: the vendor's "
    "driver brings OpenCL; `clinfo` shows what is installed"
)
_GROUP = 64  # work-items in a work-group of a graphics card: one or two of its vectors
_MOST_ITEMS = 256  # of kernels that share memory: what all vendors' cards take
_LEAST_ITEMS = 16
_REGISTERS = {16: 32, 8: 16, 4: 16}  # vector registers by lanes, as on the cpu device
_MEMORY = ("MEM_OBJECT_ALLOCATION_FAILURE", "OUT_OF_RESOURCES", "OUT_OF_HOST_MEMORY")


@functools.cache
def require() -> Any:
    """The pyopencl module. PoCL's cache of compiled kernels is put into our cache folder, unless
    POCL_CACHE_DIR says where: PoCL reads that when the platforms are first asked for.
    """
    try:
        import pyopencl
    except ImportError as error:
        raise MissingExtraError(
            f"OpenCL devices need pyopencl, which cannot be imported ({error})",
            hint="pip install pyopencl",
        ) from None
    if "POCL_CACHE_DIR" not in os.environ:
        os.environ["POCL_CACHE_DIR"] = _writable(jit.cache_folder().parent / "pocl")
    return pyopencl


def _writable(folder: Path) -> str:
    """The folder, or where it cannot be had one that lasts as long as the process: PoCL has no
    devices without.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError:
        passing = tempfile.TemporaryDirectory(prefix="nnconv-pocl-")
        atexit.register(passing.cleanup)
        return passing.name


@dataclass(frozen=True)
class Found:
    """A device of a platform, by its place in the lists that OpenCL gives."""

    name: str  # opencl:PLATFORM:DEVICE
    platform: Any
    device: Any

    @property
    def kind(self) -> str:
        kinds = require().device_type
        named = {"cpu": kinds.CPU, "gpu": kinds.GPU, "accelerator": kinds.ACCELERATOR}
        return next((name for name, bit in named.items() if self.device.type & bit), "device")

    @property
    def description(self) -> str:
        """Platform, driver and memory, for `nnconv devices`."""
        device = self.device
        return (
            f"{_clean(device.name)}, {self.kind} of {_clean(self.platform.name)}, "
            f"driver {_clean(device.driver_version)}, {device.max_compute_units} units, "
            f"{device.global_mem_size / 2**30:.1f} GiB memory"
        )

    @property
    def extensions(self) -> tuple[str, ...]:
        return tuple(sorted(self.device.extensions.split()))

    @property
    def identity(self) -> tuple[str, ...]:
        """What decides the code that the device's compiler makes."""
        device, platform = self.device, self.platform
        return (
            platform.name, platform.version, device.name, device.vendor, device.version,
            device.driver_version,
        )  # fmt: skip


def find_all() -> list[Found]:
    """All devices of all platforms. Raises UnsupportedError, saying how to get one, where there is
    none.
    """
    cl = require()
    found = []
    with contextlib.suppress(cl.Error):  # the loader reports "no platform" as an error
        for p, platform in enumerate(cl.get_platforms()):
            with contextlib.suppress(cl.Error):  # a driver without its card
                devices = platform.get_devices()
                found += [Found(f"opencl:{p}:{d}", platform, x) for d, x in enumerate(devices)]
    if not found:
        raise UnsupportedError("no OpenCL platform with a device is installed", hint=_HOW)
    return found


def select(which: str) -> Found:
    """The device meant by `[PLATFORM][:DEVICE]`, each a number or a part of its name.

    One part that is no number may name either. Of several the first graphics card is taken, else
    the first device. Raises InputError where none fits.
    """
    known = find_all()
    platform, _, device = which.partition(":")
    fits = [found for found in known if _fits(found, platform, device)]
    if not fits:
        there = "; ".join(f"{f.name} ({_clean(f.device.name)})" for f in known)
        raise InputError(f"there is no device 'opencl:{which}'", hint=f"there are: {there}")
    return next((found for found in fits if found.kind == "gpu"), fits[0])


def _fits(found: Found, platform: str, device: str) -> bool:
    p, d = found.name.split(":")[1:]
    facts = found.platform
    about_platform = f"{facts.name} {facts.vendor} {facts.version}"
    about_device = f"{found.device.name} {found.device.vendor}"
    either = f"{about_platform} {about_device}" if not device else about_platform
    return _named(platform, p, either) and _named(device, d, about_device)


def _named(wanted: str, number: str, about: str) -> bool:
    return wanted == number if wanted.isdigit() else wanted.lower() in about.lower()


@dataclass(eq=False)
class Place:
    """An opened device; `built` holds the programs in use, by the digest of their kernels."""

    found: Found
    context: Any
    target: Target
    form: Form
    options: tuple[str, ...]
    keeps_binaries: bool  # in our cache; PoCL keeps its own, better one
    walks: bool = False  # a processor that takes addresses of the host: see opencl_walk
    built: weakref.WeakValueDictionary[tuple[Any, ...], Any] = field(
        default_factory=weakref.WeakValueDictionary
    )
    lock: Any = field(default_factory=threading.RLock)
    _queues: list[Any] = field(default_factory=list)

    @contextlib.contextmanager
    def queue(self) -> Iterator[Any]:
        """A queue for one caller at a time, with a clock; a queue that failed is not used again."""
        try:
            queue = self._queues.pop()
        except IndexError:
            timing = require().command_queue_properties.PROFILING_ENABLE
            queue = require().CommandQueue(self.context, properties=timing)
        yield queue
        self._queues.append(queue)

    @property
    def name(self) -> str:
        return self.found.name

    def shrink(self) -> bool:
        """Have smaller groups from here on; False where they are as small as can be."""
        groups = self.target.groups
        if groups is None or groups.items <= _LEAST_ITEMS:
            return False
        smaller = replace(groups, items=groups.items // 2)
        self.target = replace(self.target, groups=smaller)
        return True

    @property
    def shares_memory(self) -> bool:
        """Whether the device computes on the host's own memory."""
        return self.found.kind == "cpu" and bool(self.found.device.host_unified_memory)


_opened: dict[str, Place] = {}
_opening = threading.Lock()


def open_place(found: Found) -> Place:
    """The one `Place` of a device."""
    with _opening:
        if found.name not in _opened:
            with translated(found, "opening the device"):
                _opened[found.name] = _place(found)
        return _opened[found.name]


def _place(found: Found) -> Place:
    cl = require()
    pocl = "pocl" in found.platform.version.lower()
    rounded = found.device.single_fp_config & cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT
    options = ("-cl-fp32-correctly-rounded-divide-sqrt",) if rounded else ()
    group = 1 if found.kind == "cpu" else min(_GROUP, found.device.max_work_group_size)
    form = Form(offsets=True, group=group, packed=pocl)
    context = cl.Context([found.device])
    walks = pocl and found.kind == "cpu" and found.device.address_bits == 64
    return Place(found, context, _target(found), form, options, not pocl, walks)


def _target(found: Found) -> Target:
    """Lanes and registers: a processor's own, so that kernels are those of the cpu device; groups
    on graphics cards.
    """
    device = found.device
    fused = _fuses(found)
    if found.kind == "gpu":
        return Target(cpu=_label(found), lanes=1, fma=fused, groups=groups_of(device))
    widest = max(device.native_vector_width_float, device.preferred_vector_width_float)
    lanes = next((n for n in _REGISTERS if n <= widest), 4) if found.kind == "cpu" else 4
    return Target(cpu=_label(found), lanes=lanes, registers=_REGISTERS[lanes], fma=fused)


def _fuses(found: Found) -> bool:
    """Whether multiply and add are one instruction. Intel's driver for processors does not say so
    of any; what a processor can is known here.
    """
    if found.device.single_fp_config & require().device_fp_config.FMA:
        return True
    if found.kind != "cpu":
        return False
    with contextlib.suppress(NnconvError):  # nothing is known without llvmlite
        return jit.host().fma
    return False


def groups_of(device: Any) -> Groups:
    """What a device's work-groups may be: a power of two of work-items, for sums in trees."""
    most = min(device.max_work_group_size, _MOST_ITEMS)
    return Groups(1 << (most.bit_length() - 1), device.local_mem_size)


def as_card(place: Place) -> Place:
    """A device used as graphics cards are, whatever it is: for tests on PoCL."""
    target = replace(place.target, lanes=1, registers=16, groups=groups_of(place.found.device))
    form = replace(place.form, group=min(_GROUP, place.found.device.max_work_group_size))
    return replace(place, target=target, form=form, walks=False)


def _label(found: Found) -> str:
    """A device's name and driver, for files."""
    device = found.device
    label = re.sub(r"[^A-Za-z0-9.]+", "-", f"opencl-{device.name}-{device.driver_version}")
    return label[:80].strip("-")


@contextlib.contextmanager
def translated(found: Found, doing: str) -> Iterator[None]:
    """OpenCL's errors as ours: what was done on which device, and what helps."""
    try:
        yield
    except require().Error as error:
        code = require().status_code.to_string(error.code, f"error {error.code}")
        where = f"{found.name} ({_clean(found.device.name)})"
        if code in _MEMORY:
            total = found.device.global_mem_size / 2**20
            raise UnsupportedError(
                f"{where} is out of memory ({code}, {total:,.0f} MiB in all) while {doing}",
                hint="take a smaller batch or picture, close other programs, or use --device cpu",
            ) from error
        raise UnsupportedError(
            f"{where} failed while {doing}: {error.routine or 'OpenCL'} gives {code}",
            hint="a device that was lost or reset needs a new process; --device cpu always works",
        ) from error


def _clean(text: str) -> str:
    return " ".join(text.split())
