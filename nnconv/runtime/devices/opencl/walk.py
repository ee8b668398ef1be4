"""Plans on a processor's OpenCL driver: one launch a stretch, in the host's own memory.

A `WalkProgram` is the cpu device's program with another engine: `kernels/opencl_walk.py` says what
the driver compiles instead of what LLVM does. Nothing is transferred, states neither: kernels are
given the addresses of the caller's arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnconv.runtime.devices.cpu import Addressed, CpuProgram, Runnable
from nnconv.runtime.devices.jobs import aligned
from nnconv.runtime.devices.opencl.cache import Built, build_text
from nnconv.runtime.devices.opencl.platform import Place, require, translated
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.opencl_walk import COUNTER_WORDS, JOB_WORDS, walk_text
from nnconv.runtime.lowering.build import HostCall, Lowered


class WalkProgram(CpuProgram):
    """A plan on a device that computes in the host's memory."""

    def __init__(self, place: Place, lowered: Lowered, threads: int) -> None:
        self.place = place
        lowered.steps = [
            replace(step, kernel="opencl:" + step.kernel.removeprefix("cpu:"))
            if step.kernel.startswith("cpu:")
            else step
            for step in lowered.steps
        ]
        self._host_steps = sum(isinstance(stage, HostCall) for stage in lowered.stages)
        most = place.found.device.max_compute_units
        super().__init__(lowered, min(threads or most, most))

    def prepare(self, kernels: Sequence[Kernel]) -> None:
        known = {kernel.digest: kernel for kernel in kernels}
        self._numbers = {digest: number for number, digest in enumerate(sorted(known))}
        self.built: Built | None = None
        if known:
            text = walk_text([known[digest] for digest in sorted(known)], self.place.target)
            self.built = build_text(self.place, text)

    def table(self, jobs: Sequence[Addressed], owners: Sequence[Any]) -> Runnable:
        return WalkTable(self, jobs, owners)

    def number(self, kernel: Kernel) -> int:
        """Which function of the program computes a kernel."""
        return self._numbers[kernel.digest]

    @property
    def threads(self) -> int:
        """How many work-groups a launch has."""
        return self._threads

    @property
    def facts(self) -> dict[str, int]:
        """What plans show besides steps; see OpenCLProgram."""
        return {
            "programs": int(self.built is not None),
            "kernels": len(self._numbers),
            "host_steps": self._host_steps,
            "bytes_to_device": 0,
            "bytes_to_host": 0,
        }


class WalkTable:
    """Jobs in the form that `nnconv_walk` reads; run by one caller at a time."""

    def __init__(
        self, program: WalkProgram, jobs: Sequence[Addressed], owners: Sequence[Any]
    ) -> None:
        starts = np.cumsum([0, *(len(addresses) for _, addresses in jobs)])
        self._jobs = np.zeros((len(jobs), JOB_WORDS), np.int64)
        for row, (kernel, _), start in zip(self._jobs, jobs, starts, strict=False):
            row[:] = program.number(kernel), kernel.total, kernel.chunk, start
        self._addresses = np.array([a for _, each in jobs for a in each], np.int64)
        self._cells = self._addresses.data
        self._counters = aligned(max(1, len(jobs)) * 2 * COUNTER_WORDS, np.int64, 0)
        self._owners = list(owners)
        self._place = program.place
        self._size = (program.threads,)
        self._kernel: Any = None
        if jobs and program.built is not None:
            self._kernel = program.built.kernel("nnconv_walk")
            tables = (self._jobs, self._addresses, self._counters)
            table, addresses, counters = (np.int64(each.ctypes.data) for each in tables)
            self._kernel.set_args(table, np.int64(len(jobs)), addresses, counters)

    def rebind(self, place: int, address: int) -> None:
        """Give an argument, counted through all jobs, another address before the next run."""
        self._cells[place] = address

    def run(self) -> float | None:
        """All jobs in order; the seconds by the device's clock."""
        if self._kernel is None:
            return None
        place = self._place
        with translated(place.found, "running"), place.queue() as queue:
            self._counters.fill(0)
            event = require().enqueue_nd_range_kernel(queue, self._kernel, self._size, (1,))
            try:
                event.wait()
            finally:
                queue.finish()  # nobody may free the arrays while the device uses them
            return 1e-9 * float(event.profile.end - event.profile.start)
