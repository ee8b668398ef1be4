"""A whole plan as one OpenCL kernel, for processors: it walks a table of jobs in the host's memory.

On a processor a launch costs more than many a layer takes. So kernels are printed as functions over
a range of items, and one kernel, started once for each thread, does what the cpu device's `run`
does: it takes chunks of a job by an atomic counter and goes on when all items are done. Whoever
waits does so for items that another one is computing right now, so it does not matter how many of
the work-groups run at the same time. Buffers are addresses. Atomics, `__builtin_ia32_pause` and
pointers made from numbers are clang's: PoCL takes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from nnconv.runtime.kernels.language import Argument, Kernel
from nnconv.runtime.kernels.opencl import Form, OpenCLPrinter
from nnconv.runtime.kernels.target import Target

JOB_WORDS = 4  # function, items, items in a chunk, place of the first address
COUNTER_WORDS = 16  # two counters a job, each in a cache line of its own
_SPINS = 3000  # then let others have the processor: they may hold what is waited for

_REST = f"""\
#define atomic_take(counter, items) __atomic_fetch_add(counter, items, __ATOMIC_SEQ_CST)

static void give_way(const int spins) {{
#if defined(__x86_64__) && defined(__linux__)
  if (spins > {_SPINS}) {{
    long result = 24;  // sched_yield: kernels cannot call the C library
    __asm__ volatile("syscall" : "+a"(result) : : "rcx", "r11", "memory");
  }}
#endif
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}}
"""

_WALK = f"""\
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void nnconv_walk(const long jobs, const long count, const long addresses, const long counters) {{
  for (long number = 0; number < count; ++number) {{
    __global const long* job = (__global const long*)jobs + {JOB_WORDS} * number;
    __global long* next = (__global long*)counters + {2 * COUNTER_WORDS} * number;
    __global long* done = next + {COUNTER_WORDS};
    const long total = job[1], chunk = job[2];
    __global const long* at = (__global const long*)addresses + job[3];
    for (long first = atomic_take(next, chunk); first < total; first = atomic_take(next, chunk)) {{
      const long last = first + chunk < total ? first + chunk : total;
      nnconv_job(job[0], at, (int)first, (int)last);
      atomic_take(done, last - first);
    }}
    for (int spins = 0; __atomic_load_n(done, __ATOMIC_SEQ_CST) < total; ++spins) give_way(spins);
  }}
}}
"""


class FunctionPrinter(OpenCLPrinter):
    """Prints a kernel as a function over the items `from` to `to`."""

    groups = False

    def __init__(self, kernel: Kernel, target: Target) -> None:
        super().__init__(kernel, target, Form(packed=True))

    def item(self) -> str:
        return "item"

    def text(self) -> str:
        parameters = ", ".join(f"{_kind(each)} {each.name}" for each in self.kernel.arguments)
        lines = [
            *(f"// {line}" for line in self.kernel.comment()),
            *self.types.values(),
            "static __attribute__((noinline))",
            f"void {self.kernel.name}({parameters}, const int from, const int to) {{",
            "  for (int item = from; item < to; ++item) {",
            *self.lines,
            "  }",
            "}",
        ]
        return "\n".join(lines) + "\n"


def _kind(argument: Argument, restrict: bool = True) -> str:
    space = "__global" if argument.written else "__global const"
    word = "" if argument.aliased or not restrict else " restrict"
    return f"{space} {argument.dtype.opencl}*{word}"


def walk_text(kernels: Sequence[Kernel], target: Target) -> str:
    """The program that can do jobs of these kernels, which are numbered in this order."""
    functions, cases = [], []
    for number, kernel in enumerate(kernels):
        printer = FunctionPrinter(kernel, target)
        kernel.describe(printer)
        functions.append(printer.text())
        given = [f"({_kind(each, False)})at[{i}]" for i, each in enumerate(kernel.arguments)]
        cases.append(f"    case {number}: {kernel.name}({', '.join(given)}, from, to); break;")
    head = "static void nnconv_job(long which, __global const long* at, int from, int to) {"
    choice = "\n".join([head, "  switch (which) {", *cases, "  }", "}\n"])
    return "\n".join(["#pragma OPENCL FP_CONTRACT OFF", *functions, _REST, choice, _WALK])
