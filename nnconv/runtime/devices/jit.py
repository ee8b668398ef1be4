"""From LLVM IR text to callable addresses: target machine, short pipeline, object cache on disk.

A kernel is compiled once a machine: its object (2-4 KB) is kept under the hash of everything that
decided its bytes, and the next process loads it without printing or parsing any IR. llvmlite is
imported on first use; where it is absent `require` says so in one line.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import tempfile
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

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
    comparisons).
    """
    llvm = require()
    if forced := os.environ.get("NNCONV_CPU", ""):
        return target(forced)
    features = llvm.get_host_cpu_features()
    kind = KINDS[_host_kind({name for name, present in features.items() if present})]
    return replace(
        kind,
        triple=llvm.get_process_triple(),
        cpu=llvm.get_host_cpu_name(),
        features=features.flatten(),
    )


def target(kind: str) -> Target:
    """One of the known kinds of processor, with this machine's triple where the kind names none."""
    if kind not in KINDS:
        hint = f"known are {', '.join(KINDS)} (see NNCONV_CPU)"
        raise InputError(f"unknown kind of processor {kind!r}", hint=hint)
    chosen = KINDS[kind]
    return chosen if chosen.triple else replace(chosen, triple=require().get_process_triple())


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
def _machine(target: Target) -> Any:
    kind = require().Target.from_triple(target.triple)
    return kind.create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="default"
    )


@functools.cache
def _pass_builder(target: Target) -> Any:
    """One a process: each leaves 1.5 kB behind (llvmlite 0.50)."""
    options = require().create_pipeline_tuning_options(speed_level=2)
    return require().create_pass_builder(_machine(target), options)


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
    module.data_layout = str(_machine(target).target_data)
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.run(module, _pass_builder(target))
    return module


def emit_object(source: Source, target: Target) -> bytes:
    """Object code for any target, also for machines that are not here."""
    with _LOCK:
        code: bytes = _machine(target).emit_object(_optimised(source, target))
        return code


def assembly(source: Source, target: Target) -> str:
    """Assembly text, for people and for `vector_spills`."""
    with _LOCK:
        text: str = _machine(target).emit_assembly(_optimised(source, target))
        return text


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
    for path in sorted([*folder.glob("*.py"), Path(__file__)]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def cache_key(source: Source, target: Target) -> str:
    """Everything that decides an object's bytes."""
    version = ".".join(map(str, require().llvm_version_info))
    parts = (source.name, source.digest, _generator(), repr(target), version)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read_object(path: Path) -> bytes | None:
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


def _write_object(path: Path, code: bytes) -> None:
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


def object_code(source: Source, target: Target) -> bytes:
    """The object of a kernel: from the cache, or compiled and put there."""
    path = cache_folder() / f"{cache_key(source, target)}.o"
    code = _read_object(path)
    if code is None:
        code = emit_object(source, target)
        _write_object(path, code)
    return code


# -- loading


class Code:
    """A function loaded into this process. It stays in memory as long as this object is referred
    to.
    """

    def __init__(self, name: str, addresses: dict[str, int], engine: Any) -> None:
        self.name = name
        self.addresses = addresses
        self._engine = engine

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
    """In an engine of their own. LLVM's newer linker (LLJIT) keeps some 9 kB of each library that
    was unloaded; an engine gives everything back.
    """
    if not sources:
        return []
    llvm = require()
    empty = llvm.parse_assembly("")
    empty.triple = target.triple
    own = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, reloc="pic", codemodel="jitdefault", jit=True
    )
    engine = llvm.create_mcjit_compiler(empty, own)
    for source in sources:
        image = object_code(source, target)
        engine.add_object_file(llvm.ObjectFileRef.from_data(image))
    engine.finalize_object()
    return [Code(s.name, _addresses(engine, s), engine) for s in sources]


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
