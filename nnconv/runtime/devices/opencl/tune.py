"""Choosing among kernels by timing them on an OpenCL device, as tune.py does on the processor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnconv.runtime.devices.opencl.cache import GroupTooLargeError, build_all
from nnconv.runtime.devices.opencl.platform import Place, require, translated
from nnconv.runtime.lowering.layout import Buffer
from nnconv.runtime.tune import Trial, Tuner

_RUNS = 5


class OpenCLTuner(Tuner):
    """A tuner that times candidates on the device's own queue."""

    def __init__(self, place: Place, timing: bool) -> None:
        super().__init__(place.target, timing)
        self._place = place

    def _seconds(self, trial: Trial) -> float:
        """The least time of a run by the device's own clock, after a first one that compiles;
        infinite for groups that the device cannot run.
        """
        cl, place = require(), self._place
        try:
            built = build_all(place, (kernel for kernel, _ in trial))
        except GroupTooLargeError:
            return math.inf
        random = np.random.default_rng(0)
        memory: dict[Buffer, Any] = {}
        ready = []
        with translated(place.found, "tuning"):
            timing = cl.command_queue_properties.PROFILING_ENABLE
            queue = cl.CommandQueue(place.context, properties=timing)
            flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
            for kernel, operands in trial:
                bound = built[kernel.digest].kernel(kernel.name)
                for number, operand in enumerate(operands):
                    if operand.buffer not in memory:
                        values = random.random(operand.buffer.size, np.float32)
                        memory[operand.buffer] = cl.Buffer(place.context, flags, hostbuf=values)
                    bound.set_arg(2 * number, memory[operand.buffer])
                    bound.set_arg(2 * number + 1, np.int64(4 * operand.offset))
                size = (place.form.global_size(kernel),)
                ready.append((bound, size, (place.form.local_size(kernel),)))
            return min(_timed(queue, ready) for _ in range(1 + _RUNS))


def _timed(queue: Any, ready: list[Any]) -> float:
    events = [require().enqueue_nd_range_kernel(queue, *bound) for bound in ready]
    queue.finish()
    return float(sum(1e-9 * (event.profile.end - event.profile.start) for event in events))
