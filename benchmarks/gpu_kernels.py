"""How fast are products on a card, kernel by kernel, where it has no OpenCL driver?

    python benchmarks/gpu_kernels.py [--batch 32] [--seconds 0.3] [--blocks all]

The same OpenCL C that nnconv prints, its few words of OpenCL defined as CUDA's, compiled by NVRTC
and run through CuPy: ResNet-50's convolutions and two square products, each with the rule's block
(and with every other one by --blocks all), beside PyTorch's own with TF32 off. Results are compared
before anything is timed. This judges schedules; how fast nnconv is on a card, gpu.py measures.
Needs torch with CUDA and cupy, and says so in one line.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY)]
import gpu  # noqa: E402

from nnconv.runtime.kernels.arrays import Array, Matrix  # noqa: E402
from nnconv.runtime.kernels.conv import Window  # noqa: E402
from nnconv.runtime.kernels.groups.operands import Factors, Pixels  # noqa: E402
from nnconv.runtime.kernels.groups.product import (  # noqa: E402
    Goal,
    Product,
    every_product,
    split_sum,
)
from nnconv.runtime.kernels.language import Kernel  # noqa: E402
from nnconv.runtime.kernels.opencl import Form, opencl_text  # noqa: E402
from nnconv.runtime.kernels.target import Groups, Target  # noqa: E402

CARD = Target(lanes=1, groups=Groups(256, 48 << 10))
FORM = Form(group=64)
TOLERANCE = 1e-4
# OpenCL's words as CUDA's
WORDS = """
#define __global
#define __local __shared__
#define CLK_LOCAL_MEM_FENCE 0
#define barrier(fence) __syncthreads()
#define get_local_id(axis) ((int)threadIdx.x)
#define get_group_id(axis) ((int)blockIdx.x)
#define get_global_id(axis) ((int)(blockIdx.x * blockDim.x + threadIdx.x))
#define fma fmaf
#define restrict __restrict__
"""
HEAD = re.compile(r"__kernel __attribute__\(\(reqd_work_group_size\((\d+), 1, 1\)\)\)\nvoid")


def as_cuda(text: str) -> str:
    """The source of products and of what adds their parts up, for NVRTC."""
    text = HEAD.sub(r'extern "C" __global__ __launch_bounds__(\1) void', text)
    text = re.sub(r"\.s([0-3])\b", lambda found: "." + "xyzw"[int(found[1])], text)
    return WORDS + text.replace("#pragma OPENCL FP_CONTRACT OFF", "")


def launcher(kernel: Kernel, arguments: list[Any]) -> Callable[[], None]:
    import cupy

    source = as_cuda(opencl_text(kernel, CARD, FORM))
    function = cupy.RawKernel(source, kernel.name, options=("--fmad=false",))
    items = FORM.local_size(kernel)
    groups = FORM.global_size(kernel) // items
    return lambda: function((groups,), (items,), tuple(arguments))


class Work:
    """A product: its candidates, what they multiply, and PyTorch's way to the same."""

    def __init__(
        self, name: str, products: list[Product], a: Any, b: Any, theirs: Callable[[], Any]
    ) -> None:
        self.name, self.products, self.a, self.b, self.theirs = name, products, a, b, theirs

    def ours(self, product: Product, y: Any) -> Callable[[], None]:
        import cupy

        if product.parts == 1:
            return launcher(product, [self.a, self.b, y])
        parts = cupy.empty(product.parts * product.items * product.rows * product.columns, "f4")
        first = launcher(product, [self.a, self.b, parts])
        last = launcher(split_sum(product), [parts, y])

        def both() -> None:
            first()
            last()

        return both


def works(batch: int) -> Iterator[Work]:
    import cupy
    import torch

    groups = CARD.groups
    assert groups is not None
    for side in (1024, 4096):
        a, b = (torch.randn(side, side, device="cuda") for _ in range(2))
        dense = Matrix.dense(side, side)
        found = every_product(
            groups, Factors.rows(dense), Factors.rows(dense.transposed), Goal.matrix(dense)
        )
        held = cupy.asarray(a), cupy.asarray(b)
        yield Work(f"product {side}", list(found), *held, lambda a=a, b=b: a @ b)
    seen = set()
    for main, _ in gpu.bottlenecks():
        for layer in main:
            size = {64: 56, 128: 28, 256: 14, 512: 7}[main[0].outputs]
            shape = (layer.inputs, layer.outputs, layer.size, layer.stride, size)
            if shape not in seen:
                seen.add(shape)
                yield convolution(layer, size, batch, groups)


def convolution(layer: gpu.Layer, size: int, batch: int, groups: Groups) -> Work:
    import cupy
    import torch

    pad, before = layer.size // 2, size * layer.stride
    window = Window((layer.size,) * 2, (layer.stride,) * 2, (1, 1), (pad, pad))
    x = torch.randn(batch, layer.inputs, before, before, device="cuda")
    w = torch.randn(layer.outputs, layer.inputs, layer.size, layer.size, device="cuda")
    w /= (layer.inputs * layer.size**2) ** 0.5
    taps, depth = layer.size**2, layer.inputs * layer.size**2
    filled = -(-depth // 16) * 16
    turned = torch.zeros(filled, layer.outputs, device="cuda")
    turned[:depth] = w.permute(2, 3, 1, 0).reshape(depth, layer.outputs)
    factors = Factors(
        layer.outputs, layer.inputs, 1, layer.outputs, taps, layer.outputs * layer.inputs,
        padded=True,
    )  # fmt: skip
    source = Array.dense(batch, layer.inputs, before, before)
    goal = Goal.pixels(Array.dense(batch, layer.outputs, size, size), 1)
    found = list(every_product(groups, factors, Pixels(source, window, (size, size)), goal))
    name = f"{layer.size}x{layer.size}/{layer.stride} {layer.inputs}->{layer.outputs} @{size}"
    held = cupy.asarray(turned), cupy.asarray(x)

    def theirs() -> Any:
        return torch.nn.functional.conv2d(x, w, stride=layer.stride, padding=pad)

    return Work(name, found, *held, theirs)


def milliseconds(run: Callable[[], Any], seconds: float) -> float:
    """The median of a run, by the card's clock."""
    import torch

    for _ in range(3):
        run()
    times: list[float] = []
    while sum(times) < 1e3 * seconds or len(times) < 5:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        run()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last))
    return statistics.median(times)


def measure(work: Work, options: argparse.Namespace) -> None:
    import cupy
    import torch

    wanted = work.theirs()
    their_ms = milliseconds(work.theirs, options.seconds)
    for product in work.products if options.blocks == "all" else work.products[:1]:
        y = cupy.full(tuple(wanted.shape), np.nan, "f4")
        run = work.ours(product, y)
        run()
        cupy.cuda.Device().synchronize()
        got = torch.as_tensor(y, device="cuda")
        worst = float((got - wanted).abs().max() / wanted.abs().max())
        right = "" if worst <= TOLERANCE else f"  WRONG by {worst:.1e}"
        ms = milliseconds(run, options.seconds)
        rate = 1e-9 * product.flops / ms
        split = f" in {product.parts}" if product.parts > 1 else ""
        print(
            f"{work.name:28} {product.block.name + split:16} {ms:8.3f} ms {rate:7.1f} TFLOP/s   "
            f"PyTorch {their_ms:8.3f} ms, ratio {their_ms / ms:.2f}{right}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--blocks", choices=["rule", "all"], default="rule")
    options = parser.parse_args()
    try:
        import cupy
        import torch
    except ImportError as error:
        print(f"gpu_kernels.py needs torch with CUDA, and cupy ({error})")
        return
    if not torch.cuda.is_available():
        print(f"gpu_kernels.py needs torch with CUDA: torch {torch.__version__} sees no card")
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    # CuPy launches on PyTorch's stream, so that its events time both
    with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
        for work in works(options.batch):
            measure(work, options)


if __name__ == "__main__":
    main()
