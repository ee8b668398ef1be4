"""The garbage collector stands still during an import, and is afterwards as it was."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

import nnconv
from nnconv.converter import formats
from nnconv.converter.collecting import paused
from nnconv.schemas.errors import InputError


def test_it_runs_again_behind_the_block_and_behind_an_error() -> None:
    assert gc.isenabled()
    with paused():
        assert not gc.isenabled()
        with paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    with pytest.raises(KeyError), paused():
        raise KeyError
    assert gc.isenabled()


def test_reading_pauses_it_and_a_refused_file_does_not_leave_it_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def reader(path: Path, **options: object) -> nnconv.Model:
        seen.append(gc.isenabled())
        raise InputError("no")

    monkeypatch.setattr(formats.Format, "function", lambda self, which: reader)
    (tmp_path / "m.yaml").write_text("name: m\n")
    with pytest.raises(InputError):
        nnconv.load(tmp_path / "m.yaml")
    assert seen == [False]
    assert gc.isenabled()
