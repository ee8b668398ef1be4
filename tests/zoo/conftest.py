"""An empty cache, a server on loopback, a catalogue of the test's own; nothing else is reached."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.server import Web


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of a test."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("NNCONV_OFFLINE", "NNCONV_ZOO"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NNCONV_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test ever asks for an outside host."""
    real = socket.getaddrinfo

    def guarded(host: Any, *args: Any, **kwargs: Any) -> Any:
        assert host == "127.0.0.1", f"a test asked for {host}"
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", guarded)


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        yield server


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes its arguments the user's own catalogue."""

    def write(*models: dict[str, Any]) -> Path:
        path = tmp_path / "own.json"
        path.write_text(json.dumps({"schema": 1, "models": models}))
        monkeypatch.setenv("NNCONV_ZOO", str(path))
        return path

    return write
