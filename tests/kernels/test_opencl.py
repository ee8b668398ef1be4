"""The two printers say the same: OpenCL C on PoCL gives the bits that LLVM's code gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.opencl import opencl_text
from nnconv.runtime.kernels.target import Target
from tests.drivers import place_or_failure
from tests.kernels.harness import Floats, run, runnable_targets
from tests.kernels.samples import samples

WIDEST = max(runnable_targets().values(), key=lambda target: target.lanes)
NAMES = [name for name, _, _ in samples(WIDEST)]


@pytest.fixture(scope="session")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCL_CACHE_DIR", str(tmp_path_factory.mktemp("pocl")))
        import pyopencl as cl

        yield cl.CommandQueue(place_or_failure().context)


def run_opencl(kernel: Kernel, target: Target, queue: Any, *buffers: Floats) -> None:
    import pyopencl as cl

    options = list(place_or_failure().options)
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
