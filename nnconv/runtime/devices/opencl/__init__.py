"""OpenCL devices: the kernels of the cpu device, printed as OpenCL C, on any vendor's hardware.

`opencl[:PLATFORM[:DEVICE]]` names one, each part a number or a part of the name. What a plan is
made of is decided where the cpu device decides it (lowering/); the modules here find devices, build
programs and run them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnconv.runtime.devices.base import Device, DeviceInfo, Program, Settings
from nnconv.runtime.devices.jobs import default_threads
from nnconv.runtime.devices.opencl.cache import GroupTooLargeError
from nnconv.runtime.devices.opencl.platform import Place, find_all, open_place, select
from nnconv.runtime.devices.opencl.program import OpenCLProgram
from nnconv.runtime.devices.opencl.tune import OpenCLTuner
from nnconv.runtime.devices.opencl.walk import WalkProgram
from nnconv.runtime.lowering.build import lower
from nnconv.runtime.lowering.pack import Store
from nnconv.runtime.ops import is_kept
from nnconv.schemas.errors import NnconvError

if TYPE_CHECKING:
    from nnconv.schemas.graph import Graph, Node


class OpenCLDevice:
    """Runs what the lowering claims on an OpenCL device, the rest by reference kernels on the
    host.
    """

    optimises = True

    def __init__(self, place: Place) -> None:
        self.name = place.name
        self.place = place

    def supports(self, node: Node) -> bool:
        return is_kept(node)

    def lower(self, graph: Graph, settings: Settings) -> Program:
        """The plan's program; with smaller groups where the device cannot run those of its kind."""
        while True:
            try:
                return self._lower(graph, settings)
            except GroupTooLargeError:
                if not self.place.shrink():
                    raise

    def _lower(self, graph: Graph, settings: Settings) -> Program:
        tuner = OpenCLTuner(self.place, settings.tune)
        store = Store(settings.shared, settings.threads or default_threads())
        walks = self.place.walks
        lowered = lower(graph, settings, self.place.target, store, tuner, by_image=walks)
        if walks:
            return WalkProgram(self.place, lowered, settings.threads or 0)
        return OpenCLProgram(self.place, graph, lowered, settings.shared)


def devices() -> list[DeviceInfo]:
    """Every device of every platform, or why there is none."""
    try:
        return [
            DeviceInfo(found.name, found.description, extensions=found.extensions)
            for found in find_all()
        ]
    except NnconvError as error:
        problem = error.problems[0]
        reason = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
        return [DeviceInfo("opencl", "OpenCL devices", False, reason)]


def open_device(name: str) -> Device:
    """The device that `opencl[:PLATFORM[:DEVICE]]` means; see `select`."""
    return OpenCLDevice(open_place(select(name.partition(":")[2])))
