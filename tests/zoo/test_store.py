"""The cache: whole models or none, whoever else is at it and whenever a process dies."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnconv.schemas.errors import InputError, MismatchError
from nnconv.zoo import archive, cache, clear, find, store, verify
from tests.places import REPOSITORY
from tests.zoo.server import Web, cut, slow, status, until, well
from tests.zoo.support import BODY, Seen, described, impatient, model
from tests.zoo.test_archive import a_tar, a_zip

HALF = len(BODY) // 2
Catalogue = Callable[..., Path]


def get(name: str, **kwargs: Any) -> tuple[Path, ...]:
    watch = kwargs.pop("watch", None) or Seen()
    return store.get(name, watch=watch, patience=impatient(), **kwargs)


def files(home: Path) -> list[str]:
    """What lies in the cache, without locks and receipts."""
    zoo = home / "zoo"
    paths = (path.relative_to(zoo).as_posix() for path in zoo.rglob("*") if path.is_file())
    return sorted(path for path in paths if not path.startswith(".locks") and "receipt" not in path)


@pytest.fixture
def net(web: Web, catalogue: Catalogue) -> str:
    """A model of one file, which the server gives at /net."""
    catalogue(model("net", described("net.onnx", BODY, web.page("/net", BODY))))
    return "net"


def test_a_model_is_fetched_once(net: str, web: Web, home: Path) -> None:
    first, second = get(net), get(net)
    assert first == second == (home / "zoo" / "net" / "net.onnx",)
    assert first[0].read_bytes() == BODY
    assert web.asked("/net") == [""]
    assert files(home) == ["net/net.onnx"]


def test_offline_only_what_is_here_is_given(
    net: str, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNCONV_OFFLINE", "1")
    with pytest.raises(InputError, match="NNCONV_OFFLINE forbids to fetch it") as caught:
        get(net)
    assert "unset NNCONV_OFFLINE" in str(caught.value)
    assert web.asked("/net") == []
    monkeypatch.setenv("NNCONV_OFFLINE", "0")
    get(net)
    monkeypatch.setenv("NNCONV_OFFLINE", "1")
    assert get(net)[0].read_bytes() == BODY


def test_a_file_that_shrank_is_fetched_again(net: str, home: Path) -> None:
    get(net)[0].write_bytes(b"cut")
    assert store.here(find(net)) == ()
    assert get(net)[0].read_bytes() == BODY


def test_a_file_that_the_user_put_there_is_taken_when_it_is_right(
    net: str, web: Web, home: Path
) -> None:
    place = home / "zoo" / "net"
    place.mkdir(parents=True)
    (place / "net.onnx").write_bytes(BODY)
    assert get(net)[0].read_bytes() == BODY
    assert web.asked("/net") == []


def test_a_file_that_the_user_put_there_is_replaced_when_it_is_wrong(net: str, home: Path) -> None:
    place = home / "zoo" / "net"
    place.mkdir(parents=True)
    (place / "net.onnx").write_bytes(bytes(len(BODY)))
    assert get(net)[0].read_bytes() == BODY


def test_verify_reads_what_sizes_do_not_show(net: str) -> None:
    path = get(net)[0]
    assert verify([net]) == verify() == ["net"]
    path.write_bytes(bytes(len(BODY)))
    with pytest.raises(MismatchError, match="the content has changed since it was fetched") as no:
        verify()
    assert "nnconv zoo get --force net" in str(no.value)
    get(net, force=True)
    assert verify() == ["net"]


def test_verify_says_what_is_missing(net: str) -> None:
    with pytest.raises(MismatchError, match="zoo:net is not on this machine"):
        verify([net])


def test_clear_removes_what_was_fetched_and_nothing_else(net: str, home: Path) -> None:
    get(net)
    assert clear([net, "lenet"]) >= len(BODY)
    assert files(home) == []
    assert store.here(find("lenet"))
    assert clear() == 0


def test_the_second_file_failing_leaves_no_model_and_the_first_is_not_asked_for_again(
    web: Web, catalogue: Catalogue
) -> None:
    urls = web.page("/a", BODY), web.page("/b", b"net", *[status(503)] * 3, well)
    catalogue(model("pair", described("a.caffemodel", BODY, urls[0]),
                    described("a.prototxt", b"net", urls[1]), format="caffe"))  # fmt: skip
    with pytest.raises(InputError, match=r"a\.prototxt could not be fetched from 1 address"):
        get("pair")
    assert store.here(find("pair")) == ()
    assert [path.name for path in get("pair")] == ["a.caffemodel", "a.prototxt"]
    assert web.asked("/a") == [""]


def test_another_version_in_the_catalogue_is_another_model(
    net: str, web: Web, catalogue: Catalogue
) -> None:
    get(net)
    catalogue(model("net", described("net.onnx", b"newer", web.page("/newer", b"newer"))))
    assert get(net)[0].read_bytes() == b"newer"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"origin": 1}', '{"files": {"a": 1}}'])
def test_a_damaged_receipt_counts_as_none(text: str, net: str, web: Web, home: Path) -> None:
    get(net)
    (home / "zoo" / "net" / "receipt.json").write_text(text)
    assert get(net)[0].read_bytes() == BODY
    assert web.asked("/net") == [""]  # the file itself was right


def test_a_cache_that_cannot_be_made_is_explained(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NNCONV_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set NNCONV_HOME"):
        get(net)


def test_who_waits_too_long_is_told(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Seen()
    with (
        cache.locked(find(net), watch),
        pytest.raises(InputError, match="another nnconv has been at it"),
        cache.locked(find(net), watch, patience=0.05),
    ):
        pytest.fail("two held the lock")
    assert watch.said == ["another nnconv is fetching net, waiting for it"]


FETCH = """
import sys
from nnconv.zoo import store
from nnconv.zoo.progress import Watch
print(store.get(sys.argv[1], watch=Watch())[0])
"""


def child(name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, name]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_fetch_once(web: Web, catalogue: Catalogue) -> None:
    catalogue(model("net", described("net.onnx", BODY, web.page("/net", BODY, slow))))
    both = [child("net"), child("net")]
    printed = {process.communicate(timeout=60)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(printed) == 1
    assert web.asked("/net") == [""]
    assert Path(printed.pop().strip()).read_bytes() == BODY


def test_threads_fetch_once_too(net: str, web: Web) -> None:
    got: list[tuple[Path, ...]] = []
    threads = [threading.Thread(target=lambda: got.append(get(net))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(got) == 4
    assert web.asked("/net") == [""]


def test_after_kill_9_half_way_there_is_no_file_and_the_next_run_goes_on(
    web: Web, catalogue: Catalogue, home: Path
) -> None:
    never = threading.Event()
    url = web.page("/net", BODY, until(never, HALF), well)
    catalogue(model("net", described("net.onnx", BODY, url)))
    process = child("net")
    part = home / "zoo" / "net" / "net.onnx.part"
    for _ in range(2000):  # twenty seconds at most
        if part.exists() and part.stat().st_size == HALF:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    never.set()
    assert process.returncode == -signal.SIGKILL
    assert files(home) == ["net/net.onnx.part"]
    assert store.here(find("net")) == ()
    assert get("net")[0].read_bytes() == BODY
    assert web.asked("/net") == ["", f"bytes={HALF}-"]


ARCHIVES = {
    "net.zip": (a_zip({"x/net.onnx": BODY, "x/readme": b"r"}), "onnx", ["net/x/net.onnx"]),
    "net.tar.gz": (a_tar({"net.onnx": BODY}), "onnx", ["net/net.onnx"]),
    "net.tgz": (
        a_tar({"m/deploy.prototxt": b"n", "m/train.prototxt": b"t", "m/a.caffemodel": BODY}),
        "caffe", ["net/m/deploy.prototxt", "net/m/a.caffemodel"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_gives_the_files_of_its_model(
    name: str, web: Web, catalogue: Catalogue, home: Path
) -> None:
    body, form, expected = ARCHIVES[name]
    url = web.page("/a", body, cut(len(body) // 2), well)
    catalogue(model("net", described(name, body, url), format=form))
    found = [path.relative_to(home / "zoo" / "net").as_posix() for path in get("net")]
    assert found == expected
    assert name not in os.listdir(home / "zoo" / "net")  # noqa: PTH208
    assert get("net") == store.here(find("net"))
    assert len(web.asked("/a")) == 2


def test_the_members_that_the_catalogue_names_are_checked(web: Web, catalogue: Catalogue) -> None:
    body = a_zip({"a.onnx": BODY, "b.onnx": b"other"})
    right = {"path": "a.onnx", "sha1": hashlib.sha1(BODY).hexdigest()}
    wrong = {"path": "b.onnx", "sha1": "0" * 40}
    url = web.page("/a", body)
    catalogue(
        model("right", described("a.zip", body, url, members=[right])),
        model("wrong", described("a.zip", body, url, members=[wrong])),
        model("none", described("a.zip", body, url, members=[{"path": "c.onnx"}])),
    )
    assert [path.name for path in get("right")] == ["a.onnx"]
    for name in ("wrong", "none"):
        with pytest.raises(InputError, match="is missing or not the one of the catalogue"):
            get(name)
        assert store.here(find(name)) == ()


def test_an_archive_of_two_models_is_not_guessed_at(web: Web, catalogue: Catalogue) -> None:
    body = a_zip({"a.onnx": BODY, "b.onnx": b"other"})
    catalogue(model("net", described("net.zip", body, web.page("/a", body))))
    with pytest.raises(InputError, match=r"which of its files are the model: a\.onnx, b\.onnx"):
        get("net")


def test_a_hostile_archive_leaves_nothing_behind(
    web: Web, catalogue: Catalogue, home: Path
) -> None:
    body = a_tar({"net.onnx": BODY, "../../../escaped": b"x"})
    catalogue(model("net", described("net.tgz", body, web.page("/a", body))))
    with pytest.raises(InputError, match="names a path that leads elsewhere"):
        get("net")
    assert files(home) == ["net/net.tgz"]
    assert not list(home.parent.rglob("escaped"))


def test_a_disk_that_fills_up_while_unpacking_leaves_the_archive_alone(
    web: Web, catalogue: Catalogue, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    body = a_zip({"net.onnx": BODY})
    catalogue(model("net", described("net.zip", body, web.page("/a", body))))
    with monkeypatch.context() as context:
        context.setattr(archive, "_copy", full)
        with pytest.raises(InputError, match=r"the disk is full while unpacking net\.zip"):
            get("net")
    assert files(home) == ["net/net.zip"]
    assert get("net")[0].read_bytes() == BODY
    assert web.asked("/a") == [""]


def test_what_a_killed_process_was_unpacking_is_swept_up(net: str, home: Path) -> None:
    left = home / "zoo" / "net" / f"{store.SCRATCH}0123"
    left.mkdir(parents=True)
    (left / "half").touch()
    get(net)
    assert files(home) == ["net/net.onnx"]


def test_without_a_terminal_progress_is_plain_lines_on_stderr(
    net: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store.get(net, patience=impatient())
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[0] == "fetching net.onnx, 100.0 kB"
    assert lines[-1] == "net.onnx: 100%"
    assert "\x1b" not in printed.err


def test_on_a_terminal_progress_is_a_bar_that_leaves_no_trace(
    net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    store.get(net, patience=impatient())
    assert "net.onnx" in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()
    assert "\x1b[2K" in terminal.getvalue().rpartition("net.onnx")[2]  # the line is wiped


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
