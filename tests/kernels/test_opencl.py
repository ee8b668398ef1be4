"""The two printers say the same: OpenCL C on PoCL gives the bits that LLVM's code gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.opencl import opencl_text
from nnconv.runtime.kernels.target import Target
from tests.kernels.harness import Floats, run, runnable_targets
from tests.kernels.samples import samples

WIDEST = max(runnable_targets().values(), key=lambda target: target.lanes)
NAMES = [name for name, _, _ in samples(WIDEST)]


@pytest.fixture(scope="session")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A queue on any CPU platform; `.ci/run` installs PoCL, so its absence is a failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCL_CACHE_DIR", str(tmp_path_factory.mktemp("pocl")))
        import pyopencl as cl

        try:
            platforms = cl.get_platforms()
        except cl.Error:
            platforms = []
        devices = [d for p in platforms for d in p.get_devices() if d.type & cl.device_type.CPU]
        if not devices:
            pytest.fail(
                "no OpenCL CPU device: apt-get install -y pocl-opencl-icd ocl-icd-libopencl1"
            )
        yield cl.CommandQueue(cl.Context(devices[:1]))


def run_opencl(kernel: Kernel, target: Target, queue: Any, *buffers: Floats) -> None:
    import pyopencl as cl

    options = ["-cl-fp32-correctly-rounded-divide-sqrt"]
    program = cl.Program(queue.context, opencl_text(kernel, target)).build(options, cache_dir=False)
    flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
    memories = [cl.Buffer(queue.context, flags, hostbuf=b) for b in buffers]
    getattr(program, kernel.name)(queue, (kernel.total,), (1,), *memories)
    cl.enqueue_copy(queue, buffers[-1], memories[-1])


@pytest.mark.parametrize("name", NAMES)
def test_both_printers_give_the_same_bits(name: str, queue: Any) -> None:
    kernel, buffers = next((k, b) for n, k, b in samples(WIDEST) if n == name)
    mine, theirs = buffers[-1].copy(), buffers[-1].copy()
    run(kernel, WIDEST, *buffers[:-1], mine)
    run_opencl(kernel, WIDEST, queue, *buffers[:-1], theirs)
    assert np.isfinite(mine).any() or np.isinf(mine).any()
    np.testing.assert_array_equal(theirs.view(np.uint32), mine.view(np.uint32))
