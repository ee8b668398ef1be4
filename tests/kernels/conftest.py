"""Kernel tests compile into a cache of their own, and run for every vector width this machine
has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nnconv.runtime.kernels.target import Target
from tests.kernels.harness import runnable_targets


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty object cache, so that no test depends on what earlier runs left."""
    folder = tmp_path_factory.mktemp("kernel-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNCONV_CACHE", str(folder))
        yield folder / "kernels"


@pytest.fixture(scope="session", params=sorted(runnable_targets()))
def target(request: pytest.FixtureRequest) -> Target:
    """Each kind of processor whose code this machine can run: 16, 8 and 4 lanes where it has
    AVX-512.
    """
    return runnable_targets()[request.param]
