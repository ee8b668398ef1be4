"""From kernels to OpenCL programs: one build for all kernels of a plan that are not there yet.

Drivers that keep no binaries themselves get a cache of ours beside the cpu device's objects. PoCL
keeps what it compiles for each kernel under POCL_CACHE_DIR, and asking it for a binary would
compile everything a second time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnconv.runtime.devices import jit
from nnconv.runtime.devices.opencl.platform import Place, require, translated
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.opencl import opencl_text
from nnconv.schemas.errors import UnsupportedError

_LOG_LINES = 20


class GroupTooLargeError(UnsupportedError):
    """A kernel that the device cannot run in groups of its size: smaller ones may do."""


class Built:
    """A program in the device's memory; plans that use any of its kernels hold it."""

    def __init__(self, program: Any) -> None:
        self.program = program

    def kernel(self, name: str) -> Any:
        """A kernel of its own, whose arguments nobody else sets."""
        return require().Kernel(self.program, name)


def build_all(place: Place, kernels: Iterable[Kernel]) -> dict[str, Built]:
    """The program of each kernel, by digest; equal kernels are built once a process."""
    wanted = {kernel.digest: kernel for kernel in kernels}
    with place.lock:
        found = {d: b for d in wanted if (b := place.built.get(_key(place, d))) is not None}
        missing = [kernel for digest, kernel in sorted(wanted.items()) if digest not in found]
        if missing:
            made = Built(_program(place, source_of(place, missing)))
            for kernel in missing:
                _check_group(place, made, kernel)
            for kernel in missing:
                found[kernel.digest] = place.built[_key(place, kernel.digest)] = made
    return found


def _check_group(place: Place, made: Built, kernel: Kernel) -> None:
    """Registers may be too few for as many work-items as a group has."""
    if not kernel.local:
        return
    info, items = require().kernel_work_group_info, place.form.local_size(kernel)
    with translated(place.found, "asking for a kernel's groups"):
        most = made.kernel(kernel.name).get_work_group_info(
            info.WORK_GROUP_SIZE, place.found.device
        )
    if items > most:
        raise GroupTooLargeError(
            f"{place.name} runs {kernel.name} in groups of {most} at most, not {items}",
            hint="use --device cpu",
        )


def build_text(place: Place, source: str) -> Built:
    """A program by its text; equal ones are built once a process."""
    with place.lock:
        found: Built | None = place.built.get((source,))
        if found is None:
            found = place.built[(source,)] = Built(_program(place, source))
    return found


def _key(place: Place, digest: str) -> tuple[Any, ...]:
    return digest, place.target, place.form


def source_of(place: Place, kernels: Iterable[Kernel]) -> str:
    """The OpenCL C of several kernels; `--dump-kernels` shows it too."""
    return "\n".join(opencl_text(kernel, place.target, place.form) for kernel in kernels)


def binary_path(place: Place, source: str) -> Path:
    """Where the program's binary is kept: named by all that decides its bytes."""
    parts = (*place.found.identity, *place.options, source)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return jit.cache_folder() / f"{key}.cl.bin"


def _program(place: Place, source: str) -> Any:
    if not place.keeps_binaries:
        return _from_source(place, source)
    path = binary_path(place, source)
    program = _from_binary(place, path)
    if program is None:
        program = _from_source(place, source)
        with translated(place.found, "reading a program's binary"):
            binaries = program.get_info(require().program_info.BINARIES)
        jit.write_object(path, bytes(binaries[0]))
    return program


def _from_binary(place: Place, path: Path) -> Any:
    """The program in a cache file; None where there is none that the driver takes."""
    cl = require()
    binary = jit.read_object(path)
    if binary is None:
        return None
    try:
        return _built(place, cl._cl._Program(place.context, [place.found.device], [binary]))
    except cl.Error:
        return None


def _from_source(place: Place, source: str) -> Any:
    """Built by the driver. Raises UnsupportedError with the build log where it refuses."""
    cl = require()
    with translated(place.found, "making a program"):
        program = cl._cl._Program(place.context, source)
    try:
        return _built(place, program)
    except cl.Error as error:
        code = cl.status_code.to_string(error.code, f"error {error.code}")
        log = program.get_build_info(place.found.device, cl.program_build_info.LOG) or str(error)
        lines = [line for line in log.splitlines() if line.strip()]
        first = next((line for line in lines if "error" in line.lower()), code)
        raise UnsupportedError(
            f"the OpenCL compiler of {place.name} refuses a kernel ({code}): {first.strip()}",
            hint="use --device cpu, and report this log:\n" + "\n".join(lines[:_LOG_LINES]),
        ) from error


def _built(place: Place, program: Any) -> Any:
    """pyopencl's own `build` would go through its cache, add folders to the options, and warn users
    of whatever a compiler says of a program that it takes: some say something of each.
    """
    program._build(options=" ".join(place.options).encode(), devices=None)  # the one of its context
    return require().Program(program)
