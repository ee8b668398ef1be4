"""From LLVM IR text to callable addresses: target machine, short pipeline, cache on disk.

A kernel is compiled once a machine: its code (2-4 KB) is kept under the hash of everything that
decided its bytes, and the next process loads it without printing or parsing any IR; where code can
be linked ahead (image.py), without llvmlite. That is imported where something is to be compiled;
where it is absent `require` says so in one line.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import platform
import re
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from nnconv.runtime.devices import image
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.llvm import llvm_text
from nnconv.runtime.kernels.target import KINDS, Target
from nnconv.schemas.errors import InputError, InternalError, MissingExtraError, UnsupportedError

_MAGIC = b"nnconv object 1\n"
_LOCK = (
    threading.RLock()
)  # LLVM's bindings serialise single calls; this keeps sequences of them whole


@dataclass(frozen=True)
class Text:
    """Ready-made LLVM IR that defines the function `name` (and others), such as the `run` of
    jobs.py.
    """

    name: str
    ir: str
    others: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.ir.encode()).hexdigest()


Source = Kernel | Text


# -- processors


@functools.cache
def require() -> ModuleType:
    """llvmlite's binding, initialised once; MissingExtraError or UnsupportedError when it cannot
    be.
    """
    try:
        import llvmlite.binding as llvm
    except ImportError as error:
        raise MissingExtraError(
            f"the cpu device needs llvmlite, which cannot be imported ({error})",
            hint="pip install 'llvmlite>=0.45', or use --device reference (slow)",
        ) from None
    if llvm.llvm_version_info < (19,):  # the first that knows `splat` constants
        raise UnsupportedError(
            f"the cpu device needs LLVM 19 or newer, llvmlite brings {llvm.llvm_version_info[0]}",
            hint="pip install 'llvmlite>=0.45', or use --device reference (slow)",
        )
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    binding: ModuleType = llvm
    return binding


@functools.cache
def host() -> Target:
    """This machine. NNCONV_CPU=avx512|avx2|sse|neon forces a lesser kind (for tests and
    comparisons); InputError for another word.
    """
    forced = os.environ.get("NNCONV_CPU", "")
    if forced and forced not in KINDS:
        raise InputError(
            f"NNCONV_CPU={forced}: this is no kind of processor",
            hint=f"it takes {', '.join(KINDS)}; without it, this machine's own is used",
        )
    return target(forced) if forced else _this_machine()


def target(kind: str) -> Target:
    """One of the known kinds of processor, with this machine's triple where the kind names none."""
    if kind not in KINDS:
        hint = f"known are {', '.join(KINDS)}"
        raise InputError(f"unknown kind of processor {kind!r}", hint=hint)
    chosen = KINDS[kind]
    return chosen if chosen.triple else replace(chosen, triple=_this_machine().triple)


@functools.cache
def _this_machine() -> Target:
    """What LLVM makes of this processor: asked once, and kept beside the kernels."""
    identity = _identity()
    if identity is None:
        return _asked()
    key = hashlib.sha256("\n".join((_generator(), toolchain(), identity)).encode()).hexdigest()
    path = cache_folder().parent / "processors" / key
    known = read_object(path)
    if known is None:
        found = _asked()
        write_object(path, json.dumps(asdict(found)).encode())
        return found
    return Target(**json.loads(known))


def _asked() -> Target:
    llvm = require()
    features = llvm.get_host_cpu_features()
    kind = KINDS[_host_kind({name for name, present in features.items() if present})]
    return replace(
        kind,
        triple=llvm.get_process_triple(),
        cpu=llvm.get_host_cpu_name(),
        features=features.flatten(),
    )


# Of one core, in /proc/cpuinfo: what may differ from core to core or from moment to moment.
_CHANGING = ("processor", "cpu MHz", "bogomips", "apicid", "initial apicid", "core id", "BogoMIPS")


def _identity() -> str | None:
    """Words that differ where processors do, or None where nothing short of LLVM can tell."""
    try:
        with Path("/proc/cpuinfo").open("rb", buffering=0) as file:
            text = file.read(1 << 14).decode("ascii", "replace")
    except OSError:
        return None
    first = text.partition("\n\n")[0].splitlines()
    lines = [line for line in first if line.partition("\t")[0].rstrip(": ") not in _CHANGING]
    return "\n".join([platform.machine(), *lines]) if len(lines) > 2 else None


def _host_kind(features: set[str]) -> str:
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        return "neon"
    if machine not in ("x86_64", "amd64"):
        raise UnsupportedError(
            f"the cpu device has no schedules for {machine} processors",
            hint="use --device reference (slow)",
        )
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= features:
        return "avx512"
    return "avx2" if {"avx2", "fma"} <= features else "sse"


# -- compiling


@functools.cache
def toolchain() -> str:
    """Which llvmlite this is, told by its files: importing it costs 60 MB."""
    spec = find_spec("llvmlite")
    if spec is None or spec.origin is None:
        return str(require().llvm_version_info)
    folder = Path(spec.origin).parent
    with contextlib.suppress(OSError):
        found = [(folder / "_version.py").read_text("utf-8")]
        entries = [entry for entry in os.scandir(folder / "binding") if "llvmlite" in entry.name]
        found += [f"{entry.name} {entry.stat().st_size}" for entry in entries]
        return "\n".join(sorted(found))
    return str(require().llvm_version_info)


def _new_machine(target: Target) -> Any:
    kind = require().Target.from_triple(target.triple)
    return kind.create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="default"
    )


_machines: dict[Target, list[Any]] = {}


@contextlib.contextmanager
def _machine(target: Target) -> Iterator[Any]:
    """A target machine for this thread alone; it is kept for the next that asks."""
    free = _machines.setdefault(target, [])
    try:
        machine = free.pop()
    except IndexError:
        machine = _new_machine(target)
    yield machine
    free.append(machine)


@functools.cache
def _passes(target: Target) -> tuple[Any, Any]:
    """A pass manager and its builder, once a process: each leaves something behind (llvmlite 0.50:
    0.2 and 1.5 kB). Threads may share them, as llvmlite runs passes one at a time.
    """
    options = require().create_pipeline_tuning_options(speed_level=2)
    manager = require().create_new_module_pass_manager()
    manager.add_sroa_pass()
    return manager, require().create_pass_builder(_new_machine(target), options)


@functools.cache
def _data_layout(target: Target) -> str:
    return str(_new_machine(target).target_data)


def ir(source: Source, target: Target) -> str:
    """The LLVM IR of a kernel, as `--dump-kernels` shows it."""
    if isinstance(source, Text):
        return source.ir
    return llvm_text(source, target)


def _optimised(source: Source, target: Target) -> Any:
    llvm = require()
    try:
        # a context of its own: LLVM keeps every type and constant for as long as their context
        module = llvm.parse_assembly(ir(source, target), context=llvm.create_context())
    except RuntimeError as error:
        raise InternalError(f"LLVM refuses the source of kernel {source.name}: {error}") from None
    module.triple = target.triple
    module.data_layout = _data_layout(target)
    manager, builder = _passes(target)
    manager.run(module, builder)
    return module


def emit_object(source: Source, target: Target) -> bytes:
    """Object code for any target, also for machines that are not here."""
    module = _optimised(source, target)
    with _machine(target) as machine:
        return _emit(machine, module)


def assembly(source: Source, target: Target) -> str:
    """Assembly text, for people and for `vector_spills`."""
    module = _optimised(source, target)
    with _machine(target) as machine:
        text: str = machine.emit_assembly(module)
        return text


def _emit(machine: Any, module: Any) -> bytes:
    """`machine.emit_object(module)`, which takes four fifths of a compilation, without llvmlite's
    lock around all of LLVM: module and machine belong to this thread alone.
    """
    if (emit := _unlocked()) is None:
        code: bytes = machine.emit_object(module)
        return code
    lib, error = require().ffi.lib, ctypes.c_char_p()
    memory = emit(machine, module, 1, ctypes.byref(error))
    if not memory:
        raise InternalError(f"LLVM cannot compile a kernel: {(error.value or b'').decode()}")
    try:
        return ctypes.string_at(lib.LLVMPY_GetBufferStart(memory), lib.LLVMPY_GetBufferSize(memory))
    finally:
        lib.LLVMPY_DisposeMemoryBuffer(memory)


_EMITTING = [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]


@functools.cache
def _unlocked() -> Any:
    """LLVM's function behind `emit_object`, or None where this llvmlite has another than those of
    0.45 and 0.50: it has no public name, and without it kernels are compiled one at a time.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        lib = require().ffi.lib
        emit = ctypes.CDLL(lib._name, handle=lib._handle).LLVMPY_TargetMachineEmitToMemory
        known = lib.LLVMPY_TargetMachineEmitToMemory
        buffers = (lib.LLVMPY_GetBufferStart, lib.LLVMPY_GetBufferSize)
        emit.argtypes, emit.restype = known.argtypes, known.restype
        if list(known.argtypes[2:]) == _EMITTING and all(f.argtypes for f in buffers):
            return emit
    return None


_SPILLS = {
    "x86": re.compile(r"\b[xyz]mm\d+.*\(%rsp\)|\(%rsp\).*%[xyz]mm\d+"),
    "aarch64": re.compile(r"\b(?:ldr|str|ldp|stp)\s+q\d+.*\[sp\b"),
}


def vector_spills(text: str) -> int:
    """Vector registers moved to or from the stack: a tile that does so runs at one of two speeds,
    by chance.
    """
    pattern = _SPILLS["x86" if "%" in text else "aarch64"]
    return len(pattern.findall(text))


# -- the cache on disk


def cache_folder() -> Path:
    """NNCONV_CACHE, or `cache` in NNCONV_HOME, or the user's cache folder; kernels have their own
    room in it.
    """
    if chosen := os.environ.get("NNCONV_CACHE"):
        return Path(chosen) / "kernels"
    if home := os.environ.get("NNCONV_HOME"):
        return Path(home) / "cache" / "kernels"
    import platformdirs

    return Path(platformdirs.user_cache_dir("nnconv")) / "kernels"


@functools.cache
def _generator() -> str:
    """Hash of the sources that decide what a description means: the kernels, the printers, this
    file.
    """
    folder = Path(__file__).parent.parent / "kernels"
    digest = hashlib.sha256()
    for path in sorted([*folder.rglob("*.py"), Path(__file__)]):
        name = str(path.relative_to(folder.parent))
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def cache_key(source: Source, target: Target) -> str:
    """Everything that decides an object's bytes."""
    form = "image" if image.supported() else "object"
    parts = (source.name, source.digest, _generator(), repr(target), toolchain(), form)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_object(path: Path) -> bytes | None:
    """The object in a cache file, or None where the file is absent, cut or altered."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    head = len(_MAGIC) + 32
    code = data[head:]
    if data[: len(_MAGIC)] != _MAGIC or data[len(_MAGIC) : head] != hashlib.sha256(code).digest():
        return None
    return code


def write_object(path: Path, code: bytes) -> None:
    """Whole or not at all; a folder that cannot be written costs speed at the next start, nothing
    else.
    """
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(code).digest() + code)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise


def compiled(source: Source, target: Target) -> bytes:
    """A kernel's code as the cache keeps it: linked ahead where this machine can map it so, else
    an object.
    """
    code = emit_object(source, target)
    linked = image.link(code) if image.supported() else None
    return code if linked is None else linked.to_bytes()


def cached(sources: Sequence[Source], target: Target) -> list[bytes]:
    """The code of kernels: from the cache, or compiled, on all cores, and put there."""
    paths = [cache_folder() / f"{cache_key(source, target)}.o" for source in sources]
    found = [read_object(path) for path in paths]
    missing = [number for number, code in enumerate(found) if code is None]
    if missing:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        _passes(target)  # made here once, instead of by all at once
        with ThreadPoolExecutor(min(cores or 1, len(missing))) as pool:
            made = pool.map(lambda number: compiled(sources[number], target), missing)
            for number, code in zip(missing, made, strict=True):
                found[number] = code
                write_object(paths[number], code)
    return [code for code in found if code is not None]


# -- loading


class Code:
    """A function loaded into this process. It stays in memory as long as this object is referred
    to.
    """

    def __init__(self, name: str, addresses: dict[str, int], owner: object) -> None:
        self.name = name
        self.addresses = addresses
        self._owner = owner

    @property
    def address(self) -> int:
        return self.addresses[self.name]

    def __repr__(self) -> str:
        return f"<Code {self.name} at {self.address:#x}>"


_loaded: weakref.WeakValueDictionary[tuple[str, Target], Code] = weakref.WeakValueDictionary()


def load(source: Source, target: Target | None = None) -> Code:
    """One kernel, ready to be called: `void (void **arguments, int64 lo, int64 hi)` for a
    `Kernel`.
    """
    return load_all([source], target)[0]


def load_all(sources: Iterable[Source], target: Target | None = None) -> list[Code]:
    """Kernels ready to be called, equal ones shared; what is not in memory or on disk is compiled
    now.

    What is new is loaded together, and leaves memory together with the last of it.
    """
    chosen = target or host()
    with _LOCK:
        wanted = [(source.digest, source) for source in sources]
        codes = {key: code for key, _ in wanted if (code := _loaded.get((key, chosen)))}
        new = {key: source for key, source in wanted if key not in codes}
        codes |= zip(new, _load(list(new.values()), chosen), strict=True)
        _loaded.update({(key, chosen): codes[key] for key in new})
        return [codes[key] for key, _ in wanted]


def _load(sources: list[Source], target: Target) -> list[Code]:
    images, objects = {}, {}
    for source, code in zip(sources, cached(sources, target), strict=True):
        linked = image.Image.from_bytes(code)
        if linked is None:
            objects[source] = code
        else:
            images[source] = linked
    codes = _load_images(images) | _load_objects(objects, target)
    return [codes[source] for source in sources]


def _load_images(images: dict[Source, image.Image]) -> dict[Source, Code]:
    home = image.load(list(images.values()))
    pairs = zip(images, home.addresses, strict=True)
    return {source: Code(source.name, addresses, home) for source, addresses in pairs}


def _load_objects(objects: dict[Source, bytes], target: Target) -> dict[Source, Code]:
    """In an engine of their own. LLVM's newer linker (LLJIT) keeps some 9 kB of each library that
    was unloaded; an engine gives everything back.
    """
    if not objects:
        return {}
    llvm = require()
    empty = llvm.parse_assembly("")
    empty.triple = target.triple
    own = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, reloc="pic", codemodel="jitdefault", jit=True
    )
    engine = llvm.create_mcjit_compiler(empty, own)
    for code in objects.values():
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return {source: Code(source.name, _addresses(engine, source), engine) for source in objects}


def _addresses(engine: Any, source: Source) -> dict[str, int]:
    others = source.others if isinstance(source, Text) else ()
    return {name: engine.get_function_address(name) for name in (source.name, *others)}


def dump(sources: Iterable[Source], folder: Path, target: Target | None = None) -> list[Path]:
    """Write the readable LLVM IR of each kernel to `folder`; what `--dump-kernels` does."""
    chosen = target or host()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for source in sources:
        path = folder / f"{source.name}.ll"
        path.write_text(ir(source, chosen), encoding="utf-8")
        paths.append(path)
    return paths
