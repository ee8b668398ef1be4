"""A real HTTP server on loopback that behaves as badly as a test asks it to.

Each path has a file and a script: one behaviour a request, the last one for all that follow.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

Behaviour = Callable[["Handler", bytes], None]


@dataclass
class Page:
    body: bytes
    script: list[Behaviour]
    ranges: list[str] = field(default_factory=list)  # the Range header of each request, "" if none


class Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path)
        if page is None:
            self.send_error(404)
            return
        with self.server.turn:
            page.ranges.append(self.headers.get("Range", ""))
            behave = page.script.pop(0) if len(page.script) > 1 else page.script[0]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client had enough
            behave(self, page.body)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def asked(self, body: bytes) -> int:
        """The first byte that the client wants."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(found[1]) if found else 0

    def begin(self, body: bytes) -> bytes:
        """The head of an honest answer; what should follow it."""
        start = self.asked(body)
        if start:
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self.head(206, Content_Range=span, Content_Length=len(body) - start)
        else:
            self.head(200, Content_Length=len(body))
        return body[start:]


class Web(ThreadingHTTPServer):
    """`web.page("/a", body, cut(100), well)` -> its address."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Page] = {}
        self.turn = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def page(self, path: str, body: bytes, *script: Behaviour) -> str:
        self.pages[path] = Page(body, list(script) or [well])
        return f"http://127.0.0.1:{self.server_port}{path}"

    def asked(self, path: str) -> list[str]:
        return self.pages[path].ranges

    def __enter__(self) -> Web:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()
        self.server_close()


def well(handler: Handler, body: bytes) -> None:
    start = handler.asked(body)
    if start >= len(body) and start:
        handler.head(416, Content_Range=f"bytes */{len(body)}", Content_Length=0)
        return
    handler.wfile.write(handler.begin(body))


def no_ranges(handler: Handler, body: bytes) -> None:
    handler.head(200, Content_Length=len(body))
    handler.wfile.write(body)


def no_length(handler: Handler, body: bytes) -> None:
    handler.head(200)
    handler.wfile.write(body)


def slow(handler: Handler, body: bytes) -> None:
    rest = handler.begin(body)
    for at in range(0, len(rest), max(1, len(rest) // 8)):
        handler.wfile.write(rest[at : at + max(1, len(rest) // 8)])
        time.sleep(0.02)


def cut(after: int, ranges: bool = True) -> Behaviour:
    def behave(handler: Handler, body: bytes) -> None:
        if ranges:
            rest = handler.begin(body)
        else:
            handler.head(200, Content_Length=len(body))
            rest = body
        handler.wfile.write(rest[:after])

    return behave


def status(code: int, **headers: object) -> Behaviour:
    return lambda handler, body: handler.head(code, Content_Length=0, **headers)


def silent(handler: Handler, body: bytes) -> None:
    time.sleep(1.0)


def hangs_up(handler: Handler, body: bytes) -> None:
    handler.close_connection = True


def redirect(target: str) -> Behaviour:
    return status(302, Location=target)


def instead(other: bytes) -> Behaviour:
    """Another file, told with its own length."""
    return lambda handler, body: well(handler, other)


def claims(length: int) -> Behaviour:
    def behave(handler: Handler, body: bytes) -> None:
        handler.head(200, Content_Length=length)
        handler.wfile.write(body)

    return behave


def with_head(code: int, **headers: object) -> Behaviour:
    def behave(handler: Handler, body: bytes) -> None:
        handler.head(code, **headers)
        handler.wfile.write(body)

    return behave


def endless(handler: Handler, body: bytes) -> None:
    handler.head(200)
    for _ in range(1000):
        handler.wfile.write(bytes(1 << 16))


def until(moment: threading.Event, after: int) -> Behaviour:
    """Sends a part, then waits for the moment before the rest."""

    def behave(handler: Handler, body: bytes) -> None:
        rest = handler.begin(body)
        handler.wfile.write(rest[:after])
        handler.wfile.flush()
        moment.wait(20)
        handler.wfile.write(rest[after:])

    return behave
