"""Kernels for graphics cards, run on the OpenCL device of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from numpy.typing import NDArray

from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.opencl import Form, opencl_text
from nnconv.runtime.kernels.target import Groups, Target
from tests.drivers import place_or_failure

CARD = Target(lanes=1, fma=True, groups=Groups())


@pytest.fixture(scope="session")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCL_CACHE_DIR", str(tmp_path_factory.mktemp("pocl")))
        import pyopencl as cl

        yield cl.CommandQueue(place_or_failure().context)


def run(queue: Any, kernel: Kernel, *buffers: NDArray[Any]) -> None:
    """All buffers are read, those that the kernel writes are brought back."""
    import pyopencl as cl

    form = Form(group=64, packed=place_or_failure().form.packed)
    program = cl.Program(queue.context, opencl_text(kernel, CARD, form)).build(cache_dir=False)
    flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
    memories = [cl.Buffer(queue.context, flags, hostbuf=each) for each in buffers]
    sizes = (form.global_size(kernel),), (form.local_size(kernel),)
    getattr(program, kernel.name)(queue, *sizes, *memories)
    for argument, memory, each in zip(kernel.arguments, memories, buffers, strict=True):
        if argument.written:
            cl.enqueue_copy(queue, each, memory)
