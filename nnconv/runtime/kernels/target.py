"""What a kernel may assume about the machine that runs it: vector width, registers, fused
arithmetic.

A `Target` is plain data, so schedules can be chosen and sources printed for machines that are not
here; only devices/jit.py gives `cpu` and `features` to LLVM.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Groups:
    """Work-groups of a graphics card: the most work-items of one, and the bytes that they share."""

    items: int = 256
    local_bytes: int = 32 << 10


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of processor. `lanes` counts f32 in a vector register, `registers` the vector
    registers.

    `indexed` says that multiply-add can take its factor from one lane of a vector (NEON); then a
    tile needs a register a row for these factors, where others broadcast from memory.

    With `groups` the machine is a graphics card: neighbouring work-items do neighbouring elements,
    one at a time (`lanes` is 1), so every value lies plain.
    """

    triple: str = ""
    cpu: str = ""
    features: str = ""
    lanes: int = 4
    registers: int = 16
    fma: bool = True
    indexed: bool = False
    groups: Groups | None = None

    @property
    def vector_bits(self) -> int:
        return self.lanes * 32


_AVX512 = "+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd"
_AVX2 = "+avx,+avx2,+fma,+f16c,+bmi,+bmi2"

# Forced kinds by name: (cpu name for LLVM, features, lanes, registers, fma, indexed)
KINDS: dict[str, Target] = {
    "avx512": Target("", "x86-64-v4", f"{_AVX2},{_AVX512}", 16, 32),
    "avx2": Target("", "x86-64-v3", _AVX2, 8, 16),
    "sse": Target("", "x86-64", "+sse2", 4, 16, fma=False),
    "neon": Target("aarch64-unknown-linux-gnu", "generic", "+neon", 4, 32, indexed=True),
}
