"""Compiling for several processors, and the object cache: shared, checked, never in the way."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnconv.runtime.devices import jit, open_device
from nnconv.runtime.kernels.arrays import Array, Border
from nnconv.runtime.kernels.conv import Window, every_conv
from nnconv.runtime.kernels.elementwise import Chain, Step, Strided, chain
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.target import KINDS, Target
from nnconv.schemas.errors import InputError, InternalError, MissingExtraError
from tests.kernels.harness import buffer, run
from tests.kernels.samples import samples


def relu(elements: int) -> Chain:
    one = [Strided((1,))]
    return chain([elements], one, one, [Step("Relu", (0,))], [1], jit.host().lanes)


def works(kernel: Chain) -> bool:
    x = buffer(np.linspace(-1, 1, kernel.shape[0]))
    y = buffer(x * np.nan)
    run(kernel, jit.host(), x, y)
    return bool((y == np.maximum(x, 0)).all())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NNCONV_CACHE", str(tmp_path))
    return tmp_path / "kernels"


def test_an_object_is_compiled_once_and_then_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = relu(101)
    code = jit.cached([kernel], jit.host())
    (file,) = folder.iterdir()
    monkeypatch.setattr(jit, "emit_object", lambda *_: pytest.fail("compiled again"))
    assert jit.cached([kernel], jit.host()) == code
    assert file.read_bytes().endswith(code[0])


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "foreign"])
def test_a_corrupt_object_is_compiled_again(harm: str, folder: Path) -> None:
    kernel = relu(200 + len(harm))
    jit.cached([kernel], jit.host())
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    broken = bytearray(whole)
    broken[-20] ^= 1
    harmed = {"cut": whole[:-9], "flipped": bytes(broken), "empty": b"", "foreign": b"\x7fELF" * 99}
    file.write_bytes(harmed[harm])
    assert works(kernel)
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernels").write_text("a file where the folder should be")
    monkeypatch.setenv("NNCONV_CACHE", str(tmp_path))
    assert works(relu(303))


def test_processes_that_compile_at_once_do_not_disturb_each_other(folder: Path) -> None:
    script = (
        "from tests.kernels.test_jit import relu, works\n"
        "assert all(works(relu(n)) for n in range(400, 408))\n"
    )
    root = Path(__file__).parents[2]
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(subprocess.run, [sys.executable, "-c", script], cwd=root, check=False)
            for _ in range(4)
        ]
    assert [job.result().returncode for job in jobs] == [0] * 4
    assert len(list(folder.glob("*.o"))) == len(list(folder.iterdir()))


def test_the_cache_lies_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNCONV_CACHE", str(tmp_path / "a"))
    assert jit.cache_folder() == tmp_path / "a" / "kernels"
    monkeypatch.delenv("NNCONV_CACHE")
    monkeypatch.setenv("NNCONV_HOME", str(tmp_path / "b"))
    assert jit.cache_folder() == tmp_path / "b" / "cache" / "kernels"
    monkeypatch.delenv("NNCONV_HOME")
    assert jit.cache_folder().parts[-2:] == ("nnconv", "kernels")


def test_keys_differ_where_objects_may_differ() -> None:
    kernels, targets = [relu(8), relu(9)], [jit.target("avx2"), jit.target("sse")]
    assert len({jit.cache_key(k, t) for k in kernels for t in targets}) == 4


@pytest.mark.parametrize("file", ["llvm.py", "samples/conv.py"])
def test_keys_depend_on_the_sources_of_all_kernels(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, target, read = relu(8), jit.host(), Path.read_bytes
    before = jit.cache_key(kernel, target)

    def edited(path: Path) -> bytes:
        return read(path) + (b"#" if path.as_posix().endswith(f"kernels/{file}") else b"")

    monkeypatch.setattr(jit, "_generator", jit._generator.__wrapped__)
    monkeypatch.setattr(Path, "read_bytes", edited)
    assert jit.cache_key(kernel, target) != before


def test_equal_kernels_are_loaded_once() -> None:
    first, second = jit.load_all([relu(77), relu(77)])
    assert first is second


def test_a_kernel_in_use_by_nobody_leaves_memory() -> None:
    key = (relu(78).digest, jit.host())
    code = jit.load(relu(78))
    assert key in jit._loaded
    del code
    assert key not in jit._loaded


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_compiles_for_every_processor(kind: str) -> None:
    target = jit.target(kind)
    for name, kernel, _ in samples(target):
        assert jit.emit_object(kernel, target)[:4] == b"\x7fELF", name


@pytest.mark.parametrize("kind", KINDS)
def test_no_tile_that_is_a_candidate_spills(kind: str) -> None:
    target = jit.target(kind)
    x = Array.dense(1, 64, 28, 28, target.lanes, Border(1, 1, 1, 1))
    y = Array.dense(1, 64, 28, 28, target.lanes)
    for kernel in islice(every_conv(target, x, y, Window((3, 3), pad=(1, 1))), 4):
        assert jit.vector_spills(jit.assembly(kernel, target)) == 0, kernel.tile


def test_neon_multiplies_by_a_lane_of_a_vector() -> None:
    target = jit.target("neon")
    kernel = next(k for name, k, _ in samples(target) if name == "conv")
    text = jit.assembly(kernel, target)
    assert text.count("fmla") > 20
    assert ".s[3]" in text


def test_without_fused_arithmetic_nothing_calls_a_library() -> None:
    target = jit.target("sse")
    for _, kernel, _ in samples(target):
        assert "llvm.fma" not in jit.ir(kernel, target)


def test_a_dump_is_readable(tmp_path: Path) -> None:
    kernel = relu(55)
    (path,) = jit.dump([kernel], tmp_path / "dump")
    text = path.read_text()
    assert path.name == f"{kernel.name}.ll"
    assert text.startswith(f"; {kernel.name}: y... = steps(x...)")
    assert "shape = (55,)" in text


def test_the_environment_may_force_a_lesser_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNCONV_CPU", "avx2")
    assert jit.host.__wrapped__() == jit.target("avx2")
    monkeypatch.delenv("NNCONV_CPU")
    assert jit.host.__wrapped__().cpu not in ("", "x86-64-v3")


def test_an_unknown_processor_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="unknown kind of processor 'vax'") as refused:
        jit.target("vax")
    assert "avx512" in refused.value.problems[0].hint


def test_a_mistyped_processor_in_the_environment_is_no_reason_for_another_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NNCONV_CPU", "avx513")
    monkeypatch.delenv("NNCONV_DEVICE", raising=False)
    monkeypatch.setattr(jit, "host", jit.host.__wrapped__)  # it remembers this machine
    with pytest.raises(InputError, match="NNCONV_CPU=avx513: ") as refused:
        open_device()
    assert all(kind in refused.value.problems[0].hint for kind in KINDS)


def test_without_llvmlite_the_error_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['llvmlite'] = None\n"
        "from nnconv.runtime.devices import jit\n"
        "from nnconv.schemas.errors import MissingExtraError\n"
        "try: jit.host()\n"
        "except MissingExtraError as error: print(error)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert "pip install 'llvmlite>=0.45'" in done.stdout
    assert MissingExtraError.exit_code == 2


def test_source_that_llvm_refuses_is_our_bug() -> None:
    with pytest.raises(InternalError, match="LLVM refuses the source of kernel broken"):
        jit.emit_object(jit.Text("broken", "define void @broken( {"), jit.host())


class OtherLibrary:
    """A library of LLVM that has everything but what `jit` takes from its wrapper."""

    def __init__(self, lib: Any, missing: str) -> None:
        self.lib, self.missing = lib, missing

    def __getattr__(self, name: str) -> Any:
        if name == self.missing:
            raise AttributeError(name)
        return getattr(self.lib, name)


@pytest.mark.parametrize(
    "missing", ["", "_name", "_handle", "LLVMPY_TargetMachineEmitToMemory", "LLVMPY_GetBufferSize"]
)
def test_another_llvmlite_compiles_the_same_objects(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, target = relu(103), jit.host()
    expected = jit.emit_object(kernel, target)
    ffi = jit.require().ffi
    unlocked = jit._unlocked.__wrapped__
    with monkeypatch.context() as patch:
        patch.setattr(ffi, "lib", OtherLibrary(ffi.lib, missing))
        emit = unlocked()
    assert (emit is None) == bool(missing)
    monkeypatch.setattr(jit, "_unlocked", lambda: emit)
    assert jit.emit_object(kernel, target) == expected


def test_names_follow_the_description() -> None:
    kernels: list[tuple[Target, Kernel]] = [(jit.host(), k) for _, k, _ in samples(jit.host())]
    assert len({kernel.name for _, kernel in kernels}) == len({kernel for _, kernel in kernels})
