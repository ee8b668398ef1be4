"""The command line as a fixture."""

import pytest

from tests.cli.support import CommandLine


@pytest.fixture
def nnconv(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.delenv("COLUMNS", raising=False)
    return CommandLine(capsys)
