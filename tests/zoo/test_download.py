"""One file over HTTP from servers that behave badly: it comes whole, or there is none."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import ssl
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from nnconv.schemas.errors import InputError
from nnconv.zoo import download
from tests.zoo.server import (
    Behaviour,
    Web,
    claims,
    cut,
    endless,
    hangs_up,
    instead,
    no_length,
    no_ranges,
    redirect,
    silent,
    slow,
    status,
    well,
    with_head,
)
from tests.zoo.support import BODY, Seen, impatient, wanted

HALF = len(BODY) // 2
OTHER = bytes(len(BODY))


def get(target: Path, *urls: str, **kwargs: Any) -> Seen:
    watch = Seen()
    download.fetch(wanted(*urls), target, watch, impatient(**kwargs))
    return watch


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


SCRIPTS: dict[str, tuple[list[Behaviour], list[str]]] = {
    "well": ([well], [""]),
    "slow": ([slow], [""]),
    "without a length": ([no_length], [""]),
    "cut in the middle": ([cut(HALF), well], ["", f"bytes={HALF}-"]),
    "cut twice": ([cut(HALF), cut(100), well], ["", f"bytes={HALF}-", f"bytes={HALF + 100}-"]),
    "cut, and it knows no ranges": ([cut(HALF), no_ranges], ["", f"bytes={HALF}-"]),
    "cut before the first byte": ([cut(0), well], ["", ""]),
    "503 once": ([status(503), well], ["", ""]),
    "429 with a time to wait": ([status(429, Retry_After=3), well], ["", ""]),
    "no answer at all": ([hangs_up, well], ["", ""]),
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_a_file_comes_whole_from_a_server_that_is(case: str, web: Web, tmp_path: Path) -> None:
    script, ranges = SCRIPTS[case]
    url = web.page("/net", BODY, *script)
    watch = get(tmp_path / "net.onnx", url)
    assert (tmp_path / "net.onnx").read_bytes() == BODY
    assert left(tmp_path / "net.onnx") == ["net.onnx"]
    assert web.asked("/net") == ranges
    assert watch.done[-1] == len(BODY)


MIRRORS: dict[str, tuple[Behaviour, str]] = {
    "404": (status(404), "HTTP 404"),
    "403": (status(403), "HTTP 403"),
    "503 each time": (status(503), "HTTP 503 Service Unavailable (3 tries)"),
    "wrong bytes": (instead(OTHER), "the content is not the catalogue's"),
    "one wrong byte": (instead(b"!" + BODY[1:]), "the content is not the catalogue's"),
    "another file": (instead(b"<html>gone</html>"), "it has 17 bytes, the catalogue says 100,000"),
    "a huge length": (claims(10**15), "it has 1,000,000,000,000,000 bytes, the catalogue says"),
    "a part not asked for": (
        with_head(206, Content_Range="bytes 5-99999/100000"), "it sends another part"),
    "a part without a range": (with_head(206), "it sends another part"),
    "compressed": (with_head(200, Content_Encoding="gzip"), "in another encoding"),
    "an endless stream": (endless, "the content is not the catalogue's"),
    "always cut at once": (cut(0), "the connection ended after 0 of 100,000 bytes (3 tries)"),
    "redirect to a file": (redirect("file:///etc/passwd"), "it redirects in a circle, or away"),
    "redirect to ftp": (redirect("ftp://127.0.0.1/net"), "it redirects to ftp"),
    "redirect to itself": (redirect("/first"), "it redirects in a circle"),
}  # fmt: skip


@pytest.mark.parametrize("case", MIRRORS)
def test_the_next_mirror_helps_when_the_first_has(case: str, web: Web, tmp_path: Path) -> None:
    behave, reason = MIRRORS[case]
    first, second = web.page("/first", BODY, behave), web.page("/second", BODY)
    watch = get(tmp_path / "net.onnx", first, second)
    assert (tmp_path / "net.onnx").read_bytes() == BODY
    assert any(reason in said for said in watch.said), watch.said


@pytest.mark.parametrize("case", MIRRORS)
def test_without_another_mirror_there_is_no_file_and_a_word_of_advice(
    case: str, web: Web, tmp_path: Path
) -> None:
    behave, reason = MIRRORS[case]
    url = web.page("/first", BODY, behave)
    with pytest.raises(InputError) as caught:
        get(tmp_path / "net.onnx", url)
    assert not (tmp_path / "net.onnx").exists()
    assert url in str(caught.value)
    assert reason in str(caught.value)
    assert f"put the file there yourself: {tmp_path / 'net.onnx'}" in str(caught.value)


def test_a_redirect_is_followed_and_the_range_with_it(web: Web, tmp_path: Path) -> None:
    web.page("/far", BODY, cut(HALF), well)
    url = web.page("/near", b"", redirect("/far"))
    get(tmp_path / "net.onnx", url)
    assert (tmp_path / "net.onnx").read_bytes() == BODY
    assert web.asked("/far") == ["", f"bytes={HALF}-"]


def test_a_server_that_falls_silent_is_asked_again(web: Web, tmp_path: Path) -> None:
    url = web.page("/net", BODY, silent, well)
    watch = get(tmp_path / "net.onnx", url, timeout=0.2)
    assert "the server does not answer" in watch.said[0]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/net", "data:,net", "net"])
def test_only_http_is_spoken(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only http and https addresses"):
        get(tmp_path / "net.onnx", url)


def test_what_one_mirror_began_another_ends(web: Web, tmp_path: Path) -> None:
    first, second = web.page("/first", BODY, cut(HALF), status(404)), web.page("/second", BODY)
    get(tmp_path / "net.onnx", first, second)
    assert web.asked("/second") == [f"bytes={HALF}-"]


def test_a_bad_part_from_before_costs_a_fresh_start_and_no_more(web: Web, tmp_path: Path) -> None:
    (tmp_path / "net.onnx.part").write_bytes(OTHER[:HALF])
    get(tmp_path / "net.onnx", web.page("/net", BODY))
    assert (tmp_path / "net.onnx").read_bytes() == BODY
    assert web.asked("/net") == [f"bytes={HALF}-", ""]


def test_a_part_that_is_whole_is_not_asked_for(web: Web, tmp_path: Path) -> None:
    (tmp_path / "net.onnx.part").write_bytes(BODY)
    get(tmp_path / "net.onnx", web.page("/net", BODY))
    assert web.asked("/net") == []


@pytest.mark.parametrize("part", [BODY + b"more", OTHER], ids=["too long", "wrong"])
def test_a_part_that_cannot_be_right_is_dropped(part: bytes, web: Web, tmp_path: Path) -> None:
    (tmp_path / "net.onnx.part").write_bytes(part)
    get(tmp_path / "net.onnx", web.page("/net", BODY))
    assert (tmp_path / "net.onnx").read_bytes() == BODY


def test_a_file_that_gets_on_between_the_cuts_is_not_given_up(web: Web, tmp_path: Path) -> None:
    """Ten cuts with three tries: each brings a tenth."""
    url = web.page("/net", BODY, cut(len(BODY) // 10))
    get(tmp_path / "net.onnx", url)
    assert (tmp_path / "net.onnx").read_bytes() == BODY


def test_a_server_that_cuts_and_lies_for_ever_is_left(web: Web, tmp_path: Path) -> None:
    def lies(handler: object, body: bytes) -> None:
        cut(HALF)(handler, OTHER)  # type: ignore[arg-type]

    with pytest.raises(InputError, match="the content is not the catalogue's"):
        get(tmp_path / "net.onnx", web.page("/net", BODY, lies))
    assert len(web.asked("/net")) == 4
    assert left(tmp_path / "net.onnx") == []


def test_pauses_double_and_keep_to_what_the_server_asks(web: Web, tmp_path: Path) -> None:
    script = [status(503), status(503), status(503, Retry_After=9), status(503, Retry_After=10**6)]
    pauses: list[float] = []
    get(tmp_path / "net.onnx", web.page("/net", BODY, *script, well), pauses=pauses, tries=6)
    assert 0.75 <= pauses[0] <= 1.25
    assert 1.5 <= pauses[1] <= 2.5
    assert pauses[2:] == [9.0, 60.0]


def test_a_file_of_unknown_size_is_taken_by_its_digest(web: Web, tmp_path: Path) -> None:
    file = wanted(web.page("/net", BODY, cut(HALF), well), sized=False)
    download.fetch(file, tmp_path / "net.onnx", Seen(), impatient())
    assert (tmp_path / "net.onnx").read_bytes() == BODY
    assert web.asked("/net") == ["", f"bytes={HALF}-"]


def test_a_whole_part_of_unknown_size_needs_no_byte_more(web: Web, tmp_path: Path) -> None:
    (tmp_path / "net.onnx.part").write_bytes(BODY)
    file = wanted(web.page("/net", BODY), sized=False)
    download.fetch(file, tmp_path / "net.onnx", Seen(), impatient())
    assert (tmp_path / "net.onnx").read_bytes() == BODY


def test_a_file_of_unknown_size_may_not_be_huge(web: Web, tmp_path: Path) -> None:
    file = wanted(web.page("/net", BODY, claims(10**15)), sized=False)
    with pytest.raises(InputError, match="more than nnconv fetches unasked"):
        download.fetch(file, tmp_path / "net.onnx", Seen(), impatient())
    assert left(tmp_path / "net.onnx") == []


def test_an_empty_file_is_a_file(web: Web, tmp_path: Path) -> None:
    file = wanted(web.page("/net", b""), body=b"")
    download.fetch(file, tmp_path / "net.onnx", Seen(), impatient())
    assert (tmp_path / "net.onnx").read_bytes() == b""


def test_a_disk_without_room_is_seen_before_the_first_byte(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=16 << 20))
    with pytest.raises(InputError, match=r"100\.0 kB are needed, the disk has 16\.8 MB left") as no:
        get(tmp_path / "net.onnx", web.page("/net", BODY))
    assert "NNCONV_HOME" in str(no.value)
    assert left(tmp_path / "net.onnx") == []


def test_a_disk_that_fills_up_keeps_what_came_and_the_next_run_goes_on(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: BinaryIO, chunk: bytes) -> None:
        room = HALF - file.tell()
        file.write(chunk[:room])
        file.flush()
        if len(chunk) > room:
            raise OSError(errno.ENOSPC, "No space left on device")

    target, url = tmp_path / "net.onnx", web.page("/net", BODY)
    with monkeypatch.context() as context:
        context.setattr(download, "_write", full)
        with pytest.raises(InputError, match=r"the disk is full, 50\.0 kB of net\.onnx are kept"):
            get(target, url, url)
    assert len(web.asked("/net")) == 1  # another mirror would not help
    assert not target.exists()
    get(target, url)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_end_leaves_no_file(
    call: str, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(InputError, match="input/output error"):
        get(tmp_path / "net.onnx", web.page("/net", BODY))
    assert not (tmp_path / "net.onnx").exists()


TROUBLES: dict[str, tuple[OSError, str, int]] = {
    "no such host": (socket.gaierror(socket.EAI_NONAME, "no"), "no such host, or no network", 1),
    "no name server": (socket.gaierror(socket.EAI_AGAIN, "try again"), "try again", 3),
    "a bad certificate": (ssl.SSLCertVerificationError("bad"), "its certificate is not valid", 1),
    "a broken handshake": (ssl.SSLError("broken"), "broken", 3),
    "nobody listens": (ConnectionRefusedError(111, "Connection refused"), "connection refused", 3),
}  # fmt: skip


@pytest.mark.parametrize("case", TROUBLES)
def test_only_what_may_pass_is_tried_again(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause, reason, tries = TROUBLES[case]
    asked: list[object] = []

    def fails(*address: object, **kwargs: object) -> None:
        asked.append(address)
        raise cause

    monkeypatch.setattr(socket, "create_connection", fails)
    with pytest.raises(InputError, match=reason):
        get(tmp_path / "net.onnx", "http://127.0.0.1:9/net")
    assert len(asked) == tries
