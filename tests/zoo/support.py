"""What the zoo's tests share: files of a given content, entries for them, a client in no hurry."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from nnconv.zoo.catalogue import File
from nnconv.zoo.download import Patience
from nnconv.zoo.progress import Watch

BODY = random.Random(12).randbytes(100_000)


class Seen(Watch):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done: list[int] = []

    def advance(self, done: int) -> None:
        self.done.append(done)

    def say(self, text: str) -> None:
        self.said.append(text)


def impatient(pauses: list[float] | None = None, **kwargs: Any) -> Patience:
    """Three tries, no real pauses."""
    keep = pauses.append if pauses is not None else lambda pause: None
    return Patience(**({"timeout": 5.0, "tries": 3, "sleep": keep} | kwargs))


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def described(name: str, body: bytes, *urls: str, **more: Any) -> dict[str, Any]:
    """A file as a catalogue has it."""
    return {"path": name, "urls": urls, "bytes": len(body), "sha256": sha256(body)} | more


def wanted(*urls: str, body: bytes = BODY, sized: bool = True) -> File:
    return File("net.onnx", urls, len(body) if sized else None, {"sha256": sha256(body)})


def model(name: str, *files: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "format": "onnx", "files": files} | more
