"""Code linked ahead of time: the same results, without LLVM in the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnconv.runtime.devices import image, jit
from nnconv.runtime.devices.walking import walking_text
from tests.kernels.harness import run, runnable_targets
from tests.kernels.samples import samples
from tests.kernels.test_jit import relu

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not image.supported(), reason="images are for Linux on x86-64; elsewhere LLVM links"
)


@pytest.mark.parametrize("kind", sorted(runnable_targets()))
def test_linked_code_gives_the_same_bits_as_llvms_linker(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = runnable_targets()[kind]
    for (name, kernel, ours), (_, _, theirs) in zip(samples(target), samples(target), strict=True):
        linked = image.link(jit.emit_object(kernel, target))
        assert linked is not None, name
        run(kernel, target, *ours)
        with monkeypatch.context() as patch:
            patch.setattr(image, "supported", lambda: False)
            jit._loaded.clear()
            run(kernel, target, *theirs)
        assert ours[-1].tobytes() == theirs[-1].tobytes(), name


def test_an_image_comes_back_from_its_bytes() -> None:
    target = jit.host()
    made = image.link(jit.emit_object(walking_text(target), target))
    assert made is not None
    assert set(made.symbols) == {"nnconv_run", "nnconv_serve", "nnconv_lead", "nnconv_alone"}
    assert set(made.imports) == {"sched_yield"}
    assert image.Image.from_bytes(made.to_bytes()) == made


@pytest.mark.parametrize(
    "text",
    [
        "@v = global i64 7\ndefine i64 @f() {\n %x = load i64, ptr @v\n ret i64 %x\n}",
        "@v = external global i64\ndefine ptr @f() {\n ret ptr @v\n}",
    ],
)
def test_what_an_image_cannot_give_is_left_to_llvm(text: str) -> None:
    assert image.link(jit.emit_object(jit.Text("f", text), jit.host())) is None


def test_other_formats_are_no_images() -> None:
    obj = jit.emit_object(relu(5), jit.target("neon"))
    assert image.link(obj) is None
    assert image.Image.from_bytes(obj) is None


WARM = """
import sys, numpy as np, nnconv
from tests.cpu.test_plans import small_net
print(float(nnconv.compile(small_net(), device='cpu')(np.ones((1, 3, 9, 9), np.float32)).sum()))
print('llvmlite' in sys.modules)
"""


def test_a_second_process_needs_no_llvm(tmp_path: Path) -> None:
    environment = {**os.environ, "NNCONV_CACHE": str(tmp_path)}
    cold, warm = (
        subprocess.run(
            [sys.executable, "-c", WARM],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
        ).stdout.split()
        for _ in range(2)
    )  # fmt: skip
    assert cold == [warm[0], "True"]
    assert warm[1] == "False"
