"""Kernels for 64-bit ARM, run here: a static program of them, their job table and their buffers,
under qemu-aarch64.

No cross compiler is needed: LLVM makes the objects, and the few relocations in them are filled in
below. The program walks its jobs by the generated `lead`, as plans do, and writes its memory to
stdout.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nnconv.runtime.devices import image, jit
from nnconv.runtime.devices.walking import walking_text
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.target import Target
from tests.kernels.harness import Floats

_BASE = 0x400000  # where the program is loaded
_PAGE = 4096

_MAIN = """\
define void @_start() {
  %ran = call i64 @nnconv_lead(ptr inttoptr (i64 JOBS to ptr), i64 COUNT,
    ptr inttoptr (i64 COUNTERS to ptr), i64 1, i64 1, ptr null, i64 0)
  br label %next
next:
  %at = phi i64 [ DATA, %0 ], [ %to, %more ]
  %left = sub i64 END, %at
  %some = icmp sgt i64 %left, 0
  br i1 %some, label %more, label %over
more:
  %wrote = call i64 @system(i64 64, i64 1, i64 %at, i64 %left)
  %to = add i64 %at, %wrote
  br label %next
over:
  %gone = call i64 @system(i64 93, i64 0, i64 0, i64 0)
  unreachable
}
declare i64 @system(i64, i64, i64, i64)
declare i64 @nnconv_lead(ptr, i64, ptr, i64, i64, ptr, i64)
define i32 @sched_yield() {
  ret i32 0
}
"""

# `system(number, a, b, c)`: mov x8, x0; mov x0, x1; mov x1, x2; mov x2, x3; svc #0; ret
# (as words: llvmlite has no assembler for ARM)
_SYSTEM = (0xAA0003E8, 0xAA0103E0, 0xAA0203E1, 0xAA0303E2, 0xD4000001, 0xD65F03C0)


def run(work: Sequence[tuple[Kernel, Sequence[Floats]]], target: Target, folder: Path) -> None:
    """Run kernels of `target`, a 64-bit ARM one, in order; buffers hold their results after it."""
    emulator = shutil.which("qemu-aarch64")
    assert emulator, "tests of ARM code need qemu-aarch64: apt-get install qemu-user"
    buffers = [buffer for _, given in work for buffer in given]
    memory = _Memory(buffers)
    sources = {kernel.name: kernel for kernel, _ in work}
    objects = [jit.emit_object(source, target) for source in sources.values()]
    objects.append(jit.emit_object(walking_text(target), target))
    main = memory.main(len(work))
    objects.append(jit.emit_object(jit.Text("_start", main), target))
    code, symbols = _linked(objects, memory.end)
    program = folder / "program"
    program.write_bytes(_executable(memory.filled(work, symbols) + code, symbols["_start"]))
    program.chmod(0o700)
    done = subprocess.run([emulator, program], capture_output=True, check=True, timeout=60)
    memory.read(done.stdout)


class _Memory:
    """The program's data: buffers, then counters, jobs, and the addresses of arguments."""

    def __init__(self, buffers: Sequence[Floats]) -> None:
        self.buffers = buffers
        self.places = []
        at = _BASE + _PAGE
        for buffer in buffers:
            self.places.append(at)
            at += -(-buffer.nbytes // 64) * 64
        self.data_end = at
        self.counters = at
        self.jobs = at + 128 * len(buffers)  # two counters a job: items done, items taken
        self.arguments = self.jobs + 40 * len(buffers)
        self.end = -(-(self.arguments + 8 * len(buffers)) // 64) * 64

    def main(self, count: int) -> str:
        text = _MAIN.replace("COUNTERS", str(self.counters)).replace("COUNT", str(count))
        text = text.replace("JOBS", str(self.jobs)).replace("END", str(self.data_end))
        return text.replace("DATA", str(_BASE + _PAGE))

    def filled(
        self, work: Sequence[tuple[Kernel, Sequence[Floats]]], symbols: dict[str, int]
    ) -> bytes:
        start = _BASE + _PAGE
        data = bytearray(self.end - start)
        for place, buffer in zip(self.places, self.buffers, strict=True):
            data[place - start : place - start + buffer.nbytes] = buffer.tobytes()
        done = 0
        for number, (kernel, given) in enumerate(work):
            arguments = self.arguments + 8 * done
            job = (symbols[kernel.name], arguments, kernel.total, kernel.chunk, kernel.total)
            struct.pack_into("<5Q", data, self.jobs - start + 40 * number, *job)
            places = self.places[done : done + len(given)]
            struct.pack_into(f"<{len(given)}Q", data, arguments - start, *places)
            done += len(given)
        return bytes(data)

    def read(self, data: bytes) -> None:
        for place, buffer in zip(self.places, self.buffers, strict=True):
            at = place - _BASE - _PAGE
            buffer[:] = np.frombuffer(data, np.float32, buffer.size, at)


# -- a program without a linker


def _linked(objects: Sequence[bytes], start: int) -> tuple[bytes, dict[str, int]]:
    """All code from address `start` on, and where its functions are."""
    code, symbols, parts = bytearray(struct.pack("<6I", *_SYSTEM)), {"system": start}, []
    for obj in objects:
        sections = image._sections(obj)
        laid = image._laid_out(obj, sections)
        assert laid is not None
        code += bytes(-(start + len(code)) % 64)
        base = start + len(code)
        code += laid
        parts.append((obj, sections, base))
        for name, index, value, kind in image._symbols(obj, sections):
            if kind == 0x12 and index:
                symbols[name] = base + sections[index].place + value
    for obj, sections, base in parts:
        for table in sections:
            if table.kind == 4 and sections[table.info].place >= 0:
                _relocate(obj, sections, table, base, code, start, symbols)
    return bytes(code), symbols


def _relocate(
    obj: bytes,
    sections: Sequence[image._Section],
    table: image._Section,
    base: int,
    code: bytearray,
    start: int,
    symbols: dict[str, int],
) -> None:
    known = image._symbols(obj, sections)
    for at in range(table.offset, table.offset + table.size, 24):
        offset, kind, number, addend = struct.unpack_from("<QIIq", obj, at)
        name, index, value, _ = known[number]
        target = addend + (base + sections[index].place + value if index else symbols[name])
        place = base + sections[table.info].place + offset
        (word,) = struct.unpack_from("<I", code, place - start)
        struct.pack_into("<I", code, place - start, word | _FILL[kind](target, place))


def _page(target: int, place: int) -> int:
    """ADRP: pages from here, the low two bits apart."""
    pages = (target >> 12) - (place >> 12) & (1 << 21) - 1
    return (pages & 3) << 29 | pages >> 2 << 5


# What a relocation (ELF for the Arm 64-bit architecture, 5.7) puts into its instruction.
_FILL: dict[int, Callable[[int, int], int]] = {
    275: _page,  # ADR_PREL_PG_HI21
    277: lambda target, place: (target & 4095) << 10,  # ADD_ABS_LO12_NC
    278: lambda target, place: (target & 4095) << 10,  # LDST8_ABS_LO12_NC
    282: lambda target, place: target - place >> 2 & (1 << 26) - 1,  # JUMP26
    283: lambda target, place: target - place >> 2 & (1 << 26) - 1,  # CALL26
    284: lambda target, place: (target & 4095) >> 1 << 10,  # LDST16_ABS_LO12_NC
    285: lambda target, place: (target & 4095) >> 2 << 10,  # LDST32
    286: lambda target, place: (target & 4095) >> 3 << 10,  # LDST64
    299: lambda target, place: (target & 4095) >> 4 << 10,  # LDST128
}


def _executable(content: bytes, entry: int) -> bytes:
    """A static ELF file: its header, then one segment that may be read, written and run."""
    size = _PAGE + len(content)
    head = struct.pack(
        "<4sBBB9xHHIQQQIHHHHHH",
        b"\x7fELF", 2, 1, 1, 2, 183, 1, entry, 64, 0, 0, 64, 56, 1, 64, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, size, size, _PAGE)
    return (head + segment).ljust(_PAGE, b"\0") + content
