"""Programs: built together, kept as binaries where the driver keeps none, and refused clearly."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnconv.runtime.devices.opencl import cache as opencl_cache
from nnconv.runtime.devices.opencl.cache import binary_path, build_all, source_of
from nnconv.runtime.devices.opencl.platform import Place
from nnconv.runtime.kernels.elementwise import Strided
from nnconv.runtime.kernels.language import Kernel
from nnconv.runtime.kernels.movement import copy
from nnconv.schemas.errors import UnsupportedError


def kernel(size: int) -> Kernel:
    return copy((size,), Strided((1,)), Strided((1,)), 4)


@pytest.fixture
def keeping(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The device as if its driver kept no binaries, with an empty cache."""
    monkeypatch.setenv("NNCONV_CACHE", str(tmp_path))
    yield replace(place, keeps_binaries=True, built=weakref.WeakValueDictionary())


def forget(place: Place) -> Place:
    """The same device in the next process."""
    return replace(place, built=weakref.WeakValueDictionary())


def copies(place: Place, what: Kernel, size: int) -> bool:
    """Whether the built kernel copies."""
    import pyopencl as cl

    built = build_all(place, [what])[what.digest].kernel(what.name)
    x = np.arange(size, dtype=np.float32)
    queue = cl.CommandQueue(place.context)
    flags = cl.mem_flags.READ_WRITE
    source = cl.Buffer(place.context, flags | cl.mem_flags.COPY_HOST_PTR, hostbuf=x)
    target = cl.Buffer(place.context, flags, size=x.nbytes)
    built.set_args(source, np.int64(0), target, np.int64(0))
    global_size = (place.form.global_size(what),)
    cl.enqueue_nd_range_kernel(queue, built, global_size, (place.form.group,))
    y = np.empty_like(x)
    cl.enqueue_copy(queue, y, target)
    return bool(np.array_equal(x, y))


def test_kernels_of_a_plan_are_one_program_and_known_ones_are_not_built_again(
    place: Place,
) -> None:
    first = build_all(place, [kernel(n) for n in (101, 102, 103)])
    assert len(set(map(id, first.values()))) == 1
    second = build_all(place, [kernel(n) for n in (103, 104)])
    assert second[kernel(103).digest] is first[kernel(103).digest]
    assert second[kernel(104).digest] is not first[kernel(103).digest]


def test_a_binary_is_kept_and_used_by_the_next_process(
    keeping: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = kernel(50)
    assert copies(keeping, what, 50)
    path = binary_path(keeping, source_of(keeping, [what]))
    assert path.exists() and list(path.parent.iterdir()) == [path]

    def refuse(place: Place, source: str) -> None:
        raise AssertionError("built from source again")

    monkeypatch.setattr(opencl_cache, "_from_source", refuse)
    assert copies(forget(keeping), what, 50)


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b"", lambda b: b[:60] + b"x" * 90])
def test_a_damaged_binary_is_built_again(keeping: Place, damage: object) -> None:
    what = kernel(51)
    build_all(keeping, [what])
    path = binary_path(keeping, source_of(keeping, [what]))
    whole = path.read_bytes()
    path.write_bytes(damage(whole))  # type: ignore[operator]
    assert copies(forget(keeping), what, 51)
    assert len(path.read_bytes()) == len(whole)


def test_the_name_of_a_binary_depends_on_driver_options_and_source(place: Place) -> None:
    text = source_of(place, [kernel(5)])
    other = replace(place, options=("-cl-mad-enable",))
    paths = {binary_path(place, text), binary_path(place, text + " "), binary_path(other, text)}
    assert len(paths) == 3


def test_a_refused_program_shows_the_build_log(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(place: Place, kernels: object) -> str:
        return "__kernel void f(__global float* x) { x[0] = undeclared; }"

    monkeypatch.setattr(opencl_cache, "source_of", broken)
    with pytest.raises(UnsupportedError, match="undeclared") as caught:
        build_all(place, [kernel(52)])
    text = str(caught.value)
    assert f"OpenCL compiler of {place.name}" in text and "BUILD_PROGRAM_FAILURE" in text


def test_kernels_need_no_double_precision(place: Place) -> None:
    from nnconv.runtime.kernels.opencl import opencl_text
    from tests.kernels.samples import samples

    target = replace(place.target, lanes=4, registers=16)
    for name, what, _ in samples(target):
        assert "double" not in opencl_text(what, target, place.form), name
