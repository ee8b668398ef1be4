"""Objects linked ahead of time: code as bytes that run wherever they are mapped.

A kernel's object refers to nothing but itself, relative to where it stands; so it is linked once,
when it is compiled, and loading it is a copy into pages that are then made executable. That keeps
LLVM, with its 60 MB and 30 ms, out of processes that find all their kernels in the cache. Linux on
x86-64 only: elsewhere pages and instruction caches have rules of their own, and LLVM's linker knows
them.
"""

from __future__ import annotations

import ctypes
import functools
import json
import mmap
import platform
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_MAGIC = b"nnconv image 1\n"
_GRAIN = 64  # where an image starts; no section asks for more

# ELF, as the System V ABI and its x86-64 supplement number things
_ALLOCATED, _WRITABLE = 2, 1
_RELOCATIONS = 4
_NEAR = {2: 4, 4: 4, 24: 8}  # PC32, PLT32, PC64: bytes of an address relative to its own place
_STUB = b"\xff\x25\x02\x00\x00\x00\x00\x00" + bytes(8)  # jmp to the address that follows
_STUB_ADDRESS = 8


@dataclass(slots=True)
class Image:
    """Linked code: where its functions start, and where addresses of outside functions go."""

    code: bytes
    symbols: dict[str, int]
    imports: dict[str, int] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        head = json.dumps([self.symbols, self.imports]).encode()
        return _MAGIC + struct.pack("<I", len(head)) + head + self.code

    @staticmethod
    def from_bytes(data: bytes) -> Image | None:
        """The image that `to_bytes` wrote; None for anything else, such as an object."""
        if not data.startswith(_MAGIC):
            return None
        start = len(_MAGIC) + 4
        (length,) = struct.unpack_from("<I", data, len(_MAGIC))
        symbols, imports = json.loads(data[start : start + length])
        return Image(data[start + length :], symbols, imports)


@functools.cache
def supported() -> bool:
    """Whether this process can run images: the system is the right one and allows it."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.maxsize < 2**32:
        return False
    try:
        load([Image(b"\xc3", {})])
    except OSError:  # a hardened system forbids memory that was written to become code
        return False
    return True


# -- linking


@dataclass(slots=True)
class _Section:
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int
    place: int = -1  # in the image


def link(obj: bytes) -> Image | None:
    """An x86-64 ELF object of ours as an image; None where it needs what an image cannot give:
    variables, or addresses that depend on where it is mapped.
    """
    if obj[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", obj, 18) != (62,):
        return None
    sections = _sections(obj)
    code = _laid_out(obj, sections)
    if code is None:
        return None
    image = Image(b"", {})
    for section in sections:
        loaded = section.kind == _RELOCATIONS and sections[section.info].place >= 0
        if loaded and not _relocate(obj, sections, section, code, image.imports):
            return None
    for name, index, value, kind in _symbols(obj, sections):
        if kind == 0x12 and index < len(sections) and sections[index].place >= 0:  # global function
            image.symbols[name] = sections[index].place + value
    image.code = bytes(code)
    return image


def _sections(obj: bytes) -> list[_Section]:
    (start,) = struct.unpack_from("<Q", obj, 40)
    size, count = struct.unpack_from("<HH", obj, 58)
    where = (start + size * number for number in range(count))
    return [_Section(*struct.unpack_from("<IIQQQQIIQQ", obj, at)) for at in where]


def _laid_out(obj: bytes, sections: Sequence[_Section]) -> bytearray | None:
    """What is loaded, one section behind the other; how to unwind the stack is nobody's need, as
    no kernel throws or calls what does.
    """
    code = bytearray()
    names = sections[struct.unpack_from("<H", obj, 62)[0]].offset
    for section in sections:
        unwinding = obj.startswith(b".eh_frame\0", names + section.name)
        if not section.flags & _ALLOCATED or not section.size or unwinding:
            continue
        if section.flags & _WRITABLE or section.align > _GRAIN or section.kind != 1:
            return None
        code += bytes(-len(code) % max(section.align, 1))
        section.place = len(code)
        code += obj[section.offset : section.offset + section.size]
    return code


def _symbols(obj: bytes, sections: Sequence[_Section]) -> list[tuple[str, int, int, int]]:
    """(name, section, value, binding and type) of every symbol."""
    table = next(section for section in sections if section.kind == 2)
    names = sections[table.link].offset
    found = []
    for at in range(table.offset, table.offset + table.size, 24):
        name, kind, _, index, value = struct.unpack_from("<IBBHQ", obj, at)
        end = obj.index(b"\0", names + name)
        found.append((obj[names + name : end].decode(), index, value, kind))
    return found


def _relocate(
    obj: bytes,
    sections: Sequence[_Section],
    table: _Section,
    code: bytearray,
    imports: dict[str, int],
) -> bool:
    """Fill in the relative addresses of one section; False for a kind that images do not have."""
    home, symbols = sections[table.info], _symbols(obj, sections)
    for at in range(table.offset, table.offset + table.size, 24):
        offset, kind, number, addend = struct.unpack_from("<QIIq", obj, at)
        name, index, value, _ = symbols[number]
        if kind not in _NEAR or (index and (index >= len(sections) or sections[index].place < 0)):
            return False
        target = sections[index].place + value if index else _stub(name, code, imports)
        place = home.place + offset
        width = _NEAR[kind]
        code[place : place + width] = (target + addend - place).to_bytes(
            width, "little", signed=True
        )
    return True


def _stub(name: str, code: bytearray, imports: dict[str, int]) -> int:
    """Where to call for a function outside: a jump whose address is filled in by `load`."""
    if name not in imports:
        code += bytes(-len(code) % 16)
        imports[name] = len(code) + _STUB_ADDRESS
        code += _STUB
    return imports[name] - _STUB_ADDRESS


# -- loading


class Loaded:
    """Images in memory, for as long as this object is referred to."""

    def __init__(self, memory: mmap.mmap, addresses: list[dict[str, int]]) -> None:
        self._memory = memory
        self.addresses = addresses


def load(images: Sequence[Image]) -> Loaded:
    """Map images, ready to be called; raises OSError where the system forbids it."""
    starts, size = [], 0
    for image in images:
        starts.append(size)
        size += -(-len(image.code) // _GRAIN) * _GRAIN
    memory = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for start, image in zip(starts, images, strict=True):
        memory[start : start + len(image.code)] = image.code
        for name, at in image.imports.items():
            memory[start + at : start + at + 8] = struct.pack("<Q", _outside(name))
    if _libc().mprotect(base, len(memory), mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "code cannot be made executable")
    found = [
        {name: base + start + at for name, at in image.symbols.items()}
        for start, image in zip(starts, images, strict=True)
    ]
    return Loaded(memory, found)


@functools.cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc


def _outside(name: str) -> int:
    try:
        function = getattr(_libc(), name)
    except AttributeError:
        raise OSError(f"there is no function {name} in this process") from None
    return ctypes.cast(function, ctypes.c_void_p).value or 0
