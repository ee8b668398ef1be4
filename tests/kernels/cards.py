"""Kernels for graphics cards, run on PoCL (or on whatever OpenCL device comes first)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from numpy.typing import NDArray

from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.opencl import Form, opencl_text
from nnconv.runtime.kernels.target import Groups, Target

CARD = Target(lanes=1, fma=True, groups=Groups())
FORM = Form(group=64, packed=True)


@pytest.fixture(scope="session")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCL_CACHE_DIR", str(tmp_path_factory.mktemp("pocl")))
        import pyopencl as cl

        devices = [device for platform in cl.get_platforms() for device in platform.get_devices()]
        yield cl.CommandQueue(cl.Context(devices[:1]))


def run(queue: Any, kernel: Kernel, *buffers: NDArray[Any]) -> None:
    """All buffers are read, those that the kernel writes are brought back."""
    import pyopencl as cl

    program = cl.Program(queue.context, opencl_text(kernel, CARD, FORM)).build(cache_dir=False)
    flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
    memories = [cl.Buffer(queue.context, flags, hostbuf=each) for each in buffers]
    sizes = (FORM.global_size(kernel),), (FORM.local_size(kernel),)
    getattr(program, kernel.name)(queue, *sizes, *memories)
    for argument, memory, each in zip(kernel.arguments, memories, buffers, strict=True):
        if argument.written:
            cl.enqueue_copy(queue, each, memory)
