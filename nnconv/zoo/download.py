"""One file over HTTP: resumed where it was cut, tried again, from one mirror after the other.

The bytes gather in `NAME.part`; only when their digest is the catalogue's does the file get its
name. So it does not matter which mirror sent which part, nor what a server claims: a wrong byte
anywhere ends in a fresh start or the next mirror. A `.part` that a killed process left is resumed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, BinaryIO
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from nnconv.schemas.errors import InputError
from nnconv.zoo.cache import digest_of
from nnconv.zoo.catalogue import File
from nnconv.zoo.progress import Watch, size

CHUNK = 1 << 18
LARGEST = 8 << 30  # of a file whose size no list states
SPARE = 16 << 20  # bytes of the disk that are left alone
REDIRECTS = 5
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to bear a bad connection: seconds of silence, tries a mirror, pauses between."""

    timeout: float = 30.0
    tries: int = 5
    first_pause: float = 1.0
    longest_pause: float = 60.0
    sleep: Callable[[float], object] = time.sleep

    def pause(self, failures: int, asked: float) -> float:
        """Twice as long each time, not all clients in step; longer when the server asks for it."""
        doubled = self.first_pause * 2.0 ** (failures - 1) * random.uniform(0.75, 1.25)
        return min(max(doubled, asked), self.longest_pause)


class _Transient(Exception):
    """This try failed, another may do; `after` is what the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class _Refused(Exception):
    """This mirror is of no use."""


def fetch(file: File, target: Path, watch: Watch, patience: Patience) -> None:
    """Bring `file` to `target`, whole and with the right digest, or raise InputError.

    What had come stays in `target`.part, and the next call goes on from there.
    """
    part = target.with_name(f"{target.name}.part")
    reasons = []
    watch.begin(target.name, _size(part), file.size)
    try:
        for url in file.urls:
            try:
                _from_mirror(url, file, part, watch, patience)
                break
            except _Refused as refusal:
                reasons.append(f"{url}: {refusal}")
                watch.say(reasons[-1])
        else:
            raise _given_up(file, target, part, reasons)
    finally:
        watch.end()
    with _disk(part):
        os.replace(part, target)  # noqa: PTH105  # Path.replace is harder to fault in tests


def _from_mirror(url: str, file: File, part: Path, watch: Watch, patience: Patience) -> None:
    """The whole file from one address, in as many tries as patience and progress allow."""
    failures, best = 0, _size(part)
    is_fresh, restarted = best == 0, False
    while True:
        try:
            _attempt(url, file, part, watch, patience.timeout)
            if _is_right(file, part):
                return
            part.unlink()
            if is_fresh or restarted:
                kind, digest = file.digest
                raise _Refused(f"the content is not the catalogue's ({kind} {digest[:12]}...)")
            # what was resumed may have been bad before: once more from the first byte
            is_fresh = restarted = True
        except _Transient as trouble:
            have, is_fresh = _size(part), False
            # a try that got further by a good piece is no failure, else no large file gets through
            gained = file.size is not None and have > best and have - best >= file.size / 64
            failures, best = 1 if gained else failures + 1, max(have, best)
            if failures >= patience.tries:
                raise _Refused(f"{trouble} ({failures} tries)") from None
            pause = patience.pause(failures, trouble.after)
            watch.say(f"{part.stem}: {trouble}; trying again in {pause:.0f} s")
            patience.sleep(pause)


def _attempt(url: str, file: File, part: Path, watch: Watch, timeout: float) -> None:
    """Ask once for what is missing and append what comes."""
    have = _size(part)
    if file.size is not None and have > file.size:
        part.unlink()
        have = 0
    if have and have == file.size:
        return  # killed between the last byte and the check
    try:
        with contextlib.closing(_opened(url, have, timeout)) as answer:
            start = _start(answer, have)
            end = _end(answer, start, file)
            _check_space(part, (end if end is not None else start) - start)
            watch.advance(start)
            _copy(answer, part, start, end, watch)
    except HTTPError as error:
        if error.code != 416:
            raise _explained(error) from None
        if file.size is not None:
            part.unlink(missing_ok=True)
            raise _Transient("the server has less than what is here already") from None
    except (OSError, HTTPException) as error:
        raise _unreachable(error) from None


def _opened(url: str, have: int, timeout: float) -> HTTPResponse:
    if urlsplit(url).scheme not in ("http", "https"):
        raise _Refused("only http and https addresses are followed")
    # no other encoding: lengths, ranges and digests are about the bytes of the file
    headers = {"Accept-Encoding": "identity", "User-Agent": "nnconv"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        # the scheme was looked at, and the opener has no handler for file: or ftp:
        answer: HTTPResponse = _opener().open(
            request.Request(url, headers=headers), timeout=timeout
        )
    except ValueError as error:
        raise _Refused(f"this is no address: {error}") from None
    return answer


class _Redirects(request.HTTPRedirectHandler):
    """Follows a few, never away from http and https, never from https down to http."""

    max_redirections = REDIRECTS
    max_repeats = 2

    def redirect_request(
        self,
        req: request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise _Refused(f"it redirects to {scheme}: {newurl[:80]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> request.OpenerDirector:
    """An opener with the handlers for HTTP alone; the usual one would open file: and ftp: too."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(), request.HTTPHandler(), request.HTTPSHandler(), _Redirects(),
        request.HTTPDefaultErrorHandler(), request.HTTPErrorProcessor(), request.UnknownHandler(),
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener


def _start(answer: HTTPResponse, have: int) -> int:
    """Where in the file the answer begins; 0 from a server that knows no ranges."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise _Refused("it sends the file in another encoding")
    if answer.status != 206:
        return 0
    span = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if not span or int(span[1]) != have:
        raise _Refused("it sends another part than was asked for")
    return have


def _end(answer: HTTPResponse, start: int, file: File) -> int | None:
    """The size of the whole file by the catalogue, or else by the server; None if neither says."""
    length = answer.headers.get("Content-Length", "")
    claimed = start + int(length) if re.fullmatch(r"\d{1,18}", length) else None
    span = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status == 206 and span and span[3] != "*":
        claimed = int(span[3])
    if claimed is None:
        return file.size
    if file.size is not None and claimed != file.size:
        raise _Refused(f"it has {claimed:,} bytes, the catalogue says {file.size:,}")
    if claimed > LARGEST:
        raise _Refused(f"it has {claimed:,} bytes, more than nnconv fetches unasked")
    return claimed


def _copy(answer: HTTPResponse, part: Path, start: int, end: int | None, watch: Watch) -> None:
    """Append what the server sends, at most up to `end`; raises _Transient when it ends early."""
    limit = LARGEST if end is None else end
    done = start
    with _disk(part), part.open("ab") as file:
        file.truncate(start)
        while done < limit:
            try:
                # read1 hands over what is there: a slow server's bytes are kept when it is cut
                chunk = answer.read1(min(CHUNK, limit - done))
            except (OSError, HTTPException) as error:
                raise _unreachable(error) from None
            if not chunk:
                break
            _write(file, chunk)
            done += len(chunk)
            watch.advance(done)
        file.flush()
        os.fsync(file.fileno())
    if end is not None and done < end:
        raise _Transient(f"the connection ended after {done:,} of {end:,} bytes")
    if end is None and done >= limit:
        raise _Refused("it does not stop sending")


def _write(file: BinaryIO, chunk: bytes) -> None:
    """The one place where bytes reach the disk, which tests fill up."""
    file.write(chunk)
    file.flush()


def _is_right(file: File, part: Path) -> bool:
    """Whether what lies on the disk is what the catalogue means."""
    kind, digest = file.digest
    with _disk(part):
        if not part.exists():  # an empty file was all that came
            part.touch()
        return digest_of(part, kind) == digest


def _check_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed + SPARE > free:
        raise InputError(
            f"{part.parent}: {size(needed)} are needed, the disk has {size(free)} left",
            hint="free some space (nnconv zoo clear), or set NNCONV_HOME to a folder elsewhere",
        )


@contextlib.contextmanager
def _disk(part: Path) -> Iterator[None]:
    """Failures of the disk end the whole download: no mirror can help."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full" if full else (error.strerror or str(error)).lower()
        raise InputError(
            f"{part.parent}: {reason}, {size(_size(part))} of {part.stem} are kept",
            hint="free some space and run it again: it goes on from there; or set NNCONV_HOME",
        ) from None


_NO_SUCH_HOST = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


def _explained(error: HTTPError) -> Exception:
    if 300 <= error.code < 400:
        return _Refused("it redirects in a circle, or away from http")
    reason = f"HTTP {error.code} {error.reason}".strip()
    if error.code not in TRANSIENT:
        return _Refused(reason)
    after = str(error.headers["Retry-After"])
    return _Transient(reason, float(after) if re.fullmatch(r"\d{1,9}", after) else 0.0)


def _unreachable(error: Exception) -> Exception:
    """What of the network failed: worth another try, or not."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _Refused(f"its certificate is not valid: {cause}")
    if isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_HOST:
        return _Refused("there is no such host, or no network")
    if isinstance(cause, TimeoutError):
        return _Transient("the server does not answer")
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return _Transient(str(text).lower())


def _given_up(file: File, target: Path, part: Path, reasons: list[str]) -> InputError:
    kept = f"; {size(_size(part))} are kept, running it again goes on from there"
    kind, _ = file.digest
    lines = "".join(f"\n  {reason}" for reason in reasons)
    return InputError(
        f"{target.name} could not be fetched from {len(reasons)} "
        f"address{'es' if len(reasons) != 1 else ''}{kept if _size(part) else ''}:{lines}",
        hint=f"try later, or put the file there yourself: {target} (its {kind} is checked)",
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
